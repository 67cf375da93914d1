"""Fabricated run folders with the layout of a real run and plausible numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidistill.core.seeds import generator

TEACHERS = {"flow": 0.61, "pose": 0.52, "rgb-large": 0.58}
ACTIONS = re.split(
    ",",
    "brush hair,catch,clap,climb stairs,golf,jump,kick ball,pick,pour,pull up,push,run,shoot ball,shoot bow,shoot gun,"
    "sit,stand,swing baseball,throw,walk,wave,draw sword,eat,fencing,hug,ride bike,smile",
)

RECIPE = "name: flow + pose\nmethod: {name: kd, temperature: 4.0}\nstudent: {network: r3d_18}\n"


def interval(value: float, half: float = 0.03, seeds: list[float] | None = None) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "per_seed": seeds or []}


class Fabricator:
    """Writes one run folder; `gain` in fractions, `classes` per head, `seeds` of the students."""

    def __init__(self, folder: Path, classes: dict[str, list[str]], *, gain: float, seeds: int, clips: int) -> None:
        self.folder, self.classes, self.gain, self.seeds, self.clips = folder, classes, gain, seeds, clips
        self.random = generator("fabricated", folder.name)

    def write(self) -> Path:
        self.dump("recipe.yaml", RECIPE)
        self.dump(
            "environment.json",
            {
                "python": "3.11.9",
                "torch": "2.15.0",
                "cpu": "some CPU",
                "cores": 2,
                "git": "abc1234",
                "date": "2026-08-07T10:00:00",
                "vidistill": "0.1.0",
            },
        )
        stages = ("prepare", "teachers", "audit", "distil", "evaluate", "export")
        self.dump(
            "stages.json", {name: {"hash": "e3b0c44298fc1c14", "seconds": 43.0, "finished": True} for name in stages}
        )
        self.data()
        self.audit()
        self.histories()
        self.results()
        latency = {"onnxruntime cpu": (18.2, 20.1), "onnxruntime cpu int8": (7.9, 8.8), "torch cpu": (29.4, 33.0)}
        self.dump(
            "export/export.json",
            {
                "onnx": {"max_difference": 3.1e-6, "file": "student.onnx", "bytes": 6_140_233, "opset": 18},
                "int8": {"bytes": 1_702_110, "top1_fp32": 0.512, "top1_int8": 0.505, "drop": 0.007},
                "parameters": 1_523_771,
                "gmacs": 0.482,
                "decode_ms": 41.3,
                "latency": {name: {"median_ms": m, "p90_ms": p, "threads": 2} for name, (m, p) in latency.items()},
            },
        )
        return self.folder

    def dump(self, name: str, content: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    def data(self) -> None:
        problems = [
            {"clip": "wave/Zoë waving 03", "kind": "truncated", "message": "decoded 12 of 40 frames"},
            {"clip": "run/empty", "kind": "empty", "message": "the file has 0 bytes"},
            {"clip": "golf/one", "kind": "short", "message": "1 frame, at least 2 are needed"},
            {"clip": "hug/gone", "kind": "missing", "message": "listed but not on disk"},
        ]
        provenance = {"tool": "opencv", "version": "4.12", "parameters": {"algorithm": "dis", "preset": "fast"}}
        self.dump(
            "data.json",
            {
                "listed": 928,
                "prepared": 924,
                "problems": problems,
                "splits": {"train": 562, "val": 98, "test": self.clips},
                "classes": self.classes,
                "split_hash": "5f0c1c8e9f2c4a71b1d1c1b2e9a77a10",
                "modalities": {
                    "rgb": {"clips": 924, "provenance": {"short_side": 72}},
                    "flow": {"clips": 924, "provenance": provenance},
                    "pose": {"clips": 430, "provenance": {}},
                },
            },
        )

    def audit(self) -> None:
        heads = list(self.classes)
        weights = dict(zip(TEACHERS, (0.47, 0.21, 0.32), strict=True))
        teachers = {
            name: {
                "input": name,
                "accuracy": {h: [top1, top1 - 0.05, top1 + 0.05] for h in heads},
                "ece": dict.fromkeys(heads, 0.061),
                "nll": dict.fromkeys(heads, 1.44),
                "temperature": dict.fromkeys(heads, 1.31),
                "weight": dict.fromkeys(heads, weights[name]),
                "verdict": "ok",
            }
            for name, top1 in TEACHERS.items()
        }
        names = [*TEACHERS, "ensemble"]
        matrix = np.round(np.where(np.eye(4), 1, self.random.uniform(0.4, 0.8, (4, 4))), 3)
        agreement = {"names": names, "matrix": ((matrix + matrix.T) / 2).tolist()}
        self.dump(
            "audit.json",
            {
                "split": "val",
                "chance": {h: 1 / len(c) for h, c in self.classes.items()},
                "teachers": teachers,
                "agreement": dict.fromkeys(heads, agreement),
                "ensemble": {"scheme": "held_out", "gamma": 0.5, "accuracy": {h: [0.68, 0.63, 0.73] for h in heads}},
            },
        )

    def histories(self, epochs: int = 30) -> None:
        head = next(iter(self.classes))
        ends = {f"teacher-{name}": top1 for name, top1 in TEACHERS.items()}
        for seed in range(self.seeds):
            ends |= {f"alone-seed{seed}": 0.46, f"distilled-seed{seed}": 0.46 + self.gain}
        for key, end in ends.items():
            lines = []
            for epoch in range(epochs):
                share = 1 - np.exp(-epoch / 7)
                accuracy = end * share + self.random.normal(0, 0.012)
                terms = {"label": 3.2 * (1 - share * 0.9)} | (
                    {"kd": 5 * (1 - share * 0.7)} if "distilled" in key else {}
                )
                weights = {"flow": 0.33 + 0.14 * share, "pose": 0.33 - 0.12 * share, "rgb-large": 0.34 - 0.02 * share}
                lines.append(
                    json.dumps(
                        {
                            "kind": "epoch",
                            "epoch": epoch,
                            "loss": sum(terms.values()),
                            "terms": terms,
                            "accuracy": {head: min(1, share * 1.02)},
                            "val": {f"{head}/top1": accuracy},
                            "seconds": 8.1,
                            "clips_per_second": 71.0,
                            "lr": 0.01,
                            "teacher_weights": weights if "distilled" in key else None,
                        }
                    )
                )
            self.dump(f"models/{key}/history.jsonl", "\n".join(lines) + "\n")

    def scores(self, top1: float, spread: float = 0.008) -> dict[str, Any]:
        found = {}
        for head in self.classes:
            seeds = [top1 + spread * (seed - (self.seeds - 1) / 2) for seed in range(self.seeds)]
            found |= {
                f"{head}/top1": interval(top1, 0.04, seeds),
                f"{head}/top5": interval(min(0.99, top1 + 0.27), 0.02),
                f"{head}/mean_class": interval(top1 - 0.02, 0.04),
                f"{head}/ece": interval(0.09 - top1 / 20, 0.01),
                f"{head}/nll": interval(2.4 - top1, 0.1),
            }
        return found

    def row(self, role: str, name: str, top1: float, seeds: list[int]) -> dict[str, Any]:
        costs = {"parameters": 1_523_771, "gmacs": 0.482, "latency_ms": 18.2, "minutes_per_epoch": 0.135}
        return {"key": name, "role": role, "name": name, "seeds": seeds, "metrics": self.scores(top1), **costs}

    def results(self) -> None:
        seeds = list(range(self.seeds))
        rows = [self.row("teacher", name, top1, [0]) for name, top1 in TEACHERS.items()]
        ensemble = self.row("ensemble", "ensemble", 0.67, [])
        rows += [ensemble | dict.fromkeys(("parameters", "gmacs", "latency_ms", "minutes_per_epoch"))]
        rows += [self.row("alone", "student", 0.46, seeds), self.row("distilled", "student", 0.46 + self.gain, seeds)]
        per_seed = [self.gain + 0.01 * (seed - (self.seeds - 1) / 2) for seed in seeds]
        gain = {f"{head}/top1": interval(self.gain, 0.029, per_seed) | {"paid": None} for head in self.classes}
        gain |= {f"{head}/ece": interval(-0.012, 0.006) | {"paid": True} for head in self.classes}
        self.dump(
            "results.json",
            {
                "test_split": "test",
                "clips": self.clips,
                "rows": rows,
                "gain": gain,
                "per_class": {h: self.per_class(c) for h, c in self.classes.items()},
                "confusion": {
                    h: {"alone": self.matrix(len(c), 0.46), "distilled": self.matrix(len(c), 0.55)}
                    for h, c in self.classes.items()
                },
                "reliability": {"alone": self.bins(0.72), "distilled": self.bins(0.93)},
            },
        )

    def per_class(self, names: list[str]) -> dict[str, Any]:
        found = {}
        for name in names:
            alone = float(np.clip(self.random.normal(0.46, 0.2), 0, 1))
            distilled = float(np.clip(alone + self.random.normal(self.gain, 0.12), 0, 1))
            found[name] = {"alone": alone, "distilled": distilled, "clips": int(self.random.integers(6, 16))}
        return found

    def matrix(self, size: int, right: float) -> list[list[int]]:
        wrong = self.random.dirichlet(np.full(size, 0.15), size) * (1 - right)
        return np.round(10 * (wrong + right * np.eye(size))).astype(int).tolist()

    def bins(self, slope: float) -> dict[str, list[float]]:
        confidence = (np.arange(15) + 0.5) / 15
        count = np.round(60 * np.exp(-(((confidence - 0.55) / 0.3) ** 2)))
        return {"confidence": confidence.tolist(), "accuracy": (confidence * slope).tolist(), "count": count.tolist()}


def fabricate(
    folder: Path, classes: dict[str, list[str]] | None = None, *, gain: float = 0.041, seeds: int = 3
) -> Path:
    """A full realistic run: 27 classes, three seeds, three teachers unless told otherwise."""
    return Fabricator(folder, classes or {"action": list(ACTIONS)}, gain=gain, seeds=seeds, clips=264).write()


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: tests that change a run make their own with `make_run`."""
    return fabricate(tmp_path_factory.mktemp("runs") / "jhmdb")


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    return lambda name="run", classes=None, **options: fabricate(tmp_path / name, classes, **options)


@pytest.fixture
def minimal_run(tmp_path: Path) -> Path:
    """A run that has just begun: a recipe and nothing else."""
    folder = tmp_path / "just-begun"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: demo\n")
    return folder
