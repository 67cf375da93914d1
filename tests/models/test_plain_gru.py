"""`gru_mean`: the published size, one direction, the mean over time."""

from __future__ import annotations

import pytest
import torch

from vidistill.models import build_network


@pytest.mark.parametrize(("width", "parameters"), [(276, 4_396_092), (828, 5_243_964), (836, 5_256_252)])
def test_skeleton_encodings_give_the_published_number_of_parameters(width: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build_network("gru_mean", (10, width), {"action": 60})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_embedding_is_the_mean_over_time_of_a_sequence_that_sees_only_its_past() -> None:
    network = build_network("gru_mean", (6, 4), {"action": 3}, {"hidden": 5}).eval()
    x = torch.randn(2, 6, 4)
    changed = x.clone()
    changed[:, 3:] += 1.0
    with torch.no_grad():
        before, after = (network(value, features=("sequence",)) for value in (x, changed))
    torch.testing.assert_close(before.embedding, before.features["sequence"].mean(dim=2))
    assert torch.equal(before.features["sequence"][:, :, :3], after.features["sequence"][:, :, :3])
    assert not torch.allclose(before.features["sequence"][:, :, 3:], after.features["sequence"][:, :, 3:])


@pytest.mark.parametrize(("layers", "random"), [(1, False), (2, True)])
def test_dropout_acts_between_layers_only(layers: int, random: bool) -> None:
    network = build_network("gru_mean", (6, 4), {"action": 3}, {"hidden": 16, "layers": layers}).train()
    x = torch.randn(2, 6, 4)
    assert torch.equal(network(x).logits["action"], network(x).logits["action"]) != random
