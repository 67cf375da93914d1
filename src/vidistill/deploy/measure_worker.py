"""One latency measurement, alone in its process: a job as JSON on standard input, its result on standard output.

A job has `kind` ("torch", "onnx" or "decode"), `path`, `threads`, `seconds` and, by kind, `device` or `metadata`. The
result has median_ms, p90_ms, threads and runs, or `error`, one line. Only what the kind needs is imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidistill.core.errors import VidistillError
from vidistill.core.seeds import generator

WARM_UP_RUNS = 3
RUNS = 10


def main() -> None:
    """Measures the job on standard input."""
    job = json.load(sys.stdin)
    kinds: dict[str, Callable[[Mapping[str, Any]], Callable[[], object]]] = {
        "torch": torch_call,
        "onnx": onnx_call,
        "decode": decode_call,
    }
    result: dict[str, Any]
    try:
        result = {**measure(kinds[job["kind"]](job), float(job["seconds"])), "threads": job["threads"]}
    except VidistillError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result) + "\n")


def measure(call: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Median and 90th percentile of a call's milliseconds, over `seconds` after a warm-up of a quarter of that."""
    repeat(call, seconds / 4, WARM_UP_RUNS)
    times = np.array(repeat(call, seconds, RUNS)) * 1e3
    return {
        "median_ms": round(float(np.median(times)), 4),
        "p90_ms": round(float(np.quantile(times, 0.9)), 4),
        "runs": len(times),
    }


def repeat(call: Callable[[], object], seconds: float, at_least: int) -> list[float]:
    """Seconds of each of at least `at_least` calls, made until `seconds` have passed."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < at_least or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return times


def torch_call(job: Mapping[str, Any]) -> Callable[[], object]:
    """A forward pass of one clip through the network of a model folder."""
    import torch

    from vidistill.models import build_network, load_weights

    torch.set_num_threads(job["threads"])
    folder = Path(job["path"])
    network, shape = folder_network(folder, build_network)
    load_weights(network, folder / "model.safetensors")
    device = torch.device(job.get("device", "cpu"))
    network.to(device).eval()
    clip = torch.from_numpy(random_clip(shape)).to(device)

    def call() -> object:
        with torch.inference_mode():
            outputs = network(clip)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return outputs

    return call


def folder_network(folder: Path, build: Callable[..., Any]) -> tuple[Any, tuple[int, ...]]:
    """The untrained network that `network.json` describes, and its input shape."""
    from vidistill.core.errors import CheckpointError

    try:
        described = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        shape = tuple(described["input_shape"])
        classes = {head: len(names) for head, names in described["classes"].items()}
        name, options = described["name"], dict(described["options"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"no readable network.json ({error!r})", where=str(folder)) from None
    # The trained weights are loaded over whatever the network starts from; nothing is fetched for that.
    return build(name, shape, classes, _without_weights(options), where=str(folder)), shape


def _without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a network, and of those within it, that starts from nothing."""
    kept = {name: _without_weights(value) if isinstance(value, dict) else value for name, value in options.items()}
    return kept | {"weights": None} if "weights" in kept else kept


def onnx_call(job: Mapping[str, Any]) -> Callable[[], object]:
    """A run of one clip through an ONNX model."""
    from vidistill.deploy.session import open_session, run_session

    session = open_session(job["path"], job["threads"])
    clip = random_clip(tuple(session.get_inputs()[0].shape[1:]))
    return lambda: run_session(session, clip)


def decode_call(job: Mapping[str, Any]) -> Callable[[], object]:
    """One view of a video, from the file to the network's input."""
    import torch

    from vidistill.deploy.joint_inputs import open_pipeline

    torch.set_num_threads(job["threads"])
    pipeline = open_pipeline(job["metadata"], "export")
    return lambda: pipeline.one_view(Path(job["path"]))


def random_clip(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One clip (1, *shape) of normal noise, as normalised inputs are."""
    return generator("latency", list(shape)).standard_normal((1, *shape), dtype=np.float32)


if __name__ == "__main__":
    main()
