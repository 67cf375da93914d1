"""A whole run of multi-label recognition on streams of the tiny set: which of the actions a stream holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidistill.core.recipe import make_recipe
from vidistill.deploy.predict import Predictor
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.tasks import Predictions


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> Run:
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("multilabel"))
    sections = {
        "data": {**tree["data"], "streams": {"clips": 2, "rounds": 6, "background": []}},
        "teacher_schedule": {"epochs": 20},
        "task": {"name": "multilabel"},
    }
    return run_recipe(make_recipe({**tree, **sections}))


def test_models_are_measured_by_the_average_precision_of_classes(finished: Run) -> None:
    found = json.loads((finished.folder / "results.json").read_text(encoding="utf-8"))
    assert found["primary"] == "map"
    for row in found["rows"]:
        for name in ("map", "top1", "ece", "adaptive_ece", "nll", "brier"):
            value = row["metrics"][f"action/{name}"]
            assert 0 <= value["low"] <= value["value"] <= value["high"]
    assert {"alone", "distilled"} <= {row["role"] for row in found["rows"]}
    assert "action/map" in found["gain"]


def test_some_clips_show_several_classes_and_each_is_a_row(finished: Run) -> None:
    predictions = Predictions.load(finished.folder / "models" / "alone-seed0" / "predictions.npz")
    classes = len(finished.classes["action"])
    labels = predictions.labels["action"].reshape(-1, classes)
    assert len(labels) == len(finished.store.indices("test")) == predictions.units
    assert (labels.sum(1) > 1).any()
    assert predictions.logits["action"].shape == (labels.size, 2)


def test_the_shipped_file_answers_for_every_class_by_itself(finished: Run) -> None:
    predictor = Predictor(finished.folder / "export" / "student.onnx")
    source = next(iter(finished.prepared.clips)).sources["rgb"]
    found = predictor.predict(finished.manifest.root / source)["predictions"]["action"]
    assert len(found) == len(finished.classes["action"])
    assert sum(each["probability"] for each in found) != pytest.approx(1.0, abs=1e-6)
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "mAP over classes" in page
