"""From videos with sound and boxes to a distilled student of verb and noun, with and without sound for all clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidistill.core.recipe import make_recipe
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.stages.teachers import bind_teachers

MODELS = ["rgb", "audio", "boxes", "ensemble", "alone", "distilled"]
SUBSETS = {"tail_verb", "tail_noun", "tail_either", "unseen"}


def small_recipe(folder: Path, without_audio: float) -> dict[str, Any]:
    """The recipe `ensemble/synthetic` with fewer and smaller parts."""
    return {
        "name": "kitchen",
        "runs": str(folder / "runs"),
        "data": {
            "format": "synthetic_epic",
            "root": str(folder / "made"),
            "clips": 160,
            "verbs": 3,
            "nouns": 4,
            "without_audio": without_audio,
            "validation": 0.25,
            "validation_by": "clip",
        },
        "prepare": {"workers": 1, "sources": {"rgb": {"short_side": 32}, "boxes": {"rate": 12}}},
        "modalities": {
            "rgb": {"size": [18, 24]},
            "audio": {"mels": 24, "columns": 32, "layout": "sequence"},
            "boxes": {"count": 2, "category": True},
        },
        "views": {"frames": 6, "scale": [0.8, 1.0]},
        "teachers": {
            "rgb": {
                "input": "rgb",
                "network": "compact3d",
                "width": 8,
                "stages": 2,
                "schedule": {"epochs": 20, "batch_size": 16, "learning_rate": 0.01},
            },
            "audio": {"input": "audio", "network": "temporal_conv", "width": 24},
            "boxes": {"input": "boxes", "network": "temporal_conv", "width": 24},
        },
        "teacher_schedule": {"epochs": 10, "learning_rate": 0.004},
        "ensemble": {"weights": "held_out", "gamma": 0.5},
        "student": {"input": "rgb", "network": "compact3d", "width": 4, "stages": 2},
        "method": {"name": "kd", "temperature": 2.0},
        "schedule": {"epochs": 4, "batch_size": 8, "learning_rate": 0.005, "views": 4},
        "export": {"int8": False, "latency": False},
    }


@pytest.fixture(scope="module", params=[0.0, 0.33], ids=["all sounded", "a third mute"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, float]:
    part = float(request.param)
    recipe = make_recipe(small_recipe(tmp_path_factory.mktemp("kitchen"), part))
    return run_recipe(recipe, until="evaluate"), part


@pytest.fixture(scope="module")
def shipped(finished: tuple[Run, float]) -> Run:
    """The run without sound for some, to its end; the other one stops where its results are told."""
    run, part = finished
    if part == 0:
        pytest.skip("export and page of one run are enough")
    return run_recipe(run.recipe)


def document(run: Run, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / name).read_text(encoding="utf-8"))
    return content


def test_every_modality_comes_from_the_videos_and_the_detections(finished: tuple[Run, float]) -> None:
    run, part = finished
    found = {name: each["clips"] for name, each in document(run, "data.json")["modalities"].items()}
    clips = len(run.store)
    assert clips == 160 and found["rgb"] == found["boxes"] == clips
    assert found["audio"] == pytest.approx((1 - part) * clips, abs=10)
    assert (found["audio"] == clips) == (part == 0)


def test_heads_have_all_classes_of_the_lists_not_only_those_shown(finished: tuple[Run, float]) -> None:
    run, _ = finished
    assert {head: len(names) for head, names in run.classes.items()} == {"verb": 12, "noun": 12}
    assert run.classes["verb"][:3] == ("take", "put", "wash")
    assert set(np.unique(run.store.labels("verb"))) == {0, 1, 2}


def test_a_clip_without_sound_is_taught_by_the_others_whose_weights_add_up(finished: tuple[Run, float]) -> None:
    run, part = finished
    teachers, inputs = bind_teachers(run, {})
    dataset = run.dataset(["rgb", *inputs], True, ["rgb", "audio", "boxes"])
    train = run.store.indices("train")
    batch = dataset.collate([dataset[(int(clip), 0)] for clip in train])
    weights = np.stack(list(teachers.weights(teachers(batch)).values()), 1)
    sounded = run.store.present("audio")[train]
    whole = teachers.weighting.held_out["verb"]
    assert weights.sum(1) == pytest.approx(1.0, abs=1e-5)
    assert (weights[~sounded, 1] == 0).all() and sounded.all() == (part == 0)
    assert weights[sounded] == pytest.approx(np.tile(whole, (sounded.sum(), 1)), abs=1e-5)
    rest = np.array([whole[0], 0.0, whole[2]]) / (whole[0] + whole[2])
    assert weights[~sounded] == pytest.approx(np.tile(rest, ((~sounded).sum(), 1)), abs=1e-5)


def test_verb_noun_action_and_calibration_are_told_for_every_model(finished: tuple[Run, float]) -> None:
    results = document(finished[0], "results.json")
    assert [row["name"] for row in results["rows"]] == MODELS
    for row in results["rows"]:
        found = row["metrics"]
        for name in ("verb/top1", "noun/top1", "all/top1", "verb/ece", "noun/ece", "verb/nll", "noun/nll"):
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"], (row["name"], name)
        assert found["all/top1"]["value"] <= min(found["verb/top1"]["value"], found["noun/top1"]["value"])
    assert set(results["reliability"]) == {"verb", "noun"}


def test_subsets_are_told_with_intervals_and_gains(finished: tuple[Run, float]) -> None:
    run, _ = finished
    results = document(run, "results.json")
    test = [run.store.clips[index] for index in run.store.indices("test")]
    assert set(results["subsets"]) >= SUBSETS
    assert results["subsets"]["unseen"] == sum(clip.id[:3] in ("P18", "P32") for clip in test)
    assert results["subsets"]["tail_verb"] == sum(clip.labels["verb"] == "wash" for clip in test)
    names = {f"{head}/top1@{subset}" for head in ("verb", "noun", "all") for subset in SUBSETS}
    for row in results["rows"]:
        assert names <= row["metrics"].keys()
    assert names <= results["gain"].keys()
    unseen = results["rows"][0]["metrics"]["verb/top1@unseen"]
    assert unseen["low"] <= unseen["value"] <= unseen["high"] and unseen["low"] < unseen["high"]


def test_the_page_has_a_table_of_every_subset(shipped: Run) -> None:
    page = (shipped.folder / "report.html").read_text(encoding="utf-8")
    assert "Subsets of the test clips" in page and "<h3>Tail verb</h3>" in page and "<h3>Unseen</h3>" in page
    assert "tIoU" not in page


def test_the_student_is_exported_with_both_heads(shipped: Run) -> None:
    from vidistill.deploy.predict import Predictor

    video = min(shipped.manifest.root.glob("P18/videos/*.MP4"))
    found = Predictor(shipped.folder / "export" / "student.onnx").predict(video)["predictions"]
    assert set(found) == {"verb", "noun"} and found["noun"][0]["label"] in shipped.classes["noun"]
