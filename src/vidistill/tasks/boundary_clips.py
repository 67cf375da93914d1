"""Boundary consistency: a clip with background moved into an action, and the triplet loss on its boundaries.

Lin et al.: AFSD, CVPR 2021, section 3.5 (consistency learning); as used by Generative Model-based Feature Knowledge
Distillation, AAAI 2024, arXiv 2312.08644.

An action [s, e] is cut at t; a chunk of background, frames u to before u + h, is moved to the cut, and the frames
between shift by h to close the hole. Both sides of the chunk are boundaries of the action now: the end of its left part
should look like the start of its right part, as one was continued in the other, and unlike the start of the chunk.

    u < t    [0,u) [u+h,t) chunk [t,T)     left part [s-h, t-h]    right part [t, e]        chunk inside [t-h+1, t-1]
    u > t    [0,t) chunk [t,u) [u+h,T)     left part [s, t]        right part [t+h, e+h]    chunk inside [t+1, t+h-1]

`variant: released` reproduces the published choice. Its background is every stretch between neighbouring bounds that is
no annotation itself, which may be the overlap of two actions; it fails after the action was chosen where no stretch is
long enough; it never takes a stretch's last start, nor the last frame. By default background is what no segment covers,
the action is one that can be cut, both parts are at least h long, and every place is as likely as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import DataError
from vidistill.methods.base import masked, precise

Choose = Callable[[int], Any]
"""A whole number in [0, n), e.g. `generator(seed, "boundary", clip).integers` or `random.Random(0).randrange`."""
Bounds = list[tuple[float, float]]
LEAST_CHUNK = 3
"""Frames: a chunk loses one at each side and something must be left."""
LEVEL_WEIGHTS = (1.0, 0.1, 0.1)
"""Published factors of the triplet at the frame-level, localisation and classification features."""


@dataclass(frozen=True, eq=False)
class BoundaryClip:
    """Which frames make the clip, and where its parts are.

    Attributes:
        frames: (T,) a permutation of the window's frames.
        proposals: (3, 2) start and end in frames: the action's left part, its right part, the chunk; zeros without one.
        found: whether there was anything to move; else the frames are in order.
    """

    frames: NDArray[np.int64]
    proposals: NDArray[np.float64]
    found: bool


class Move(NamedTuple):
    """One way to move a chunk: the action, where it is cut, where the chunk starts."""

    action: tuple[float, float]
    cut: int
    chunk: int


def boundary_clip(
    segments: NDArray[Any],
    choose: Choose,
    *,
    chunk: int,
    frames: int,
    variant: Literal["default", "released"] = "default",
) -> BoundaryClip:
    """A window with background moved into one of its actions.

    Args:
        segments: (n, 2) or (n, 3): start and end in frames of the window, further columns are ignored; n may be 0.
        choose: the source of chance: a number for the action, the cut, (released: the stretch,) the chunk, in this
            order.
        chunk: frames h to move, 1 or more. Published: the video's shortest action, rounded up.
        frames: length of the window T.
        variant: see the file's head.

    Raises:
        DataError: segments of another shape, not finite, or ending before they start.
    """
    bounds = _read(segments)
    move = (_choose_move if variant == "default" else _choose_released)(bounds, choose, chunk, frames)
    if move is None:
        return BoundaryClip(np.arange(frames), np.zeros((3, 2)), False)
    (start, end), cut, source = move
    order = np.arange(frames)
    moved, rest = order[source : source + chunk], np.delete(order, np.s_[source : source + chunk])
    before, after = (chunk, 0) if source < cut else (0, chunk)  # frames that the left and the right part shift by
    place = cut - before
    proposals = [[start - before, place], [cut + after, end + after], [place + 1, place + chunk - 1]]
    return BoundaryClip(np.concatenate([rest[:place], moved, rest[place:]]), np.array(proposals, np.float64), True)


def _read(segments: NDArray[Any]) -> Bounds:
    values = np.asarray(segments, np.float64)
    if values.size == 0:
        return []
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(f"segments of shape {values.shape}, expected (n, 2) or (n, 3): start, end")
    wrong = ~np.isfinite(values[:, :2]).all(1) | (values[:, 1] < values[:, 0])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"segment {row} {values[row, :2].tolist()} is not finite or ends before it starts")
    return [(float(start), float(end)) for start, end in values[:, :2]]


def _choose_move(bounds: Bounds, choose: Choose, chunk: int, frames: int) -> Move | None:
    """One move among those that leave both parts of the action `chunk` frames long."""
    clipped = np.clip(np.array(bounds).reshape(-1, 2), 0.0, frames).tolist()
    inside = sorted((start, end) for start, end in clipped if end > start)
    actions = [(s, e) for s, e in inside if math.floor(e - chunk) >= math.ceil(s + chunk)]
    ends = np.maximum.accumulate([0.0, *(end for _, end in inside)])
    starts = [*(start for start, _ in inside), float(frames)]
    gaps = [(math.ceil(a), math.floor(b)) for a, b in zip(ends, starts, strict=True)]
    gaps = [(first, last) for first, last in gaps if last - first >= chunk]
    if chunk < LEAST_CHUNK or not actions or not gaps:
        return None
    start, end = actions[int(choose(len(actions)))]
    first_cut, last_cut = math.ceil(start + chunk), math.floor(end - chunk)
    cut = first_cut + int(choose(last_cut - first_cut + 1))
    sources = np.concatenate([np.arange(first, last - chunk + 1) for first, last in gaps])
    return Move((start, end), cut, int(sources[int(choose(len(sources)))]))


def _choose_released(bounds: Bounds, choose: Choose, chunk: int, frames: int) -> Move | None:
    """One move as the published code draws it: action, cut, stretch, chunk."""
    actions = [(start, end) for start, end in bounds if end - start > 2 * chunk]
    if not actions:
        return None
    start, end = actions[int(choose(len(actions)))]
    cut = math.ceil(start) + chunk + int(choose(math.ceil(end - start - chunk) - chunk))
    marks = sorted([0.0, float(frames - 1), *(mark for pair in bounds for mark in pair)])
    stretches = [pair for pair in zip(marks[:-1], marks[1:], strict=True) if pair not in bounds]
    stretches = [(a, b) for a, b in stretches if math.floor(b) - math.ceil(a) > chunk]
    if not stretches:
        return None
    first, last = stretches[int(choose(len(stretches)))]
    source = math.ceil(first) + int(choose(math.floor(last) - math.ceil(first) - chunk))
    # A chunk from where actions overlap may hold the cut itself: there is nothing to move.
    return None if source <= cut < source + chunk else Move((start, end), cut, source)


def boundary_triplets(
    pooled: Sequence[Tensor],
    found: Tensor,
    *,
    weights: Sequence[float] = LEVEL_WEIGHTS,
    margin: float = 1.0,
) -> Tensor:
    """max(0, |anchor - positive| - |anchor - negative| + margin) for each level and clip.

    The anchor is the end of the action's left part, the positive the start of its right part, the negative the start of
    the chunk. The published loss looks at the first clip of the batch only; here every clip counts.

    Args:
        pooled: boundary-pooled features (B, C, 3) of the three proposals, one tensor a level: of the frame level, of
            the localisation and of the classification branch; starts in the first half of channels, ends in the second.
        found: (B,) bool, clips that have proposals; others give 0 and no gradient.
        weights: factor of each level.
        margin: how much further the negative should be.

    Returns:
        (levels, B), 0 or more, weighted.
    """
    terms = []
    for features, weight in zip(pooled, weights, strict=True):
        starts, ends = precise(features).chunk(2, dim=1)
        values = functional.triplet_margin_loss(
            ends[..., 0], starts[..., 1], starts[..., 2], margin=margin, reduction="none"
        )
        terms.append(weight * masked(values, found))
    return torch.stack(terms)
