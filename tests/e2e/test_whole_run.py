"""One recipe from clips to report, run once; every test looks at what it left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidistill.core.errors import RecipeError, StoreError, TeacherError
from vidistill.core.recipe import make_recipe
from vidistill.stages.pipeline import run_recipe


@pytest.fixture(scope="module")
def tree(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> dict[str, Any]:
    return make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("whole"), seeds=[0, 1], export={"latency": False})


@pytest.fixture(scope="module")
def folder(tree: dict[str, Any]) -> Path:
    return run_recipe(make_recipe(tree)).folder


def document(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_table_holds_teachers_ensemble_and_both_students(folder: Path) -> None:
    rows = document(folder, "results.json")["rows"]
    assert [row["role"] for row in rows] == ["teacher", "teacher", "ensemble", "alone", "distilled"]
    for row in rows:
        top1 = row["metrics"]["action/top1"]
        assert top1["low"] <= top1["value"] <= top1["high"]
        assert len(top1["per_seed"]) == len(row["seeds"])


def test_a_teacher_is_measured_on_the_clips_it_can_see(folder: Path) -> None:
    rows = {row["name"]: row for row in document(folder, "results.json")["rows"]}
    assert rows["skeleton"]["clips"] == 18
    assert rows["inertial"]["clips"] == 12


def test_the_gain_is_paired_by_seed(folder: Path) -> None:
    results = document(folder, "results.json")
    rows = {row["role"]: row["metrics"]["action/top1"]["per_seed"] for row in results["rows"]}
    expected = np.array(rows["distilled"]) - np.array(rows["alone"])
    assert results["gain"]["action/top1"]["per_seed"] == pytest.approx(expected.tolist())


def test_students_alone_and_distilled_start_from_the_same_weights(tree: dict[str, Any]) -> None:
    from vidistill.stages.run import Run

    run = Run(make_recipe(tree))
    first, second = (run.network(run.recipe.student, 0, "student").state_dict() for _ in range(2))
    assert all((first[key] == second[key]).all() for key in first)


def test_the_data_is_accounted_for(folder: Path) -> None:
    data = document(folder, "data.json")
    assert data["splits"] == {"train": 54, "val": 18, "test": 18}
    assert data["modalities"]["inertial"]["clips"] == 60
    assert data["problems"] == []


def test_a_second_run_does_nothing(tree: dict[str, Any], folder: Path) -> None:
    kept = ("stages.json", "environment.json")

    def stamps() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name not in kept[1:]}

    before = stamps()
    run_recipe(make_recipe(tree))
    assert stamps() == before | {folder / "recipe.yaml": stamps()[folder / "recipe.yaml"]}


def test_the_report_opens_without_a_network(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'src="http' not in page and 'href="http' not in page
    assert "speed0" in page


def test_the_exported_student_predicts_a_file(folder: Path, tmp_path: Path, tiny_set: Path) -> None:
    from vidistill.deploy.predict import Predictor

    np.save(tmp_path / "clip.npy", np.load(tiny_set / "frames.npz")["clip 00"])
    result = Predictor(folder / "export" / "student.onnx").predict(tmp_path / "clip.npy")
    assert {row["label"] for row in result["predictions"]["action"]} == {"speed0", "speed1", "speed2"}


def test_the_command_prints_and_writes_a_prediction(
    folder: Path, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vidistill.cli.main import predict

    np.save(tmp_path / "clip.npy", np.load(tiny_set / "frames.npz")["clip 01"])
    monkeypatch.chdir(tmp_path)
    predict(tmp_path / "clip.npy", folder / "export" / "student.onnx", top=2)
    written = document(tmp_path, "clip.prediction.json")
    assert len(written["predictions"]["action"]) == 2
    assert "speed" in capsys.readouterr().out


def test_changed_teachers_are_trained_anew_and_students_after_them(tree: dict[str, Any], folder: Path) -> None:
    copy = folder.parent / "changed"
    shutil.copytree(folder, copy)
    alone = (copy / "models" / "alone-seed0" / "model.safetensors").stat().st_mtime_ns
    changed = make_recipe({**tree, "name": "changed"}, ["teachers.skeleton.width=12"])
    run_recipe(changed, "distil")
    models = copy / "models"
    assert (models / "alone-seed0" / "model.safetensors").stat().st_mtime_ns == alone
    for name in ("teacher-skeleton", "distilled-seed0"):
        before, after = ((f / "models" / name / "model.safetensors").read_bytes() for f in (folder, copy))
        assert before != after


def test_a_cache_of_another_teacher_is_an_error(folder: Path) -> None:
    from vidistill.teachers.cached import check_key

    cache = next((folder / "cache").iterdir())
    key = json.loads((cache / "key.json").read_text(encoding="utf-8"))
    check_key(cache, key)
    with pytest.raises(StoreError, match="weights differ"):
        check_key(cache, {**key, "weights": "others"})


def test_a_teacher_no_better_than_chance_stops_the_run(tree: dict[str, Any]) -> None:
    recipe = make_recipe({**tree, "name": "bad"}, ["teacher_schedule.learning_rate=1.0e-9"])
    with pytest.raises(TeacherError, match="no better than chance"):
        run_recipe(recipe, "distil")
    assert not (recipe.runs / "bad" / "models" / "alone-seed0").exists()


def test_a_misspelt_method_is_refused_before_anything_is_trained(tree: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'temperature'"):
        run_recipe(make_recipe({**tree, "name": "typo"}, ["method.temprature=4"]))
    assert not (Path(tree["runs"]) / "typo" / "models").exists()
