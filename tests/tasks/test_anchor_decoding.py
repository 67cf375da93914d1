"""Raw answers of an anchor-free detector become scored segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.anchor_decoding import (
    Candidates,
    RawAnswers,
    anchor_scores,
    candidates,
    fuse_answers,
    refined_bounds,
    suppressed,
)

PRIORS = np.array([0.25, 0.5, 0.75])


def answers(seed: int = 0, windows: int = 2, **given: NDArray[np.float64]) -> RawAnswers:
    draw = np.random.default_rng(seed)
    shapes = {"loc": 2, "conf": 4, "prop_loc": 2, "prop_conf": 4, "center": 1}
    parts = {name: draw.standard_normal((windows, 3, last)) for name, last in shapes.items()}
    return RawAnswers(**{**parts, "loc": np.exp(parts["loc"]), **given}, priors=PRIORS)


def test_a_segment_reaches_its_refined_distances_around_the_anchor_and_stays_in_the_window() -> None:
    loc = np.array([[[10.0, 30.0], [8.0, 8.0], [200.0, 200.0]]])
    growth = np.array([[[0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]])
    raw = answers(windows=1, loc=loc, prop_loc=growth)
    assert refined_bounds(raw, 100).tolist() == [[[5.0, 45.0], [42.0, 58.0], [0.0, 100.0]]]


def test_a_score_is_the_mean_of_both_likelihoods_times_the_fit() -> None:
    raw = answers()
    both = torch.from_numpy(raw.conf).softmax(-1) + torch.from_numpy(raw.prop_conf).softmax(-1)
    expected = both / 2 * torch.from_numpy(raw.center).sigmoid()[..., None]
    np.testing.assert_allclose(anchor_scores(raw), expected, rtol=1e-12)


def test_huge_logits_give_finite_scores() -> None:
    scores = anchor_scores(answers(conf=np.full((2, 3, 4), 1e4), center=np.full((2, 3), -1e4)))
    assert (scores == 0).all()


def test_a_fusion_is_the_mean_of_raw_answers() -> None:
    one, other = answers(1), answers(2)
    fused = fuse_answers([one, other])
    for name in ("loc", "conf", "prop_loc", "prop_conf", "center"):
        np.testing.assert_allclose(getattr(fused, name), (getattr(one, name) + getattr(other, name)) / 2)


def test_streams_of_other_windows_or_anchors_are_not_fused() -> None:
    one = answers(1)
    moved = RawAnswers(one.loc, one.conf, one.prop_loc, one.prop_conf, one.center, PRIORS + 0.1)
    for streams in ([], [one, answers(1, windows=1)], [one, moved]):
        with pytest.raises(DataError, match="cannot be fused"):
            fuse_answers(streams)


def test_answers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"prop_loc \(2, 2, 2\) does not fit conf \(2, 3, 4\)"):
        answers(prop_loc=np.zeros((2, 2, 2)))


def test_answers_are_taken_from_a_networks_outputs() -> None:
    raw = answers()
    features = {name: torch.from_numpy(getattr(raw, name)) for name in ("loc", "prop_loc", "prop_conf", "center")}
    features["priors"] = torch.from_numpy(PRIORS).expand(2, -1)
    found = RawAnswers.of(torch.from_numpy(raw.conf).requires_grad_(), features)
    np.testing.assert_allclose(found.conf, raw.conf, rtol=1e-6)
    np.testing.assert_allclose(found.priors, PRIORS)


def found_in(bounds: NDArray[np.float64], scores: NDArray[np.float64], **options: object) -> Candidates:
    names, offsets = np.array(["a", "b"]), np.array([0, 20])
    return candidates(bounds, scores, clip=names, offset=offsets, rate=10.0, threshold=0.5, **options)


def test_candidates_are_in_seconds_of_their_clip_and_none_is_background() -> None:
    bounds = np.array([[[0.0, 10.0]], [[5.0, 15.0]]])
    scores = np.array([[[0.9, 0.6, 0.5]], [[0.9, 0.7, 0.8]]])
    found = found_in(bounds, scores)
    rows = [*zip(found.clip, found.label.tolist(), found.bounds.tolist(), found.score.tolist(), strict=True)]
    assert rows == [("a", 1, [0.0, 1.0], 0.6), ("b", 1, [2.5, 3.5], 0.7), ("b", 2, [2.5, 3.5], 0.8)]
    assert len(found.detections()) == 3


def test_a_segment_that_ends_before_it_starts_is_kept_by_the_released_form_only() -> None:
    bounds, scores = np.array([[[9.0, 1.0]], [[3.0, 3.0]]]), np.full((2, 1, 2), 0.9)
    assert len(found_in(bounds, scores)) == 0
    released = found_in(bounds, scores, variant="released")
    assert len(released) == 2
    with pytest.raises(DataError, match="ends before it starts"):
        released.detections()


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit each other"):
        found_in(np.zeros((1, 3, 2)), np.zeros((1, 3, 4)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40))
def test_suppression_works_on_each_clip_and_class_by_itself(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    start = draw.uniform(0, 10, count)
    bounds = np.stack([start, start + draw.uniform(0.1, 5, count)], axis=1)
    clip, label = draw.integers(0, 2, count), draw.integers(1, 3, count)
    whole = Candidates(clip, label, bounds, draw.uniform(0.01, 1, count))
    together = suppressed(whole, sigma=0.3)
    parts = []
    for group in sorted({*zip(clip.tolist(), label.tolist(), strict=True)}):
        rows = (clip == group[0]) & (label == group[1])
        parts.append(suppressed(Candidates(clip[rows], label[rows], bounds[rows], whole.score[rows]), sigma=0.3))
    for name in vars(whole):
        expected = np.concatenate([getattr(part, name) for part in parts]) if parts else getattr(whole, name)
        np.testing.assert_array_equal(getattr(together, name), expected)
    assert len(together) <= count
