from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.data.formats.thumos14_annotations import Row, VideoInfo
from vidistill.data.published_windows import (
    boundary_maps,
    sampled_actions,
    sampled_counts,
    sampled_frames,
    train_windows,
    window_offsets,
)

actions = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(3, 4000), st.integers(1, 20)).map(
        lambda row: (row[0] / 10, (row[0] + row[1]) / 10, row[2])
    ),
    max_size=8,
).map(lambda rows: np.array(rows, np.float64).reshape(-1, 3))


def published(rows: np.ndarray, count: int, size: int, stride: int):
    """The windows, one action at a time, as the specification words it."""
    offsets = [0]
    if count > size:
        offsets = list(range(0, count - size + 1, stride))
        if (count - size) % stride:
            offsets.append(count - size)
    kept, shortest = [], float(size)
    for offset in offsets:
        held, whole = [], False
        for s, e, label in rows.tolist():
            ioa = (min(offset + size, e) - max(offset + 1, s)) / (e - s)
            whole |= ioa >= 1
            if ioa >= 0.5:
                held.append([max(s - offset, 1), min(e - offset, size), label])
                shortest = min(shortest, held[-1][1] - held[-1][0])
        if whole:
            kept.append((offset, held))
    return kept, math.ceil(shortest)


@settings(deadline=None)
@given(rows=actions, count=st.integers(1, 700), size=st.sampled_from([64, 256]), stride=st.integers(5, 60))
def test_windows_are_those_of_the_published_rules(rows, count, size, stride) -> None:
    windows = train_windows([rows, rows[:1]], [count, count], size, stride)
    for number, given_rows in enumerate((rows, rows[:1])):
        kept, shortest = published(given_rows, count, size, stride)
        mine = np.flatnonzero(windows.video == number)
        assert windows.shortest[number] == shortest
        assert windows.offset[mine].tolist() == [offset for offset, _ in kept]
        for window, (_, held) in zip(mine.tolist(), kept, strict=True):
            assert windows.of(window).tolist() == held


@settings(deadline=None)
@given(rows=actions, count=st.integers(256, 700))
def test_maps_are_marked_over_a_tenth_of_each_action(rows, count) -> None:
    windows = train_windows([rows], [count])
    maps = boundary_maps(windows)
    assert maps.shape == (len(windows), 2, 256)
    for window in range(len(windows)):
        expected = np.zeros((2, 256), np.uint8)
        for start, end, _ in windows.of(window).tolist():
            half = max((end - start) / 10, 2) / 2
            for place, middle in enumerate((start, end)):
                low, high = max(round(middle - half), 0), min(round(middle + half), 255)
                expected[place, low : high + 1] = 1
        assert (maps[window] == expected).all()


def test_no_videos_give_no_windows() -> None:
    windows = train_windows([], [])
    assert len(windows) == 0 and boundary_maps(windows).shape == (0, 2, 256) and windows.bounds.tolist() == [0]


@given(count=st.integers(1, 2000), size=st.integers(1, 300), stride=st.integers(1, 100))
def test_windows_reach_both_ends_of_a_video(count, size, stride) -> None:
    offsets = window_offsets(count, size, stride)
    assert offsets[0] == 0 and offsets[-1] == max(count - size, 0)
    assert (np.diff(offsets) > 0).all() and (np.diff(offsets) <= stride).all()


@given(count=st.integers(1, 600), fps=st.sampled_from([24.0, 25.0, 29.97002997002997, 30.0, 59.94]))
def test_a_thinned_video_has_ten_frames_a_second(count, fps) -> None:
    kept = sampled_frames(count, fps)
    assert abs(len(kept) - count * 10 / fps) <= 1 and (np.diff(kept) > 0).all()
    assert kept.max(initial=-1) < count
    infos = [VideoInfo(fps, count, 0), VideoInfo(30.0, 3, 0), VideoInfo(fps, 2 * count, 0)]
    assert sampled_counts(infos).tolist() == [len(kept), 1, len(sampled_frames(2 * count, fps))]


def test_slow_videos_keep_all_frames_and_thirty_a_second_every_third() -> None:
    assert sampled_frames(5, 8.0).tolist() == [0, 1, 2, 3, 4]
    assert sampled_frames(9, 30.0).tolist() == [2, 5, 8]
    with pytest.raises(DataError, match="cannot be thinned"):
        sampled_frames(9, 0.0)


def test_annotated_frames_are_mapped_by_the_ratio_of_the_counts() -> None:
    info = {"a": VideoInfo(30.0, 300, 99)}
    found = sampled_actions({"a": [Row("x", 1.0, 2.0, 30, 60)], "b": None}, info, {"x": 4})
    assert found.keys() == {"a"} and found["a"].tolist() == [[30 * (99 / 300), 60 * (99 / 300), 4]]
    with pytest.raises(DataError, match="'c' is not known"):
        sampled_actions({"c": []}, info, {})
