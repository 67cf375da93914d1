"""`vidistill run --data FOLDER`: no recipe at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidistill.cli.default import default_recipe, run_name
from vidistill.core.recipe import make_recipe
from vidistill.stages.check import check_recipe
from vidistill.stages.run import Run


def test_the_default_recipe_is_valid_and_its_networks_can_be_built(shared_data: Path, tmp_path: Path) -> None:
    recipe = make_recipe(default_recipe(shared_data / "jhmdb" / "video"), [f"runs={tmp_path}"])
    check_recipe(recipe)
    manifest = Run(recipe).manifest
    assert len(manifest.clips) == 928
    assert len(manifest.classes["action"]) == 21
    assert {clip.split for clip in manifest.clips} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("folder", "name"), [("/data/my clips", "data-my_clips"), ("/x/ünï", "x-ünï"), ("/a/..b", "a-..b")]
)
def test_runs_are_named_after_the_folder(folder: str, name: str) -> None:
    assert run_name(Path(folder)) == name
