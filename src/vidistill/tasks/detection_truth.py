"""Ground truth and detections of one data set, brought to numbers: what every average precision starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.tasks.segments import Detections, Floats, Integers, Segments
from vidistill.tasks.temporal_iou import tiou

PAIRS = 2_000_000
"""Pairs of a detection and a ground truth that are looked at in one go."""
Names = Sequence[Any] | NDArray[Any]
Unknown = Literal["ignore", "error"]


@dataclass(frozen=True, eq=False)
class Numbered:
    """Segments by numbers of class and video: arrays (P,), bounds (P, 2), and their place in what was given."""

    label: Integers
    video: Integers
    bounds: Floats
    place: Integers

    def take(self, rows: NDArray[Any]) -> Numbered:
        """The segments at indices (M,)."""
        return Numbered(self.label[rows], self.video[rows], self.bounds[rows], self.place[rows])


@dataclass(frozen=True, eq=False)
class Problem:
    """Ground truth and the detections that count, with the names of classes (K,) and videos (N,)."""

    classes: NDArray[Any]
    videos: NDArray[Any]
    truth: Numbered
    found: Numbered
    score: Floats

    def truth_counts(self, groups: Integers, size: int) -> Floats:
        """How much ground truth each video has in each of `size` groups (N, size); `groups` (G,) of the truth."""
        pair = self.truth.video * size + groups
        return np.bincount(pair, minlength=len(self.videos) * size).reshape(len(self.videos), size).astype(np.float64)


def numbered(
    truth: Segments,
    found: Detections,
    *,
    videos: Names | None = None,
    classes: Names | None = None,
    unknown: Unknown = "ignore",
) -> Problem:
    """Bring names of clips and labels to numbers.

    Args:
        truth: annotations.
        found: detections.
        videos: all videos of the set, in the order of bootstrap counts; one without ground truth has only false
            positives. None: those of the ground truth, sorted.
        classes: all classes, in the order of results. None: those of the ground truth, sorted.
        unknown: whether detections of other videos or classes are left out or an error. Ground truth of other videos
            or classes is left out: that is how a subset is judged.

    Raises:
        DataError: names given twice, unknown detections, names and numbers mixed.
    """
    video_names = np.unique(truth.clip) if videos is None else np.asarray(videos)
    class_names = np.unique(truth.label) if classes is None else np.asarray(classes)
    parts = []
    for kind, segments in (("ground truth", truth), ("detections", found)):
        video = positions(segments.clip, video_names, f"videos of {kind}")
        label = positions(segments.label, class_names, f"classes of {kind}")
        known = (video >= 0) & (label >= 0)
        if kind == "detections" and unknown == "error" and not known.all():
            row = int(np.flatnonzero(~known)[0])
            raise DataError(
                f"{int((~known).sum())} of {len(known)} detections are of videos or classes outside the ground truth, "
                f"the first of video {segments.clip[row]}, class {segments.label[row]}",
                todo="Choose the ground truth of the same set, or unknown='ignore'",
            )
        rows = np.flatnonzero(known)
        parts.append(Numbered(label[rows], video[rows], segments.bounds[rows], rows))
    return Problem(class_names, video_names, parts[0], parts[1], found.score[parts[1].place])


def positions(values: NDArray[Any], names: NDArray[Any], what: str) -> Integers:
    """Where each value (N,) stands among names (K,), -1 where it does not."""
    if len(names) == 0 or len(values) == 0:
        return np.full(len(values), -1)
    if (values.dtype.kind in "US") != (names.dtype.kind in "US"):
        raise DataError(f"{what} are {values.dtype}, those of the set are {names.dtype}: names and numbers are mixed")
    order = np.argsort(names, kind="stable")
    ranked = names[order]
    if (ranked[1:] == ranked[:-1]).any():
        raise DataError(f"{what}: the set names {ranked[:-1][ranked[1:] == ranked[:-1]][0]} twice")
    place = np.minimum(np.searchsorted(ranked, values), len(names) - 1)
    return np.where(ranked[place] == values, order[place], -1)


def tiou_thresholds(thresholds: Sequence[float] | NDArray[Any]) -> Floats:
    """Thresholds (T,) as an array.

    Raises:
        RecipeError: none, or one outside (0, 1].
    """
    values = np.atleast_1d(np.asarray(thresholds, np.float64))
    if len(values) == 0 or not ((values > 0) & (values <= 1)).all():
        raise RecipeError(f"tIoU thresholds must lie in (0, 1] (got {values.tolist()})")
    return values


def overlapping_pairs(found: Numbered, truth: Numbered, videos: int, least: float) -> tuple[Integers, Integers, Floats]:
    """Pairs of one video and class with a tIoU of at least `least`: detection (M,) rising, truth (M,), tIoU (M,)."""
    key, asked = (part.label * videos + part.video for part in (truth, found))
    order = np.argsort(key, kind="stable")
    start, end = truth.bounds[order].T.copy()
    sizes = np.bincount(key, minlength=int(asked.max(initial=-1)) + 1)
    first, count = (np.cumsum(sizes) - sizes)[asked], sizes[asked]
    total = np.cumsum(count)
    pieces = np.searchsorted(total, np.arange(PAIRS, int(total[-1]) if len(total) else 0, PAIRS))
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows in np.split(np.arange(len(count)), np.unique(pieces)):
        times = count[rows]
        place = np.arange(times.sum()) + np.repeat(first[rows] - (np.cumsum(times) - times), times)
        found_start, found_end = (np.repeat(column[rows], times) for column in found.bounds.T)
        meet = np.flatnonzero((found_start < end[place]) & (start[place] < found_end))
        place, detection = place[meet], np.repeat(rows, times)[meet]
        overlap = tiou(found.bounds[detection], np.stack([start[place], end[place]], axis=1))
        kept = overlap >= least
        parts.append((detection[kept], order[place[kept]], overlap[kept]))
    joined = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
    return joined[0], joined[1], joined[2]


class Grid:
    """A place (groups, width) for each of M values whose groups (M,) rise, so that groups advance together."""

    def __init__(self, group: Integers, groups: int) -> None:
        sizes = np.bincount(group, minlength=groups)
        self.group = group
        self.column = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self.shape = (groups, int(sizes.max(initial=0)))

    def fill(self, values: Floats) -> Floats:
        """Values (..., M) in their places (..., groups, width), 0 elsewhere."""
        filled = np.zeros((*values.shape[:-1], *self.shape))
        filled[..., self.group, self.column] = values
        return filled


def running_total(values: Floats, group: Integers) -> Floats:
    """Sums of values (R, P) up to and with each place, within its group; groups (P,) rise."""
    total = values.cumsum(1)
    first = np.searchsorted(group, group)
    return np.asarray(total - (total - values)[:, first])


def row_chunks(rows: int, cells: int, budget: int = 4_000_000) -> list[slice]:
    """Slices of `rows` rows of `cells` numbers each that stay within a budget of numbers."""
    size = max(budget // max(cells, 1), 1)
    return [slice(first, first + size) for first in range(0, rows, size)]
