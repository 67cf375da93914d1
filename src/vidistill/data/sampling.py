"""Which frames of a clip a view takes: pure functions of numbers, with or without random draws.

Radevski et al.: Multimodal Distillation for Egocentric Action Recognition, ICCV 2023, arXiv 2307.07483.

`uniform_indices` cuts the whole clip in segments and takes a frame of each; `dense_indices` takes frames at a fixed
stride from one or more places. Without a generator the choice is the middle (test), with one it is drawn (training).
"""

from __future__ import annotations

from typing import Literal

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
    variant: Literal["default", "released"] = "default",
) -> Indices:
    """`frames` frames at `stride` from each of `clips` places.

    Args:
        length: frames in the source, 1 or more.
        frames: frames of one view.
        stride: source frames from one to the next.
        clips: views, spread over the source.
        generator: draws each place within its share of the source; None: evenly spread places.
        variant: where drawn views hardly fit, "released" reproduces the published rounding, which may start a view one
            frame after the last place where it fits (at stride 1 it then repeats a frame). Otherwise the same.

    Returns:
        (clips, frames), not decreasing, in [0, length). A source that ends early repeats the view's last valid frame.

    Raises:
        DataError: a number below 1.
    """
    _check(length=length, frames=frames, stride=stride, clips=clips)
    free = length - frames * stride + 1  # number of places where a whole view fits; may be negative
    offsets = _spread(free, clips) if generator is None else _drawn(length, free, clips, generator)
    if variant == "default":
        offsets = np.minimum(offsets, max(free - 1, 0))
    indices = offsets[:, None] + stride * np.arange(frames)[None, :]  # (clips, frames)
    last = offsets + (length - 1 - offsets) // stride * stride
    return np.asarray(np.minimum(indices, last[:, None]), dtype=np.int64)


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
