from __future__ import annotations

import numpy as np
import pytest
from detection_cases import NAMES, detections, overlap_of, repeated, truths
from hypothesis import given
from hypothesis import strategies as st

from vidistill.tasks.average_precision import interpolated_ap
from vidistill.tasks.detection_truth import numbered
from vidistill.tasks.pku_precision import pku_ap, pku_ap_over_draws, pool_detections
from vidistill.tasks.segments import Detections, Segments

LIMITS = (0.2, 0.5, 0.8)


def loop_ap(truth, found, limit) -> float:
    """The protocol step by step, over all that is given; matching within video and class."""
    if not len(truth):
        return 0.0
    order = sorted(range(len(found)), key=lambda d: found.score[d])
    matched, holders = [], [0] * len(truth)
    for d in order:
        best, place = 0.0, -1
        for g in range(len(truth)):
            if truth.clip[g] == found.clip[d] and truth.label[g] == found.label[d]:
                overlap = overlap_of(truth.bounds[g], found.bounds[d])
                if overlap >= max(limit, best):
                    best, place = overlap, g
        matched.append(place)
        if place >= 0:
            holders[place] += 1
    left, positive = len(order), sum(count > 0 for count in holders)
    highest = positive / left if left else 0.0
    area, recall = 0.0, positive / len(truth)
    for place in matched:
        left -= 1
        if place < 0:
            continue
        holders[place] -= 1
        positive -= holders[place] == 0
        highest = max(highest, positive / left if left else 0.0)
        area += highest * (recall - positive / len(truth))
        recall = positive / len(truth)
    return area


@given(truths, detections)
def test_all_at_once_equals_the_protocol_step_by_step(truth, found) -> None:
    for by, column in (("class", "label"), ("video", "clip")):
        ours = pku_ap(truth, found, LIMITS, by=by, **NAMES)
        parts = [[part.take(getattr(part, column) == k) for part in (truth, found)] for k in range(3)]
        np.testing.assert_allclose(ours, [[loop_ap(*part, limit) for part in parts] for limit in LIMITS], atol=1e-12)
    whole = pku_ap(truth, found, LIMITS, by="set", **NAMES)
    np.testing.assert_allclose(whole, [[loop_ap(truth, found, limit)] for limit in LIMITS], atol=1e-12)


@given(truths, detections, st.integers(0, 1000))
def test_the_order_of_different_scores_means_nothing(truth, found, seed) -> None:
    expected = pku_ap(truth, found, LIMITS, **NAMES)
    order = np.random.default_rng(seed).permutation(len(found))
    np.testing.assert_array_equal(pku_ap(truth, found.take(order), LIMITS, **NAMES), expected)


@given(truths, detections, st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
def test_a_draw_equals_repeating_the_videos(truth, found, counts) -> None:
    pooled = pool_detections(numbered(truth, found, **NAMES), LIMITS, "class")
    ours = pku_ap_over_draws(pooled, np.array([[1, 1, 1], counts]))
    several = repeated(truth, counts), repeated(found, counts)
    names = {"videos": np.unique(np.concatenate([each.clip for each in several])), "classes": NAMES["classes"]}
    np.testing.assert_allclose(ours[1], pku_ap(*several, LIMITS, absent="skip", **names), atol=1e-12)
    np.testing.assert_array_equal(ours[0], pku_ap(truth, found, LIMITS, absent="skip", **NAMES))


@given(truths, detections)
def test_where_actions_are_apart_it_is_never_above_the_interpolated_ap(truth, found) -> None:
    first = np.unique(np.column_stack([truth.clip, truth.label]), axis=0, return_index=True)[1]
    truth = truth.take(first)
    assert (pku_ap(truth, found, LIMITS) <= interpolated_ap(truth, found, LIMITS) + 1e-12).all()


@given(truths)
def test_perfect_detections_have_an_ap_of_one(truth) -> None:
    keys = np.column_stack([truth.clip, truth.label, truth.bounds])
    distinct = truth.take(np.unique(keys, axis=0, return_index=True)[1])
    found = Detections(*vars(distinct).values(), np.linspace(0.1, 0.9, len(distinct)))
    np.testing.assert_allclose(pku_ap(distinct, found, LIMITS), 1)


def test_the_published_example() -> None:
    truth = Segments([0, 0], [0, 10], [4, 14], [1, 1])
    found = Detections([0, 0, 0], [0, 20, 10], [4, 24, 14], [1, 1, 1], [0.9, 0.8, 0.5])
    assert pku_ap(truth, found, [0.5])[0, 0] == pytest.approx(2 / 3)


def test_classes_without_truth_are_zero_or_skipped() -> None:
    truth = Segments([0], [0], [4], [1])
    found = Detections([0], [0], [4], [2], [0.5])
    assert pku_ap(truth, found, [0.5], classes=[1, 2]).tolist() == [[0, 0]]
    np.testing.assert_array_equal(pku_ap(truth, found, [0.5], classes=[1, 2], absent="skip"), [[0, np.nan]])
