from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks import soft_nms as module
from vidistill.tasks.soft_nms import hard_nms, soft_nms
from vidistill.tasks.temporal_iou import pairwise_tiou

FLOOR = 1e-2


def loop(bounds, scores, groups, sigma, top_k, released):
    """As the definition says it, one candidate at a time: {index: score}."""
    kept = {}
    for group in set(groups.tolist()):
        left = {i: scores[i] for i in np.flatnonzero(groups == group).tolist() if scores[i] >= FLOOR}
        picks = 0
        while len(left) > released and picks < top_k:
            best = max(left, key=lambda i: (left[i], -i))
            kept[best] = left.pop(best)
            picks += 1
            for i in list(left):
                overlap = pairwise_tiou(bounds[[best]], bounds[[i]])[0, 0]
                left[i] *= math.exp(-(overlap**2) / sigma)
                if left[i] < FLOOR:
                    del left[i]
    return kept


@st.composite
def candidates(draw):
    count = draw(st.integers(0, 25))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    start = random.uniform(0, 20, count)
    bounds = np.stack([start, start + random.uniform(0.1, 8, count)], axis=1)
    return bounds, random.uniform(0, 1, count) ** 3, random.integers(0, draw(st.integers(1, 5)), count)


@given(candidates(), st.sampled_from([0.1, 0.5, 3.0]), st.sampled_from([1, 4, 5000]), st.booleans(), st.booleans())
def test_all_groups_at_once_equal_the_loop(given_, sigma, top_k, released, small_blocks) -> None:
    bounds, scores, groups = given_
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(module, "CELLS", 8)
            patch.setattr(module, "ROUNDS", 1)
        kept, lowered = soft_nms(
            bounds, scores, groups, sigma=sigma, floor=FLOOR, top_k=top_k, variant="released" if released else "default"
        )
    expected = loop(bounds, scores, groups, sigma, top_k, released)
    assert sorted(kept.tolist()) == sorted(expected)
    np.testing.assert_allclose(lowered, [expected[i] for i in kept.tolist()], rtol=1e-9)
    assert (np.diff(kept) > 0).all() if released else (np.diff(lowered) <= 0).all()


@given(candidates(), st.integers(0, 100))
def test_the_order_of_the_input_means_nothing(given_, seed) -> None:
    bounds, scores, groups = given_
    order = np.random.default_rng(seed).permutation(len(scores))
    kept, lowered = soft_nms(bounds, scores, groups)
    again, lowered_again = soft_nms(bounds[order], scores[order], groups[order])
    assert order[again].tolist() == kept.tolist()
    np.testing.assert_allclose(lowered_again, lowered)


def test_the_last_candidate_is_kept_and_lost_in_the_released_form() -> None:
    bounds, scores = np.array([[0.0, 1.0], [5.0, 6.0]]), np.array([0.5, 0.9])
    assert soft_nms(bounds, scores)[0].tolist() == [1, 0]
    assert soft_nms(bounds, scores, variant="released")[0].tolist() == [1]
    assert soft_nms(bounds[:1], scores[:1], variant="released")[0].tolist() == []


def test_an_equal_segment_is_lowered_by_the_gaussian_of_one() -> None:
    kept, lowered = soft_nms(np.array([[0.0, 2.0]] * 2), np.array([0.8, 0.6]), sigma=0.5)
    assert kept.tolist() == [0, 1]
    np.testing.assert_allclose(lowered, [0.8, 0.6 * math.exp(-2)])


def test_other_groups_are_left_alone() -> None:
    scores = np.array([0.8, 0.6])
    assert soft_nms(np.array([[0.0, 2.0]] * 2), scores, np.array(["a", "b"]))[1].tolist() == scores.tolist()


def test_only_overlaps_from_the_limit_on_are_lowered() -> None:
    bounds, scores = np.array([[0.0, 4.0], [2.0, 6.0]]), np.array([0.8, 0.6])  # tIoU 1/3
    assert soft_nms(bounds, scores, overlap=0.4)[1].tolist() == [0.8, 0.6]
    assert soft_nms(bounds, scores, overlap=0.3)[1][1] < 0.6


@given(candidates(), st.sampled_from([0.2, 0.5]))
def test_plain_suppression_keeps_no_two_that_overlap_and_drops_only_what_overlaps_a_surer_one(given_, overlap) -> None:
    bounds, scores, groups = given_
    kept = hard_nms(bounds, scores, groups, overlap=overlap)
    both = (pairwise_tiou(bounds, bounds) > overlap) & (groups[:, None] == groups)
    assert not (both[np.ix_(kept, kept)] & ~np.eye(len(kept), dtype=bool)).any()
    dropped = np.setdiff1d(np.flatnonzero(scores > 0), kept)
    surer = scores[kept][None, :] >= scores[dropped][:, None]
    assert (both[np.ix_(dropped, kept)] & surer).any(1).all()


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(DataError, match="do not fit"):
        soft_nms(np.zeros((2, 2)), np.ones(3))
    with pytest.raises(DataError, match="finite"):
        soft_nms(np.zeros((1, 2)), np.array([np.nan]))
