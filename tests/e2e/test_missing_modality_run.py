"""A student over sound and picture, from recipe to shipped file: it answers where either is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.recipe import make_recipe
from vidistill.deploy.predict import Predictor
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run

HEADS = ["verb", "noun"]


def small_recipe(folder: Path) -> dict[str, Any]:
    """The recipe `ensemble/missing` with fewer and smaller parts."""
    return {
        "name": "missing",
        "runs": str(folder / "runs"),
        "data": {
            "format": "synthetic_epic",
            "root": str(folder / "made"),
            "clips": 60,
            "verbs": 3,
            "nouns": 3,
            "without_audio": 0.33,
            "validation": 0.25,
            "validation_by": "clip",
        },
        "prepare": {"workers": 1, "sources": {"rgb": {"short_side": 32}}},
        "modalities": {
            "rgb": {"size": [18, 24]},
            "audio": {"mels": 24, "columns": 32, "layout": "sequence"},
            "both": {"of": ["rgb", "audio"]},
        },
        "views": {"frames": 6, "scale": [0.8, 1.0]},
        "student": {
            "input": "both",
            "network": "multimodal",
            "width": 16,
            "parts": {
                "rgb": {"network": "compact3d", "width": 4, "stages": 2},
                "audio": {"network": "temporal_conv", "width": 8},
            },
        },
        "schedule": {"epochs": 3, "batch_size": 8, "learning_rate": 0.005, "views": 3},
        "task": {"heads": HEADS},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_recipe(make_recipe(small_recipe(tmp_path_factory.mktemp("missing"))))


def rows(run: Run) -> dict[str, dict[str, Any]]:
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in results["rows"]}


def test_the_student_is_tested_without_each_modality(finished: Run) -> None:
    found = rows(finished)
    assert set(found) == {"alone", "alone, no rgb", "alone, no audio"}
    sounded = finished.store.present("audio")[finished.store.indices("test")]
    assert 0 < sounded.sum() < len(sounded)
    assert found["alone"]["clips"] == found["alone, no audio"]["clips"] == len(sounded)
    assert found["alone, no rgb"]["clips"] == sounded.sum(), "clips that have nothing else are left out"
    nll = {name: row["metrics"]["verb/nll"]["value"] for name, row in found.items()}
    assert len(set(nll.values())) == len(nll) and np.isfinite(list(nll.values())).all()


def test_its_file_names_what_a_video_lacks_and_answers_all_the_same(finished: Run) -> None:
    predictor = Predictor(finished.folder / "export" / "student.onnx")
    has = finished.store.present("audio")
    for sounded in (True, False):
        clip = finished.store.clips[int(np.flatnonzero(has == sounded)[0])]
        answer = predictor.predict(finished.manifest.root / clip.sources["rgb"])
        assert answer["missing"] == ([] if sounded else ["audio"])
        assert set(answer["predictions"]) == set(HEADS)


def test_an_array_is_refused_since_it_does_not_say_what_it_is(finished: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((4, 4)))
    predictor = Predictor(finished.folder / "export" / "student.onnx")
    with pytest.raises(DataError, match="Give a video"):
        predictor.predict(tmp_path / "clip.npy")


def test_the_page_shows_what_each_missing_modality_costs(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "alone, no audio" in page


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"student": {"input": "both", "network": "compact3d"}}, "made of several"),
        ({"modalities": {"rgb": {}, "both": {"of": ["rgb", "sound"]}}}, "no input 'sound'"),
        ({"modalities": {"rgb": {}, "both": {"of": ["rgb"]}}}, "at least two"),
        ({"modalities": {"rgb": {}, "audio": {}, "both": {"of": ["rgb", "audio"], "mels": 3}}}, "not both"),
    ],
)
def test_inputs_of_several_that_cannot_be_are_named(finished: Run, changes: dict[str, Any], problem: str) -> None:
    tree = {**small_recipe(finished.recipe.data.root.parent), **changes}
    with pytest.raises(RecipeError, match=problem):
        run = Run(make_recipe(tree))
        run.network(run.recipe.student, 0, "student")
