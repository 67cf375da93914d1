"""What merging the phases of generative distillation saves: `python benchmarks/merged_phases.py RESULT.json`.

A Top-heavy I3D with attention learns from an I3D and its CVAE (16 frames of 48 x 64, batches of 4). In alternating
phases, as published, every clip passes twice: once for the student's CVAE, once for the student. Merged, it passes once
and both learn from it, with the same gradients. Both do the same batches in turn, with the loop's own step, with a live
teacher and with a cached one. A hook counts the clips that pass through the student and through the teacher. One
thread; the least processor time of the rounds counts for each: other work on the machine only adds to it.
Claim: half the student's passes, exactly, and less time for the same clips.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when PyTorch is loaded

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from vidistill.core.recipe import Schedule
from vidistill.core.types import Batch
from vidistill.curricula import build_curriculum
from vidistill.data.batches import Key
from vidistill.methods.base import Method, MethodContext, build_method
from vidistill.models import Network, build_network
from vidistill.tasks.recognition import Recognition
from vidistill.teachers.cached import CachedTeacher, cache_folder, fill_cache
from vidistill.teachers.group import Teachers, Weighting
from vidistill.teachers.live import LiveTeacher
from vidistill.training.schedule import build_optimizer
from vidistill.training.step import Step, Training

PHASES = ("alternating", "merged")
TEACHERS = ("live", "cached")
CLASSES = {"action": 21}
SHAPE = (3, 16, 48, 64)
BATCH = 4
ATTENTION = "attention"


class MadeClips(Dataset[int]):
    """Random clips."""

    def __init__(self, count: int) -> None:
        self.clips, self.labels = torch.randn(count, *SHAPE), torch.randint(CLASSES["action"], (count,))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> int:
        return key[0]

    def collate(self, clips: list[int]) -> Batch:
        present = {"rgb": torch.ones(len(clips), dtype=torch.bool)}
        clip = torch.tensor(clips)
        return Batch({"rgb": self.clips[clip]}, {"action": self.labels[clip]}, clip, torch.zeros_like(clip), present)


class Passes:
    """Counts the clips that pass through a network."""

    def __init__(self, network: nn.Module) -> None:
        self.clips = 0
        network.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], outputs: object) -> None:
        self.clips += len(inputs[0])


def attended(trunk: str) -> Network:
    torch.manual_seed(0)
    return build_network("attended", SHAPE, CLASSES, {"trunk": trunk, "attention": "published"})


def method_of(student: Network, teacher: Network, phases: str) -> Method:
    """The published method, with an untrained CVAE of the teacher: its weights cost no less."""
    alone = MethodContext(0, {}, CLASSES, lambda name, part: nn.Identity(), student_shapes=teacher.feature_shapes())
    cvae = build_method("cvae", alone, {}).requires_grad_(False).eval()
    context = MethodContext(
        student.embedding_dim,
        {"i3d": teacher.embedding_dim},
        CLASSES,
        parts=lambda name, part: cvae,
        teacher_inputs={"i3d": "rgb"},
        student_shapes=student.feature_shapes(),
        teacher_shapes={"i3d": teacher.feature_shapes()},
    )
    return build_method("generative", context, {"phases": phases})


class Learner:
    """One student with all that its steps need."""

    def __init__(self, dataset: Any, teacher: Network, teachers: Teachers, phases: str) -> None:
        network = attended("i3d_topheavy")
        self.method, self.task, self.teachers = method_of(network, teacher, phases), Recognition(CLASSES), teachers
        training = Training(
            folder=Path(),
            network=network,
            input_name="rgb",
            dataset=dataset,
            curriculum=build_curriculum("all", np.arange(len(dataset)), 0, 1, {}),
            task=self.task,
            schedule=Schedule(optimizer="sgd", learning_rate=1e-3),
            seed=0,
            accelerator=Accelerator(cpu=True),
            method=self.method,
            teachers=teachers,
        )
        self.step = Step(training).train()
        self.optimizer = build_optimizer(training.schedule, network, self.method)
        self.passes = Passes(network)

    def epoch(self, batches: list[Batch]) -> None:
        """Every batch once in each phase."""
        for phase in self.method.phases or ("",):
            if phase:
                self.method.start_phase(phase)
            for batch in batches:
                losses, _ = self.step(batch, self.teachers(batch))
                torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum().backward()
                self.optimizer.step()
                self.optimizer.zero_grad()


def measure(count: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    dataset: Any = MadeClips(count)
    clips = np.arange(count)
    teacher = attended("i3d")
    answered = Passes(teacher)
    live = LiveTeacher("i3d", teacher, "rgb", (ATTENTION,))
    fill_cache(folder, {}, live, dataset, clips, 1)
    cached = CachedTeacher("i3d", "rgb", cache_folder(folder, {}), {}, clips, lambda: teacher)
    groups = {
        name: Teachers({"i3d": one}, Weighting(), Recognition(CLASSES))
        for name, one in zip(TEACHERS, (live, cached), strict=True)
    }
    batches = [dataset.collate(list(range(start, start + BATCH))) for start in range(0, count, BATCH)]
    learners = {
        (kind, phases): Learner(dataset, teacher, groups[kind], phases) for kind, phases in product(TEACHERS, PHASES)
    }
    for learner in learners.values():
        learner.epoch(batches[:1])  # warms up
    rows = {key: {"seconds": [], "student_passes": 0, "teacher_passes": 0} for key in learners}
    for _ in range(rounds):
        for key, learner in learners.items():
            before, asked, start = learner.passes.clips, answered.clips, time.process_time()
            learner.epoch(batches)
            rows[key]["seconds"].append(time.process_time() - start)
            rows[key]["student_passes"] = learner.passes.clips - before
            rows[key]["teacher_passes"] = answered.clips - asked
    return [compare(kind, len(batches), *(rows[kind, phases] for phases in PHASES)) for kind in TEACHERS]


def compare(kind: str, batches: int, alternating: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """What is saved with one kind of teacher; seconds are of one batch that taught both the CVAE and the student."""
    least = [min(row["seconds"]) / batches for row in (alternating, merged)]
    return {
        "teacher": kind,
        "passes_ratio": alternating["student_passes"] / merged["student_passes"],
        "seconds_ratio": least[0] / least[1],
        "seconds_a_batch": dict(zip(PHASES, least, strict=True)),
        "alternating": alternating,
        "merged": merged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(given.clips, given.rounds, Path(scratch))
    for row in rows:
        print(f"{row['teacher']} teacher, {given.clips} clips in batches of {BATCH}:")
        for phases in PHASES:
            passes, asked = row[phases]["student_passes"], row[phases]["teacher_passes"]
            seconds = row["seconds_a_batch"][phases]
            print(f"  {phases:12}{passes:4} student passes, {asked:3} teacher passes, {seconds:.3f} s a batch")
        print(f"  merged: {row['passes_ratio']:g} times fewer student passes, {row['seconds_ratio']:.2f} times as fast")
    reached = all(row["passes_ratio"] == 2 and row["seconds_ratio"] > 1 for row in rows)
    print(f"claim: exactly half the student passes, and less time: {reached}")
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    machine |= {"threads": 1, "load_before": load}
    result = {"claim": {"passes": 2, "seconds": 1}, "reached": reached, "rows": rows, "machine": machine}
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
