"""Clips with a verb and a noun: one network, two heads, every number for each head and for both together."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from vidistill.core.recipe import make_recipe
from vidistill.stages.pipeline import run_recipe


def two_heads(tiny_set: Path, folder: Path) -> Path:
    """The tiny set with its class as verb and whether it is the slowest as noun; some nouns are not known."""
    shutil.copytree(tiny_set, folder)
    path = folder / "manifest.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for number, row in enumerate(rows):
        row["label:verb"] = row.pop("label:action")
        noun = "slow" if row["label:verb"] == "speed0" else "fast"
        row["label:noun"] = "" if number % 11 == 0 else noun
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_run_with_two_heads(tiny_set: Path, tmp_path: Path, make_tiny_recipe: Any) -> None:
    root = two_heads(tiny_set, tmp_path / "set")
    tree = make_tiny_recipe(root, tmp_path, ensemble={"weights": "per_sample"})
    tree["teachers"] = {"inertial": tree["teachers"]["inertial"]}
    tree["teacher_schedule"] = {"epochs": 40, "learning_rate": 0.01}
    tree["student"] = {"input": "skeleton", "network": "temporal_conv", "width": 8}
    folder = run_recipe(make_recipe(tree)).folder
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for row in results["rows"]:
        metrics = row["metrics"]
        assert {"verb/top1", "noun/top1", "all/top1", "verb/ece", "noun/nll"} <= metrics.keys()
        assert metrics["all/top1"]["value"] <= min(metrics["verb/top1"]["value"], 1.0)
    assert set(results["per_class"]["noun"]) == {"slow", "fast"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "noun" in page
    assert "verb" in page
