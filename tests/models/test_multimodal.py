"""The network over several modalities: what is missing says nothing, in training and after."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vidistill.core.errors import ModelError, RecipeError
from vidistill.data.joint import join, width
from vidistill.deploy.export import export_onnx
from vidistill.models import Network, build_network
from vidistill.models.modality_dropout import heard
from vidistill.models.multimodal import stood_in

SHAPES = {"rgb": (3, 4, 16, 16), "audio": (8, 6)}
PARTS = {
    "rgb": {"network": "compact3d", "width": 4, "stages": 2},
    "audio": {"network": "temporal_conv", "width": 8},
}


def network(**options: Any) -> Network:
    torch.manual_seed(0)
    settings = {"parts": PARTS, "shapes": SHAPES, "width": 16, **options}
    return build_network("multimodal", (width(SHAPES),), {"action": 3}, settings)


def rows(*there: tuple[bool, bool], noise: float = 0.0) -> Tensor:
    """Clips with these modalities; `noise` is what stands in the place of missing ones."""
    torch.manual_seed(1)
    found = []
    for clip in there:
        tensors = [torch.randn(shape) for shape in SHAPES.values()]
        row = join(dict(zip(SHAPES, tensors, strict=True)), SHAPES)
        start = 0
        for place, (tensor, here) in enumerate(zip(tensors, clip, strict=True)):
            if not here:
                row[start : start + tensor.numel()] = noise
                row[place - len(SHAPES)] = 0.0
            start += tensor.numel()
        found.append(row)
    return torch.stack(found)


def test_what_stands_in_the_place_of_a_missing_modality_changes_nothing() -> None:
    model = network().eval()
    there = [(True, True), (True, False), (False, True)]
    quiet, loud = (model(rows(*there, noise=noise)).logits["action"] for noise in (0.0, 9.0))
    assert torch.allclose(quiet, loud, atol=1e-5)
    assert not torch.allclose(quiet[0], model(rows((True, False))).logits["action"][0], atol=1e-3)


def test_missing_clips_neither_learn_nor_count_in_batch_statistics() -> None:
    found = []
    for noise in (0.0, 9.0):
        model = network(modality_dropout=0.0).train()
        out = model(rows((True, True), (False, True), (True, False), noise=noise)).logits["action"]
        out.pow(2).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({**dict(model.named_buffers()), **gradients})
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5), name


@pytest.mark.parametrize("layers", [0, 1])
def test_a_batch_in_another_order_gives_the_same_answers(layers: int) -> None:
    model, clips = network(layers=layers).eval(), rows((True, True), (True, False), (False, True))
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(model(clips).logits["action"][order], model(clips[order]).logits["action"], atol=1e-5)


def test_a_clip_that_lacks_everything_gets_finite_numbers() -> None:
    model = network().train()
    assert torch.isfinite(model(rows((False, False), (True, True))).logits["action"]).all()


def test_modalities_are_left_out_only_while_training() -> None:
    model, clips = network(modality_dropout=0.9), rows((True, True))
    model.eval()
    assert torch.equal(model(clips).logits["action"], model(clips).logits["action"])
    for module in model.modules():
        module.training = isinstance(module, type(model.backbone))
    torch.manual_seed(0)
    answers = torch.stack([model(clips).logits["action"][0].detach() for _ in range(20)])
    assert len({round(float(each), 4) for each in answers[:, 0]}) == 2  # never both left out, hardly ever none


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_every_row_is_a_present_one_where_there_is_any(there: list[bool]) -> None:
    present, clips = torch.tensor(there), torch.arange(len(there))
    found = stood_in(clips, present)
    assert torch.equal(found[present], clips[present])
    assert present.any().logical_not() or present[found].all()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_one_of_several_is_left_out_as_often_as_the_formula_says(probability: float) -> None:
    torch.manual_seed(0)
    present = torch.ones(20_000, 3, dtype=torch.bool)
    kept = heard(torch.rand(20_000, 3), present, probability)
    expected = probability - probability**3 / 3
    assert kept.any(1).all()
    assert (1 - kept.float().mean(0) - expected).abs().max() < 4 * math.sqrt(expected * (1 - expected) / 20_000)


def test_features_are_the_parts_own_under_their_names() -> None:
    model = network().eval()
    assert "rgb.stage2" in model.feature_shapes()
    assert set(model(rows((True, True)), features=("rgb.stage2",)).features) == {"rgb.stage2"}


def test_it_ships_as_one_file(tmp_path: Path) -> None:
    result = export_onnx(network().eval(), (width(SHAPES),), {"action": ["a", "b", "c"]}, {}, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").is_file() and result


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(RecipeError, match="no network for the part 'audio'"):
        network(parts={"rgb": PARTS["rgb"]})
    with pytest.raises(RecipeError, match="no part 'flow'"):
        network(parts={**PARTS, "flow": PARTS["rgb"]})
    with pytest.raises(ModelError, match="input of several"):
        build_network("multimodal", (3, 4, 16, 16), {"action": 3}, {"parts": PARTS})
    with pytest.raises(ModelError, match="share out"):
        network(heads=3)
