"""Published keys of episode heads find their place, wherever the published code keeps the head."""

from __future__ import annotations

import pytest
import torch

from vidistill.models.episode_heads import build_episode_head
from vidistill.models.import_ import prefix_map, rename
from vidistill.models.published_heads import head_prefixes

PARTS = ("k_linear.weight", "k_linear.bias", "v_linear.weight", "v_linear.bias", "norm_k.weight", "norm_k.bias")
UNUSED = ("pe.pe", "norm_v.weight", "norm_v.bias")
MIXER = [
    f"{mlp}.{layer}_fc.{kind}"
    for mlp in ("Tok_MLP", "Bot_MLP")
    for layer in ("inp", "out")
    for kind in ("weight", "bias")
]


def renamed(keys: list[str], name: str, **options: object) -> tuple[set[str], set[str]]:
    """Our names of `keys`, and the names of the head's own state."""
    head = build_episode_head(name, 4, 6, {"projection": 5, **options})
    state = {key: torch.zeros(1) for key in keys}
    return set(rename(state, prefix_map(head_prefixes(head)))), {f"head.{key}" for key in head.state_dict()}


@pytest.mark.parametrize("place", ["", "classifier.", "bracnch."])
def test_trx_takes_all_keys_but_the_unused_ones(place: str) -> None:
    keys = [f"{place}transformers.{number}.{part}" for number in range(2) for part in (*PARTS, *UNUSED)]
    ours, own = renamed(keys, "trx", cardinalities=[2, 3])
    assert ours == own


def test_the_students_trx_has_no_number() -> None:
    ours, own = renamed([f"classifier.transformers.{part}" for part in (*PARTS, *UNUSED)], "trx")
    assert ours == own


def test_strm_takes_the_mixer_and_either_name_of_the_distance() -> None:
    shared = [f"transformers.0.{part}" for part in PARTS] + [f"fr_enrich.{part}" for part in ("pe.pe", *MIXER)]
    for distance in ("new_dist_loss_post_pat.0.clsW", "DistanceLoss.clsW"):
        ours, own = renamed([*shared, f"{distance}.weight", f"{distance}.bias"], "strm")
        assert ours == own


@pytest.mark.parametrize("name", ["otam", "prototype", "cosine"])
def test_heads_without_published_parameters_have_no_map(name: str) -> None:
    assert head_prefixes(build_episode_head(name, 4, 6)) == {}
