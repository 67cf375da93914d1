"""Key map of published I3D networks; the parity checks load whole state dicts through it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.models import Network, build_network
from vidistill.models.inception3d import PUBLISHED_PREFIXES, ROOTS
from vidistill.models.published import load_published, published_keys

SHAPE = (3, 16, 32, 32)


def built(name: str = "i3d", heads: tuple[str, ...] = ("action",)) -> Network:
    return build_network(name, SHAPE, dict.fromkeys(heads, 3), {"width": 0.125})


def published(network: Network, root: str, counters: bool) -> dict[str, Tensor]:
    """This network's weights as published: the classifier is a convolution."""
    prefixes = {new: old for old, new in PUBLISHED_PREFIXES.items() if new and old.startswith(ROOTS[1]) == bool(root)}
    prefixes["head.action."] = f"{root}logits.conv3d."
    state = {}
    for key, value in network.state_dict().items():
        new = next(new for new in prefixes if key.startswith(new))
        if counters or not key.endswith("num_batches_tracked"):
            state[prefixes[new] + key.removeprefix(new)] = value
    state[f"{root}logits.conv3d.weight"] = state[f"{root}logits.conv3d.weight"][..., None, None, None]
    return state


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("name", ["i3d", "i3d_topheavy"])
def test_a_checkpoint_is_loaded_with_its_head(name: str, root: str) -> None:
    """With counters of batches and, as the Kinetics files are, without."""
    source, network = built(name), built(name)
    load_published(network, "generative", published(source, root, counters=bool(root)))
    ours, theirs = network.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


ATTENDED = {"trunk": "i3d_topheavy", "attention": "published", "trunk_options": {"width": 0.125}}


def published_attended(network: Network) -> dict[str, Tensor]:
    """The weights of a recognition network with attention as published, written out by hand."""
    state = {}
    for key, value in network.state_dict().items():
        layer = re.fullmatch(r"backbone\.trunk\.stages\.(\w+?)(_\w+)\.(.+)", key)
        if layer is not None:
            key = f"backbone._model.{layer[1].capitalize()}{layer[2]}.{layer[3]}"
        key = key.replace("backbone.attention.reduce.", "deconv1.")
        key = re.sub(r"backbone\.attention\.head\.0\.(\w+)", r"Att_Head_5c.0.conv1d.\1", key)
        key = key.replace("backbone.attention.head.", "Att_Head_5c.")
        state[key.replace("head.action.", "backbone._model.logits.conv3d.")] = value
    name = "backbone._model.logits.conv3d.weight"
    return state | {name: state[name][..., None, None, None]}


def test_a_recognition_network_with_attention_is_loaded_with_its_head() -> None:
    source, network = (build_network("attended", SHAPE, {"action": 3}, ATTENDED) for _ in range(2))
    load_published(network, "generative", published_attended(source))
    ours, theirs = network.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_attention_of_our_own_kind_has_no_checkpoints() -> None:
    for options in ({"trunk": "i3d", "attention": "pooled"}, {"trunk": "compact3d", "attention": "published"}):
        with torch.device("meta"):
            network = build_network("attended", SHAPE, {"action": 3}, options)
        with pytest.raises(RecipeError, match="'generative' published (checkpoints for attention|no checkpoints)"):
            published_keys("generative", network)


def test_a_detector_has_the_key_map_of_its_published_form() -> None:
    options = {"trunk": "i3d_topheavy", "levels": 3, "width": 32, "attention": "published"}
    with torch.device("meta"):
        network = build_network("anchor_detector", (3, 64, 32, 32), {"action": 3}, options)
    ours, theirs = (published_keys(system, network) for system in ("generative", "afsd"))
    assert callable(ours) and callable(theirs)
    for key in (
        "backbone._model.Mixed_4f.b1b.conv3d.weight",
        "Att_Head_4f.0.conv1d.weight",
        "coarse_pyramid_detection.loc_heads.2.scale",
        "backbone._model.logits.conv3d.bias",
    ):
        assert ours(key) == theirs(key) and (ours(key) is None or ours(key) in network.state_dict())
    with torch.device("meta"):
        other = build_network("anchor_detector", SHAPE, {"action": 3}, {"trunk": "compact3d", "levels": 2})
    with pytest.raises(RecipeError, match="'generative' published no checkpoints for network 'anchor_detector'"):
        published_keys("generative", other)


def test_what_a_distilled_network_has_beside_its_backbone_is_refused_by_name() -> None:
    state = published(built(), ROOTS[1], counters=True) | {"deconv1.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(deconv1\.0\.weight\)"):
        load_published(built(), "generative", state)


def test_a_checkpoint_of_the_other_network_is_refused_by_its_stem() -> None:
    state = published(built("i3d"), "", counters=True)
    with pytest.raises(CheckpointError, match=r"of another shape \(backbone\.stages\.conv3d_1a_7x7\.conv3d\.weight"):
        load_published(built("i3d_topheavy"), "generative", state)


def test_the_classifier_is_dropped_for_several_heads() -> None:
    keys = published_keys("generative", built(heads=("verb", "noun")))
    assert callable(keys)
    assert keys("logits.conv3d.weight") is None
    assert keys("Mixed_3b.b1b.bn.bias") == "backbone.stages.mixed_3b.b1b.bn.bias"


def test_other_networks_are_refused() -> None:
    with torch.device("meta"):
        other = build_network("compact3d", SHAPE, {"action": 3})
    with pytest.raises(RecipeError, match="'generative' published no checkpoints for network 'compact3d'"):
        published_keys("generative", other)
