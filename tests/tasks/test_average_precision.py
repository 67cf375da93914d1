from __future__ import annotations

import numpy as np
import pytest
from detection_cases import NAMES, detections, overlap_of, repeated, truths
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.tasks import detection_truth
from vidistill.tasks.average_precision import (
    ap_by_class,
    ap_over_draws,
    ap_table,
    interpolated_ap,
    match_detections,
    mean_of_present,
    precision_recall_area,
)
from vidistill.tasks.segments import Detections, Segments

LIMITS = (0.2, 0.5, 0.8)


def loop_ap(truth, found, label, limit) -> float:
    """One detection at a time, and the envelope over all points of the curve."""
    own = np.flatnonzero(truth.label == label).tolist()
    own.sort(key=lambda g: (truth.start[g], truth.end[g]))
    if not own:
        return float("nan")
    taken, right, curve = set(), 0, []
    for seen, d in enumerate(sorted(np.flatnonzero(found.label == label), key=lambda d: -found.score[d]), 1):
        best, place = 0.0, None
        for g in own:
            if g not in taken and truth.clip[g] == found.clip[d]:
                overlap = overlap_of(truth.bounds[g], found.bounds[d])
                if overlap > best:
                    best, place = overlap, g
        if place is not None and best >= limit:
            taken.add(place)
            right += 1
        curve.append((right / len(own), right / seen))
    recall, precision = np.array(curve).T if curve else (np.zeros(0), np.zeros(0))
    return sum((recall[i] - (recall[i - 1] if i else 0.0)) * precision[i:].max() for i in range(len(recall)))


@given(truths, detections, st.booleans())
def test_all_at_once_equals_the_loop(truth, found, small_pieces) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small_pieces:
            patch.setattr(detection_truth, "PAIRS", 3)
        ours = interpolated_ap(truth, found, LIMITS, **NAMES)
    expected = [[loop_ap(truth, found, label, limit) for label in NAMES["classes"]] for limit in LIMITS]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@given(truths)
def test_perfect_detections_have_an_ap_of_one(truth) -> None:
    distinct = truth.take(
        np.unique(np.column_stack([truth.clip, truth.label, truth.bounds]), axis=0, return_index=True)[1]
    )
    found = Detections(*vars(distinct).values(), np.linspace(0.1, 0.9, len(distinct)))
    assert (interpolated_ap(distinct, found, LIMITS) == 1).all()


@given(truths, detections, st.integers(0, 1000), st.booleans())
def test_the_order_of_detections_truth_and_videos_means_nothing(truth, found, seed, tied) -> None:
    random = np.random.default_rng(seed)
    if tied:
        found = Detections(found.clip, found.start, found.end, found.label, np.round(found.score * 2))
    expected = interpolated_ap(truth, found, LIMITS, **NAMES)
    mixed = truth.take(random.permutation(len(truth))), found.take(random.permutation(len(found)))
    names = {name: random.permutation(values) if name == "videos" else values for name, values in NAMES.items()}
    np.testing.assert_array_equal(interpolated_ap(*mixed, LIMITS, **names), expected)


@given(truths, detections)
def test_less_sure_duplicates_never_raise_ap_where_actions_are_apart(truth, found) -> None:
    first = np.unique(np.column_stack([truth.clip, truth.label]), axis=0, return_index=True)[1]
    truth = truth.take(first)  # a duplicate may rightly find a second action that overlaps the first
    columns = [np.concatenate([column, column]) for column in vars(found).values()]
    columns[-1][len(found) :] *= 1e-6
    before, after = (interpolated_ap(truth, each, LIMITS) for each in (found, Detections(*columns)))
    assert (after <= before + 1e-12).all()


@given(truths, detections, st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
def test_a_draw_equals_repeating_the_videos(truth, found, counts) -> None:
    matches = match_detections(truth, found, LIMITS, **NAMES)
    ours = ap_by_class(matches, np.array([counts, [1, 1, 1]]))
    several = repeated(truth, counts), repeated(found, counts)
    names = {"videos": np.unique(np.concatenate([each.clip for each in several])), "classes": NAMES["classes"]}
    np.testing.assert_allclose(ours[0], interpolated_ap(*several, LIMITS, **names), atol=1e-12)
    np.testing.assert_array_equal(ours[1], interpolated_ap(truth, found, LIMITS, **NAMES))
    np.testing.assert_array_equal(ap_over_draws(matches, np.ones((2, 3)))[1], mean_of_present(ours[1]))


def test_draws_in_pieces_equal_draws_at_once(monkeypatch) -> None:
    random = np.random.default_rng(0)
    start = random.uniform(0, 9, 40)
    found = Detections(random.integers(0, 3, 40), start, start + 2, random.integers(0, 3, 40), random.random(40))
    matches = match_detections(found.take(np.arange(20)), found, LIMITS)
    counts = random.integers(0, 3, (50, 3))
    whole = ap_by_class(matches, counts)
    rows = detection_truth.row_chunks(50, 40, budget=100)
    assert len(rows) == 25
    monkeypatch.setattr("vidistill.tasks.average_precision.row_chunks", lambda *_: rows)
    np.testing.assert_array_equal(ap_by_class(matches, counts), whole)


TRUTH = Segments(np.array(["a", "a", "b"]), [0, 10, 0], [4, 14, 4], np.array(["x", "y", "x"]))
FOUND = Detections(np.array(["a", "b", "zz"]), [0, 8, 0], [4, 9, 4], np.array(["x", "x", "q"]), [0.9, 0.5, 0.4])


def test_classes_without_detections_are_zero_and_without_truth_are_left_out() -> None:
    ours = interpolated_ap(TRUTH, FOUND, [0.5], classes=["y", "x", "w"])[0]
    np.testing.assert_array_equal(ours, [0, 0.5, np.nan])
    assert mean_of_present(ours) == 0.25


def test_unknown_videos_are_ignored_or_an_error_and_wrong_in_a_set_that_has_them() -> None:
    assert interpolated_ap(TRUTH, FOUND, [0.5]).tolist() == [[0.5, 0]]
    with pytest.raises(DataError, match="1 of 3 detections .* video zz, class q"):
        interpolated_ap(TRUTH, FOUND, [0.5], unknown="error")
    wrong = Detections(np.array(["c", "a"]), [0, 0], [4, 4], np.array(["x", "x"]), [0.95, 0.9])
    assert interpolated_ap(TRUTH, wrong, [0.5])[0, 0] == 0.5
    assert interpolated_ap(TRUTH, wrong, [0.5], videos=["a", "b", "c"])[0, 0] == 0.25


def test_the_textbook_example_is_higher_than_the_pku_protocol() -> None:
    truth = Segments([0, 0], [0, 10], [4, 14], [1, 1])
    found = Detections([0, 0, 0], [0, 20, 10], [4, 24, 14], [1, 1, 1], [0.9, 0.8, 0.5])
    assert interpolated_ap(truth, found, [0.5])[0, 0] == pytest.approx(5 / 6)


def test_an_action_is_taken_once_and_the_surest_takes_first() -> None:
    truth = Segments([0, 0], [0, 4], [4, 8], [1, 1])
    found = Detections([0, 0], [0, 1], [4, 5], [1, 1], [0.9, 0.8])  # the second must be content with 1/7 of the other
    assert match_detections(truth, found, [0.1, 0.5]).right.tolist() == [[True, True], [True, False]]


def test_the_table_has_a_row_a_class() -> None:
    table = ap_table(TRUTH, FOUND, (0.5, 0.7))
    assert table[0] == {"class": "x", "truths": 2, "detections": 2, "map": 0.5, "ap@0.5": 0.5, "ap@0.7": 0.5}
    assert [row["class"] for row in table] == ["x", "y"]


def test_no_detections_at_all_are_an_ap_of_zero() -> None:
    assert interpolated_ap(TRUTH, FOUND.take(np.zeros(0, int)), [0.5]).tolist() == [[0, 0]]


def test_area_under_a_curve_by_hand() -> None:
    assert precision_recall_area([1, 0.5, 0.6], [0.2, 0.2, 0.6]) == pytest.approx(0.2 + 0.4 * 0.6)


@pytest.mark.parametrize("limits", [[], [0.0], [1.1], [float("nan")]])
def test_thresholds_out_of_range_are_an_error(limits) -> None:
    with pytest.raises(RecipeError, match="tIoU"):
        interpolated_ap(TRUTH, FOUND, limits)


def test_names_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="mixed"):
        interpolated_ap(TRUTH, Detections([0], [0], [1], np.array(["x"]), [0.5]), [0.5])
    with pytest.raises(DataError, match="twice"):
        interpolated_ap(TRUTH, FOUND, [0.5], videos=["a", "b", "a"])
    with pytest.raises(DataError, match="counts"):
        ap_by_class(match_detections(TRUTH, FOUND, [0.5]), np.ones((1, 5)))
