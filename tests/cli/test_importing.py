"""`vidistill import`: by prefixes or by the key map of a published system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vidistill.cli.importing import convert
from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.core.recipe import Recipe, make_recipe
from vidistill.models.weights import read_weights
from vidistill.stages.pipeline import run_recipe


@pytest.fixture
def recipe(tiny_recipe: dict[str, Any]) -> Recipe:
    """A prepared recipe whose teacher `skeleton` is the published GRU."""
    tiny_recipe["teachers"]["skeleton"] = {"input": "skeleton", "network": "gru_mean", "hidden": 4, "layers": 1}
    made = make_recipe(tiny_recipe, [], "tiny")
    run_recipe(made, "prepare")
    return made


class Published(nn.Module):
    """The keys of the published skeleton encoder, with 60 classes."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, 4, 1)
        self.fc = nn.Linear(4, 60)


def save(folder: Path, **changes: str) -> Path:
    published = Published(120)
    state = {f"module.{changes.get(key, key)}": value for key, value in published.state_dict().items()}
    torch.save(state, folder / "embed_200.pth")
    return folder / "embed_200.pth"


def test_a_published_checkpoint_is_a_teachers_and_its_head_of_other_classes_fresh(
    recipe: Recipe, tmp_path: Path
) -> None:
    file, to = save(tmp_path), tmp_path / "ours.safetensors"
    said = convert(file, recipe, "skeleton", to, [], "graph")
    assert f"teachers.skeleton.checkpoint: {to}" in said
    assert "2 head tensors are fresh" in said
    given = torch.load(file, weights_only=True)
    assert torch.equal(read_weights(to)[0]["backbone.recurrent.weight_ih_l0"], given["module.gru.weight_ih_l0"])
    renamed = convert(file, recipe, "skeleton", tmp_path / "again", ["gru.=backbone.recurrent.", "fc.="])
    assert "2 head tensors are fresh" in renamed
    assert read_weights(tmp_path / "again")[0].keys() == read_weights(to)[0].keys()


def test_what_cannot_be_imported_is_refused_by_name(recipe: Recipe, tmp_path: Path) -> None:
    file, to = save(tmp_path, **{"gru.bias_hh_l0": "gru.extra"}), tmp_path / "ours.safetensors"
    with pytest.raises(CheckpointError, match=r"missing \(backbone\.recurrent\.bias_hh_l0\).*recurrent\.extra"):
        convert(file, recipe, "skeleton", to, [], "graph")
    with pytest.raises(RecipeError, match="--published: unknown published system 'grap'. Did you mean 'graph'"):
        convert(file, recipe, "skeleton", to, [], "grap")
    with pytest.raises(RecipeError, match="'graph' published no checkpoints for network 'compact3d'"):
        convert(file, recipe, "student", to, [], "graph")
    with pytest.raises(RecipeError, match="has its own key map. Leave out --rename"):
        convert(file, recipe, "skeleton", to, ["fc.="], "graph")
    assert not to.exists()
