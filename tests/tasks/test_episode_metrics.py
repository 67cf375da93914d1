from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks.episode_metrics import (
    by_episode,
    class_accuracies,
    episode_accuracies,
    episode_confusion,
    episode_score,
    episode_statistics,
    offered,
)
from vidistill.tasks.metrics import intervals


def episodes(count=6, queries=4, way=3, seed=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = np.stack([random.permutation(7)[:way] for _ in range(count)])
    return random.normal(size=(count, queries, way)), random.integers(0, way, (count, queries)), classes


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_accuracy_and_confusion_are_what_a_loop_counts(count, queries, way, seed) -> None:
    logits, labels, classes = episodes(count, queries, way, seed)
    right, confusion, offers = np.zeros(count), np.zeros((7, 7)), np.zeros((7, 7))
    for e in range(count):
        for q in range(queries):
            taken = int(logits[e, q].argmax())
            right[e] += (taken == labels[e, q]) / queries
            confusion[classes[e, labels[e, q]], classes[e, taken]] += 1
            for number in classes[e]:
                offers[classes[e, labels[e, q]], number] += 1
    np.testing.assert_allclose(episode_accuracies(logits, labels), right)
    assert (episode_confusion(logits, labels, classes, 7) == confusion).all()
    assert (offered(labels, classes, 7) == offers).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_the_accuracy_of_a_class_is_that_of_its_queries_in_all_episodes(count, queries, way, seed) -> None:
    if count:
        logits, labels, classes = episodes(count, queries, way, seed)
    else:
        logits, labels, classes = np.zeros((0, queries, way)), np.zeros((0, queries), int), np.zeros((0, way), int)
    right: dict[int, list[bool]] = {number: [] for number in range(7)}
    for e in range(count):
        for q in range(queries):
            right[int(classes[e, labels[e, q]])].append(int(logits[e, q].argmax()) == labels[e, q])
    accuracies, asked = class_accuracies(logits, labels, classes, 7)
    assert asked.tolist() == [len(each) for each in right.values()]
    np.testing.assert_allclose(accuracies, [np.mean(each) if each else np.nan for each in right.values()])


def test_the_score_is_the_mean_with_196_standard_errors() -> None:
    score = episode_score(np.array([1.0, 0.6, 0.8, 0.4]))
    assert score.mean == pytest.approx(0.7)
    assert score.half_width == pytest.approx(1.96 * np.sqrt(0.05) / 2)
    assert np.isnan(episode_score(np.zeros(0)).mean)


def test_the_bootstrap_over_episodes_agrees_with_the_normal_interval() -> None:
    logits, labels, _ = episodes(400, 5)
    statistics = episode_statistics(logits, labels)
    found = intervals(statistics, 400, 1000)["top1"]
    score = episode_score(episode_accuracies(logits, labels))
    assert found.value == pytest.approx(score.mean)
    assert (found.high - found.low) / 2 == pytest.approx(score.half_width, rel=0.15)


def test_a_statistic_counts_whole_episodes() -> None:
    logits, labels, _ = episodes(2)
    accuracies = episode_accuracies(logits, labels)
    top1 = episode_statistics(logits, labels)["top1"]
    np.testing.assert_allclose(top1(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])), [*accuracies, accuracies.mean()])


def test_queries_of_a_diverged_network_are_wrong_and_taken_for_nothing() -> None:
    logits, labels, classes = episodes(1, 3)
    labels[:] = 0
    logits[0, 0] = np.nan
    logits[0, 1:] = [9.0, 0.0, 0.0]
    assert episode_accuracies(logits, labels)[0] == pytest.approx(2 / 3)
    assert episode_confusion(logits, labels, classes, 7).sum() == 2
    assert np.isfinite(episode_statistics(logits, labels)["nll"](np.ones((1, 1)))).all()


def test_rows_are_grouped_by_their_episode() -> None:
    rows = np.arange(12).reshape(6, 2)
    assert by_episode(rows, np.array([3, 3, 5, 5, 9, 9])).shape == (3, 2, 2)
    assert by_episode(rows[:0], np.zeros(0, int)).shape == (0, 1, 2)
    with pytest.raises(DataError, match="episode 5 has another number of queries than episode 3"):
        by_episode(rows, np.array([3, 3, 5, 5, 5, 5]))
    with pytest.raises(DataError, match="not in order"):
        by_episode(rows, np.array([3, 5, 3, 5, 9, 9]))


def test_shapes_and_labels_that_do_not_fit_are_refused() -> None:
    logits, labels, _ = episodes()
    with pytest.raises(DataError, match=r"ask for \(E, Q, way\)"):
        episode_accuracies(logits[0], labels)
    with pytest.raises(DataError, match=r"query labels lie in 0\.\.3, outside 0\.\.2"):
        episode_accuracies(logits, np.where(labels == 2, 3, labels))
