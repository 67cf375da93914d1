from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.modalities.released_generative import (
    PLACES,
    by_channel,
    center_crop,
    center_crop_last,
    channels_of,
    crop_offsets,
    crop_sizes,
    imresize,
    mirrors,
    multi_scale_crop,
    normalised,
    random_crop,
    random_sized_crop,
    resize_clip,
    scale,
    symmetric,
)


def picture(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, channels)).astype(np.uint8)


class Wide(Random):
    """Draws that never fit, so that the crop falls back."""

    def uniform(self, a, b):
        return b

    def random(self):
        return 0.9


@settings(deadline=None, max_examples=30)
@given(height=st.integers(16, 40), width=st.integers(16, 40), seed=st.integers(0, 99), channels=st.sampled_from([2, 3]))
def test_crops_have_their_size_and_all_frames_the_same_crop(height, width, seed, channels) -> None:
    clip = np.concatenate([picture(height, width, channels, seed)] * 4, 2)
    for crop in (multi_scale_crop(clip, 8, Random(seed)), random_sized_crop(clip, 8, Random(seed))):
        assert crop.shape == (8, 8, 4 * channels) and crop.dtype == np.float32
        assert (crop[..., :channels] == crop[..., -channels:]).all()


def test_a_crop_that_never_fits_is_the_scaled_middle() -> None:
    clip = picture(10, 40, 3)
    assert (random_sized_crop(clip, 8, Wide()) == center_crop_last(scale(clip, 8), 8)).all()


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 6))
def test_scaling_flow_loses_the_channels_that_the_published_code_never_writes(frames) -> None:
    clip = np.full((20, 30, 2 * frames), 99, np.uint8)
    scaled = scale(clip, 10)
    assert scaled.shape == (10, 15, 2 * frames)
    written = 2 * frames if channels_of(clip) == 3 else frames + 1
    assert (scaled[..., :written] == 99).all() and (scaled[..., written:] == 0).all()
    assert scale(clip, 20) is clip


def test_both_orientations_scale_by_the_short_side() -> None:
    assert scale(picture(20, 30, 3), 10).shape == (10, 15, 3)
    assert scale(picture(30, 20, 3), 10).shape == (15, 10, 3)


@given(height=st.integers(20, 300), width=st.integers(20, 300), places=st.sampled_from([5, 13]))
def test_crops_laid_out_for_their_own_size_are_within_the_picture(height, width, places) -> None:
    for size in crop_sizes(height, width, (1.0, 0.875, 0.75)):
        offsets = crop_offsets(height, width, size, places)
        assert offsets.shape == (places, 2) and len(np.unique(PLACES[:places], axis=0)) == places
        assert (offsets >= 0).all() and (offsets + size <= (height, width)).all()


def test_sizes_are_one_step_apart_at_most() -> None:
    assert crop_sizes(100, 200, (1.0, 0.5, 0.25)) == [
        (100, 100), (100, 50), (50, 100), (50, 50), (50, 25), (25, 50), (25, 25),
    ]  # fmt: skip
    assert len(crop_sizes(100, 200, (1.0, 0.5, 0.25), distortion=2)) == 9


def test_arrays_are_resized_frame_by_frame_and_cropped_alike() -> None:
    clip = np.moveaxis(np.stack([picture(9, 12, 3, 1), picture(9, 12, 3, 2)]), -1, 0)
    small = resize_clip(clip, 6)
    assert small.shape == (3, 2, 6, 6)
    assert (small[:, 1] == np.moveaxis(imresize(picture(9, 12, 3, 2), (6, 6)), -1, 0)).all()
    assert (center_crop(clip, 4) == clip[..., 2:6, 4:8]).all(), "2.5 rounds to 2"
    drawn = {random_crop(np.arange(4).reshape(1, 1, 2, 2), 1, Random(seed)).item() for seed in range(40)}
    assert drawn == {0, 1, 2, 3}


def test_levels_become_the_published_ranges() -> None:
    assert symmetric(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]
    clip = np.full((2, 3, 4), 255, np.uint8)
    assert normalised(clip, (0.5, 0.0), (0.5, 2.0))[:, 0, 0].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert [mirrors(Wide()), mirrors(Random(1))] == [False, True]


def test_channels_are_brought_before_time() -> None:
    levels = np.arange(6, dtype=np.float32).reshape(6, 1, 1)  # time-major, channel-minor
    assert by_channel(levels, 2)[..., 0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
