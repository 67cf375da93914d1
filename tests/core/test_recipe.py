from __future__ import annotations

from pathlib import Path

import pytest

from vidistill.core.errors import RecipeError
from vidistill.core.recipe import dump_recipe, load_recipe, make_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml"))


def tree() -> dict:
    return {
        "name": "run",
        "data": {"root": "clips"},
        "modalities": {"rgb": {"size": 32}},
        "student": {"input": "rgb", "network": "compact3d"},
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.student.input in recipe.modalities


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("schedule.epoch", "'epochs'"),
        ("studnet.width", "'student'"),
        ("cache.enable", "'enabled'"),
        ("ensemble.weigths", "'weights'"),
    ],
)
def test_unknown_keys_name_the_nearest_known_key(key: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=hint):
        make_recipe(tree(), [f"{key}=1"])


def test_wrong_types_name_their_path() -> None:
    with pytest.raises(RecipeError, match=r"'schedule.epochs'.*'many'"):
        make_recipe(tree(), ["schedule.epochs=many"])


def test_missing_sections_are_named() -> None:
    with pytest.raises(RecipeError, match="'student' is missing"):
        make_recipe({k: v for k, v in tree().items() if k != "student"})


def test_an_input_that_is_no_modality_is_refused() -> None:
    with pytest.raises(RecipeError, match="'rbg' is not among"):
        make_recipe(tree(), ["student.input=rbg"])


def test_overrides_without_a_value_are_refused() -> None:
    with pytest.raises(RecipeError, match="not key=value"):
        make_recipe(tree(), ["schedule.epochs"])


def test_names_cannot_leave_the_runs_folder() -> None:
    with pytest.raises(RecipeError, match="folder name"):
        make_recipe(tree(), ["name=../elsewhere"])


def test_teacher_schedules_override_the_recipes() -> None:
    recipe = make_recipe(
        {**tree(), "teachers": {"a": {"input": "rgb", "network": "compact3d", "schedule": {"epochs": 7}}}},
        ["schedule.batch_size=4", "teacher_schedule.epochs=5", "teacher_schedule.learning_rate=0.1"],
    )
    schedule = recipe.schedule_of(recipe.teachers["a"])
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (7, 4, 0.1)
    assert recipe.schedule_of(recipe.student).epochs == 30


def test_a_misspelt_schedule_override_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(RecipeError, match="'epochs'"):
        make_recipe(tree(), ["student.schedule.epcohs=3"])


def test_a_dumped_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = make_recipe(tree(), ["student.width=8"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_dropping_one_teacher_of_one_is_refused() -> None:
    teacher = {"input": "rgb", "network": "compact3d"}
    for sections in ({"ensemble": {"dropout": 0.5}}, {"variants": {"dropped": {"ensemble": {"dropout": 0.5}}}}):
        with pytest.raises(RecipeError, match="ensemble.dropout: .* needs two teachers"):
            make_recipe({**tree(), "teachers": {"a": teacher}, **sections})
        make_recipe({**tree(), "teachers": {"a": teacher, "b": teacher}, **sections})


def test_a_student_depends_on_dropout_only_where_it_is_set() -> None:
    teacher = {"input": "rgb", "network": "compact3d"}
    plain = make_recipe({**tree(), "teachers": {"a": teacher, "b": teacher}})
    assert plain.ensemble.key() == {"weights": "uniform", "gamma": 1.0, "calibrate": True}
    dropped = make_recipe({**tree(), "teachers": {"a": teacher, "b": teacher}}, ["ensemble.dropout=0.3"])
    assert dropped.ensemble.key() == {**plain.ensemble.key(), "dropout": 0.3}


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1,\nb: 2", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)
    assert "bad.yaml" in str(error.value)
