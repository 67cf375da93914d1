from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.modalities.released_transforms import (
    CORNERS,
    center_crop,
    corner_crop,
    frame_positions,
    multi_scale_corner_crop,
    multi_scale_random_crop,
    normalised,
    random_flip,
    random_sized_crop,
    scale,
)


class Fixed(Random):
    """Draws that never fit, so that the crop falls back."""

    def uniform(self, a, b):
        return b

    def random(self):
        return 0.9


@settings(deadline=None, max_examples=30)
@given(height=st.integers(9, 40), width=st.integers(9, 40), seed=st.integers(0, 99), flow=st.booleans())
def test_crops_have_their_size_and_all_frames_the_same_crop(height, width, seed, flow) -> None:
    frame = np.random.default_rng(seed).integers(0, 255, (height, width, 2)).astype(np.uint8)
    crop = random_sized_crop(np.stack([frame] * 3), 8, Random(seed), flow)
    assert crop.shape == (3, 8, 8, 2)
    assert (crop == crop[:1]).all()


def test_a_crop_that_never_fits_is_the_scaled_middle() -> None:
    video = np.random.default_rng(0).integers(0, 255, (1, 10, 40, 1)).astype(np.uint8)
    assert (random_sized_crop(video, 8, Fixed()) == center_crop(scale(video, 8), 8)).all()


def test_flow_keeps_its_zero_and_scales_with_the_picture() -> None:
    still = np.full((2, 20, 40, 2), 128, np.uint8)
    assert (scale(still, 10, flow=True) == 128).all()
    assert (scale(still + np.uint8(8), 10, flow=True) == 132).all()


def test_a_flip_mirrors_the_picture_and_the_sideways_flow() -> None:
    flow = np.zeros((1, 1, 2, 2), np.float32)
    flow[0, 0, 0] = (100, 7)
    seed = next(seed for seed in range(99) if Random(seed).random() < 0.5)
    assert random_flip(flow, Random(seed), flow=True)[0, 0].tolist() == [[255, 0], [155, 7]]
    assert random_flip(flow, Random(seed))[0, 0].tolist() == [[0, 0], [100, 7]]
    assert random_flip(flow, Fixed()) is flow


def test_levels_become_channels_first_and_standardised() -> None:
    video = np.full((2, 4, 6, 3), 255, np.uint8)
    result = normalised(video, (0.5, 0.0, 1.0), (0.5, 2.0, 1.0))
    assert result.shape == (2, 3, 4, 6) and result.dtype == np.float32
    assert result[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]


@settings(deadline=None)
@given(length=st.integers(1, 80), size=st.integers(1, 40), place=st.sampled_from(["begin", "center", "random"]))
def test_frames_are_neighbours_that_come_round_again(length, size, place) -> None:
    taken = frame_positions(length, size, place)
    assert taken.shape in ((size,), (0,)) and ((taken >= 0) & (taken < length)).all()
    assert (len(taken) == 0) == (length == 1 and place != "random")
    if len(taken):
        period = min(size, length - taken[0])
        assert (taken == taken[0] + np.arange(size) % period).all()
        assert place == "random" or taken[0] >= 1  # the first frame is never used


def test_corners_are_where_their_names_say() -> None:
    image = np.arange(6 * 9).reshape(6, 9, 1)
    firsts = [int(corner_crop(image, 4, corner)[0, 0, 0]) for corner in CORNERS]
    assert firsts == [1 * 9 + 2, 0, 5, 2 * 9, 2 * 9 + 5]


@settings(deadline=None, max_examples=20)
@given(factor=st.floats(0.3, 1), x=st.floats(0, 0.99), y=st.floats(0, 0.99), corner=st.sampled_from(CORNERS))
def test_multi_scale_crops_have_their_size(factor, x, y, corner) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    assert multi_scale_corner_crop(image, factor, 8, corner).shape == (8, 8, 3)
    assert multi_scale_random_crop(image, factor, 8, (x, y)).shape == (8, 8, 3)
