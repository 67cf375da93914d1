"""Late fusion of streams: probabilities that add up, whose order does not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from vidistill.core.errors import DataError
from vidistill.tasks.base import Predictions
from vidistill.tasks.late_fusion import Variant, fused_predictions, fused_probabilities, renumbered
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


def test_weights_are_shares_of_the_mean_and_only_their_ratio_counts() -> None:
    rgb, flow = streams(2, 4, 5)
    expected = (probabilities(rgb) + 1.5 * probabilities(flow)) / 2.5
    np.testing.assert_allclose(fused_probabilities([rgb, flow], weights=[1, 1.5]), expected)
    np.testing.assert_allclose(fused_probabilities([rgb, flow], weights=[2, 3]), expected)
    np.testing.assert_allclose(
        fused_probabilities([rgb, flow], "released", weights=[1, 2]),
        fused_probabilities([rgb, flow, flow], "released"),
    )


@pytest.mark.parametrize(
    ("weights", "words"), [([1], "1 weights for 2"), ([1, 0], "above 0"), ([1, -1], "above 0"), ([1, np.nan], "above")]
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fused_probabilities(streams(2, 4, 5), weights=weights)


def anchors(seed: int, rows: int = 12) -> Predictions:
    """Rows of four clips, three each, with spans and one segment a clip."""
    random = np.random.default_rng(seed)
    start = random.uniform(0, 5, rows)
    return Predictions(
        {"action": random.normal(0, 2, (rows, 4)).astype(np.float32)},
        {"action": np.arange(rows) % 4},
        np.repeat([2, 3, 5, 8], rows // 4),
        np.stack([start, start + random.uniform(0.5, 2, rows)], 1),
        np.array([[2, 0, 1, 1], [3, 1, 2, 2], [5, 2, 3, 3], [8, 3, 4, 1]], np.float64),
    )


@given(some.integers(0, 50), some.lists(some.floats(0.1, 5), min_size=2, max_size=2))
def test_fused_steps_have_the_mean_probabilities_at_the_first_streams_times(seed: int, weights: list[float]) -> None:
    first, second = anchors(seed), anchors(seed + 1)
    fused = fused_predictions([first, second], weights=weights)
    expected = fused_probabilities([first.logits["action"], second.logits["action"]], weights=weights)
    np.testing.assert_allclose(probabilities(fused.logits["action"]), expected, atol=1e-6)
    np.testing.assert_array_equal(fused.spans, first.spans)


@given(some.integers(0, 50), some.floats(0.1, 5))
def test_fused_anchors_lie_between_the_streams_in_span_and_logarithm(seed: int, weight: float) -> None:
    both = [anchors(seed), anchors(seed + 1)]
    fused = fused_predictions(both, weights=[1, weight], proposals=True)
    assert fused.spans is not None
    for own, parts in (
        (fused.spans, [each.spans for each in both]),
        (fused.logits["action"], [np.log(probabilities(each.logits["action"])) for each in both]),
    ):
        low, high = np.minimum(*parts), np.maximum(*parts)
        assert (own >= low - 1e-5).all()
        assert (own <= high + 1e-5).all()
        np.testing.assert_allclose(own, (parts[0] + weight * parts[1]) / (1 + weight), atol=1e-5)


@given(some.integers(0, 50), some.booleans())
def test_a_stream_fused_with_itself_is_itself(seed: int, proposals: bool) -> None:
    one = anchors(seed)
    fused = fused_predictions([one, one], weights=[1, 3], proposals=proposals)
    np.testing.assert_allclose(
        probabilities(fused.logits["action"]), probabilities(one.logits["action"]), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(fused.spans, one.spans)


def test_a_network_that_diverged_leaves_the_other_streams_order() -> None:
    one = anchors(0)
    broken = replace(one, logits={"action": np.full((12, 4), np.nan, np.float32)})
    for proposals in (False, True):
        fused = fused_predictions([one, broken], proposals=proposals).logits["action"]
        np.testing.assert_array_equal(fused.argmax(1), one.logits["action"].argmax(1))


def test_streams_of_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="other rows"):
        fused_predictions([anchors(0), anchors(0, 16)])
    with pytest.raises(DataError, match="have no segments"):
        fused_predictions([anchors(0), replace(anchors(1), spans=None)], proposals=True)
    with pytest.raises(DataError, match="no streams"):
        fused_predictions([])


@given(some.permutations([0, 1, 2, 3]))
def test_renumbered_rows_keep_their_clip_labels_times_and_segments(order: list[int]) -> None:
    before = anchors(3)
    after = renumbered(before, np.array(order))
    assert (np.diff(after.clip) >= 0).all()
    assert before.truth is not None
    assert after.truth is not None
    for old, new in zip([2, 3, 5, 8], order, strict=True):
        here, there = before.clip == old, after.clip == new
        np.testing.assert_array_equal(before.logits["action"][here], after.logits["action"][there])
        np.testing.assert_array_equal(before.labels["action"][here], after.labels["action"][there])
        np.testing.assert_array_equal(before.spans[here], after.spans[there])  # type: ignore[index]
        np.testing.assert_array_equal(
            before.truth[before.truth[:, 0] == old, 1:], after.truth[after.truth[:, 0] == new, 1:]
        )
