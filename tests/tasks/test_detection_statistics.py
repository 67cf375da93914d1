from __future__ import annotations

import numpy as np
import pytest
from detection_cases import NAMES, detections, truths
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks.average_precision import interpolated_ap, mean_of_present
from vidistill.tasks.detection_statistics import (
    average_precisions,
    detection_statistics,
    step_interval_statistics,
    step_statistics,
)
from vidistill.tasks.metrics import intervals
from vidistill.tasks.pku_precision import pku_ap
from vidistill.tasks.segments import Detections, Segments

LIMITS = (0.3, 0.5)


@given(truths, detections)
def test_every_video_once_gives_the_plain_values(truth, found) -> None:
    statistics = detection_statistics(truth, found, NAMES["videos"], LIMITS, classes=NAMES["classes"])
    value = {name: statistic(np.ones((1, 3)))[0] for name, statistic in statistics.items()}
    plain = mean_of_present(interpolated_ap(truth, found, LIMITS, **NAMES))
    action, video = (pku_ap(truth, found, LIMITS, by=by, **NAMES).mean(1) for by in ("class", "video"))
    for name, expected in (("map", plain), ("pku_map_action", action), ("pku_map_video", video)):
        assert value[name] == pytest.approx(expected.mean())
        assert [value[f"{name}@{limit:g}"] for limit in LIMITS] == pytest.approx(expected.tolist())
    assert len(value) == 9


def test_they_serve_for_intervals() -> None:
    random = np.random.default_rng(0)
    start = random.uniform(0, 50, 60)
    video, label = random.integers(0, 12, 60), random.integers(0, 3, 60)
    truth = Segments(video, start, start + 4, label)
    found = Detections(video, start + random.normal(0, 2, 60), start + 7, label, random.random(60))
    found_intervals = intervals(detection_statistics(truth, found, np.arange(12), LIMITS), 12, resamples=200)
    for interval in found_intervals.values():
        assert 0 <= interval.low < interval.value < interval.high <= 1


def test_a_statistic_follows_the_counts_it_is_given() -> None:
    truth = Segments([0, 1], [0, 0], [4, 4], [1, 1])
    found = Detections([0], [0], [4], [1], [0.9])
    statistic = detection_statistics(truth, found, [0, 1], [0.5])["map@0.5"]
    assert statistic(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [0.5, 1]
    assert statistic(np.array([[0.0, 2.0]])).tolist() == [0]


def loop_average_precision(scores, positive) -> float:
    """Precision and recall at every distinct score, from the definition."""
    area = recall = 0.0
    for limit in sorted(set(scores), reverse=True):
        chosen = scores >= limit
        now = (chosen & positive).sum() / positive.sum()
        area += (now - recall) * (chosen & positive).sum() / chosen.sum()
        recall = now
    return area


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_plain_average_precision_with_ties_and_weights_equals_the_loop(rows) -> None:
    labels, grades, weights = (np.array(column) for column in zip(*rows, strict=True))
    scores = np.stack([grades, 5 - grades, grades % 2], axis=1)
    ours = average_precisions(scores, labels, np.stack([np.ones(len(rows)), weights]))
    for row, times in zip(ours, (np.ones(len(rows), int), weights), strict=True):
        again = np.repeat(np.arange(len(rows)), times)
        for k in range(3):
            positive = labels[again] == k
            expected = loop_average_precision(scores[again, k], positive) if positive.any() else np.nan
            np.testing.assert_allclose(row[k], expected)


def test_step_statistics_by_hand() -> None:
    logits = np.log([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]])
    ours = step_statistics(logits, np.array([0, 0, 1, 1]))
    assert ours["step_accuracy"] == 0.5
    assert ours["background_accuracy"] == ours["action_accuracy"] == ours["background_share"] == 0.5
    assert ours["step_map"] == pytest.approx(((1 + 2 / 3) / 2 + (1 + 2 / 3) / 2) / 2)


def test_unknown_steps_do_not_count_and_diverged_ones_are_wrong() -> None:
    logits = np.array([[5.0, 0.0], [np.nan, 0.0], [0.0, 5.0]])
    assert step_statistics(logits, np.array([0, 0, -1]))["step_accuracy"] == 0.5
    empty = step_statistics(np.zeros((0, 2)), np.zeros(0))
    assert np.isnan(list(empty.values())).all()


def test_step_statistics_of_a_draw_are_those_of_the_steps_drawn() -> None:
    random = np.random.default_rng(0)
    logits, labels, clip = random.normal(size=(30, 3)), random.integers(-1, 3, 30), np.repeat([0, 1, 2], 10)
    statistics = step_interval_statistics(logits, labels, clip, 3)
    rows = np.concatenate([np.flatnonzero(clip == 0), np.flatnonzero(clip == 2), np.flatnonzero(clip == 2)])
    expected = step_statistics(logits[rows], labels[rows])
    for name, statistic in statistics.items():
        assert statistic(np.array([[1.0, 0.0, 2.0]]))[0] == pytest.approx(expected[name]), name


def test_steps_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="do not fit"):
        step_statistics(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(DataError, match="label 3"):
        step_statistics(np.zeros((1, 3)), np.array([3]))


@pytest.mark.parametrize("classes", [None, [1, 2]])
def test_a_set_without_actions_or_without_detections_has_values_without_a_warning(classes) -> None:
    nothing, one = np.zeros(0, int), Detections([0], [0], [1], [1], [0.5])
    for truth, found, expected in (
        (one, one.take(nothing), 0.0),
        (one.take(nothing), one, np.nan),
        (one.take(nothing), one.take(nothing), np.nan),
    ):
        statistics = detection_statistics(truth, found, [0, 1], LIMITS, classes=classes)
        values = intervals(statistics, 2, resamples=10)
        np.testing.assert_array_equal(values["map"].value, expected)
        assert values["pku_map_video"].value == 0
