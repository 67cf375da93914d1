from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.seeds import generator
from vidistill.data.sampling import dense_indices, spanning_indices, uniform_indices

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


@settings(deadline=None, max_examples=200)
@given(length=sizes["length"], frames=sizes["frames"], trim=st.booleans(), seed=draws)
def test_spanning_views_go_from_end_to_end_but_for_what_is_trimmed(length, frames, trim, seed) -> None:
    indices = spanning_indices(length, frames, trim=trim, generator=None if seed is None else generator(seed))
    assert indices.shape == (1, frames)
    assert (np.diff(indices) >= 0).all()
    assert 0 <= indices[0, 0] <= 5 and indices[0, -1] < length
    if frames > 1:
        assert indices[0, -1] >= length - 1 - 5
        assert trim or (indices[0, 0] == 0 and indices[0, -1] == length - 1)
    if length == frames:
        assert indices[0].tolist() == list(range(length))


def test_trimmed_views_leave_out_an_end_in_testing_and_up_to_five_frames_in_training() -> None:
    assert spanning_indices(30, 8, trim=True)[0, [0, -1]].tolist() == [1, 28]
    assert spanning_indices(10, 8, trim=True)[0, [0, -1]].tolist() == [0, 9]
    drawn = np.concatenate([spanning_indices(30, 8, trim=True, generator=generator(seed)) for seed in range(300)])
    assert (drawn[:, 0].min(), drawn[:, 0].max(), drawn[:, -1].min(), drawn[:, -1].max()) == (0, 5, 24, 29)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"frames": 0}, {"clips": 0}, {"stride": 0}])
def test_numbers_below_one_are_refused(wrong) -> None:
    numbers = {"length": 10, "frames": 2, "stride": 2, "clips": 1} | wrong
    with pytest.raises(DataError, match=next(iter(wrong))):
        dense_indices(**numbers)
