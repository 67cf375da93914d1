"""What an ensemble of three teachers costs in a training step: `python benchmarks/teacher_ensemble.py RESULT.json`.

A Video Swin-T of RGB learns from Video Swin-Ts of RGB, flow and depth (8 frames of 64 x 64, batches of 4), whose mean
logits are the targets of `kd`. The teachers answer in three ways, in turn: plain, as frozen networks are often left
(eval mode, targets detached, but every operation recorded for a backward pass that never comes); live, as the house
runs them (under inference mode); and cached (read from the files that a live teacher filled). One thread; the least
processor time of the rounds counts for each: other work on the machine only adds to it. Given are the teachers'
answers alone, the whole step (answers, student's passes, optimizer), and what the recorded operations hold in memory
beside weights. The ensemble's logits must be equal: checked before anything is reported.
Claim: plain teachers hold memory and live ones none; with cached teachers a step takes at most 1 / 1.5 of its time with
live ones, and the answers at most a hundredth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when PyTorch is loaded

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.data.batches import Key
from vidistill.methods.base import Method, MethodContext, build_method
from vidistill.models import Network, build_network
from vidistill.tasks.recognition import Recognition
from vidistill.teachers.cached import CachedTeacher, cache_folder, fill_cache
from vidistill.teachers.group import Teachers, Weighting
from vidistill.teachers.live import LiveTeacher

STEP_CLAIM, ANSWER_CLAIM, SAME = 1.5, 100.0, 1e-5
CHANNELS = {"rgb": 3, "flow": 2, "depth": 1}
CLASSES = {"action": 174}
FRAMES, SIDE = 8, 64
CLIPS, BATCH = 8, 4
Answer = Callable[[Batch], dict[str, Outputs]]


class MadeClips(Dataset[int]):
    """Random clips of all inputs."""

    def __init__(self) -> None:
        self.inputs = {name: torch.randn(CLIPS, count, FRAMES, SIDE, SIDE) for name, count in CHANNELS.items()}
        self.labels = torch.randint(CLASSES["action"], (CLIPS,))

    def __getitem__(self, key: Key) -> int:
        return key[0]

    def collate(self, clips: list[int]) -> Batch:
        present = {name: torch.ones(len(clips), dtype=torch.bool) for name in self.inputs}
        inputs = {name: values[clips] for name, values in self.inputs.items()}
        clip = torch.tensor(clips)
        return Batch(inputs, {"action": self.labels[clips]}, clip, torch.zeros_like(clip), present)


def network_of(name: str) -> Network:
    return build_network("swin3d_t", (CHANNELS[name], FRAMES, SIDE, SIDE), CLASSES)


def plain(networks: dict[str, Network], batch: Batch) -> dict[str, Outputs]:
    """The mean of all teachers' logits, with everything recorded."""
    answers = {name: network(batch.inputs[name]) for name, network in networks.items()}
    logits = torch.stack([answer.logits["action"] for answer in answers.values()]).mean(0)
    return {**answers, ENSEMBLE: Outputs({"action": logits}, logits)}


def ways(dataset: Any, task: Recognition, folder: Path) -> dict[str, Answer]:
    """How the same three teachers answer."""
    frozen = {name: network_of(name).eval() for name in CHANNELS}
    recorded = {name: network_of(name).eval() for name in CHANNELS}
    for name, network in recorded.items():
        network.load_state_dict(frozen[name].state_dict())
    live = {name: LiveTeacher(name, network, name) for name, network in frozen.items()}
    stored = {}
    for name, teacher in live.items():
        key = {"teacher": name}
        fill_cache(folder, key, teacher, dataset, np.arange(CLIPS), 1)
        place = cache_folder(folder, key)
        stored[name] = CachedTeacher(name, name, place, key, np.arange(CLIPS), lambda name=name: frozen[name])
    return {
        "plain": lambda batch: plain(recorded, batch),
        "live": Teachers(live, Weighting(), task),
        "cached": Teachers(stored, Weighting(), task),
    }


class Student:
    """The network that learns, with its method and optimizer."""

    def __init__(self, task: Recognition) -> None:
        self.network, self.task = network_of("rgb").train(), task
        width = self.network.embedding_dim
        context = MethodContext(
            width,
            dict.fromkeys(CHANNELS, width),
            CLASSES,
            parts=lambda teacher, part: torch.nn.Identity(),
            teacher_inputs={name: name for name in CHANNELS},
        )
        self.method: Method = build_method("kd", context, {})
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def step(self, batch: Batch, taught: dict[str, Outputs]) -> None:
        outputs = self.network(batch.inputs["rgb"])
        losses = self.task.loss(outputs, batch, True) | self.method(outputs, taught, batch)
        torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def held(answer: Answer, batch: Batch) -> int:
    """Bytes that are kept for a backward pass while the teachers answer, weights and inputs apart."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        taught = answer(batch)
    del taught
    return sum(sizes.values())


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    dataset: Any = MadeClips()
    task = Recognition(CLASSES)
    answers, student = ways(dataset, task, folder), Student(task)
    batches = [dataset.collate(list(range(start, start + BATCH))) for start in range(0, CLIPS, BATCH)]
    seconds: dict[str, dict[str, list[float]]] = {name: {"answers": [], "step": []} for name in answers}
    difference = 0.0
    for number in range(rounds + 1):
        batch = batches[number % len(batches)]
        logits = {}
        for name, answer in answers.items():
            start = time.process_time()
            taught = answer(batch)
            answered = time.process_time()
            student.step(batch, taught)
            if number:  # the first round warms up
                seconds[name]["answers"].append(answered - start)
                seconds[name]["step"].append(time.process_time() - start)
            logits[name] = taught[ENSEMBLE].logits["action"].detach().clone()
        spread = logits["live"].max() - logits["live"].min()
        worst = max((values - logits["live"]).abs().max() for values in logits.values()) / spread
        difference = max(difference, float(worst))
    assert difference <= SAME, difference
    best = {name: {part: min(values) for part, values in parts.items()} for name, parts in seconds.items()}
    return {
        "best": best,
        "clips_per_second": {name: {p: BATCH / s for p, s in parts.items()} for name, parts in best.items()},
        "held_megabytes": {name: held(answer, batches[0]) / 1e6 for name, answer in answers.items()},
        "difference": difference,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        row = measure(given.rounds, Path(scratch))
    best, megabytes = row["best"], row["held_megabytes"]
    print(f"{'clips/s of processor':22}{'answers':>12}{'step':>8}{'held MB':>9}")
    for name, rates in row["clips_per_second"].items():
        print(f"{name:22}{rates['answers']:12,.2f}{rates['step']:8.2f}{megabytes[name]:9.1f}")
    ratios = {
        f"{slow}/{fast}": {part: best[slow][part] / best[fast][part] for part in ("answers", "step")}
        for slow, fast in (("plain", "live"), ("live", "cached"), ("plain", "cached"))
    }
    for name, ratio in ratios.items():
        print(f"{name:22}{ratio['answers']:12,.2f}{ratio['step']:8.2f}")
    gained = ratios["live/cached"]
    reached = gained["step"] >= STEP_CLAIM and gained["answers"] >= ANSWER_CLAIM
    reached = reached and megabytes["plain"] > 0 == megabytes["live"]
    print(f"claim: cached answers {ANSWER_CLAIM:g} and steps {STEP_CLAIM:g} times as fast as live: {reached}")
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    machine |= {"threads": 1, "load_before": load}
    claim = {"step": STEP_CLAIM, "answers": ANSWER_CLAIM}
    result = {"claim": claim, "reached": reached, "ratios": ratios, **row, "machine": machine}
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
