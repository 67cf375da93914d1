"""Key maps of published checkpoints: every key has a place, what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.models import build_network
from vidistill.models.published import PUBLISHED, load_published, published_keys

HEADS = {"action": 3}
GRU = {"hidden": 4, "layers": 2}


class PublishedGru(nn.Module):
    """The keys of the published skeleton encoder."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 4, 2, batch_first=True)
        self.fc = nn.Linear(4, classes)


class PublishedDetector(nn.Module):
    """The keys of the published detector."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = PublishedGru(2)
        self.rnn = nn.GRU(4, 4, bidirectional=True)
        self.fc = nn.Linear(4, 3)


def wrapped(module: nn.Module) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in module.state_dict().items()}


def detector() -> Any:
    return build_network("detector", (2, 5, 6), HEADS, {"encoder": {"network": "gru_mean", **GRU}})


def test_a_wrapped_encoder_is_loaded_with_its_head() -> None:
    network, published = build_network("gru_mean", (5, 6), HEADS, GRU), PublishedGru()
    load_published(network, "graph", wrapped(published))
    assert torch.equal(network.backbone.recurrent.weight_hh_l1, published.gru.weight_hh_l1)
    assert torch.equal(network.head["action"].weight, published.fc.weight)


def test_a_detector_is_loaded_and_its_encoders_classifier_dropped_by_name() -> None:
    network, published = detector(), PublishedDetector()
    load_published(network, "graph", wrapped(published))
    assert torch.equal(network.backbone.encoder.recurrent.weight_ih_l0, published.embed.gru.weight_ih_l0)
    assert torch.equal(network.backbone.recurrent.bias_hh_l0_reverse, published.rnn.bias_hh_l0_reverse)
    assert torch.equal(network.head["action"].bias, published.fc.bias)


def test_a_classifier_is_dropped_by_name_where_the_network_has_several_heads() -> None:
    keys = published_keys("graph", build_network("gru_mean", (5, 6), {"verb": 3, "noun": 2}, GRU))
    assert callable(keys) and keys("fc.weight") is None


def test_missing_and_unexpected_keys_are_named() -> None:
    network = build_network("gru_mean", (5, 6), HEADS, GRU)
    state = wrapped(PublishedGru())
    state["module.attention.weight"] = state.pop("module.gru.bias_hh_l1")
    with pytest.raises(CheckpointError, match=r"missing \(backbone\.recurrent\.bias_hh_l1\).*\(attention\.weight\)"):
        load_published(network, "graph", state)


def test_a_checkpoint_of_another_kind_names_its_keys() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected \(gru\.weight_ih_l0"):
        load_published(detector(), "graph", wrapped(PublishedGru()))


def test_an_unknown_system_and_another_network_are_refused() -> None:
    assert "graph" in PUBLISHED
    network = build_network("gru", (5, 6), HEADS)
    with pytest.raises(RecipeError, match="--published: unknown published system 'grahp'. Did you mean 'graph'"):
        published_keys("grahp", network, "--published")
    with pytest.raises(RecipeError, match="no checkpoints for network 'gru' .*gru_mean"):
        published_keys("graph", network)
