"""Average precision of the PKU-MMD protocol, as published with Graph Distillation (Luo et al., ECCV 2018).

It is not the interpolated AP, and never above it: keep the names apart. Per class over the whole set: every detection
is matched with the ground truth of its video and class that has the highest tIoU, if that reaches the threshold;
several may share one, and of equal tIoUs the last ground truth in the list is meant. Then detections are discarded one
by one from the least sure (of equal scores, the first in the list), with

    positive = ground truths that still have a detection,   P = positive / detections left,   R = positive / G.

P is looked at with all detections, and after each discarded detection that was matched; AP sums, wherever R falls, the
fall times the highest P so far. (P is not looked at after discarding a wrong detection, where it is highest: this is
why the textbook's AP is higher.)

With weights (how often a video is drawn) a detection counts as so many copies, each with the ground truth of its copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.tasks.detection_truth import (
    Grid,
    Names,
    Problem,
    Unknown,
    numbered,
    overlapping_pairs,
    row_chunks,
    running_total,
    tiou_thresholds,
)
from vidistill.tasks.segments import Detections, Floats, Integers, Segments

Pool = Literal["class", "video", "set"]


def pku_ap(
    truth: Segments,
    detections: Detections,
    thresholds: Sequence[float] | NDArray[Any],
    *,
    by: Pool = "class",
    absent: Literal["zero", "skip"] = "zero",
    videos: Names | None = None,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> Floats:
    """PKU-MMD AP of each class, or of each video, at each tIoU: (T, K) or (T, N), in [0, 1].

    Args:
        truth: annotations; their order decides between equal tIoUs.
        detections: in the same unit of time; their order decides between equal scores.
        thresholds: tIoUs (T,) in (0, 1].
        by: "class": the mean is the published mAP_action; "video" pools the classes of a video (matching stays within
            a class), the mean is mAP_video; "set" pools all: (T, 1).
        absent: a class or video without ground truth is 0, as published, or NaN ("skip").
        videos: all videos; see `numbered`.
        classes: all classes, for mAP_action also those without ground truth, as published.
        unknown: what to do with detections of other videos or classes.

    Raises:
        DataError: see `numbered`.
        RecipeError: thresholds out of range.
    """
    problem = numbered(truth, detections, videos=videos, classes=classes, unknown=unknown)
    values = pku_ap_over_draws(pool_detections(problem, thresholds, by))[0]
    return np.where(np.isnan(values), 0.0, values) if absent == "zero" else values


def pku_matches(problem: Problem, thresholds: Sequence[float] | NDArray[Any]) -> Integers:
    """The ground truth (its place in the list) of each detection at each threshold (T, P), -1 for none."""
    limits = tiou_thresholds(thresholds)
    detection, match, overlap = overlapping_pairs(
        problem.found, problem.truth, len(problem.videos), float(limits.min())
    )
    order = np.lexsort((match, overlap, detection))
    best = np.full(len(problem.score), -np.inf)
    taken = np.full(len(problem.score), -1)
    best[detection[order]] = overlap[order]  # the last of a detection's pairs stays
    taken[detection[order]] = match[order]
    return np.where(best >= limits[:, None], taken, -1)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Detections (P,) by group, the least sure first, and what they are matched with.

    Attributes:
        groups: how many groups K.
        group: of each detection (P,), rising.
        video: of each detection (P,).
        matched: whether it is matched at each threshold (T, P).
        last: whether it is the surest of its ground truth (T, P).
        truth: number of ground truths (N, K).
    """

    groups: int
    group: Integers
    video: Integers
    matched: NDArray[np.bool_]
    last: NDArray[np.bool_]
    truth: Floats


def pool_detections(problem: Problem, thresholds: Sequence[float] | NDArray[Any], by: Pool) -> Pooled:
    """Match detections, and sort them within their groups as they will be discarded."""
    count = {"class": len(problem.classes), "video": len(problem.videos), "set": 1}[by]
    group, truth_group = (
        {"class": part.label, "video": part.video, "set": np.zeros_like(part.label)}[by]
        for part in (problem.found, problem.truth)
    )
    order = np.lexsort((problem.score, group))
    matches = pku_matches(problem, thresholds)[:, order]
    last = np.zeros(matches.shape, np.bool_)
    for row, taken in zip(last, matches, strict=True):
        distinct, place = np.unique(taken[::-1], return_index=True)
        row[len(taken) - 1 - place[distinct >= 0]] = True
    counts = problem.truth_counts(truth_group, count)
    return Pooled(count, group[order], problem.found.video[order], matches >= 0, last, counts)


def pku_ap_over_draws(pooled: Pooled, counts: NDArray[Any] | None = None) -> Floats:
    """AP (R, T, K) of each group when videos count as often as `counts` (R, N) says; NaN without ground truth."""
    counts = np.ones((1, len(pooled.truth))) if counts is None else np.asarray(counts, np.float64)
    points = [np.flatnonzero(matched) for matched in pooled.matched]
    grids = [Grid(pooled.group[point], pooled.groups) for point in points]
    widest = max(grid.shape[1] for grid in grids)
    result = np.empty((len(counts), len(pooled.matched), pooled.groups))
    for rows in row_chunks(len(counts), max(len(pooled.group), pooled.groups * widest, 1)):
        weights = counts[rows][:, pooled.video]
        truths = counts[rows] @ pooled.truth
        gone = running_total(weights, pooled.group) - weights
        total = _sums(weights, pooled.group, pooled.groups)
        for number, (point, grid) in enumerate(zip(points, grids, strict=True)):
            falls = weights[:, point] * pooled.last[number][point]
            left = total[:, pooled.group[point]] - gone[:, point]
            area = _discarded_areas(grid, weights[:, point], falls, left, total)
            result[rows, number] = np.divide(area, truths, out=np.full_like(truths, np.nan), where=truths > 0)
    return result


def _discarded_areas(grid: Grid, weights: Floats, falls: Floats, left: Floats, total: Floats) -> Floats:
    """Sum over groups' matched detections (R, M) of fall times the highest P so far: (R, K).

    Args:
        grid: places of the matched detections.
        weights: of matched detections (R, M).
        falls: by how many `positive` falls with each (R, M).
        left: detections left before each (R, M).
        total: all detections of each group (R, K).
    """
    fallen = grid.fill(falls)
    before = fallen.sum(-1)
    positive = before[..., None] - fallen.cumsum(-1) + fallen  # before each is discarded
    left, weight = grid.fill(left), grid.fill(weights)
    # Of copies that lower `positive`, the first leaves the highest P; of those that do not, the last.
    remaining = np.where(fallen > 0, left - 1.0, left - weight)
    valid = (weight > 0) & (remaining > 0)
    precision = np.divide(positive - (fallen > 0), remaining, out=np.zeros_like(left), where=valid)
    whole = np.divide(before, total, out=np.zeros_like(total), where=total > 0)
    highest = np.maximum(np.maximum.accumulate(precision, axis=-1), whole[..., None])
    return np.asarray((fallen * highest).sum(-1))


def _sums(values: Floats, group: Integers, groups: int) -> Floats:
    """Sums (R, K) of values (R, P) over each group; groups (P,) rise."""
    edges = np.searchsorted(group, np.arange(groups + 1))
    total = np.concatenate([np.zeros((len(values), 1)), values.cumsum(1)], axis=1)
    return np.asarray(total[:, edges[1:]] - total[:, edges[:-1]])
