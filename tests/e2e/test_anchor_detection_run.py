"""A whole run of anchor-free detection on streams of the tiny set: losses, generative distillation, export, a video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidistill.core.recipe import make_recipe
from vidistill.data.steps import sliding_windows
from vidistill.deploy.detect import BOUNDS
from vidistill.deploy.export import read_metadata
from vidistill.deploy.predict import Predictor
from vidistill.stages.networks import load_trained
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.tasks import Predictions
from vidistill.tasks.anchor_detection import AnchorDetection, windows_of

TRUNK = {"trunk": "compact3d", "trunk_options": {"width": 8, "stages": 2}}
DETECTOR = {"network": "anchor_detector", **TRUNK, "width": 16, "levels": 3, "attention": "pooled"}
WEIGHTS = {"background_weight": 0.1, "consistency_weight": 0.1}
GENERATIVE = {
    "name": "generative",
    "teacher": "wide",
    "maps": ["stage2"],
    "attention": "attention_stage2",
    "hidden": 8,
    "attention_weight": 1.0,
}


@pytest.fixture(scope="module")
def easy_set(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with a bright band whose height is the class, so that few steps of training tell classes apart."""
    folder = tmp_path_factory.mktemp("easy") / "set"
    shutil.copytree(tiny_set, folder)
    with np.load(folder / "frames.npz") as file:
        frames = {name: file[name].copy() for name in file}
    for name, pictures in frames.items():
        row = 1 + 7 * (int(name.split()[-1]) % 3)
        pictures[:, row : row + 4] = 200
    np.savez(folder / "frames.npz", **frames)
    return folder


@pytest.fixture(scope="module")
def finished(easy_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> Run:
    tree = make_tiny_recipe(easy_set, tmp_path_factory.mktemp("anchors"))
    cvae = {"name": "cvae", "maps": ["stage2"], "attention": "attention_stage2", "hidden": 8}
    sections = {
        "data": {**tree["data"], "streams": {"clips": 6, "rounds": 2, "background": ["speed1"]}},
        "modalities": {"rgb": {"size": [16, 16]}},
        "views": {"frames": 8, "stride": 2, "steps": 2, "scale": [0.8, 1.0]},
        "teachers": {"wide": {"input": "rgb", **DETECTOR, "method": cvae}},
        "teacher_schedule": {"epochs": 12, "views_per_epoch": 6},
        "student": {"input": "rgb", **DETECTOR},
        "method": GENERATIVE,
        "variants": {"kd": {"method": {"name": "kd"}}},
        "task": {"name": "anchor_detection", "anchors": [8, 4, 2], "tious": [0.3, 0.5], **WEIGHTS},
        "schedule": {"epochs": 2, "batch_size": 8, "views": 4, "views_per_epoch": 4, "learning_rate": 0.01},
    }
    return run_recipe(make_recipe({**tree, **sections}))


def results(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    return found


def test_every_network_is_judged_by_the_segments_it_proposes(finished: Run) -> None:
    found = results(finished)
    assert found["primary"] == "map"
    assert [row["name"] for row in found["rows"]] == ["wide", "ensemble", "alone", "distilled", "kd"]
    for row in found["rows"]:
        for name in ("map", "map@0.3", "map@0.5", "top1"):
            value = row["metrics"][f"action/{name}"]
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
    assert found["rows"][0]["metrics"]["action/map@0.3"]["value"] > 0.1, "a trained teacher finds segments"


def test_labels_teach_places_classes_boundaries_and_background(finished: Run) -> None:
    lines = (finished.folder / "models" / "distilled-seed0" / "history.jsonl").read_text().splitlines()
    terms = set(json.loads(lines[-1])["terms"])
    wanted = {"loc", "conf", "prop_loc", "prop_conf", "center", "start", "end", "start_prop", "end_prop"}
    wanted |= {"background", "consistency"}
    assert {f"label_{name}" for name in wanted} <= terms
    assert {"cvae", "generative", "attention", "reconstruction"} <= terms


def test_rows_are_the_anchors_of_half_overlapping_windows(finished: Run) -> None:
    predictions = Predictions.load(finished.folder / "models" / "alone-seed0" / "predictions.npz")
    assert predictions.spans is not None
    windows = [len(windows_of(finished.store, finished.policy, int(c))) for c in finished.store.indices("test")]
    assert len(predictions.clip) == 14 * sum(windows)
    labels = finished.task.row_labels(finished.store, finished.policy, "test")["action"]
    assert set(np.unique(predictions.labels["action"])) == {0, 1, 2}
    judged = finished.task.judged(predictions)
    np.testing.assert_array_equal(judged.labels["action"], labels)
    assert set(np.unique(labels)) == {-1, 1, 2}, "anchors in no segment are not judged by their class"
    assert (judged.logits["action"].argmax(1) > 0).all(), "and nobody is asked whether there is an action"
    for clip in np.unique(predictions.clip):
        assert predictions.spans[predictions.clip == clip].max() <= finished.store.duration(int(clip)) + 1e-9
    sums = np.exp(predictions.logits["action"].astype(np.float64)).sum(1)
    np.testing.assert_allclose(sums, 1.0, atol=1e-4)


def test_the_exported_detector_finds_in_a_file_what_evaluation_found(finished: Run) -> None:
    model = finished.folder / "export" / "student.onnx"
    assert read_metadata(model)["task"]["name"] == "anchor_detection"
    clip = finished.store.clips[int(finished.store.indices("test")[0])]
    predictor = Predictor(model)
    assert predictor.detects and BOUNDS in predictor.classes
    name = json.loads((finished.folder / "export" / "export.json").read_text())["student"]
    network = load_trained(finished, name, finished.recipe.student)
    window = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    task = finished.task
    assert isinstance(task, AnchorDetection)
    with torch.inference_mode():
        logits, bounds = task.decode(network(window))
    answer = predictor._session.run(None, {"input": window.numpy()})
    np.testing.assert_allclose(answer[0], logits.numpy(), atol=2e-3)
    np.testing.assert_allclose(answer[1], bounds.numpy(), atol=2e-3)
    source = next(iter(finished.prepared.clips)).sources["rgb"]
    found = predictor.predict(finished.manifest.root / source)
    assert found["windows"] >= 1
    assert all(0 <= s["segment"][0] < s["segment"][1] <= found["seconds"] + 1e-3 for s in found["segments"])
    assert clip.id


def test_a_window_past_the_end_repeats_its_last_step() -> None:
    steps = (torch.full((2,), float(number)) for number in range(3))
    windows = list(sliding_windows(steps, [0, 1, 2], 2))
    np.testing.assert_array_equal([window[:, 0] for window in windows], [[0, 1], [1, 2], [2, 2]])
