"""From class scores of time steps to segments, and from windows of steps to steps.

Luo et al.: Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018, published code: a step is
active where 1 - P(background) reaches a threshold; consecutive active steps are a run; a run's class has the highest
mean score, and that mean is its confidence.

Deviation: by default a run also ends where the likeliest class changes, so that two actions that follow each other
without background are two segments. `variant: released` joins them into one segment with one label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidistill.core.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
AnySegments = TypeVar("AnySegments", bound="Segments")


@dataclass(frozen=True, eq=False)
class Segments:
    """Labelled segments of many clips, e.g. annotations: arrays (N,) of equal length.

    Attributes:
        clip: which clip, as a number or a name.
        start: in seconds or frames, finite.
        end: the same unit, at least `start`.
        label: which class, as a number or a name.

    Raises:
        DataError: arrays of different lengths, times that are not finite, an end before its start.
    """

    clip: NDArray[Any]
    start: Floats
    end: Floats
    label: NDArray[Any]

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            kind = None if name in ("clip", "label") else np.float64
            object.__setattr__(self, name, np.asarray(values, kind))
        lengths = {name: values.shape for name, values in vars(self).items()}
        if len(set(lengths.values())) > 1 or self.start.ndim != 1:
            raise DataError(f"arrays of segments do not fit each other: {lengths}")
        if not (np.isfinite(self.start) & np.isfinite(self.end)).all():
            raise DataError("a segment's start or end is not a finite number")
        if (self.end < self.start).any():
            row = int(np.flatnonzero(self.end < self.start)[0])
            raise DataError(f"segment {row} of clip {self.clip[row]} ends before it starts")

    def __len__(self) -> int:
        return len(self.start)

    @property
    def bounds(self) -> Floats:
        """Start and end (N, 2)."""
        return np.stack([self.start, self.end], axis=1)

    def take(self: AnySegments, rows: NDArray[Any]) -> AnySegments:
        """The segments at indices (M,), or where a mask (N,) is true."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Detections(Segments):
    """Segments with a score (N,) each, finite, the higher the surer."""

    score: Floats

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.isfinite(self.score).all():
            raise DataError("a detection's score is not a finite number")


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of active steps: steps `first` to before `end`, classes 1..C, mean scores; arrays (R,)."""

    first: Integers
    end: Integers
    label: Integers
    score: Floats

    def __len__(self) -> int:
        return len(self.first)


def activity_runs(
    scores: NDArray[Any],
    *,
    clip: NDArray[Any] | None = None,
    threshold: float = 0.4,
    smooth: Annotated[int, Field(ge=1)] = 1,
    min_steps: Annotated[int, Field(ge=1)] = 1,
    variant: Literal["default", "released"] = "default",
) -> Runs:
    """Maximal runs of active steps, in order.

    Args:
        scores: probabilities (L, 1 + C), column 0 is background. A row that is not finite counts as background.
        clip: which clip a step belongs to (L,), clips in one piece each; no run crosses clips. None: one clip.
        threshold: a step is active where 1 - P(background) is at least this.
        smooth: scores are first averaged over this many steps around each step (within its clip).
        min_steps: shorter runs are dropped.
        variant: "released" does not end a run where the likeliest class changes (see the file's head).

    Raises:
        DataError: no class beside background, or `clip` of another length.
    """
    scores = np.asarray(scores, np.float64)
    clip = np.zeros(len(scores), np.int64) if clip is None else np.asarray(clip)
    if scores.ndim != 2 or scores.shape[1] < 2 or len(clip) != len(scores):
        raise DataError(f"scores {scores.shape} and clips {clip.shape} of steps: expected (L, 1 + C) and (L,)")
    if len(scores) == 0:
        return Runs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    nothing = np.eye(1, scores.shape[1])
    scores = np.where(np.isfinite(scores).all(1, keepdims=True), scores, nothing)
    cut = np.ones(len(scores), np.bool_)
    cut[1:] = clip[1:] != clip[:-1]
    scores = moving_average(scores, np.flatnonzero(cut), smooth)
    active = 1.0 - scores[:, 0] >= threshold
    cut[1:] |= active[1:] != active[:-1]
    if variant == "default":
        likeliest = scores[:, 1:].argmax(1)
        cut[1:] |= likeliest[1:] != likeliest[:-1]
    first = np.flatnonzero(cut)
    end = np.append(first[1:], len(scores))
    mean = np.add.reduceat(scores[:, 1:], first, axis=0) / (end - first)[:, None]
    kept = active[first] & (end - first >= min_steps)
    label = mean.argmax(1)
    return Runs(first[kept], end[kept], label[kept] + 1, mean[np.arange(len(mean)), label][kept])


def moving_average(values: Floats, first: Integers, steps: int) -> Floats:
    """Mean of (L, C) over `steps` rows around each row, fewer at the ends of its piece; pieces start at `first`."""
    if steps == 1:
        return values
    rows = np.arange(len(values))
    piece = np.searchsorted(first, rows, side="right") - 1
    low = np.maximum(rows - (steps - 1) // 2, first[piece])
    high = np.minimum(rows + steps // 2 + 1, np.append(first[1:], len(values))[piece])
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    return np.asarray((sums[high] - sums[low]) / (high - low)[:, None])


def step_times(steps: int, stride: float, length: float, *, origin: float = 0.0, last_frame: bool = False) -> Floats:
    """Start and end of equally spaced steps (steps, 2), in the unit of `stride` and `length`: seconds or frames.

    Args:
        steps: how many.
        stride: from one step's start to the next's.
        length: of one step.
        origin: where the first step starts.
        last_frame: ends are numbers of the last frame within, as PKU-MMD annotates, not of the frame after it.
    """
    start = origin + stride * np.arange(steps, dtype=np.float64)
    return np.stack([start, start + length - last_frame], axis=1)


def run_times(runs: Runs, times: NDArray[Any]) -> Floats:
    """Start and end (R, 2) of runs: of the first step's start and the last step's end; `times` (L, 2) of all steps."""
    times = np.asarray(times, np.float64)
    return np.stack([times[runs.first, 0], times[runs.end - 1, 1]], axis=1)


def detect_segments(
    scores: NDArray[Any],
    times: NDArray[Any],
    *,
    clip: NDArray[Any] | None = None,
    threshold: float = 0.4,
    smooth: Annotated[int, Field(ge=1)] = 1,
    min_steps: Annotated[int, Field(ge=1)] = 1,
    variant: Literal["default", "released"] = "default",
) -> Detections:
    """Detections, labels 1..C, from scores (L, 1 + C) of steps with times (L, 2). Arguments as `activity_runs`."""
    clip = np.zeros(len(scores), np.int64) if clip is None else np.asarray(clip)
    runs = activity_runs(scores, clip=clip, threshold=threshold, smooth=smooth, min_steps=min_steps, variant=variant)
    bounds = run_times(runs, times)
    return Detections(clip[runs.first], bounds[:, 0], bounds[:, 1], runs.label, runs.score)


def window_starts(length: int, size: int, stride: int | None = None) -> Integers:
    """First steps (W,) of overlapping windows over `length` steps.

    The last window ends with the last step, so that every step is in a window that is full; one window at 0 where
    `length` is at most `size`, none where it is 0.

    Args:
        length: number of steps.
        size: steps a window, 1 or more.
        stride: from one window to the next, at most `size`; None: half a window.

    Raises:
        DataError: sizes that leave gaps.
    """
    stride = max(size // 2, 1) if stride is None else stride
    if length < 0 or not 1 <= stride <= size:
        raise DataError(f"windows of {size} steps every {stride} over {length} steps: 1 <= stride <= size is needed")
    if length == 0:
        return np.zeros(0, np.int64)
    last = max(length - size, 0)
    return np.append(np.arange(0, last, stride), last).astype(np.int64)


def average_windows(logits: NDArray[Any], starts: NDArray[Any], length: int) -> Floats:
    """Logits (length, C) of steps, each averaged over the windows that hold it.

    Args:
        logits: of windows (W, S, C); positions beyond `length` are padding and do not count.
        starts: first step of each window (W,).
        length: number of steps.

    Raises:
        DataError: a step that no window holds, or a window that starts before 0.
    """
    logits = np.asarray(logits, np.float64)
    step = np.asarray(starts, np.int64)[:, None] + np.arange(logits.shape[1])
    if (step < 0).any():
        raise DataError("a window starts before the first step")
    inside = step < length
    count = np.bincount(step[inside], minlength=length)
    if (count == 0).any():
        raise DataError(f"no window holds step {int(np.flatnonzero(count == 0)[0])} of {length}")
    sums = np.zeros((length, logits.shape[2]))
    np.add.at(sums, step[inside], logits[inside])
    return np.asarray(sums / count[:, None])
