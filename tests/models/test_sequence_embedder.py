"""Vectors of a few steps of a sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import ModelError
from vidistill.models import build_network
from vidistill.models.sequence_embedder import averaging


@given(st.integers(1, 60), st.integers(1, 20))
def test_the_averaging_matrix_is_adaptive_average_pooling(steps: int, frames: int) -> None:
    x = torch.randn(2, 3, steps, generator=torch.Generator().manual_seed(steps))
    torch.testing.assert_close(x @ averaging(steps, frames).T, F.adaptive_avg_pool1d(x, frames))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 2]), st.sampled_from([0, 10]))
def test_any_sequence_gives_as_many_vectors_as_asked(steps, inputs, frames, streams, dim) -> None:
    options = {"frames": frames, "hidden": 4, "layers": 1, "streams": streams if dim else 1, "dim": dim}
    options["comparison"] = {"name": "prototype"}
    network = build_network("sequence_embedder", (steps, inputs), {}, options).eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, steps, inputs), features=("sequence",))
    assert {tuple(outputs.features[name].shape) for name in network.streams} == {(2, frames, dim or 8)}
    assert outputs.features["sequence"].shape == (2, 8, steps)
    assert outputs.embedding.shape == (2, network.embedding_dim)
    assert outputs.logits == {}


@pytest.mark.parametrize("stream", ["frames", "distilled_frames"])
def test_each_stream_teaches_its_own_head_and_the_gru(stream: str) -> None:
    torch.manual_seed(0)
    network = build_network("sequence_embedder", (12, 6), {}, {"streams": 2, "dim": 5}).train()
    network(torch.randn(2, 12, 6)).features[stream].square().sum().backward()
    for name, layer in network.backbone.heads.layers.items():
        assert (layer.weight.grad is not None) == (name == stream)
    assert float(network.backbone.sequence.recurrent.weight_ih_l0.grad.abs().sum()) > 0


def test_a_sequence_differs_from_its_reverse_by_more_than_the_order_of_its_vectors() -> None:
    torch.manual_seed(0)
    network = build_network("sequence_embedder", (16, 6), {}, {"frames": 4, "dim": 0}).eval()
    x = torch.randn(2, 16, 6)
    with torch.no_grad():
        one, other = network(x).features["frames"], network(x.flip(1)).features["frames"]
    assert not torch.allclose(one, other.flip(1), atol=1e-3)


def test_frames_of_pictures_are_refused() -> None:
    with pytest.raises(ModelError, match="takes sequence inputs"):
        build_network("sequence_embedder", (3, 4, 8, 8), {})
