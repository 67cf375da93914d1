"""Metrics of classification, each with a 95 % bootstrap interval over clips.

Every metric here is a function of sums over clips, so a resample is a vector of how often each clip was drawn, and a
thousand resamples are one matrix product. Resamples are made in chunks: memory does not grow with their number.

Rows of logits that hold NaN or infinity count as wrong, with uniform probabilities: a network that diverged must not
look good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.seeds import generator

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
CHUNK = 4_000_000
"""Numbers in one chunk of resamples (32 MB as float64)."""


@dataclass(frozen=True)
class Interval:
    """A value and the 2.5 % and 97.5 % quantiles of its bootstrap distribution; all NaN where there are no clips."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON: value, low, high."""
        return {"value": self.value, "low": self.low, "high": self.high}


EMPTY = Interval(float("nan"), float("nan"), float("nan"))


def draws(clips: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Chunks (r, clips) of how often each clip is drawn in each of `resamples` resamples with replacement."""
    random = generator(seed, "bootstrap", clips)
    rows = max(1, CHUNK // max(clips, 1))
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        drawn = random.integers(0, clips, size=(count, clips)) + clips * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * clips).reshape(count, clips).astype(np.float64)


Statistic = Callable[[Floats], Floats]
"""From how often each clip counts (r, N) to a value for each resample (r,)."""


def intervals(
    statistics: dict[str, Statistic], clips: int, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Each statistic on all clips, with its interval; all see the same resamples.

    Args:
        statistics: by name; see `Statistic`.
        clips: number of clips N.
        resamples: how many resamples; 0 gives intervals of width zero.
        seed: of the resamples.
    """
    if clips == 0:
        return dict.fromkeys(statistics, EMPTY)
    values = {name: float(statistic(np.ones((1, clips)))[0]) for name, statistic in statistics.items()}
    samples: dict[str, list[Floats]] = {name: [] for name in statistics}
    for counts in draws(clips, resamples, seed):
        for name, statistic in statistics.items():
            samples[name].append(statistic(counts))
    result = {}
    for name, value in values.items():
        drawn = np.concatenate(samples[name]) if samples[name] else np.array([value])
        result[name] = percentile_interval(value, drawn)
    return result


def percentile_interval(value: float, drawn: Floats) -> Interval:
    """The 95 % interval from resampled values, with the bootstrap's bias taken out.

    A resample repeats clips, which makes calibration errors larger on average; without the correction an ECE can lie
    outside its own interval. Means have no such bias. No bound lies beyond what was drawn.
    """
    if np.isnan(drawn).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, [0.025, 0.975]) - (np.nanmean(drawn) - value)
    low, high = max(low, np.nanmin(drawn)), min(high, np.nanmax(drawn))
    return Interval(value, float(min(low, value)), float(max(high, value)))


def restricted(statistic: Statistic, counted: NDArray[np.bool_]) -> Statistic:
    """A statistic of some clips as one of all N; `counted` (N,) says which. NaN where none of them is drawn."""
    if len(counted) and counted.all():
        return statistic  # saves a copy of every chunk of resamples

    def over_all(counts: Floats) -> Floats:
        kept = counts[:, counted]
        drawn = kept.sum(1) > 0
        values = np.full(len(counts), np.nan)
        if drawn.any():
            values[drawn] = statistic(kept[drawn])
        return values

    return over_all


def mean_statistic(values: NDArray[Any]) -> Statistic:
    """The mean of one number a clip (N,)."""
    column = values.astype(np.float64)

    def statistic(counts: Floats) -> Floats:
        return np.asarray(counts @ column / counts.sum(1))

    return statistic


def grouped_sums(groups: Integers) -> tuple[Integers, Callable[[Floats], Floats]]:
    """The distinct groups of clips (N,), and a function that sums (r, N) over each group: (r, groups)."""
    order = np.argsort(groups, kind="stable")
    distinct, starts = np.unique(groups[order], return_index=True)
    return distinct.astype(np.int64), lambda counts: np.add.reduceat(counts[:, order], starts, axis=1)


def mean_class_statistic(correct: NDArray[np.bool_], labels: Integers) -> Statistic:
    """Accuracy within each class, averaged over the classes that (the resample) has."""
    _, sums = grouped_sums(labels)

    def statistic(counts: Floats) -> Floats:
        clips = sums(counts)  # (r, classes)
        right = sums(counts * correct)
        present = clips > 0
        return np.asarray(np.where(present, right / np.maximum(clips, 1.0), 0.0).sum(1) / present.sum(1))

    return statistic


def calibration_statistic(
    confidence: Floats, correct: NDArray[np.bool_], bins: int = 15, *, adaptive: bool = False
) -> Statistic:
    """Expected calibration error: sum over bins of (share of clips) * |mean confidence - accuracy|.

    Bins are equally wide (Guo et al. 2017), or `adaptive`: of equally many clips each (Nguyen & O'Connor 2015), those
    of the whole set in every resample.
    """
    _, sums = grouped_sums(filled_bins(confidence, bins) if adaptive else confidence_bins(confidence, bins))
    gap = confidence - correct

    def statistic(counts: Floats) -> Floats:
        return np.asarray(np.abs(sums(counts * gap)).sum(1) / counts.sum(1))

    return statistic


def confidence_bins(confidence: Floats, bins: int) -> Integers:
    """The bin in [0, bins) of each confidence (N,); bins are equally wide and (low, high]."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1).astype(np.int64)


def filled_bins(confidence: Floats, bins: int) -> Integers:
    """The bin in [0, bins) of each confidence (N,), low to high; as many clips in each as can be."""
    rank = np.empty(len(confidence), np.int64)
    rank[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    return rank * bins // max(1, len(confidence))


def brier_scores(logits: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Squared distance of softmax(logits) from the label's one-hot vector (N,), in [0, 2] (Brier 1950)."""
    found = probabilities(logits)
    own = found[np.arange(len(found)), labels.astype(np.int64)]
    return np.asarray((found**2).sum(1) - 2.0 * own + 1.0)


def expected_calibration_error(logits: NDArray[Any], labels: NDArray[Any], bins: int = 15) -> float:
    """ECE of logits (N, C) as a fraction in [0, 1]; equally wide bins (low, high] (Guo et al. 2017, equation 3)."""
    if len(logits) == 0:
        return float("nan")
    confidence = probabilities(logits).max(1)
    return float(calibration_statistic(confidence, in_top(logits, labels, 1), bins)(np.ones((1, len(logits))))[0])


def probabilities(logits: NDArray[Any]) -> Floats:
    """Softmax over the last axis in float64; uniform where a row is not finite."""
    rows = logits.astype(np.float64)
    rows = np.where(np.isfinite(rows).all(-1, keepdims=True), rows, 0.0)
    powers = np.exp(rows - rows.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def negative_log_likelihoods(logits: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """-log softmax(logits)[label] for each clip (N,), nats; log(C) where a row is not finite."""
    rows = logits.astype(np.float64)
    rows = np.where(np.isfinite(rows).all(1, keepdims=True), rows, 0.0)
    rows = rows - rows.max(1, keepdims=True)
    own = rows[np.arange(len(rows)), labels.astype(np.int64)]
    return np.asarray(np.log(np.exp(rows).sum(1)) - own)


def in_top(logits: NDArray[Any], labels: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Whether the label is among the k largest logits (N,) bool; of equal logits the lower class comes first.

    With fewer than k classes every finite row is right: k is min(k, C).
    """
    index = labels.astype(np.int64)
    own = logits[np.arange(len(logits)), index][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < index[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return np.asarray((rank < k) & np.isfinite(logits).all(1))


def confusion(logits: NDArray[Any], labels: NDArray[Any], classes: int) -> Integers:
    """Counts (C, C): row = true class, column = predicted class; clips without a label (-1) do not count."""
    known = labels >= 0
    predicted = logits[known].argmax(1) if len(logits) else np.zeros(0, np.int64)
    pairs = labels[known].astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class_accuracy(logits: NDArray[Any], labels: NDArray[Any], classes: int) -> tuple[Floats, Integers]:
    """Accuracy of each class (C,), NaN for a class without clips, and its number of clips (C,)."""
    known = labels >= 0
    index = labels[known].astype(np.int64)
    clips = np.bincount(index, minlength=classes)
    right = np.bincount(index, weights=in_top(logits[known], index, 1), minlength=classes)
    return np.where(clips > 0, right / np.maximum(clips, 1), np.nan), clips.astype(np.int64)


def reliability(logits: NDArray[Any], labels: NDArray[Any], bins: int = 15) -> dict[str, list[Any]]:
    """The reliability diagram: mean confidence, accuracy (None in an empty bin) and count of each bin, low to high."""
    known = labels >= 0
    confidence = probabilities(logits[known]).max(1, initial=0.0)
    correct = in_top(logits[known], labels[known], 1)
    index = confidence_bins(confidence, bins)
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, correct)]
    means = [[float(s / c) if c else None for s, c in zip(total, count, strict=True)] for total in sums]
    return {"confidence": means[0], "accuracy": means[1], "count": [int(c) for c in count]}


def difference(first: Statistic, second: Statistic) -> Statistic:
    """One statistic minus another, of the same draws."""
    return lambda counts: first(counts) - second(counts)


def paired_difference(first: NDArray[Any], second: NDArray[Any], *, bootstrap: int = 1000, seed: int = 0) -> Interval:
    """mean(first) - mean(second) over the same clips, each resample drawing the same clips for both.

    Args:
        first: one number a clip (N,), e.g. whether the distilled student is right; or (seeds, N), averaged over seeds.
        second: the same for the other network; its number of seeds may differ.
        bootstrap: resamples.
        seed: of the resamples.
    """
    difference = np.atleast_2d(first).mean(0) - np.atleast_2d(second).mean(0)
    return intervals({"difference": mean_statistic(difference)}, len(difference), bootstrap, seed)["difference"]
