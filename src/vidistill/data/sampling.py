"""Which frames of a clip a view takes: pure functions of numbers, with or without random draws.

Radevski et al.: Multimodal Distillation for Egocentric Action Recognition, ICCV 2023, arXiv 2307.07483.

Luo et al.: Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018, arXiv 1712.00108.

`uniform_indices` cuts the whole clip in segments and takes a frame of each; `dense_indices` takes frames at a fixed
stride from one or more places. Without a generator the choice is the middle (test), with one it is drawn (training).
`grid_indices` and `step_indices` are Luo et al.'s for trimmed and untrimmed clips; `step_targets` says which class
each step of an untrimmed clip shows. `spanning_indices` goes from end to end, as few-shot students read stored frames.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError

Indices = NDArray[np.int64]


def uniform_indices(
    length: int,
    frames: int,
    clips: int = 1,
    *,
    generator: np.random.Generator | None = None,
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """One frame of each of `frames * clips` equal segments of the clip.

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one view.
        clips: views.
        generator: draws a frame in each segment (both ends included, so neighbours may repeat); None: its middle.
        variant: how several views share the segments. "default" deals them out in turn, so that each view spans the
            whole clip. "released" reproduces the published code: view j is the j-th consecutive part, and sees 1/clips
            of the clip only. The same for one view.

    Returns:
        (clips, frames), not decreasing, in [0, length).

    Raises:
        DataError: a number below 1.
    """
    _check(length=length, frames=frames, clips=clips)
    count = frames * clips
    bounds = np.round((length - 1) / count * np.arange(count + 1)).astype(np.int64)  # half to even
    low, high = bounds[:-1], bounds[1:]
    chosen = (low + high) // 2 if generator is None else generator.integers(low, high, endpoint=True)
    parts = chosen.reshape(clips, frames) if variant == "released" else chosen.reshape(frames, clips).T
    return np.ascontiguousarray(parts, dtype=np.int64)


def dense_indices(
    length: int,
    frames: int,
    stride: int,
    clips: int = 1,
    *,
    generator: np.random.Generator | None = None,
    short: Literal["clamp", "loop"] = "clamp",
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """`frames` frames at `stride` from each of `clips` places.

    At stride 1 these are the neighbouring frames of two-stream networks (arXiv 2312.08644): of n frames, the first is
    drawn from [0, n - frames], and is int((n - frames + 1) / 2) in testing.

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one view.
        stride: source frames from one to the next.
        clips: views, spread over the source.
        generator: draws each place within its share of the source; None: evenly spread places.
        short: what a source gives that ends before a view does: "clamp" repeats the view's last valid frame, "loop"
            plays the source again from its start.
        variant: where drawn views hardly fit, "released" reproduces the published rounding, which may start a view one
            frame after the last place where it fits (at stride 1 it then repeats a frame). Otherwise the same.

    Returns:
        (clips, frames) in [0, length); not decreasing, unless looped.

    Raises:
        DataError: a number below 1.
    """
    _check(length=length, frames=frames, stride=stride, clips=clips)
    free = length - frames * stride + 1  # number of places where a whole view fits; may be negative
    offsets = _spread(free, clips) if generator is None else _drawn(length, free, clips, generator)
    if variant == "default":
        offsets = np.minimum(offsets, max(free - 1, 0))
    indices = offsets[:, None] + stride * np.arange(frames)[None, :]  # (clips, frames)
    if short == "loop":
        return np.asarray(indices % length, dtype=np.int64)
    last = offsets + (length - 1 - offsets) // stride * stride
    return np.asarray(np.minimum(indices, last[:, None]), dtype=np.int64)


def spanning_indices(
    length: int, frames: int, *, trim: bool = False, generator: np.random.Generator | None = None
) -> Indices:
    """`frames` frames at equal distance from the first to the last one, both included, rounded down.

    Perrett et al.: Temporal-Relational CrossTransformers for Few-Shot Action Recognition, CVPR 2021, arXiv 2101.06184,
    and Lite-MKD (ACM MM 2023): `trim=False` thins stored videos, `trim=True` reads them.

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one view.
        trim: leave out ends: the first and the last frame in testing, up to 5 of each in training. A source of exactly
            `frames` frames, or one that would be left shorter than that, is read from end to end.
        generator: draws how much to leave out (training); None: testing.

    Returns:
        (1, frames), not decreasing, in [0, length); frames repeat where the source has fewer.

    Raises:
        DataError: a number below 1.
    """
    _check(length=length, frames=frames)
    start, end = 0, length - 1
    if trim and length != frames:
        if generator is None:
            start, end = 1, length - 2
        elif (room := min(5, (length - frames) // 2)) >= 1:
            start = int(generator.integers(0, room, endpoint=True))
            end = int(generator.integers(length - 1 - room, length - 1, endpoint=True))
        if end - start < frames:
            start, end = 0, length - 1
    return np.linspace(start, end, frames).astype(np.int64)[None, :]


def grid_indices(
    length: int,
    frames: int,
    stride: int,
    clips: int | None = 1,
    *,
    generator: np.random.Generator | None = None,
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """`frames` neighbours on the grid 0, stride, 2 stride, ... from each of `clips` places (Luo et al.).

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one view.
        stride: source frames from one to the next.
        clips: views; None: one from every place.
        generator: draws each place; None: from the first to the last, evenly.
        variant: "released" reproduces the published code, which takes a source for one frame shorter than it is.

    Returns:
        (clips, frames), not decreasing, in [0, length). A source that ends early repeats the grid's last frame.

    Raises:
        DataError: a number below 1, or ("released") a source of `stride` frames or fewer.
    """
    _check(length=length, frames=frames, stride=stride, clips=1 if clips is None else clips)
    points = _grid(length, stride, variant)
    places = max(points - frames, 0)
    if clips is None:
        starts = np.arange(places + 1)
    elif generator is None:
        starts = np.linspace(0, places, clips).astype(np.int64)
    elif places:
        starts = generator.integers(0, places + 1, size=clips)
    else:
        starts = np.zeros(clips, np.int64)
    return np.asarray(np.minimum(starts[:, None] + np.arange(frames), points - 1) * stride, np.int64)


def step_indices(
    length: int,
    frames: int,
    stride: int,
    step: int,
    steps: int | None = None,
    *,
    generator: np.random.Generator | None = None,
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """Consecutive steps of an untrimmed clip, each `frames` neighbours on the grid of `stride` (Luo et al.).

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one step.
        stride: source frames from one to the next.
        step: grid points from one step's first frame to the next one's.
        steps: so many of them, the first drawn by `generator` (None: from the start); None: all that fit.
        generator: draws the first place.
        variant: as of `grid_indices`.

    Returns:
        (steps, frames), increasing along frames, in [0, length).

    Raises:
        DataError: a number below 1, or a source that is too short; how many frames it needs is said.
    """
    _check(length=length, frames=frames, stride=stride, step=step, steps=1 if steps is None else steps)
    points = _grid(length, stride, variant)
    free = points - frames - (0 if steps is None else (steps - 1) * step)
    if free < 0:
        needed = (points - free - (variant == "default")) * stride + 1
        raise DataError(f"{length} frames are too few for {steps or 1} steps: {needed} are needed")
    if steps is None:
        starts = np.arange(0, free + 1, step)
    else:
        first = 0 if generator is None else int(generator.integers(0, free, endpoint=True))
        starts = first + np.arange(steps) * step
    return np.asarray((starts[:, None] + np.arange(frames)) * stride, np.int64)


def step_targets(
    first: NDArray[Any],
    last: NDArray[Any],
    starts: NDArray[Any],
    ends: NDArray[Any],
    labels: NDArray[np.int64],
    ratio: float = 0.5,
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """The class of each step of an untrimmed clip: of the segment that covers more than `ratio` of it, else 0.

    Args:
        first: (S,) where steps begin, in any unit of time.
        last: (S,) where they end, after `first`.
        starts: (N,) where segments begin.
        ends: (N,) where they end.
        labels: (N,) class of each segment, 1 or more; 0 is background.
        ratio: in [0, 1).
        variant: of several such segments, "default" takes the one that covers most. "released" reproduces the
            published code: frames as unit, the last row wins, and an overlap counts one frame less than it has (so
            that a step of 28 frames within a segment is covered to 26/27).

    Returns:
        (S,) classes.
    """
    first, last = np.asarray(first)[:, None], np.asarray(last)[:, None]
    overlap = np.minimum(last, ends) - np.maximum(first, starts) - (1 if variant == "released" else 0)
    covered = np.maximum(overlap, 0) / (last - first)  # (S, N)
    classes = np.concatenate((np.zeros(1, np.int64), np.asarray(labels, np.int64)))
    enough = covered > ratio
    if variant == "released":
        row = np.max(np.where(enough, np.arange(1, len(classes)), 0), axis=1, initial=0)
    elif len(classes) == 1:
        row = np.zeros(len(first), np.int64)
    else:
        row = np.where(enough.any(1), covered.argmax(1) + 1, 0)
    return np.asarray(classes[row], np.int64)


def _grid(length: int, stride: int, variant: str) -> int:
    """Number of points of the grid 0, stride, 2 stride, ... within the source.

    Raises:
        DataError: none, in the released variant.
    """
    if variant == "default":
        return (length - 1) // stride + 1
    if length <= stride:
        raise DataError(f"{length} frames are too few at a stride of {stride}", todo="Leave the clip out")
    return (length - 1) // stride


def _spread(free: int, clips: int) -> Indices:
    """Places in the middle of `clips` equal shares; the start where no whole view fits."""
    if free < 1:
        return np.zeros(clips, np.int64)
    share = free / clips
    return (np.arange(clips) * share + share / 2).astype(np.int64)


def _drawn(length: int, free: int, clips: int, generator: np.random.Generator) -> Indices:
    """A random place in each of `clips` equal shares; sorted random places where there are fewer than views."""
    share = free // clips
    span = length - free + 1
    if share > 0:
        return (np.arange(clips) * share + generator.integers(share, size=clips)).astype(np.int64)
    if free > 0 and length > max(clips, span):
        return np.sort(generator.integers(free, size=clips)).astype(np.int64)
    if share == 0:
        return np.round(np.arange(clips) * free / clips).astype(np.int64)
    return np.zeros(clips, np.int64)


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise DataError(f"{name} of a view must be 1 or more (got {value})")
