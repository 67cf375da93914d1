from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks.anchor_targets import (
    Matches,
    background_intervals,
    boundary_maps,
    match_anchors,
    match_refined,
    pad_segments,
)

FRAMES = 64
PRIORS = torch.cat([(torch.arange(steps) + 0.5) / steps for steps in (16, 8, 4)])


@st.composite
def windows(draw, least: int = 0):
    """Segments of 1 to 3 windows, of different lengths within a window."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(least, 5))
        length = random.permutation(np.linspace(0.03, 0.6, 9))[:count]
        start = random.uniform(0, 1 - length)
        rows.append(np.stack([start, start + length, random.integers(1, 5, count)], axis=1))
    return rows


def loop(rows: np.ndarray, centre: float):
    """The definition: class and distances of the shortest segment that holds the centre."""
    holds = [row for row in np.float32(rows).tolist() if row[0] <= centre <= row[1]]
    if not holds:
        return 0, (1.0, 1.0)
    start, end, label = min(holds, key=lambda row: row[1] - row[0])
    return int(label), ((centre - start) * FRAMES, (end - centre) * FRAMES)


@settings(max_examples=30)
@given(windows())
def test_matching_equals_the_definition(rows) -> None:
    ours = match_anchors(PRIORS, pad_segments(rows), frames=FRAMES)
    for window, each in enumerate(rows):
        for anchor, centre in enumerate(PRIORS.tolist()):
            label, distances = loop(each.reshape(-1, 3), centre)
            assert ours.label[window, anchor] == label
            np.testing.assert_allclose(ours.distances[window, anchor], distances, atol=1e-4)
    assert torch.equal(ours.positive, ours.label > 0)


@given(windows(), st.integers(0, 99))
def test_the_order_of_segments_means_nothing(rows, seed) -> None:
    random = np.random.default_rng(seed)
    one, other = (
        match_anchors(PRIORS, pad_segments(each), frames=FRAMES)
        for each in (rows, [random.permutation(part) for part in rows])
    )
    assert torch.equal(one.label, other.label) and torch.equal(one.distances, other.distances)


@given(windows())
def test_the_order_of_windows_only_orders_the_result(rows) -> None:
    segments = pad_segments(rows)
    one, other = (match_anchors(PRIORS, each, frames=FRAMES) for each in (segments, segments.flip(0)))
    assert torch.equal(one.label.flip(0), other.label) and torch.equal(one.distances.flip(0), other.distances)


def test_equally_short_segments_leave_the_anchor_to_the_first() -> None:
    rows = torch.tensor([[[0.25, 0.75, 2.0], [0.25, 0.75, 1.0]]])
    assert set(match_anchors(PRIORS, rows, frames=FRAMES).label.unique().tolist()) == {0, 2}


@pytest.mark.parametrize(
    "row",
    [(0.5, 0.5, 1), (0.9, 0.1, 1), (1.5, 2.0, 1), (-1.0, -0.5, 1), (float("nan"), 0.9, 1), (0.1, float("inf"), 1)]
    + [(0.0, 1.0, -1)],
)
def test_rows_that_are_no_segment_of_the_window_are_harmless(row) -> None:
    segments = torch.tensor([[row, (0.25, 0.5, 3)], [row, row]])
    ours = match_anchors(PRIORS, segments, frames=FRAMES)
    alone = match_anchors(PRIORS, torch.tensor([[(0.25, 0.5, 3)], [(0, 0, -1)]]), frames=FRAMES)
    assert torch.equal(ours.label, alone.label) and torch.equal(ours.distances, alone.distances)
    maps = boundary_maps(segments, frames=FRAMES)
    assert torch.equal(maps[0], boundary_maps(segments[:1, 1:], frames=FRAMES)[0]) and not maps[1].any()


def test_no_rows_at_all_are_background() -> None:
    nothing = torch.zeros(2, 0, 3)
    assert not match_anchors(PRIORS, nothing, frames=FRAMES).positive.any()
    assert not boundary_maps(nothing, frames=FRAMES).any()
    assert background_intervals(nothing).tolist() == [[[0, 1, 0]]] * 2
    assert background_intervals(nothing, variant="released").tolist() == [[[0, 1, 0]]] * 2


def test_refinement_is_asked_of_those_that_overlap_enough_and_in_half_lengths() -> None:
    matches = Matches(torch.tensor([[3, 3, 0]]), torch.tensor([[[8.0, 8.0], [8.0, 8.0], [1.0, 1.0]]]))
    coarse = torch.tensor([[[4.0, 8.0], [1.0, 1.0], [1.0, 1.0]]])
    refined = match_refined(coarse, matches)
    assert refined.label.tolist() == [[3, 0, 0]]
    np.testing.assert_allclose(refined.distances[0, 0], [4 / 6, 0])
    np.testing.assert_allclose(coarse[0, 0] + 6 * refined.distances[0, 0], [8, 8])


def test_a_coarse_segment_of_no_length_gives_finite_targets() -> None:
    matches = Matches(torch.tensor([[1]]), torch.tensor([[[4.0, 4.0]]]))
    refined = match_refined(torch.zeros(1, 1, 2), matches)
    assert not refined.positive.any() and refined.distances.isfinite().all()


@settings(max_examples=30)
@given(windows(least=1))
def test_boundary_maps_equal_the_definition(rows) -> None:
    ours = boundary_maps(pad_segments(rows), frames=FRAMES)
    expected = np.zeros((len(rows), 2, FRAMES))
    for window, each in enumerate(rows):
        for start, end, _ in np.float32(each).astype(np.float64) * FRAMES:
            half = max((end - start) / 10, 2) / 2
            for side, centre in enumerate((start, end)):
                low, high = max(round(centre - half), 0), round(centre + half)
                expected[window, side, low : high + 1] = 1
    np.testing.assert_array_equal(ours, expected)


def test_halves_are_rounded_to_even() -> None:
    ours = boundary_maps(torch.tensor([[[6.5 / 16, 12 / 16, 1]]], dtype=torch.float64), frames=16)
    assert ours[0, 0].nonzero().flatten().tolist() == [6, 7, 8]  # 5.5 to 7.5


@given(windows())
def test_background_is_what_no_segment_covers_in_order(rows) -> None:
    intervals = background_intervals(pad_segments(rows))
    for each, part in zip(rows, intervals, strict=True):
        part = part[part[:, 2] == 0].numpy()
        assert (part[:, 1] > part[:, 0]).all() and (part[1:, 0] >= part[:-1, 1]).all()
        times = np.linspace(0.0005, 0.9995, 1000, dtype=np.float32)
        covered = [((row[:, :1] < times) & (times < row[:, 1:2])).any(0) for row in (np.float32(each), part)]
        on_a_bound = np.isin(times, part[:, :2]) | np.isin(times, np.float32(each)[:, :2])
        assert (covered[0] ^ covered[1] | on_a_bound).all()


@given(windows(), st.integers(0, 99))
def test_background_knows_no_order_unless_released(rows, seed) -> None:
    random = np.random.default_rng(seed)
    other = [random.permutation(part) for part in rows]
    assert torch.equal(background_intervals(pad_segments(rows)), background_intervals(pad_segments(other)))


def test_the_released_background_follows_the_order_given_around_padding() -> None:
    rows = torch.tensor([[[0.4, 0.5, 1], [0, 0, -1], [0.1, 0.2, 1]], [[0, 0.5, 1], [0, 0, -1], [0, 0, -1]]])
    ours = background_intervals(rows, variant="released")
    first, second = (each[each[:, 2] == 0][:, :2] for each in ours)
    np.testing.assert_allclose(first, [[0, 0.4], [0.5, 0.1], [0.2, 1]])
    np.testing.assert_allclose(second, [[0.5, 1]])
    np.testing.assert_allclose(background_intervals(rows)[0, :3, :2], [[0, 0.1], [0.2, 0.4], [0.5, 1]])


def test_reading_pads_and_an_empty_annotation_is_one_row_of_padding() -> None:
    ours = pad_segments([np.array([[0.1, 0.4, 2], [0.3, 1.0, 1]]), np.zeros((0, 3))])
    assert ours.shape == (2, 2, 3) and ours.dtype == torch.float32
    assert ours[1, :, 2].tolist() == [-1, -1]
    assert pad_segments([[], []])[:, :, 2].tolist() == [[-1], [-1]]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ((0.3, 0.3, 1), "does not end after it starts"),
        ((0.6, 0.3, 1), "does not end after it starts"),
        ((0.6, 1.3, 1), "leaves the window"),
        ((-0.1, 0.3, 1), "leaves the window"),
        ((np.nan, 0.3, 1), "not a finite number"),
        ((0.1, 0.3, 1.5), "whole number"),
        ((0.1, 0.3, -1), "whole number"),
    ],
)
def test_wrong_annotations_are_refused_at_reading_with_their_place(row, what) -> None:
    with pytest.raises(DataError, match=rf"^clip b: segment 1 \[.*{what}"):
        pad_segments([np.zeros((0, 3)), np.array([(0, 1, 1), row])], names=["clip a", "clip b"])


def test_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match=r"window 0: segments of shape \(2,\)"):
        pad_segments([np.array([0.1, 0.2])])
