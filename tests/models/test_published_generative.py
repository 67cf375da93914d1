"""Key map of published I3D networks; the parity checks load whole state dicts through it."""

from __future__ import annotations

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
