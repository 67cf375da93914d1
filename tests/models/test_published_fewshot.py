"""Key maps of the few-shot checkpoints; the parity checks load whole state dicts through them."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import RecipeError
from vidistill.models import build_network
from vidistill.models.fusion_network import build_fusion
from vidistill.models.published import published_keys

SHAPE = (3, 4, 32, 32)
TRX = {"name": "trx", "projection": 8, "cardinalities": [2, 3]}


def mapped(keys: list[str], network: str = "frame_embedder", **options: object) -> list[str | None]:
    with torch.device("meta"):
        target = build_network(network, SHAPE, {"action": 3}, options)
    names = published_keys("fewshot", target)
    assert callable(names)
    return [names(key) for key in keys]


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("resnet.5.0.bn1.bias", "layer2.0.bn1.bias"),
        ("resnet.layer2.0.bn1.bias", "layer2.0.bn1.bias"),
        ("mobile.0.3.block.0.0.weight", "features.3.block.0.0.weight"),
    ],
)
def test_trunks_are_known_as_a_list_of_children_and_by_name(published: str, ours: str) -> None:
    assert mapped([published], dim=8) == [f"backbone.trunk.{ours}"]


def test_the_first_of_two_heads_is_the_distilled_one_and_a_single_head_is_labelled() -> None:
    layers = "backbone.heads.layers"
    two = mapped(["fc1.weight", "fc2.weight"], dim=8, streams=2)
    assert two == [f"{layers}.distilled_frames.weight", f"{layers}.frames.weight"]
    assert mapped(["fc.bias", "res18_2048.bias"], dim=8) == [f"{layers}.frames.bias"] * 2


def test_layers_that_the_published_networks_never_run_are_dropped() -> None:
    keys = ["attn_pat.gamma", "fr_enrich.Tok_MLP.inp_fc.weight", "transformers.0.norm_v.bias", "transformers.0.pe.pe"]
    assert mapped(keys, dim=8, comparison=TRX) == [None] * 4
    assert mapped(["fc1.weight", "fc2.weight"], dim=8, enrich="strm") == [None] * 2


def test_heads_are_known_in_students_teachers_and_fusions() -> None:
    places = ("", "bracnch.", "classifier.")
    keys = [f"{place}transformers.1.k_linear.weight" for place in places]
    assert mapped(keys, dim=8, comparison=TRX) == ["head.branches.1.key.weight"] * 3
    keys = ["transformers.0.k_linear.weight", "fr_enrich.Tok_MLP.out_fc.bias", "new_dist_loss_post_pat.1.clsW.weight"]
    assert mapped(keys, dim=8, enrich="patches", comparison={**TRX, "name": "strm"}) == [
        "head.trx.branches.0.key.weight",
        "head.mixer.over_time.2.bias",
        "head.distance.branches.1.linear.weight",
    ]


def test_pretraining_is_a_recognition_network() -> None:
    keys = ["convnet.0.weight", "fc.bias"]
    assert mapped(keys, "resnet50") == ["backbone.trunk.conv1.weight", "head.action.bias"]


def test_fusions_are_known_and_other_networks_refused() -> None:
    fusion = build_fusion("mfm", {"rgb": 6, "depth": 6, "flow": 6}, 4, options={"bottleneck": 6}, comparison=TRX)
    names = published_keys("fewshot", fusion)  # type: ignore[arg-type]
    assert callable(names)
    assert names("three_fusion.positionEncoding3.LayerNorm.bias") == "fusion.joint.positions.2.normalisation.bias"
    assert names("fusion.f1.weight") == "fusion.pair.out.weight"
    with pytest.raises(RecipeError, match="no checkpoints for network 'compact3d'"):
        mapped([], "compact3d")
