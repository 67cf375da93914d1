from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks.segments import (
    Detections,
    Segments,
    activity_runs,
    average_windows,
    detect_segments,
    step_times,
    window_starts,
)


def one_hot(classes: list[int], size: int = 4) -> np.ndarray:
    return np.eye(size)[classes] * 0.8 + 0.05


labels = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@given(labels, st.integers(1, 30), st.sampled_from(["default", "released"]))
def test_segments_cover_exactly_the_active_steps_of_their_clip(classes, cut, variant) -> None:
    clip = (np.arange(len(classes)) >= cut).astype(int)
    runs = activity_runs(one_hot(classes), clip=clip, variant=variant)
    covered = [np.arange(first, end) for first, end in zip(runs.first, runs.end, strict=True)]
    steps = np.concatenate([np.zeros(0, int), *covered])
    assert steps.tolist() == np.flatnonzero(classes).tolist()
    assert all(len(set(clip[each])) == 1 for each in covered)


@given(labels)
def test_by_default_every_step_of_a_segment_has_its_class(classes) -> None:
    runs = activity_runs(one_hot(classes))
    for first, end, label in zip(runs.first, runs.end, runs.label, strict=True):
        assert set(classes[first:end]) == {label}


def test_two_actions_side_by_side_are_two_segments_and_one_in_the_released_form() -> None:
    scores = one_hot([0, 1, 1, 1, 2, 2, 0])
    ours, released = activity_runs(scores), activity_runs(scores, variant="released")
    assert (ours.first.tolist(), ours.end.tolist(), ours.label.tolist()) == ([1, 4], [4, 6], [1, 2])
    assert (released.first.tolist(), released.end.tolist(), released.label.tolist()) == ([1], [6], [1])
    np.testing.assert_allclose(ours.score, 0.85)
    np.testing.assert_allclose(released.score, (3 * 0.85 + 2 * 0.05) / 5)


def test_a_step_is_active_at_the_threshold() -> None:
    assert len(activity_runs(np.array([[0.5, 0.5]]), threshold=0.5)) == 1
    assert len(activity_runs(np.array([[0.5, 0.5]]), threshold=0.501)) == 0


def test_a_diverged_network_detects_nothing() -> None:
    assert len(activity_runs(np.array([[np.nan, 1.0], [0.0, np.inf]]))) == 0


def test_smoothing_removes_a_flicker_and_stays_within_the_clip() -> None:
    scores = one_hot([1, 1, 2, 1, 1])
    assert len(activity_runs(scores)) == 3
    assert activity_runs(scores, smooth=3).label.tolist() == [1]
    two = activity_runs(one_hot([1, 0]), clip=np.array([0, 1]), smooth=3)
    assert (two.first.tolist(), two.score.tolist()) == ([0], [pytest.approx(0.85)])


def test_short_runs_are_dropped_when_asked() -> None:
    assert activity_runs(one_hot([1, 0, 2, 2]), min_steps=2).label.tolist() == [2]


def test_no_steps_give_no_runs() -> None:
    assert len(activity_runs(np.zeros((0, 3)))) == 0


def test_times_run_from_the_first_steps_start_to_the_last_steps_end() -> None:
    found = detect_segments(one_hot([0, 1, 1]), step_times(3, 0.5, 0.75, origin=1.0))
    assert (found.start.tolist(), found.end.tolist()) == ([1.5], [2.75])
    frames = step_times(3, 30, 30, last_frame=True)
    assert frames.tolist() == [[0, 29], [30, 59], [60, 89]]


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_full_windows_cover_every_step(length, size, data) -> None:
    stride = data.draw(st.none() | st.integers(1, size))
    starts = window_starts(length, size, stride)
    held = np.unique(starts[:, None] + np.arange(size))
    assert held[held < length].tolist() == list(range(length))
    assert (np.diff(starts) > 0).all()
    assert length < size or (starts + size <= length).all()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_windows_that_agree_give_back_what_they_agree_on(length, size, seed) -> None:
    starts = window_starts(length, size)
    logits = np.random.default_rng(seed).normal(size=(max(length, size), 3))
    windows = logits[starts[:, None] + np.arange(size)]
    np.testing.assert_allclose(average_windows(windows, starts, length), logits[:length])


def test_a_clip_shorter_than_one_window_is_one_window_whose_padding_does_not_count() -> None:
    assert window_starts(3, 10).tolist() == [0]
    windows = np.arange(10.0).reshape(1, 10, 1)
    assert average_windows(windows, np.array([0]), 3).ravel().tolist() == [0, 1, 2]


def test_an_odd_window_leaves_no_gap() -> None:
    assert window_starts(9, 7).tolist() == [0, 2]


def test_windows_that_leave_gaps_are_an_error() -> None:
    with pytest.raises(DataError, match="stride"):
        window_starts(10, 4, 5)
    with pytest.raises(DataError, match="no window holds step 2"):
        average_windows(np.zeros((1, 2, 1)), np.array([0]), 3)
    with pytest.raises(DataError, match="before the first"):
        average_windows(np.zeros((1, 2, 1)), np.array([-1]), 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0], [0.0], [1.0], [1, 2], [0.5]), "do not fit"),
        (([0], [2.0], [1.0], [1], [0.5]), "ends before"),
        (([0], [np.nan], [1.0], [1], [0.5]), "not a finite"),
        (([0], [0.0], [1.0], [1], [np.nan]), "score"),
    ],
)
def test_segments_that_cannot_be_are_an_error(columns, message) -> None:
    with pytest.raises(DataError, match=message):
        Detections(*columns)


def test_scores_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="expected"):
        activity_runs(np.zeros((3, 1)))


def test_segments_are_taken_by_mask_and_by_index() -> None:
    segments = Segments(["a", "b"], [0, 1], [1, 2], [1, 2])
    assert segments.take(np.array([False, True])).clip.tolist() == ["b"]
    assert segments.take(np.array([1, 0])).bounds.tolist() == [[1, 2], [0, 1]]
