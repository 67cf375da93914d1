"""Inflated bottlenecks: strides are over the frame, time is seen only where asked."""

from __future__ import annotations

import pytest
import torch

from vidistill.models.inflated_resnet import Bottleneck3d, convolution, make_stage, stem


def reach(block: torch.nn.Module) -> list[int]:
    """The output frames that a change of frame 3 of 8 moves."""
    x = torch.randn(1, 8, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[:, :, 3] += 1.0
    with torch.no_grad():
        change = (block.eval()(moved) - block(x)).abs().amax(dim=(0, 1, 3, 4))
    return (change > 0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("time_kernel", "frames"), [(1, [3]), (3, [2, 3, 4])])
def test_a_block_sees_its_neighbours_in_time_only_where_asked(time_kernel: int, frames: list[int]) -> None:
    torch.manual_seed(1)
    assert reach(Bottleneck3d(8, 2, 1, time_kernel)) == frames


def test_a_stage_halves_the_frame_once_and_keeps_its_length() -> None:
    stage = make_stage(8, 4, 2, (3, 1))
    assert stage(torch.zeros(2, 8, 7, 9, 6)).shape == (2, 16, 7, 5, 3)
    assert [block.conv1.kernel_size for block in stage] == [(3, 1, 1), (1, 1, 1)]
    assert [len(block.downsample) for block in stage] == [2, 0]


def test_the_stem_quarters_the_frame_and_keeps_its_length() -> None:
    assert stem(2, 4, 5)(torch.zeros(2, 2, 3, 32, 20)).shape == (2, 4, 3, 8, 5)


def test_convolutions_have_no_bias_and_keep_the_size_at_stride_one() -> None:
    layer = convolution(4, 6, (3, 1, 5), groups=2)
    assert layer.bias is None
    assert layer(torch.zeros(1, 4, 5, 6, 7)).shape == (1, 6, 5, 6, 7)
