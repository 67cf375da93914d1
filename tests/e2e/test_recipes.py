"""Every recipe that is shipped names parts that exist, with options they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidistill.core.recipe import load_recipe
from vidistill.stages.check import check_recipe

ROOT = Path(__file__).resolve().parents[2] / "recipes"
RECIPES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_sound(path: Path) -> None:
    recipe = load_recipe(path)
    check_recipe(recipe)
    for name in recipe.variants:
        check_recipe(recipe.variant(name))
    assert recipe.name == "_".join(path.relative_to(ROOT).with_suffix("").parts)


def test_recipes_have_names_of_their_own() -> None:
    names = [load_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)
