from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.seeds import generator
from vidistill.data.sampling import dense_indices, uniform_indices

sizes = {"length": st.integers(1, 400), "frames": st.integers(1, 32), "clips": st.integers(1, 5)}
draws = st.one_of(st.none(), st.integers(0, 99))


@settings(deadline=None, max_examples=200)
@given(**sizes, seed=draws, variant=st.sampled_from(["default", "released"]))
def test_uniform_views_are_in_order_and_in_range(length, frames, clips, seed, variant) -> None:
    random = None if seed is None else generator(seed)
    indices = uniform_indices(length, frames, clips, generator=random, variant=variant)
    assert indices.shape == (clips, frames)
    assert (np.diff(indices, axis=1) >= 0).all()
    assert indices.min() >= 0 and indices.max() < length


@settings(deadline=None, max_examples=200)
@given(**sizes, stride=st.integers(1, 12), seed=draws)
def test_dense_views_keep_their_stride_until_the_clip_ends(length, frames, clips, stride, seed) -> None:
    indices = dense_indices(length, frames, stride, clips, generator=None if seed is None else generator(seed))
    assert indices.shape == (clips, frames)
    assert indices.min() >= 0 and indices.max() < length
    assert set(np.diff(indices, axis=1).ravel()) <= {0, stride}
    if length >= frames * stride:
        overrun = indices[:, 0] + (frames - 1) * stride != indices[:, -1]
        assert not overrun.any()


def test_each_uniform_view_spans_the_clip_unless_released() -> None:
    views = uniform_indices(300, 8, 3)
    assert (views[:, 0] < 40).all() and (views[:, -1] > 260).all()
    parts = uniform_indices(300, 8, 3, variant="released")
    assert parts[0, -1] < 100 <= parts[1, 0]
    assert sorted(views.ravel()) == sorted(parts.ravel())
    assert (uniform_indices(300, 8) == uniform_indices(300, 8, variant="released")).all()


def test_dense_places_are_spread_and_short_clips_repeat_their_last_frame() -> None:
    assert dense_indices(100, 4, 5, 2)[:, 0].tolist() == [20, 60]
    assert dense_indices(7, 4, 3, 1).tolist() == [[0, 3, 6, 6]]


def test_drawn_places_stay_within_their_share() -> None:
    starts = np.stack([dense_indices(120, 4, 5, 4, generator=generator(seed))[:, 0] for seed in range(300)])
    assert (starts.min(0) == [0, 25, 50, 75]).all()
    assert (starts.max(0) == [24, 49, 74, 99]).all()


@pytest.mark.parametrize(("length", "clips"), [(21, 4), (20, 3), (19, 2), (22, 5)])
def test_clips_hardly_longer_than_a_view_still_give_views(length, clips) -> None:
    indices = dense_indices(length, 4, 5, clips, generator=generator(0))
    assert (np.diff(indices[:, 0]) >= 0).all()
    assert indices.max() < length


def test_a_view_that_fits_is_whole_unless_released() -> None:
    views, released = (dense_indices(20, 4, 5, 3, generator=generator(0), variant=v) for v in ("default", "released"))
    assert views.tolist() == [[0, 5, 10, 15]] * 3
    assert released[2].tolist() == [1, 6, 11, 16]
    assert dense_indices(20, 4, 5, 4, generator=generator(0), variant="released").shape == (4, 4)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"frames": 0}, {"clips": 0}, {"stride": 0}])
def test_numbers_below_one_are_refused(wrong) -> None:
    numbers = {"length": 10, "frames": 2, "stride": 2, "clips": 1} | wrong
    with pytest.raises(DataError, match=next(iter(wrong))):
        dense_indices(**numbers)
