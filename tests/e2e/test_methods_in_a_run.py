"""Every registered method teaches a student in a real run, with cached and with live teachers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vidistill.core.recipe import make_recipe
from vidistill.methods import METHODS
from vidistill.stages.pipeline import run_recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "sum": {
        "methods": [
            {"name": "kd"},
            {"name": "feature_mse", "student": "stage2", "teacher": "stage2", "teachers": ["skeleton"]},
        ]
    },
    "crosskd": {"teacher": "skeleton"},
}
ELSEWHERE = {"cvae", "generative", "litemkd"}
"""Methods that need attention or episodes: test_generative_run.py and test_fewshot_run.py run them."""


@pytest.fixture(scope="module")
def audited(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> dict[str, Any]:
    """Teachers of two kinds: the student's architecture on its input, and a sensor network that misses a third."""
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("methods"))
    tree["student"] = tree["teachers"]["skeleton"]
    run_recipe(make_recipe(tree), "audit")
    return tree


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "live"])
@pytest.mark.parametrize("method", sorted(set(METHODS.names()) - ELSEWHERE))
def test_a_student_is_taught(audited: dict[str, Any], method: str, cached: bool) -> None:
    runs, name = Path(audited["runs"]), f"{method} {'cached' if cached else 'live'}"
    shutil.copytree(runs / audited["name"], runs / name)
    section = {"name": method, **OPTIONS.get(method, {})}
    schedule = {"epochs": 1, "batch_size": 8, "views": 1}
    tree = {**audited, "name": name, "method": section, "cache": {"enabled": cached}, "schedule": schedule}
    folder = run_recipe(make_recipe(tree), "distil").folder
    line = (folder / "models" / "distilled-seed0" / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    terms = {k: v for k, v in json.loads(line)["terms"].items() if not k.startswith("label")}
    assert terms
    assert all(value > 0 for value in terms.values())
