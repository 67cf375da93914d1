"""Numbers of the metrics: by hand, against torchmetrics, and the behaviour of their intervals."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.tasks import metrics as measure
from vidistill.tasks.metrics import Interval, intervals, mean_statistic, paired_difference
from vidistill.tasks.recognition import Recognition

RANDOM = np.random.default_rng(2)
LOGITS = (RANDOM.normal(size=(300, 7)) * 2).astype(np.float32)
LABELS = np.where(RANDOM.random(300) < 0.5, LOGITS.argmax(1), RANDOM.integers(0, 7, 300))
ALL = np.ones((1, 300))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_agrees_with_torchmetrics(k) -> None:
    ours = measure.in_top(LOGITS, LABELS, k).mean()
    theirs = reference.multiclass_accuracy(
        torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 7, average="micro", top_k=k
    )
    assert ours == pytest.approx(float(theirs))


def test_mean_class_accuracy_agrees_with_torchmetrics() -> None:
    correct = measure.in_top(LOGITS, LABELS, 1)
    ours = measure.mean_class_statistic(correct, LABELS)(ALL)[0]
    theirs = reference.multiclass_accuracy(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 7, average="macro")
    assert ours == pytest.approx(float(theirs))


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_agrees_with_torchmetrics(bins) -> None:
    ours = measure.expected_calibration_error(LOGITS, LABELS, bins)
    theirs = reference.multiclass_calibration_error(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 7, bins)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_confusion_agrees_with_torchmetrics() -> None:
    theirs = reference.multiclass_confusion_matrix(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 7)
    assert (measure.confusion(LOGITS, LABELS, 7) == theirs.numpy()).all()


def test_nll_agrees_with_cross_entropy() -> None:
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), reduction="none")
    np.testing.assert_allclose(measure.negative_log_likelihoods(LOGITS, LABELS), theirs, rtol=1e-4, atol=1e-6)


def test_mean_class_accuracy_ignores_classes_without_clips() -> None:
    correct, labels = np.array([True, False, True]), np.array([0, 0, 9])
    assert measure.mean_class_statistic(correct, labels)(np.ones((1, 3)))[0] == 0.75


def test_calibration_bins_hold_their_upper_edge() -> None:
    assert measure.confidence_bins(np.array([0.2, 0.200001, 1.0, 0.0]), 5).tolist() == [0, 1, 4, 0]


def test_of_equal_logits_the_first_class_wins_as_in_argmax() -> None:
    logits = np.zeros((3, 4))
    assert measure.in_top(logits, np.array([0, 1, 3]), 1).tolist() == [True, False, False]
    assert measure.in_top(logits, np.array([0, 1, 3]), 2).tolist() == [True, True, False]


def test_fewer_than_five_classes_make_every_clip_right_in_the_top_five() -> None:
    assert measure.in_top(LOGITS[:, :3], LABELS % 3, 5).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_network_that_diverged_does_not_look_good(bad) -> None:
    logits = np.full((4, 3), bad)
    labels = np.array([0, 1, 2, 0])
    assert not measure.in_top(logits, labels, 1).any()
    np.testing.assert_allclose(measure.probabilities(logits), 1 / 3)
    np.testing.assert_allclose(measure.negative_log_likelihoods(logits, labels), np.log(3))


def test_extreme_logits_give_finite_numbers() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    np.testing.assert_allclose(measure.negative_log_likelihoods(logits, np.array([0, 1])), [0, 2e4])


def test_the_bootstrap_resamples_whole_clips_with_replacement() -> None:
    counts = np.concatenate(list(measure.draws(50, 400, seed=1)))
    assert counts.shape == (400, 50)
    assert (counts.sum(1) == 50).all()
    assert counts.var() == pytest.approx(1.0, abs=0.05)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = RANDOM.random(2000) < 0.3
    found = intervals({"mean": mean_statistic(values)}, 2000, 2000)["mean"]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_chunks_do_not_change_the_statistic(monkeypatch) -> None:
    correct = measure.in_top(LOGITS, LABELS, 1)
    confidence = measure.probabilities(LOGITS).max(1)
    statistics = {
        "mean": mean_statistic(correct),
        "class": measure.mean_class_statistic(correct, LABELS),
        "ece": measure.calibration_statistic(confidence, correct),
    }
    whole = intervals(statistics, 300, 100)
    monkeypatch.setattr(measure, "CHUNK", 300 * 7)
    parts = intervals(statistics, 300, 100)
    for name, interval in whole.items():
        np.testing.assert_allclose(list(parts[name].as_dict().values()), list(interval.as_dict().values()))


def test_each_statistic_of_a_resample_is_that_of_the_resampled_clips() -> None:
    correct = measure.in_top(LOGITS, LABELS, 1)
    drawn = RANDOM.integers(0, 300, 300)
    counts = np.bincount(drawn, minlength=300)[None].astype(float)
    by_counts = measure.mean_class_statistic(correct, LABELS)(counts)[0]
    by_clips = measure.mean_class_statistic(correct[drawn], LABELS[drawn])(ALL)[0]
    assert by_counts == pytest.approx(by_clips)
    confidence = measure.probabilities(LOGITS).max(1)
    by_counts = measure.calibration_statistic(confidence, correct)(counts)[0]
    assert by_counts == pytest.approx(measure.expected_calibration_error(LOGITS[drawn], LABELS[drawn]))


def test_a_restricted_statistic_is_nan_where_none_of_its_clips_is_drawn() -> None:
    statistic = measure.restricted(mean_statistic(np.array([1.0, 3.0])), np.array([True, False, True]))
    counts = np.array([[1.0, 5.0, 1.0], [0.0, 9.0, 2.0], [0.0, 3.0, 0.0]])
    np.testing.assert_array_equal(statistic(counts), [2.0, 3.0, np.nan])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 5))
def test_intervals_hold_their_value_and_the_seed_decides_them(clips, seed) -> None:
    values = np.random.default_rng(clips).random(clips)
    found = intervals({"mean": mean_statistic(values)}, clips, 200, seed)["mean"]
    assert values.min() <= found.low <= found.high <= values.max() + 1e-12
    assert found == intervals({"mean": mean_statistic(values)}, clips, 200, seed)["mean"]


def test_no_clips_give_no_number() -> None:
    assert np.isnan(intervals({"mean": mean_statistic(np.zeros(0))}, 0)["mean"].value)


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    values = RANDOM.random(100_000)
    tracemalloc.start()
    intervals({"mean": mean_statistic(values)}, len(values), 120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # all resamples at once would be 120 * 100000 * 8 bytes for each of three arrays


def test_a_paired_difference_is_narrower_than_two_separate_intervals() -> None:
    first = RANDOM.random(500) < 0.6
    second = first.copy()
    second[:20] = False
    found = paired_difference(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert 0 < found.low < found.value < found.high
    alone = intervals({"mean": mean_statistic(first)}, 500)["mean"]
    assert found.high - found.low < alone.high - alone.low


def test_a_paired_difference_averages_seeds_first() -> None:
    first = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    assert paired_difference(first, np.zeros(4, bool), bootstrap=0) == Interval(0.375, 0.375, 0.375)


def test_confusion_and_per_class_accuracy_skip_clips_without_a_label() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    labels = np.array([0, 1, 0, -1])
    assert measure.confusion(logits, labels, 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    accuracy, clips = measure.per_class_accuracy(logits, labels, 3)
    np.testing.assert_array_equal(accuracy, [0.5, 1.0, np.nan])
    assert clips.tolist() == [2, 1, 0]


def test_the_reliability_diagram_adds_up_to_the_calibration_error() -> None:
    diagram = measure.reliability(LOGITS, LABELS)
    gaps = [
        count * abs(confidence - accuracy)
        for confidence, accuracy, count in zip(*diagram.values(), strict=True)
        if count
    ]
    assert sum(diagram["count"]) == 300
    assert sum(gaps) / 300 == pytest.approx(measure.expected_calibration_error(LOGITS, LABELS))
    assert measure.reliability(LOGITS[:0], LABELS[:0])["count"] == [0] * 15


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_every_metric_lies_within_its_own_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(60, 5)) * 3, random.integers(0, 5, 60)
    task = Recognition({"action": 5})
    for name, found in task.metrics({"action": logits}, {"action": labels}, bootstrap=200).items():
        assert found.low <= found.value <= found.high, name
        assert found.low >= 0
