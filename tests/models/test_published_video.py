"""Key maps of published 3-D networks; the parity checks load whole state dicts through them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.models import Network, build_network
from vidistill.models.published import PUBLISHED, load_published, published_keys
from vidistill.models.slowfast import PUBLISHED_PREFIXES

SHAPE = (3, 8, 32, 32)
SLOWFAST = {"layers": [1, 1, 1, 1], "width": 8}
TPN = {"layers": [1, 1, 1, 1], "width": 2}


def built(network: str, heads: tuple[str, ...] = ("action",), **options: object) -> Network:
    with torch.device("meta"):
        return build_network(network, SHAPE, dict.fromkeys(heads, 3), options)


def mapped(system: str, network: Network, keys: list[str]) -> list[str | None]:
    names = published_keys(system, network)
    assert callable(names)
    return [names(key) for key in keys]


def slowfast_state(network: Network) -> dict[str, Tensor]:
    """This network's weights under the published keys."""
    state = {}
    for key, value in network.state_dict().items():
        old, new = next(
            ((old, new) for old, new in PUBLISHED_PREFIXES.items() if new and key.startswith(new)),
            ("fc.", "head.action."),
        )
        state[old + key.removeprefix(new)] = value
    return state


def test_slowfast_is_loaded_with_its_head() -> None:
    source, network = (build_network("slowfast", SHAPE, {"action": 3}, SLOWFAST) for _ in range(2))
    load_published(network, "slowfast", {f"module.{key}": value for key, value in slowfast_state(source).items()})
    ours, theirs = network.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_keys_that_do_not_fit_are_refused_by_name() -> None:
    network = build_network("slowfast", SHAPE, {"action": 3}, SLOWFAST)
    state = slowfast_state(network)
    state["slow_conv2.weight"] = state.pop("fast_conv1.weight")
    with pytest.raises(CheckpointError, match=r"missing \(backbone\.fast\.stem\.0\.weight\).*\(slow_conv2\.weight\)"):
        load_published(network, "slowfast", state)


def test_tpn_keys_reach_the_neck_and_the_unused_classifier_is_dropped() -> None:
    neck = "TPN_neck."
    assert mapped(
        "tpn",
        built("tpn", **TPN),
        [
            "bn1.running_var",
            "layer3.0.downsample.1.bias",
            f"{neck}level_fusion_op.ops.1.norm.weight",
            f"{neck}level_fusion_op2.fusion_conv.0.weight",
            f"{neck}temporal_modulation_ops.0.conv.weight",
            f"{neck}aux_head.fc.weight",
            "fc.bias",
        ],
    ) == [
        "backbone.stem.1.running_var",
        "backbone.stages.layer3.0.downsample.1.bias",
        "backbone.neck.bottom_up.levels.1.1.weight",
        "backbone.neck.top_down.merge.0.weight",
        "backbone.neck.temporal.0.0.weight",
        None,
        "head.action.bias",
    ]


def test_tpn_checkpoints_are_refused_where_the_pyramid_flows_otherwise() -> None:
    with pytest.raises(RecipeError, match="flow: sequential only"):
        published_keys("tpn", built("tpn", flow="parallel", **TPN))


@pytest.mark.parametrize("root", ["", "backbone."])
def test_swin_is_known_by_its_authors_names_and_by_torchvisions(root: str) -> None:
    keys = [
        f"{root}layers.2.blocks.5.mlp.fc2.bias",
        f"{root}features.4.5.mlp.3.bias",
        f"{root}layers.1.downsample.reduction.weight",
        f"{root}norm.weight",
        "cls_head.fc_cls.bias",
    ]
    ours = "backbone.trunk."
    assert mapped("video_swin", built("swin3d_t"), keys) == [
        *(f"{ours}features.4.5.mlp.3.bias",) * 2,
        f"{ours}features.3.reduction.weight",
        f"{ours}norm.weight",
        "head.action.bias",
    ]


def test_named_classifiers_go_to_the_heads_of_these_names_and_nameless_ones_to_an_only_head() -> None:
    keys = ["classifiers.NOUN.bias", "classifiers.VERB.bias", "classifiers.ACTION.bias", "head.bias"]
    found = mapped("video_swin", built("swin3d_t", ("verb", "noun")), keys)
    assert found == ["head.noun.bias", "head.verb.bias", "classifiers.ACTION.bias", None]


def test_other_networks_are_refused() -> None:
    for system, other in (("slowfast", "tpn"), ("tpn", "compact3d"), ("video_swin", "r3d_18")):
        assert system in PUBLISHED
        with pytest.raises(RecipeError, match=f"'{system}' published no checkpoints for network '{other}'"):
            published_keys(system, built(other))
