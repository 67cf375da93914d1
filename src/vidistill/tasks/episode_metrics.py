"""Metrics of few-shot recognition. The unit is the episode: intervals resample episodes, as metrics.py resamples clips.

The accuracy of an episode is the fraction of its queries whose own class has the largest logit; published tables give
the mean over 10,000 episodes with 1.96 standard errors (Lite-MKD, TRX: 196 * std(ddof=0) / sqrt(n), in percent).
Episodes share clips, so either interval is about the drawing of episodes from the given test clips, not about new
clips. E episodes, Q queries each. Queries with logits that are not finite are wrong, as in metrics.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.metrics import Floats, Integers, Statistic, in_top, mean_statistic, negative_log_likelihoods

Z95 = 1.96


@dataclass(frozen=True)
class EpisodeScore:
    """Mean accuracy over episodes and half the width of its 95 % interval, as fractions; NaN without episodes."""

    mean: float
    half_width: float
    episodes: int


def episode_score(accuracies: NDArray[Any]) -> EpisodeScore:
    """Mean and 1.96 * std(ddof=0) / sqrt(E) of the accuracies of episodes (E,)."""
    count = len(accuracies)
    if count == 0:
        return EpisodeScore(math.nan, math.nan, 0)
    values = np.asarray(accuracies, np.float64)
    return EpisodeScore(float(values.mean()), Z95 * float(values.std()) / math.sqrt(count), count)


def episode_accuracies(logits: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Fraction of right queries of each episode (E,).

    Args:
        logits: (E, Q, way).
        labels: (E, Q), in 0..way-1.

    Raises:
        DataError: shapes that do not fit.
    """
    _check(logits, labels)
    right = in_top(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), 1)
    return np.asarray(right.reshape(labels.shape).mean(1))


def by_episode(rows: NDArray[Any], episode: NDArray[Any]) -> NDArray[Any]:
    """Rows (E * Q, ...) as (E, Q, ...), by the episode's number of each row, increasing.

    Raises:
        DataError: episodes with different numbers of queries, or rows of one episode apart.
    """
    numbers, counts = np.unique(episode, return_counts=True)
    if len(numbers) and (counts != counts[0]).any():
        odd = int(numbers[counts != counts[0]][0])
        raise DataError(f"episode {odd} has another number of queries than episode {int(numbers[0])} ({counts[0]})")
    if (np.diff(episode) < 0).any():
        raise DataError("queries are not in order of their episodes")
    return rows.reshape(len(numbers), -1 if len(numbers) else 1, *rows.shape[1:])


def episode_statistics(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, Statistic]:
    """Metrics as functions of how often each episode is drawn: "top1" and "nll" (nats a query).

    Args:
        logits: (E, Q, way).
        labels: (E, Q).

    Raises:
        DataError: shapes that do not fit.
    """
    accuracies = episode_accuracies(logits, labels)
    losses = negative_log_likelihoods(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    return {
        "top1": mean_statistic(accuracies),
        "nll": mean_statistic(losses.reshape(labels.shape).mean(1)),
    }


def class_accuracies(
    logits: NDArray[Any], labels: NDArray[Any], classes: NDArray[Any], count: int
) -> tuple[Floats, Integers]:
    """Accuracy (count,) over all queries of each class, NaN for one that is never asked for, and their number (count,).

    Args:
        logits: (E, Q, way).
        labels: (E, Q), in 0..way-1.
        classes: class numbers of each episode (E, way).
        count: number of classes.

    Raises:
        DataError: shapes that do not fit.
    """
    _check(logits, labels)
    truth = np.take_along_axis(classes, labels, axis=1).ravel()
    right = in_top(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), 1)
    asked = np.bincount(truth, minlength=count)
    hits = np.bincount(truth, weights=right, minlength=count)
    return np.where(asked > 0, hits / np.maximum(asked, 1), np.nan), asked.astype(np.int64)


def episode_confusion(logits: NDArray[Any], labels: NDArray[Any], classes: NDArray[Any], count: int) -> Integers:
    """Counts (count, count) over all queries: row = the query's class, column = the class it was taken for.

    An episode offers `way` of the classes, so rows compare with the offers of `offered`, not with each other.

    Args:
        logits: (E, Q, way).
        labels: (E, Q), in 0..way-1.
        classes: class numbers of each episode (E, way).
        count: number of classes.

    Raises:
        DataError: shapes that do not fit.
    """
    _check(logits, labels)
    finite = np.isfinite(logits).all(-1, keepdims=True)
    predicted = np.where(finite, logits, 0.0).argmax(-1)
    truth = np.take_along_axis(classes, labels, axis=1)
    taken = np.take_along_axis(classes, predicted, axis=1)
    kept = finite[..., 0]
    pairs = (truth[kept] * count + taken[kept]).astype(np.int64)
    return np.bincount(pairs, minlength=count * count).reshape(count, count).astype(np.int64)


def offered(labels: NDArray[Any], classes: NDArray[Any], count: int) -> Integers:
    """How many queries of each class (row) had each class (column) among those to choose from (count, count)."""
    truth = np.take_along_axis(classes, labels, axis=1)[:, :, None]  # (E, Q, 1)
    pairs = (truth * count + classes[:, None, :]).astype(np.int64)
    return np.bincount(pairs.ravel(), minlength=count * count).reshape(count, count).astype(np.int64)


def _check(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise DataError(f"logits of episodes have shape {logits.shape}; labels {labels.shape} ask for (E, Q, way)")
    if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[2]:
        raise DataError(f"query labels lie in {labels.min()}..{labels.max()}, outside 0..{logits.shape[2] - 1}")
