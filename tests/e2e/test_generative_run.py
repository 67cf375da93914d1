"""Generative feature distillation in whole runs: the teacher's own stage, merged and alternating phases, attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidistill.core.recipe import make_recipe
from vidistill.models.weights import read_weights
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.stages.teachers import frozen_method, teacher_method

NETWORK = {"network": "attended", "trunk": "compact3d", "trunk_options": {"width": 8, "stages": 2}}
GENERATIVE = {"name": "generative", "teacher": "wide", "hidden": 8}


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> Run:
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("generative"), method=GENERATIVE)
    tree["modalities"] = {"rgb": {"size": [16, 16]}}
    tree["teachers"] = {"wide": {"input": "rgb", **NETWORK, "method": {"name": "cvae", "hidden": 8}}}
    tree["student"] = {"input": "rgb", **NETWORK}
    tree["variants"] = {
        "alternating": {"method": {**GENERATIVE, "phases": "alternating"}},
        "attention_only": {"method": {**GENERATIVE, "generative_weight": 0, "reconstruction_weight": 0}},
    }
    tree["teacher_schedule"] = {"epochs": 20, "learning_rate": 0.01}
    return run_recipe(make_recipe(tree), until="report")


def history(run: Run, name: str) -> list[dict[str, Any]]:
    lines = (run.folder / "models" / name / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_teachers_cvae_is_trained_and_kept(finished: Run) -> None:
    assert all("cvae" in epoch["terms"] for epoch in history(finished, "teacher-wide"))
    section = finished.recipe.teachers["wide"]
    fresh = teacher_method(finished, "wide", finished.network(section, 0, "teacher-wide"))
    assert fresh is not None
    kept = read_weights(finished.folder / "models" / "teacher-wide" / "method.safetensors")[0]
    assert kept.keys() == fresh.state_dict().keys()
    learned = frozen_method(finished, "wide", finished.network(section, 0, "teacher-wide"), trained=True)
    assert all((value == kept[key]).all() for key, value in learned.state_dict().items())
    assert not any(parameter.requires_grad for parameter in learned.parameters())


def test_each_way_has_the_terms_it_asks_for(finished: Run) -> None:
    everything = {"label_action", "cvae", "generative", "attention", "reconstruction"}
    assert set(history(finished, "distilled-seed0")[0]["terms"]) == everything
    assert set(history(finished, "alternating-seed0")[0]["terms"]) == everything
    assert set(history(finished, "attention_only-seed0")[0]["terms"]) == {"label_action", "attention"}


def test_alternating_costs_two_passes_and_merged_one(finished: Run) -> None:
    clips = {name: history(finished, f"{name}-seed0")[0]["clips"] for name in ("alone", "distilled", "alternating")}
    assert clips["alternating"] == 2 * clips["distilled"] == 2 * clips["alone"]


def test_the_shipped_student_is_without_the_cvae(finished: Run) -> None:
    table = json.loads((finished.folder / "results.json").read_text(encoding="utf-8"))
    parameters = {row["name"]: row.get("parameters") for row in table["rows"]}
    assert parameters["alone"] == parameters["distilled"] == parameters["alternating"]
    kept = read_weights(finished.folder / "models" / "distilled-seed0" / "model.safetensors")[0]
    assert not any("cvae" in key for key in kept)
    assert (finished.folder / "export" / "student.onnx").is_file()
