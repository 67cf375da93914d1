"""`vidistill episodes`: the episodes of a recipe as a file that others test on."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.recipe import Recipe
from vidistill.stages.check import check_recipe
from vidistill.stages.episodes import write_split
from vidistill.stages.run import Run


def write_recipe_episodes(recipe: Recipe, split: str, path: Path | None) -> str:
    """Write the episodes of one split of a few-shot recipe; says what was written.

    Args:
        recipe: its clips are prepared now where they are not yet.
        split: val or test.
        path: the file; None: `<recipe's name>.<split>.episodes.jsonl` here.

    Raises:
        RecipeError: another task than few-shot, or no such split.
        DataError: there are too few classes or clips to draw from.
    """
    check_recipe(recipe)
    target = path or Path(f"{recipe.name}.{split}.episodes.jsonl")
    count = write_split(Run(recipe), split, target)
    return f"written: {target} ({count} episodes)"
