"""TensorFlow's SAME padding: sizes, where the padding goes, what it counts for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.nn import functional

from vidistill.models.same_padding import SameConv1d, SameConv3d, SameMaxPool3d, Size, same_padding

sizes = some.tuples(*[some.integers(1, 9)] * 3)
kernels = some.tuples(*[some.integers(1, 4)] * 3)
strides = some.tuples(*[some.integers(1, 3)] * 3)
SETTINGS = settings(max_examples=60, deadline=None)


def padded(x: Tensor, kernel: Size, stride: Size, value: float) -> Tensor:
    """`x` with SAME padding of `value` written out."""
    sides = [same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    return functional.pad(x, [side for pair in reversed(sides) for side in pair], value=value)


def signed(size: Size, channels: int = 2) -> Tensor:
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(sum(size))) - 0.5


@given(some.integers(1, 300), some.integers(1, 9), some.integers(1, 5))
def test_an_axis_gets_one_window_a_stride_and_the_end_at_most_one_sample_more(
    length: int, kernel: int, stride: int
) -> None:
    before, behind = same_padding(length, kernel, stride)
    assert behind - before in (0, 1)
    assert (length + before + behind - kernel) // stride + 1 == -(-length // stride)
    assert before + behind < max(kernel, 2)


@SETTINGS
@given(sizes, kernels, strides)
def test_maxima_are_those_of_the_samples_alone(size: Size, kernel: Size, stride: Size) -> None:
    x = signed(size)
    ours = SameMaxPool3d(kernel, stride)(x)
    assert torch.equal(ours, functional.max_pool3d(padded(x, kernel, stride, float("-inf")), kernel, stride))
    assert torch.isfinite(ours).all()


@SETTINGS
@given(sizes, kernels, strides)
def test_released_maxima_see_zeros_around_the_clip_which_a_relu_hides(size: Size, kernel: Size, stride: Size) -> None:
    x = signed(size)
    released, default = SameMaxPool3d(kernel, stride, "released"), SameMaxPool3d(kernel, stride)
    assert torch.equal(released(x), functional.max_pool3d(padded(x, kernel, stride, 0.0), kernel, stride))
    assert torch.equal(released(x.relu()), default(x.relu()))


def test_released_maxima_of_negative_borders_are_zero() -> None:
    x = torch.full((1, 1, 3, 3, 3), -1.0)
    assert float(SameMaxPool3d((3, 3, 3), (1, 1, 1))(x).max()) == -1.0
    released = SameMaxPool3d((3, 3, 3), (1, 1, 1), "released")(x)
    assert (released[0, 0, 1, 1, 1], released.sum()) == (-1.0, -1.0)


@SETTINGS
@given(sizes, kernels, strides)
def test_convolutions_see_zeros_around_the_clip(size: Size, kernel: Size, stride: Size) -> None:
    layer = SameConv3d(2, 3, kernel, stride, bias=True)
    x = signed(size)
    with torch.no_grad():
        written_out = functional.conv3d(padded(x, kernel, stride, 0.0), layer.weight, layer.bias, stride)
        torch.testing.assert_close(layer(x), written_out, atol=1e-5, rtol=1e-5)


def test_padding_of_time_alone_leaves_one_sample_of_a_whole_frame() -> None:
    layer = SameConv3d(2, 4, (3, 5, 6), padded="time")
    assert layer(signed((7, 5, 6))).shape == (1, 4, 7, 1, 1)
    assert layer.bias is None


@pytest.mark.parametrize(("length", "steps"), [(8, 4), (9, 5), (1, 1)])
def test_a_sequence_is_padded_as_a_clip_is(length: int, steps: int) -> None:
    flat = SameConv1d(2, 3, 3, stride=2)
    deep = SameConv3d(2, 3, (3, 1, 1), (2, 1, 1), bias=True)
    deep.load_state_dict({"weight": flat.weight[..., None, None], "bias": flat.bias})
    x = torch.randn(2, 2, length)
    assert flat(x).shape == (2, 3, steps)
    torch.testing.assert_close(flat(x), deep(x[..., None, None])[..., 0, 0])
