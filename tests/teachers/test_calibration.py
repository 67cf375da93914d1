from __future__ import annotations

import numpy as np
import pytest
import torch

from vidistill.core.errors import DataError
from vidistill.teachers.calibration import HIGHEST, LOWEST, fit_temperature, negative_log_likelihood


def honest(count: int = 4000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the true distribution of their labels."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(count, classes)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_scaling_of_honest_logits(factor) -> None:
    logits, labels = honest()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_the_fit_is_the_minimum() -> None:
    logits, labels = honest(300)
    best = fit_temperature(logits * 2, labels, smoothing=0.0)
    at_best = negative_log_likelihood(logits * 2, labels, best)
    for temperature in best * np.array([0.5, 0.9, 0.99, 1.01, 1.1, 2.0]):
        assert at_best <= negative_log_likelihood(logits * 2, labels, float(temperature))


def test_a_perfect_teacher_stays_within_the_search() -> None:
    logits, labels = np.eye(3) * 9, np.arange(3)
    assert fit_temperature(logits, labels, smoothing=0.0) == pytest.approx(LOWEST, rel=1e-3)
    assert fit_temperature(logits, labels) > 1
    assert fit_temperature(logits, (labels + 1) % 3) == pytest.approx(HIGHEST, rel=1e-3)


def test_clips_without_a_label_do_not_count() -> None:
    logits, labels = honest(200)
    more = np.concatenate([logits, np.full((5, 5), np.nan)]), np.concatenate([labels, np.full(5, -1)])
    assert fit_temperature(*more) == fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    assert fit_temperature(logits, np.full(200, -1)) == 1.0


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))


def test_extreme_logits_are_finite() -> None:
    assert np.isfinite(negative_log_likelihood(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([1, 1]), 0.05))
