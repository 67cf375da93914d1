"""Late fusion of streams: probabilities that add up, whose order does not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from vidistill.core.errors import DataError
from vidistill.tasks.late_fusion import Variant, fused_probabilities
from vidistill.tasks.metrics import probabilities


def streams(count: int, *shape: int) -> list[np.ndarray]:
    return list(3 * np.random.default_rng(count).standard_normal((count, *shape)))


@given(some.integers(1, 3), some.integers(0, 3), some.sampled_from(["default", "released"]))
def test_rows_sum_to_one_in_any_order_of_streams(count: int, steps: int, variant: Variant) -> None:
    given_ = streams(count, 4, 5, *((steps,) if steps else ()))
    fused = fused_probabilities(given_, variant)
    assert fused.shape == (4, 5)
    np.testing.assert_allclose(fused.sum(1), 1.0)
    np.testing.assert_allclose(fused_probabilities(given_[::-1], variant), fused)


def test_the_mean_of_probabilities_is_that_of_each_stream() -> None:
    rgb, flow = streams(2, 4, 5)
    np.testing.assert_allclose(fused_probabilities([rgb, flow]), (probabilities(rgb) + probabilities(flow)) / 2)
    np.testing.assert_allclose(fused_probabilities([rgb]), probabilities(rgb))


def test_streams_of_other_lengths_count_alike() -> None:
    rgb, flow = streams(2, 4, 5)
    longer = np.repeat(flow[..., None], 7, axis=2)
    np.testing.assert_allclose(fused_probabilities([rgb, longer]), fused_probabilities([rgb, flow]))
    with pytest.raises(DataError, match=r"\(4, 5\), \(4, 5, 7\) cannot be fused"):
        fused_probabilities([rgb, longer], "released")


def test_released_probabilities_have_two_softmaxes() -> None:
    rgb, flow = streams(2, 4, 5, 3)
    by_time = np.stack([probabilities(rgb[..., t] + flow[..., t]) for t in range(3)])
    np.testing.assert_allclose(fused_probabilities([rgb, flow], "released"), probabilities(by_time.sum(0)))


@pytest.mark.parametrize("other", [(3, 5), (4, 6), (4,)])
def test_streams_of_other_clips_or_classes_are_refused(other: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"streams of shapes \(4, 5\).* cannot be fused"):
        fused_probabilities([np.zeros((4, 5)), np.zeros(other)])
    with pytest.raises(DataError, match="no streams"):
        fused_probabilities([])
