"""Video Swin: published sizes, and the position bias of windows that small clips clip."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from vidistill.models import build_network
from vidistill.models.video_trunks import PlacedAttention


@pytest.mark.parametrize(("name", "parameters"), [("swin3d_t", 27_928_139), ("swin3d_s", 49_586_747)])
def test_published_swins_have_the_published_size(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_network(name, (3, 4, 64, 64), {"action": 101})
    assert sum(value.numel() for value in network.parameters()) == parameters


def attention(kind: type[ShiftedWindowAttention3d]) -> ShiftedWindowAttention3d:
    """A window of 2 x 3 x 3 whose table holds each entry's own row."""
    layer = kind(4, [2, 3, 3], [0, 0, 0], 1)
    with torch.no_grad():
        layer.relative_position_bias_table.copy_(torch.arange(75.0)[:, None])
    return layer


@pytest.mark.parametrize("window", [[2, 3, 3], [1, 3, 3], [2, 2, 3], [2, 3, 1], [1, 2, 2]])
def test_bias_of_a_clipped_window_is_that_of_the_tokens_offsets(window: list[int]) -> None:
    bias = attention(PlacedAttention).get_relative_position_bias(window)[0, 0]
    places = torch.cartesian_prod(*(torch.arange(side) for side in window))
    offsets = places[:, None] - places[None] + torch.tensor([1, 2, 2])
    assert torch.equal(bias, (offsets * torch.tensor([25, 5, 1])).sum(-1).float())


def test_the_published_bias_is_right_where_only_time_is_clipped() -> None:
    right, published = attention(PlacedAttention), attention(ShiftedWindowAttention3d)
    for window, same in (([2, 3, 3], True), ([1, 3, 3], True), ([2, 2, 3], False), ([2, 3, 2], False)):
        biases = (layer.get_relative_position_bias(window) for layer in (right, published))
        assert torch.equal(*biases) == same


def test_the_released_variant_is_asked_for_by_name() -> None:
    with torch.device("meta"):
        networks = [
            build_network("swin3d_t", (3, 2, 32, 32), {"a": 2}, {"variant": v}) for v in ("default", "released")
        ]
    kinds = [{type(m) for m in net.modules() if isinstance(m, ShiftedWindowAttention3d)} for net in networks]
    assert kinds == [{PlacedAttention}, {ShiftedWindowAttention3d}]
