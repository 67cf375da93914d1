"""The pyramid of an anchor-free detector."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import ModelError
from vidistill.models.anchor_pyramid import Pyramid

SHAPES = [(6, 8, 4, 3), (10, 4, 2, 2)]


def pyramid(levels: int = 4) -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(SHAPES, 8, levels, 32).eval()


def maps() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(2, *shape, generator=random) for shape in SHAPES]


def test_levels_halve_and_the_frame_level_is_as_long_as_the_window() -> None:
    levels, frame_level = pyramid()(maps())
    assert [tuple(level.shape) for level in levels] == [(2, 8, 8), (2, 8, 4), (2, 8, 2), (2, 8, 1)]
    assert frame_level.shape == (2, 8, 32)


def test_an_odd_level_is_halved_upwards() -> None:
    assert Pyramid([(4, 7, 1, 1)], 8, 4, 14).lengths == [7, 4, 2, 1]


def test_the_deeper_map_is_seen_by_the_first_level_and_the_first_map_by_no_other() -> None:
    network, (first, second) = pyramid(), maps()
    levels, frame_level = network([first, second])
    changed, changed_frames = network([first, second + 1])
    assert all(not torch.equal(one, other) for one, other in zip(levels, changed, strict=True) if one.shape[2] > 1)
    assert not torch.equal(frame_level, changed_frames)
    changed, _ = network([first + 1, second])
    assert not torch.equal(levels[0], changed[0])
    assert all(torch.equal(one, other) for one, other in zip(levels[1:], changed[1:], strict=True))


def test_sequences_alone_are_the_levels() -> None:
    network = pyramid()
    assert all(torch.equal(*pair) for pair in zip(network(maps())[0], network.sequences(maps()), strict=True))


@pytest.mark.parametrize(
    ("shapes", "levels", "message"),
    [
        (SHAPES, 1, "1 pyramid levels over 2 maps"),
        (SHAPES[::-1], 3, r"maps of \[4, 8\] steps make no pyramid"),
        (SHAPES, 5, "only 4 pyramid levels fit 8 steps, not 5"),
    ],
)
def test_what_makes_no_pyramid_is_refused(shapes: list[tuple[int, ...]], levels: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Pyramid(shapes, 8, levels, 32)


def test_maps_of_another_size_are_not_taken_for_longer_ones() -> None:
    first, second = maps()
    with pytest.raises(RuntimeError):
        pyramid()([torch.cat([first, first], dim=3), second])
