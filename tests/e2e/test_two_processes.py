"""The same recipe on one process and on two (torchrun, gloo): the same clips in every step, the same metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidistill.training.evaluate import Predictions

ONE = [sys.executable, "-m"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def run(command: list[str], tree: dict[str, Any], folder: Path) -> Path:
    recipe = folder / f"{tree['name']}.yaml"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    arguments = ["vidistill", "run", str(recipe), "--until", "evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    errors = [line for line in done.stderr.splitlines() if "rror" in line]
    assert done.returncode == 0, "\n".join(errors)
    return Path(tree["runs"]) / tree["name"]


def test_two_processes_give_the_metrics_of_one(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    # Batch normalisation would see half a batch in each process; a GRU without dropout sees the same numbers.
    gru = {"network": "gru", "hidden": 8, "layers": 1, "dropout": 0.0}
    tree = {
        **tiny_recipe,
        "teachers": {"inertial": {"input": "inertial", **gru}},
        "student": {"input": "skeleton", **gru},
        "teacher_schedule": {"epochs": 12, "learning_rate": 0.01},
    }
    folders = [run(ONE, {**tree, "name": "one"}, tmp_path), run(TWO, {**tree, "name": "two"}, tmp_path)]
    one, two = (json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders)
    assert one["clips"] == two["clips"] == 18
    for first, second in zip(one["rows"], two["rows"], strict=True):
        for name, value in first["metrics"].items():
            assert second["metrics"][name]["value"] == pytest.approx(value["value"], abs=1e-3), (first["key"], name)
    for model in ("teacher-inertial", "alone-seed0", "distilled-seed0"):
        logits = [Predictions.load(f / "models" / model / "predictions.npz").logits["action"] for f in folders]
        assert logits[1] == pytest.approx(logits[0], abs=5e-3)
