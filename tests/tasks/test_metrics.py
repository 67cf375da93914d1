"""Measures of calibration: known values and what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from vidistill.tasks.metrics import brier_scores, calibration_statistic, filled_bins


def test_brier_is_nothing_for_the_sure_and_right_and_two_for_the_sure_and_wrong() -> None:
    logits = np.array([[50.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(brier_scores(logits, np.array([0, 1, 2])), [0.0, 2.0, 2 / 3], atol=1e-12)


def test_adaptive_bins_hold_as_many_clips_each_in_order_of_confidence() -> None:
    confidence = np.random.default_rng(0).permutation(np.linspace(0.9, 1.0, 103))
    bins = filled_bins(confidence, 15)
    counts = np.bincount(bins, minlength=15)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(bins[np.argsort(confidence)]) >= 0).all()


def test_adaptive_calibration_sees_what_one_wide_bin_hides() -> None:
    confidence = np.repeat([0.95, 0.99], 50)
    correct = np.repeat([True, False], [97, 3])  # the less sure are all right, the surer not: in one bin that cancels
    wide, filled = (
        float(calibration_statistic(confidence, correct, 2, adaptive=each)(np.ones((1, 100)))[0])
        for each in (False, True)
    )
    assert wide == pytest.approx(0.0, abs=1e-12)
    assert filled == pytest.approx(0.05, abs=1e-12)
