"""Windows and targets of AFSD (CVPR 2021) and arXiv 2312.08644 on THUMOS14, as published; for comparison only.

Here detectors are shown windows by `data.views`, in seconds. The published code works on frames at 10 a second: it
thins videos by an accumulator, maps annotated frames by sample_count / count, cuts training windows of 256 frames every
30, and keeps those that hold a whole action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.data.formats.thumos14_annotations import Annotated, VideoInfo

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SIZE, TRAIN_STRIDE, TEST_STRIDE = 256, 30, 128
HALF = 0.5
"""The part of an action that must lie in a window for it to be a target there."""
EDGE, NARROWEST = 10.0, 2.0
"""Starts and ends are marked over a tenth of the action, at least so many frames."""


@dataclass(frozen=True)
class Windows:
    """Training windows of several videos, W of them with A actions in all, by video.

    Attributes:
        video: (W,) the video's place in the list that was given.
        offset: (W,) first frame, from 0.
        bounds: (W + 1,) window w has the rows bounds[w] : bounds[w + 1] of `actions`.
        actions: (A, 3) start, end in [1, size], frames of the window; label. Published targets are start and end
            divided by the size.
        shortest: (V,) `th`: ceil of the shortest action in any candidate window of a video; the size where none is.
        size: frames a window.
    """

    video: Indices
    offset: Indices
    bounds: Indices
    actions: Array
    shortest: Indices
    size: int = SIZE

    def __len__(self) -> int:
        return len(self.offset)

    def of(self, window: int) -> Array:
        """The actions (n, 3) of one window."""
        return self.actions[self.bounds[window] : self.bounds[window + 1]]


def sampled_frames(count: int, fps: float, rate: float = 10.0) -> Indices:
    """Which of `count` frames at `fps` are kept at `rate` a second: increasing indices in [0, count).

    An accumulator counts frames; when it reaches fps / rate the frame is kept and that much is taken off. It is
    followed addition by addition, because at rates such as 29.97 its rounding decides which frame it is.

    Raises:
        DataError: a number that is not above 0.
    """
    if count < 1 or not fps > 0 or not rate > 0:
        raise DataError(f"{count} frames at {fps} a second cannot be thinned to {rate}")
    step, total, kept = fps / rate, 0.0, []
    for index in range(count):
        total += 1.0
        if total >= step:
            kept.append(index)
            total -= step
    return np.array(kept, np.int64)


def sampled_counts(infos: Sequence[VideoInfo], rate: float = 10.0) -> Indices:
    """How many frames each of the videos (N,) has at `rate`; a longer video of the same fps begins with the same ones.

    Raises:
        DataError: see `sampled_frames`.
    """
    counts = np.array([info.frames for info in infos], np.int64)
    fps = np.array([info.fps for info in infos], np.float64)
    found = np.zeros(len(counts), np.int64)
    for each in np.unique(fps):
        alike = fps == each
        found[alike] = np.searchsorted(sampled_frames(int(counts[alike].max()), float(each), rate), counts[alike])
    return found


def sampled_actions(
    annotated: Annotated, infos: Mapping[str, VideoInfo], labels: Mapping[str, int]
) -> dict[str, Array]:
    """Actions (n, 3) of each video as start, end (frames of the array, not whole) and label; in the file's order.

    Raises:
        DataError: a video of which the number of frames is not known.
    """
    found: dict[str, Array] = {}
    for video, rows in annotated.items():
        if rows is None:
            continue
        if video not in infos:
            raise DataError(f"the number of frames of {video!r} is not known", todo="Add it to the list of videos")
        info = infos[video]
        actions = np.array([(row.first, row.last, labels[row.label]) for row in rows], np.float64).reshape(-1, 3)
        actions[:, :2] *= info.sampled / info.frames  # the ratio first: another order rounds other halves
        found[video] = actions
    return found


def window_offsets(count: int, size: int = SIZE, stride: int = TRAIN_STRIDE) -> Indices:
    """First frames of windows every `stride` frames, and of a last one that ends with the video if frames are left."""
    free = max(count - size, 0)
    offsets = np.arange(0, free + 1, stride, dtype=np.int64)
    return np.append(offsets, free) if free % stride else offsets


def _candidates(actions: Array, offsets: Indices, size: int) -> tuple[Array, Array]:
    """Of every action in every window: the part of it that is there (W, N), and its ends there (W, N, 2)."""
    start, end = actions[:, 0], actions[:, 1]
    first, last = (offsets + 1.0)[:, None], (offsets + float(size))[:, None]
    inside = (np.minimum(last, end) - np.maximum(first, start)) / (end - start)
    shift = offsets.astype(np.float64)[:, None]
    return inside, np.stack([np.maximum(start - shift, 1.0), np.minimum(end - shift, float(size))], -1)


def train_windows(
    actions: Sequence[Array], counts: Sequence[int], size: int = SIZE, stride: int = TRAIN_STRIDE
) -> Windows:
    """The windows of videos that hold one whole action or more.

    Args:
        actions: (n, 3) of each video, see `sampled_actions`.
        counts: frames of each video's array.
        size: frames a window.
        stride: frames from one to the next.
    """
    video, offset, rows, kept = [], [], [np.zeros(0, np.int64)], [np.zeros((0, 3))]
    shortest = np.full(len(actions), size, np.int64)
    for number, (each, count) in enumerate(zip(actions, counts, strict=True)):
        offsets = window_offsets(count, size, stride)
        inside, ends = _candidates(each, offsets, size)
        held = inside >= HALF
        lengths = (ends[..., 1] - ends[..., 0])[held]
        shortest[number] = np.ceil(lengths.min(initial=float(size)))
        whole = (inside >= 1.0).any(1)
        held = held[whole]
        places, which = np.nonzero(held)
        kept.append(np.concatenate((ends[whole][places, which], each[which, 2:]), 1))
        rows.append(held.sum(1))
        offset.append(offsets[whole])
        video.append(np.full(int(whole.sum()), number, np.int64))
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(rows))))
    joined = [np.concatenate([*parts, np.zeros(0, np.int64)]) for parts in (video, offset)]
    return Windows(joined[0], joined[1], bounds, np.concatenate(kept), shortest, size)


def boundary_maps(windows: Windows) -> NDArray[np.uint8]:
    """Where actions start and end: (W, 2, size) of 0 and 1, starts first."""
    start, end = windows.actions[:, 0], windows.actions[:, 1]
    half = np.maximum((end - start) / EDGE, NARROWEST) / 2.0
    middle = np.stack([start, end], 1)[..., None]  # (A, 2, 1)
    frames: NDArray[Any] = np.arange(windows.size)
    low, high = np.rint(middle - half[:, None, None]), np.rint(middle + half[:, None, None])  # half to even
    marked = (frames >= low) & (frames <= high)
    if not len(windows):
        return np.zeros((0, 2, windows.size), np.uint8)
    return np.logical_or.reduceat(marked, windows.bounds[:-1], axis=0).astype(np.uint8)
