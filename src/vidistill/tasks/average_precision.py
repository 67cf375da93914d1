"""Interpolated average precision of detections over temporal IoU, as PASCAL VOC 2011 and ActivityNet define it.

Everingham et al.: The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2, with the area under the monotone
envelope (from 2010 on). Within a class, detections are taken from the surest to the least sure; each takes the ground
truth of its video that is not yet taken and has the highest tIoU, if that reaches the threshold, and is right;
otherwise it is wrong.

    AP = sum over right detections i of  1/G * max over right detections j after i (with i) of precision(j)

Taking in order of surety is the one stable matching in which every ground truth prefers the surest detection, so it is
found by rounds in which all detections ask at once (Gale and Shapley 1962): a few rounds, whatever their number.

Of equal scores, the detection that starts (then ends) first comes first: the order of the input means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
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


@dataclass(frozen=True, eq=False)
class Matches:
    """What does not depend on how often a video counts. Detections (P,) by class, the surest first.

    Attributes:
        classes: names (K,).
        videos: names (N,).
        thresholds: tIoU (T,).
        label: class number of each detection (P,), rising.
        video: video number of each detection (P,).
        right: whether it is right at each threshold (T, P).
        truth: number of ground truths (N, K).
    """

    classes: NDArray[Any]
    videos: NDArray[Any]
    thresholds: Floats
    label: Integers
    video: Integers
    right: NDArray[np.bool_]
    truth: Floats


def match_detections(
    truth: Segments,
    detections: Detections,
    thresholds: Sequence[float] | NDArray[Any],
    *,
    videos: Names | None = None,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> Matches:
    """Decide which detections are right, at all thresholds at once.

    Args:
        truth: annotations.
        detections: the same unit of time.
        thresholds: tIoUs (T,) in (0, 1].
        videos: all videos of the set; see `numbered`.
        classes: all classes; see `numbered`.
        unknown: what to do with detections of other videos or classes.

    Raises:
        DataError: see `numbered`.
        RecipeError: thresholds out of range.
    """
    return match_problem(numbered(truth, detections, videos=videos, classes=classes, unknown=unknown), thresholds)


def match_problem(problem: Problem, thresholds: Sequence[float] | NDArray[Any]) -> Matches:
    """As `match_detections`, of what is numbered already."""
    limits = tiou_thresholds(thresholds)
    found = problem.found.take(surest_first(problem))
    truth = problem.truth.take(np.lexsort((problem.truth.bounds[:, 1], problem.truth.bounds[:, 0])))
    pairs = overlapping_pairs(found, truth, len(problem.videos), float(limits.min()))
    right = greedy_matches(*pairs, len(found.label), len(truth.label), limits) >= 0
    counts = problem.truth_counts(problem.truth.label, len(problem.classes))
    return Matches(problem.classes, problem.videos, limits, found.label, found.video, right, counts)


def surest_first(problem: Problem) -> Integers:
    """The order (P,) of detections by class, then falling score; of equal scores see the file's head."""
    found, falling = problem.found, -problem.score
    order = np.argsort(falling)
    few = len(problem.classes) <= 1 << 16  # small numbers are sorted by radix
    order = order[np.argsort(found.label[order].astype(np.uint16 if few else np.int64), kind="stable")]
    label, score = found.label[order], falling[order]
    if not ((score[1:] == score[:-1]) & (label[1:] == label[:-1])).any():
        return order  # the common case, several times as fast as five keys
    video = np.argsort(np.argsort(problem.videos, kind="stable"))[found.video]
    return np.lexsort((video, found.bounds[:, 1], found.bounds[:, 0], falling, found.label))


def greedy_matches(
    detection: Integers, truth: Integers, overlap: Floats, detections: int, truths: int, thresholds: Floats
) -> Integers:
    """The ground truth each detection takes at each threshold (T, detections), -1 for none.

    Args:
        detection: of pairs (M,), rising; a lower number takes first.
        truth: of pairs (M,); of equal overlaps a lower number is preferred.
        overlap: of pairs (M,), tIoU.
        detections: how many there are.
        truths: how many there are.
        thresholds: (T,).
    """
    order = np.arange(len(detection))
    pairs = np.bincount(detection, minlength=detections)
    choice = np.flatnonzero(pairs[detection] > 1)  # the others need no sorting
    order[choice] = choice[np.lexsort((truth[choice], -overlap[choice], detection[choice]))]
    wishes, overlap, detection = truth[order], overlap[order], detection[order]
    enough = np.stack([np.bincount(detection[overlap >= limit], minlength=detections) for limit in thresholds])
    level, asker = np.nonzero(enough)
    wish = (np.cumsum(pairs) - pairs)[asker]
    end = wish + enough[level, asker]
    holder = np.full(len(thresholds) * truths, detections)
    while True:  # all who are not yet refused by all they wish for ask; the surest is heard
        target = level * truths + wishes[wish]
        np.minimum.at(holder, target, asker)
        refused = holder[target] != asker
        if not refused.any():
            break
        wish = wish + refused
        left = wish < end
        level, asker, wish, end = level[left], asker[left], wish[left], end[left]
    taken = np.full((len(thresholds), detections), -1)
    taken[level, asker] = wishes[wish]
    return taken


def ap_by_class(matches: Matches, counts: NDArray[Any] | None = None) -> Floats:
    """AP of each class when each video counts as often as `counts` (R, N) says: (R, T, K), NaN without ground truth.

    Args:
        matches: of `match_detections`.
        counts: 0 or more, in the order of `matches.videos`; None: every video once.

    Raises:
        DataError: counts of another number of videos.
    """
    counts = np.ones((1, len(matches.videos))) if counts is None else np.asarray(counts, np.float64)
    if counts.ndim != 2 or counts.shape[1] != len(matches.videos):
        raise DataError(f"counts {counts.shape} for {len(matches.videos)} videos: expected (R, videos)")
    kinds = len(matches.classes)
    hits = [np.flatnonzero(right) for right in matches.right]
    grids = [Grid(matches.label[hit], kinds) for hit in hits]
    widest = max(grid.shape[1] for grid in grids)
    result = np.empty((len(counts), len(matches.thresholds), kinds))
    for rows in row_chunks(len(counts), max(len(matches.label), kinds * widest, 1)):
        weights = counts[rows][:, matches.video]
        seen = running_total(weights, matches.label)
        truths = counts[rows] @ matches.truth
        for number, (hit, grid) in enumerate(zip(hits, grids, strict=True)):
            area = envelope_areas(grid.fill(weights[:, hit]), grid.fill(seen[:, hit]))
            result[rows, number] = np.divide(area, truths, out=np.full_like(truths, np.nan), where=truths > 0)
    return result


def envelope_areas(weights: Floats, seen: Floats) -> Floats:
    """Sum over right detections of weight times the highest precision from there on.

    Only right detections matter: precision is highest where one has just been found.

    Args:
        weights: of right detections (..., M), the surest first.
        seen: weight of all detections up to and with each (..., M); 0 where there is none.
    """
    precision = np.divide(weights.cumsum(-1), seen, out=np.zeros_like(seen), where=seen > 0)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray((weights * envelope).sum(-1))


def ap_over_draws(matches: Matches, counts: NDArray[Any]) -> Floats:
    """Mean AP (R, T) over the classes that have ground truth in the draw; NaN where none has.

    Args:
        matches: of `match_detections`, made once.
        counts: how often each video is drawn (R, N).
    """
    return mean_of_present(ap_by_class(matches, counts))


def mean_of_present(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where all are."""
    present = ~np.isnan(values)
    count = present.sum(-1)
    total = np.where(present, values, 0.0).sum(-1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def interpolated_ap(
    truth: Segments,
    detections: Detections,
    thresholds: Sequence[float] | NDArray[Any],
    *,
    videos: Names | None = None,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> Floats:
    """AP of each class at each tIoU (T, K), in [0, 1]; 0 for a class without detections, NaN for one without truth.

    The mAP is `mean_of_present` of it. Classes are those of the ground truth, sorted, unless given. Arguments and
    errors as `match_detections`.
    """
    matches = match_detections(truth, detections, thresholds, videos=videos, classes=classes, unknown=unknown)
    return np.asarray(ap_by_class(matches)[0])


def ap_table(
    truth: Segments,
    detections: Detections,
    thresholds: Sequence[float] | NDArray[Any],
    *,
    videos: Names | None = None,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> list[dict[str, Any]]:
    """One row a class: "class", "truths", "detections", "map" and "ap@<tIoU>". Arguments as `interpolated_ap`."""
    matches = match_detections(truth, detections, thresholds, videos=videos, classes=classes, unknown=unknown)
    values = ap_by_class(matches)[0]
    found = np.bincount(matches.label, minlength=len(matches.classes))
    return [
        {"class": name, "truths": int(matches.truth[:, k].sum()), "detections": int(found[k])}
        | {"map": float(values[:, k].mean())}
        | {f"ap@{limit:g}": float(value) for limit, value in zip(matches.thresholds, values[:, k], strict=True)}
        for k, name in enumerate(matches.classes.tolist())
    ]


def precision_recall_area(precision: NDArray[Any], recall: NDArray[Any]) -> float:
    """Area under the monotone envelope of a precision-recall curve (M,), recall rising from above 0 to at most 1."""
    recall = np.asarray(recall, np.float64)
    envelope = np.maximum.accumulate(np.asarray(precision, np.float64)[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
