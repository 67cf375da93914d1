"""What a network costs: parameters, multiply-adds, milliseconds a clip.

Every latency is measured in a process of its own: onnxruntime's threads beside torch's doubled the time of both.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidistill.core.errors import ModelError


def parameters(network: nn.Module) -> int:
    """The number of parameters (each shared one once; buffers are not counted)."""
    return sum(parameter.numel() for parameter in network.parameters())


def gmacs(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Multiply-adds, in 1e9, of one clip (1, *input_shape) in eval mode.

    Matrix products, convolutions and attention are counted (torch's counter, whose FLOPs are twice these);
    normalisation, activations and pooling are not, as in published tables. The network is left as it is.
    """
    counted = copy.deepcopy(network).cpu().float().eval()
    # The fused attention kernels of some torch versions count as nothing on the CPU; the plain one is counted always.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        counted(torch.zeros(1, *input_shape))
    return float(counter.get_total_flops()) / 2e9


def cores() -> int:
    """The number of cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def latency(
    model_folder: Path | str | None = None,
    onnx: Path | str | None = None,
    int8: Path | str | None = None,
    *,
    threads: Sequence[int] | None = None,
    gpu: bool | None = None,
    seconds: float = 2.0,
    timeout: float = 300.0,
) -> dict[str, dict[str, Any]]:
    """Milliseconds of one clip (batch 1) in each backend that is given, each in a process of its own.

    Args:
        model_folder: `network.json` and `model.safetensors`: torch, eager, with its trained weights (with untrained
            normalisation statistics activations are subnormal and the time means nothing).
        onnx: fp32 in onnxruntime.
        int8: int8 in onnxruntime.
        threads: how many threads to measure with; None measures with 1 and with all cores.
        gpu: also measure torch on the GPU; None does where there is one.
        seconds: measuring time of each, after a warm-up of a quarter of it (at least 3 runs and 10 runs).
        timeout: seconds after which one measurement is given up.

    Returns:
        `{backend: {median_ms, p90_ms, threads, runs}}`; backends are named like "torch, 1 thread",
        "onnx fp32, 2 threads", "onnx int8, 2 threads", "torch, gpu".

    Raises:
        ModelError: a model cannot be loaded, or a measurement timed out.
    """
    counts = sorted(set(threads or (1, cores())))
    jobs: dict[str, dict[str, Any]] = {}
    models = (("torch", "torch", model_folder), ("onnx fp32", "onnx", onnx), ("onnx int8", "onnx", int8))
    for label, kind, path in models:
        if path is not None:
            for count in counts:
                name = f"{label}, {count} thread{'s' if count > 1 else ''}"
                jobs[name] = {"kind": kind, "path": str(path), "threads": count}
    if model_folder is not None and (torch.cuda.is_available() if gpu is None else gpu):
        jobs["torch, gpu"] = {"kind": "torch", "path": str(model_folder), "threads": 1, "device": "cuda"}
    return {name: run_worker({**job, "seconds": seconds}, timeout) for name, job in jobs.items()}


def decode_latency(
    video: Path | str, metadata: Mapping[str, Any], *, seconds: float = 1.0, timeout: float = 120.0
) -> dict[str, Any]:
    """Milliseconds of opening a video, reading the frames of one test view and encoding them, one thread.

    Args:
        video: a video file that holds the model's modality or from which it is derived.
        metadata: of the exported model (`read_metadata`): input, view, input_shape, sources.
        seconds: measuring time.
        timeout: seconds after which the measurement is given up.

    Returns:
        `{median_ms, p90_ms, threads, runs}`.

    Raises:
        ModelError: the video cannot be read, or the measurement timed out.
    """
    job = {"kind": "decode", "path": str(video), "threads": 1, "seconds": seconds, "metadata": dict(metadata)}
    return run_worker(job, timeout)


def run_worker(job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """One measurement in a fresh process; see `measure_worker`."""
    threads = str(job["threads"])
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)}
    command = [sys.executable, "-m", "vidistill.deploy.measure_worker"]
    try:
        done = subprocess.run(
            command, input=json.dumps(job), env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"latency of {job['kind']} with {threads} threads was not measured within {timeout:g} s",
            where=str(job["path"]),
            todo="Set export.latency=false to go without it.",
        ) from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise ModelError(f"the latency measurement of {job['kind']} failed ({last[0]})", where=str(job["path"]))
    result: dict[str, Any] = json.loads(lines[-1])
    if "error" in result:
        raise ModelError(result["error"])
    return result
