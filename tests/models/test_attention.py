from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.models.attention import (
    PooledAttention,
    PublishedAttention,
    as_map,
    attention_prefixes,
    group_norm,
    map_shape,
    plain_attention,
)
from vidistill.models.import_ import prefix_map


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@given(st.integers(1, 300))
def test_groups_divide_the_channels_and_have_two_of_them(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels >= 2 * groups


@pytest.mark.parametrize("channels", [64, 512, 832, 1024])
def test_published_widths_have_the_published_groups(channels: int) -> None:
    assert group_norm(channels).num_groups == 32


@pytest.mark.parametrize("channels", [1, 5, 24])
def test_both_heads_give_a_number_between_0_and_1_a_channel_and_step(channels: int) -> None:
    x = 3 * torch.randn(2, channels, 4, 3, 2)
    pooled = PooledAttention(channels)
    torch.nn.init.normal_(pooled.head[5].weight)
    for head in (pooled, PublishedAttention(channels, 4, (3, 2), hidden=16)):
        attention = head(x)
        assert attention.shape == (2, channels, 4)
        assert ((attention > 0) & (attention < 1)).all()
        assert attention.std() > 0


def test_the_published_head_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        head = PublishedAttention(1024, 8, (7, 7))
    # 27.3 million: the convolution over the frame, over time, and the map over stretched time.
    assert size(head) == 512 * 1024 * 49 + 3 * 512 + 1024 * 512 * 3 + 3 * 1024 + 8 * 1024 + 8


def test_the_light_head_is_a_small_part_of_a_backbone() -> None:
    assert size(PooledAttention(1024)) < 0.03 * 12_287_264


def test_the_light_head_takes_any_number_of_steps_and_pixels() -> None:
    head = PooledAttention(6)
    assert [head(torch.rand(1, 6, *rest)).shape[2] for rest in ((1, 1, 1), (9, 2, 5))] == [1, 9]


def test_the_light_head_starts_with_equal_attention() -> None:
    assert (PooledAttention(6)(torch.randn(2, 6, 4, 3, 3)) == 0.5).all()


def test_the_published_head_says_which_maps_it_takes() -> None:
    head = PublishedAttention(4, 4, (3, 3), hidden=8)
    with pytest.raises(ModelError, match=r"for maps of \(4, 3, 3\) steps and pixels, not \(5, 3, 3\)"):
        head(torch.zeros(1, 4, 5, 3, 3))


def test_attention_without_weights_is_the_sigmoid_of_standardised_means() -> None:
    x = torch.randn(2, 5, 4, 3, 3)
    means = x.mean((3, 4)).flatten(1)
    expected = torch.sigmoid((means - means.mean(1, keepdim=True)) / means.std(1, keepdim=True, unbiased=False))
    torch.testing.assert_close(plain_attention(x).flatten(1), expected, rtol=1e-3, atol=1e-3)
    assert (plain_attention(torch.full((1, 2, 3, 4, 4), 7.0)) == 0.5).all()
    torch.testing.assert_close(plain_attention(100 * x + 5), plain_attention(x), rtol=1e-3, atol=1e-3)


def test_sequences_and_graphs_are_maps_of_one_row() -> None:
    assert as_map(torch.zeros(2, 3, 4)).shape == (2, 3, 4, 1, 1)
    assert as_map(torch.zeros(2, 3, 4, 15)).shape == (2, 3, 4, 15, 1)
    assert [map_shape(shape) for shape in ((3, 4), (3, 4, 15), (3, 4, 5, 6), (3,))] == [
        (3, 4, 1, 1),
        (3, 4, 15, 1),
        (3, 4, 5, 6),
        None,
    ]


def test_time_is_stretched_to_the_channels_as_published() -> None:
    head = PublishedAttention(6, 3, (1, 1), hidden=4).eval()
    seen = []
    head.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 6, 3, 1, 1)
    head(x)
    torch.testing.assert_close(seen[0], functional.relu(head.reduce(x)).flatten(2).repeat_interleave(2, dim=2))


def test_published_keys_of_one_level_are_ours_and_the_others_are_dropped() -> None:
    keys = prefix_map(attention_prefixes("4f", "backbone.attention."))
    assert keys("deconv2.0.weight") == "backbone.attention.reduce.0.weight"
    assert keys("Att_Head_4f.0.conv1d.bias") == "backbone.attention.head.0.bias"
    assert keys("Att_Head_4f.3.weight") == "backbone.attention.head.3.weight"
    assert keys("deconv1.0.weight") is None
    assert keys("Att_Head_5c.1.weight") is None
    with pytest.raises(ModelError, match="no attention on '3c'"):
        attention_prefixes("3c")
