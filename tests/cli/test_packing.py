"""`vidistill pack`, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from vidistill.cli.packing import describe, listed_clips, pack_recipe, verify_folder
from vidistill.core.errors import RecipeError, StoreError
from vidistill.core.recipe import Recipe, make_recipe
from vidistill.data.hdf5_write import PackOptions


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two clips as folders of pictures; frame 10 comes after frame 9."""
    for label, grey in (("wave", 40), ("clap", 80)):
        folder = tmp_path / "clips" / label / "one"
        folder.mkdir(parents=True)
        for number in range(12):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), grey + 4 * number, np.uint8))
    tree = {"name": "x", "data": {"format": "folder", "root": str(tmp_path / "clips")}, "prepare": {"workers": 1}}
    tree |= {"modalities": {"rgb": {}}, "student": {"input": "rgb", "network": "compact3d"}}
    return make_recipe(tree, [], where="here")


def test_pictures_and_flow_are_packed_in_natural_order(recipe: Recipe, tmp_path: Path) -> None:
    packed = pack_recipe(recipe, tmp_path / "out", ["rgb", "flow"], PackOptions(lossless=True), short_side=32)
    with h5py.File(tmp_path / "out" / "rgb.hdf5") as file, h5py.File(tmp_path / "out" / "flow.hdf5") as flow:
        images = [cv2.imdecode(np.asarray(data, np.uint8), cv2.IMREAD_COLOR) for data in file["wave/one"]]
        assert [int(image[0, 0, 0]) for image in images] == [40 + 4 * number for number in range(12)]
        assert images[0].shape == (32, 43, 3) and len(flow["wave/one"]) == 24
    assert "2 clips are packed: 4 new datasets, 0 kept" in describe(packed)
    assert verify_folder(tmp_path / "out") == "rgb.hdf5, flow.hdf5: every dataset is as it was written"
    again = pack_recipe(recipe, tmp_path / "out", ["rgb", "flow"], PackOptions(lossless=True), short_side=32)
    assert (again.new, again.kept) == (0, 4)


def test_damage_and_wrong_options_are_one_line(recipe: Recipe, tmp_path: Path) -> None:
    pack_recipe(recipe, tmp_path / "out", ["rgb"], PackOptions())
    with h5py.File(tmp_path / "out" / "rgb.hdf5", "a") as file:
        file["wave/one"][0] = file["wave/one"][1]
    with pytest.raises(StoreError, match="1 datasets are not as they were written: 'wave/one'"):
        verify_folder(tmp_path / "out")
    with pytest.raises(RecipeError, match="no packed file"):
        verify_folder(tmp_path)
    with pytest.raises(RecipeError, match="no file for 'depth'"):
        pack_recipe(recipe, tmp_path / "out", ["depth"], PackOptions())
    with pytest.raises(RecipeError, match="'video' is not a way"):
        pack_recipe(recipe, tmp_path / "out", ["rgb"], PackOptions(), by="video")
    missing = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": tmp_path / "no"})})
    with pytest.raises(RecipeError, match="no such folder"):
        listed_clips(missing)
