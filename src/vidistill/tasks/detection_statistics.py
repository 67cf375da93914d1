"""Metrics of detection as functions of how often each video counts, for intervals of any kind (`metrics.intervals`).

Segments are judged by the interpolated mAP and by the PKU-MMD protocol; the steps they were made of, by accuracy and
by the plain (not interpolated) average precision of each class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.average_precision import ap_over_draws, match_problem, mean_of_present
from vidistill.tasks.detection_truth import Names, Unknown, numbered, row_chunks, tiou_thresholds
from vidistill.tasks.metrics import Statistic, probabilities
from vidistill.tasks.pku_precision import Pooled, pku_ap_over_draws, pool_detections
from vidistill.tasks.segments import Detections, Floats, Integers, Segments

Columns = Callable[[Floats], Floats]


def detection_statistics(
    truth: Segments,
    detections: Detections,
    videos: Names,
    thresholds: Sequence[float] | NDArray[Any],
    *,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> dict[str, Statistic]:
    """Mean average precisions, in [0, 1].

    Names, for each tIoU t: "map@t" (interpolated), "pku_map_action@t" and "pku_map_video@t"; each without "@t" is the
    mean over all tIoUs.

    Args:
        truth: annotations.
        detections: in the same unit of time.
        videos: all videos of the set (N,), in the order of the counts.
        thresholds: tIoUs (T,) in (0, 1].
        classes: all classes; those without ground truth count 0 in "pku_map_action", as published, and do not count in
            "map". None: those with ground truth. A class that a resample has no ground truth of does not count there.
        unknown: whether detections of other videos or classes are left out or an error.

    Raises:
        DataError: see `numbered`.
        RecipeError: thresholds out of range.
    """
    problem = numbered(truth, detections, videos=videos, classes=classes, unknown=unknown)
    limits = tiou_thresholds(thresholds)
    matches = match_problem(problem, limits)
    by_class, by_video = (pool_detections(problem, limits, by) for by in ("class", "video"))
    columns: dict[str, Columns] = {
        "map": lambda counts: ap_over_draws(matches, counts),
        "pku_map_action": lambda counts: _pku_action(by_class, counts),
        "pku_map_video": _pku_video(by_video),
    }
    result: dict[str, Statistic] = {}
    for name, values in columns.items():
        shared = _remembered(values)  # all tIoUs of one name are computed together
        result[name] = _mean_of(shared, slice(None))
        for number, limit in enumerate(limits):
            result[f"{name}@{limit:g}"] = _mean_of(shared, slice(number, number + 1))
    return result


def _mean_of(columns: Columns, chosen: slice) -> Statistic:
    def statistic(counts: Floats) -> Floats:
        return np.asarray(columns(counts)[:, chosen].mean(1))

    return statistic


def _remembered(function: Columns) -> Columns:
    """The function, with the last counts' result at hand: statistics of one kind are asked in turn."""
    last: list[Floats] = []

    def remembered(counts: Floats) -> Floats:
        if not last or last[0] is not counts:
            last[:] = [counts, function(counts)]
        return last[1]

    return remembered


def _pku_action(pooled: Pooled, counts: Floats) -> Floats:
    """mAP_action (R, T): classes without any ground truth are 0."""
    values = pku_ap_over_draws(pooled, counts)
    values[..., pooled.truth.sum(0) == 0] = 0.0
    return mean_of_present(values)


def _pku_video(pooled: Pooled) -> Columns:
    """mAP_video (R, T): a video's AP does not depend on the draw; 0 without ground truth, as published."""
    values = np.nan_to_num(pku_ap_over_draws(pooled)[0], nan=0.0)  # (T, N)
    return lambda counts: counts @ values.T / counts.sum(1, keepdims=True)


def step_statistics(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """How well single time steps are told apart; class 0 is background. Fractions, NaN where nothing counts.

    "step_map": macro mean, over the classes that occur (with background), of the average precision of softmax scores;
    "step_accuracy"; "background_accuracy" and "action_accuracy" over steps whose label is, or is not, background;
    "background_share" of the labels.

    Args:
        logits: (L, C). A row that is not finite counts as wrong.
        labels: (L,), -1 where unknown: such steps do not count.

    Raises:
        DataError: shapes that do not fit.
    """
    statistics = step_interval_statistics(logits, labels, np.zeros(len(labels), np.int64), 1)
    return {name: float(statistic(np.ones((1, 1)))[0]) for name, statistic in statistics.items()}


def step_interval_statistics(
    logits: NDArray[Any], labels: NDArray[Any], clip: NDArray[Any], clips: int
) -> dict[str, Statistic]:
    """`step_statistics` over the steps of all clips together, as functions of how often each clip counts (R, clips).

    Args:
        logits: (L, C).
        labels: (L,), -1 where unknown.
        clip: which clip a step belongs to (L,), in [0, clips).
        clips: number of clips.

    Raises:
        DataError: shapes that do not fit, a label that is no class.
    """
    logits, labels, clip = np.asarray(logits), np.asarray(labels, np.int64), np.asarray(clip, np.int64)
    if logits.ndim != 2 or not len(logits) == len(labels) == len(clip):
        raise DataError(f"logits {logits.shape}, labels {labels.shape} and clips {clip.shape} of steps do not fit")
    if len(labels) and labels.max() >= logits.shape[1]:
        raise DataError(f"label {labels.max()} of a step is not below the {logits.shape[1]} classes")
    known = labels >= 0
    logits, labels, clip = logits[known], labels[known], clip[known]
    right = np.isfinite(logits).all(1) & (logits.argmax(1) == labels if len(logits) else True)
    everything = np.ones(len(labels), np.bool_)
    return {
        "step_map": _macro_statistic(probabilities(logits) if len(logits) else logits, labels, clip),
        "step_accuracy": _share(right, everything, clip, clips),
        "background_accuracy": _share(right, labels == 0, clip, clips),
        "action_accuracy": _share(right, labels != 0, clip, clips),
        "background_share": _share(labels == 0, everything, clip, clips),
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], clip: Integers, clips: int) -> Statistic:
    """The share of steps in `whole` that are in `part`."""
    above = np.bincount(clip[part & whole], minlength=clips).astype(np.float64)
    below = np.bincount(clip[whole], minlength=clips).astype(np.float64)

    def statistic(counts: Floats) -> Floats:
        total = counts @ below
        return np.asarray(np.divide(counts @ above, total, out=np.full(len(counts), np.nan), where=total > 0))

    return statistic


def _macro_statistic(scores: Floats, labels: Integers, clip: Integers) -> Statistic:
    def statistic(counts: Floats) -> Floats:
        return mean_of_present(average_precisions(scores, labels, counts[:, clip]))

    return statistic


def average_precisions(scores: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> Floats:
    """Plain average precision of each class, one against the rest: sum of precision times rise of recall.

    Steps of equal score are one point of the curve, as in scikit-learn's `average_precision_score`.

    Args:
        scores: (L, C), higher is surer.
        labels: (L,), or which classes a step has (L, C), bool.
        weights: how often each step counts (R, L); None: once.

    Returns:
        (R, C), NaN for a class that does not occur.
    """
    scores = np.asarray(scores, np.float64)
    steps, kinds = scores.shape
    weights = np.ones((1, steps)) if weights is None else np.asarray(weights, np.float64)
    if steps == 0:
        return np.full((len(weights), kinds), np.nan)
    order = np.argsort(-scores, axis=0, kind="stable").T  # (C, L)
    ranked = np.take_along_axis(scores.T, order, axis=1)
    ends = np.ones(ranked.shape, np.bool_)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    place = np.where(ends, np.arange(steps), steps)
    point = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]  # where a step's run of equal scores ends
    labels = np.asarray(labels)
    own = labels if labels.ndim == 2 else labels[:, None] == np.arange(kinds)
    positive = np.take_along_axis(own.T, order, axis=1)
    result = np.empty((len(weights), kinds))
    for rows in row_chunks(len(weights), steps * kinds):
        weight = weights[rows][:, order]  # (r, C, L)
        hit = weight * positive
        index = np.broadcast_to(point, hit.shape)
        right = np.take_along_axis(hit.cumsum(-1), index, axis=-1)
        seen = np.take_along_axis(weight.cumsum(-1), index, axis=-1)
        precision = np.divide(right, seen, out=np.zeros_like(seen), where=seen > 0)
        total = hit.sum(-1)
        area = (hit * precision).sum(-1)
        result[rows] = np.divide(area, total, out=np.full_like(total, np.nan), where=total > 0)
    return result
