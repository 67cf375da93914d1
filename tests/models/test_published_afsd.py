"""Key maps of AFSD's checkpoints; the parity checks load whole state dicts through them."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import RecipeError
from vidistill.models import Network, build_network
from vidistill.models.published import PUBLISHED, published_keys

SHAPE = (3, 64, 32, 32)
I3D = {"trunk": "i3d_topheavy", "levels": 3}


def built(network: str = "anchor_detector", **options: object) -> Network:
    with torch.device("meta"):
        return build_network(network, SHAPE, {"action": 3}, options)


def mapped(network: Network, keys: list[str]) -> list[str | None]:
    names = published_keys("afsd", network)
    assert callable(names)
    return [names(key) for key in keys]


def test_trunk_heads_and_attention_are_known_by_their_published_names() -> None:
    network = built(**I3D, attention="published")
    names = {
        "backbone._model.Mixed_4f.b1b.conv3d.weight": "trunk.stages.mixed_4f.b1b.conv3d.weight",
        "backbone._model.Conv3d_1a_7x7.bn.running_var": "trunk.stages.conv3d_1a_7x7.bn.running_var",
        "coarse_pyramid_detection.pyramids.1.0.conv3d.bias": "heads.pyramid.from_maps.1.0.bias",
        "coarse_pyramid_detection.pyramids.2.1.weight": "heads.pyramid.further.0.1.weight",
        "coarse_pyramid_detection.deconv.6.conv1d.weight": "heads.pyramid.frame_level.6.weight",
        "coarse_pyramid_detection.loc_heads.2.scale": "heads.scales.2.scale",
        "coarse_pyramid_detection.loc_head.conv1d.weight": "heads.loc_head.weight",
        "coarse_pyramid_detection.conf_tower.1.1.bias": "heads.conf_tower.4.bias",
        "coarse_pyramid_detection.conf_proposal_branch.lr_conv.0.conv1d.bias": "heads.conf_branch.sides.0.bias",
        "deconv1.0.weight": "attention.1.reduce.0.weight",
        "Att_Head_4f.0.conv1d.weight": "attention.0.head.0.weight",
    }
    ours = [f"backbone.{name}" for name in names.values()]
    assert mapped(network, [*names]) == ours
    assert set(ours) <= set(network.state_dict())


def test_the_trunks_classifier_is_dropped_and_attention_that_is_not_there_is_not() -> None:
    keys = ["backbone._model.logits.conv3d.bias", "deconv1.0.weight"]
    assert mapped(built(**I3D), keys) == [None, "deconv1.0.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "compact3d", "levels": 3}, "no checkpoints for network 'anchor_detector' as built here"),
        ({**I3D, "maps": ["mixed_4e", "mixed_5c"]}, "for the maps mixed_4f, mixed_5c only"),
        ({**I3D, "attention": "pooled"}, "attention: published, or none"),
    ],
)
def test_detectors_of_other_parts_are_refused(options: dict[str, object], message: str) -> None:
    assert "afsd" in PUBLISHED
    with pytest.raises(RecipeError, match=message):
        published_keys("afsd", built(**options))


def test_other_networks_are_refused() -> None:
    with pytest.raises(RecipeError, match="no checkpoints for network 'compact3d'"):
        published_keys("afsd", built("compact3d"))
