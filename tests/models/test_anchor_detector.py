"""The anchor-free detector as a network of the house."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.models import Network, build_network, load_weights, save_weights
from vidistill.models.anchor_detector import ALWAYS, choose_maps, weigh

SHAPE = (3, 16, 16, 16)
OPTIONS = {"trunk": "compact3d", "trunk_options": {"width": 4}, "width": 8, "levels": 3}
MAPS = ("stage3", "stage4")
BACKGROUND = ("background_loc", "background_conf")


def build(**options: object) -> Network:
    torch.manual_seed(0)
    network = build_network("anchor_detector", SHAPE, {"action": 5}, {**OPTIONS, **options}).eval()
    if network.backbone.attention:  # new pooled attention is the same everywhere
        for parameter in network.backbone.attention.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network


def clips(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_logits_and_embedding_have_an_anchor_axis_and_the_loss_finds_all_it_needs() -> None:
    network = build()
    outputs = network(clips())
    assert {name: tuple(value.shape) for name, value in outputs.logits.items()} == {"action": (2, 14, 5)}
    assert outputs.embedding.shape == (2, 14, network.embedding_dim) == (2, 14, 8)
    assert tuple(outputs.features) == ALWAYS
    assert all(value.shape[0] == 2 for value in outputs.features.values())
    assert outputs.features["priors"][1].tolist() == network.backbone.heads.priors().tolist()
    assert network.frames == 16


def test_features_asked_for_come_with_the_shapes_told() -> None:
    network = build(attention="pooled")
    shapes = network.feature_shapes()
    asked = (*MAPS, *(f"attention_{name}" for name in MAPS), *BACKGROUND)
    found = network(clips(), features=asked).features
    assert set(found) == {*asked, *ALWAYS}
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {name: shapes[name] for name in found}
    assert shapes["attention_stage4"] == shapes["stage4"][:2]


def test_the_embeddings_head_gives_the_refined_classes() -> None:
    network = build()
    outputs = network(clips())
    torch.testing.assert_close(network.head(outputs.embedding)["action"], outputs.features["prop_conf"])
    assert not any(key.startswith("head.") for key in network.state_dict())


def test_asking_for_background_gives_coarse_answers_for_what_attention_leaves() -> None:
    network = build(attention="pooled")
    found = network(clips(), features=("background", *MAPS, *(f"attention_{name}" for name in MAPS))).features
    behind = [weigh(found[name], 1 - found[f"attention_{name}"]) for name in MAPS]
    coarse = network.backbone.heads.coarse(behind)
    assert torch.equal(found["background_loc"], coarse.loc)
    assert torch.equal(found["background_conf"], coarse.conf)


def test_without_attention_there_is_no_background() -> None:
    with pytest.raises(RecipeError, match="no feature 'background'"):
        build()(clips(), features=("background",))


def test_an_unknown_feature_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no feature 'centre'. Did you mean 'center'"):
        build()(clips(), features=("centre",))


def test_weighing_keeps_a_clips_scale_and_the_released_form_loses_it() -> None:
    feature, attention = torch.rand(2, 4, 3, 5, 5) + 1, torch.rand(2, 4, 3)
    torch.testing.assert_close(weigh(feature, attention).mean(dim=(1, 2, 3, 4)), feature.mean(dim=(1, 2, 3, 4)))
    released = weigh(feature, attention, "released")
    torch.testing.assert_close(released, feature * attention[..., None, None] / attention.sum())


@pytest.mark.parametrize(("variant", "alone"), [("default", True), ("released", False)])
def test_a_windows_answer_depends_on_no_other_window_but_in_the_released_form(variant: str, alone: bool) -> None:
    network = build(attention="pooled", variant=variant)
    with torch.no_grad():
        both, one = network(clips(2)), network(clips(2)[:1])
    difference = float((both.logits["action"][:1] - one.logits["action"]).abs().max())
    assert (difference < 1e-5 * float(one.logits["action"].abs().max())) is alone


def test_gradient_reaches_trunk_attention_and_every_head() -> None:
    network = build(attention="pooled").train()
    outputs = network(clips(), features=("background",))
    terms = [outputs.logits["action"], *outputs.features.values()]
    sum(term.square().sum() for term in terms).backward()
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == []


def test_frozen_statistics_stay_while_the_rest_trains() -> None:
    network = build(frozen_bn=True).train()
    statistics = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    network(clips())
    assert statistics
    assert all(torch.equal(dict(network.named_buffers())[name], value) for name, value in statistics.items())
    assert network.backbone.heads.training


def test_published_attention_fits_the_maps() -> None:
    network = build(attention="published")
    found = network(clips(1), features=("attention_stage3", "attention_stage4")).features
    assert [tuple(found[f"attention_{name}"].shape) for name in MAPS] == [(1, 16, 8), (1, 32, 4)]


def test_weights_are_kept_in_a_file(tmp_path: Path) -> None:
    network, other = build(attention="pooled"), build(attention="pooled")
    nn.init.normal_(network.backbone.heads.conf_head.weight)
    save_weights(network, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(network(clips()).logits["action"], other(clips()).logits["action"])


def test_the_deepest_map_is_joined_by_the_deepest_longer_one() -> None:
    shapes = {"a": (4, 16, 8, 8), "b": (8, 8, 4, 4), "pool": (8, 4, 2, 2), "c": (9, 4, 2, 2)}
    assert choose_maps("trunk", shapes, None) == ("b", "c")
    assert choose_maps("trunk", {"b": shapes["b"]}, None) == ("b",)
    assert choose_maps("trunk", shapes, ("a",)) == ("a",)


@pytest.mark.parametrize("trunk", ["i3d", "i3d_topheavy"])
def test_the_published_maps_of_i3d_are_the_default(trunk: str) -> None:
    with torch.device("meta"):
        network = build_network("anchor_detector", (3, 64, 32, 32), {"action": 21}, {"trunk": trunk, "levels": 4})
    assert network.backbone.maps == ("mixed_4f", "mixed_5c")
    assert network.feature_shapes()["loc"] == (16 + 8 + 4 + 2, 2)


def test_a_trunk_that_keeps_time_gives_one_map() -> None:
    with torch.device("meta"):
        options = {"trunk": "torchvision:mobilenet_v2", "width": 8, "levels": 2}
        network = build_network("anchor_detector", (3, 4, 32, 32), {"action": 3}, options)
    assert len(network.backbone.maps) == 1


def test_what_makes_no_detector_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="one head of background and other classes"):
        build_network("anchor_detector", SHAPE, {"verb": 3, "noun": 3}, OPTIONS)
    with pytest.raises(ModelError, match="one head of background and other classes"):
        build_network("anchor_detector", SHAPE, {"verb": 1}, OPTIONS)
    with pytest.raises(RecipeError, match="no map 'stage5'. Did you mean 'stage"):
        build(maps=("stage5",))
    with pytest.raises(RecipeError, match=r"trunk_options: unknown key 'widht' .*'width'"):
        build(trunk_options={"widht": 4})
    with pytest.raises(ModelError, match="only 4 pyramid levels fit 8 steps"):
        build(levels=5)
    with pytest.raises(ModelError, match="takes image-like inputs"):
        build_network("anchor_detector", (16, 60), {"action": 3}, OPTIONS)
