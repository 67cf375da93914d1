"""Non-maximum suppression of overlapping segments, of all classes (and clips) at once.

Bodla et al.: Soft-NMS, ICCV 2017, section 3, Gaussian form: candidates are picked in the order of their scores, and
each pick i lowers the scores of those left,

    s_j <- s_j * exp(-tIoU(i, j)^2 / sigma);        scores below `floor` are dropped

`variant: released` is the published code of Generative Model-based Feature Knowledge Distillation (AAAI 2024): it stops
when one candidate is left, which is lost, and gives the kept ones in the order of the input. `released_v1` is the older
routine beside it: it also loses the last one, and takes min(width, 1e-5) for the pick's width where max was meant, so
that a segment within the pick has a huge tIoU. By default nothing is lost and the surest comes first.

Groups advance together, one pick each a round, on arrays padded to the largest group; groups of like size share a
block, and a block is packed anew when half of it is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidistill.core.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Decay = Callable[[Floats], Floats]
Variant = Literal["default", "released", "released_v1"]
CELLS = 1 << 16
"""Candidates in one block: what a block needs stays within a processor's cache."""
SHORTEST = 1e-5
"""Least width of a pick, as published: a segment of no length overlaps nothing."""
ROUNDS = 8
"""Rounds from one look at how much of a block is dead to the next."""


def soft_nms(
    bounds: NDArray[Any],
    scores: NDArray[Any],
    groups: NDArray[Any] | None = None,
    *,
    sigma: Annotated[float, Field(gt=0)] = 0.5,
    floor: Annotated[float, Field(gt=0)] = 1e-3,
    top_k: Annotated[int, Field(ge=1)] = 5000,
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.0,
    variant: Variant = "default",
) -> tuple[Integers, Floats]:
    """Gaussian soft-NMS within each group.

    Args:
        bounds: start and end of candidates (N, 2), in any unit (seconds: see `SHORTEST`).
        scores: (N,), above 0.
        groups: what suppresses each other (N,), e.g. class, or a number for each (clip, class); None: all.
        sigma: the larger, the gentler.
        floor: candidates whose score falls below are dropped.
        top_k: at most this many are kept of a group.
        overlap: only candidates with at least this tIoU are lowered.
        variant: see the file's head.

    Returns:
        indices (K,) of the kept candidates and their lowered scores (K,): the surest first, or in the order of the
        input if `variant` is "released".

    Raises:
        DataError: arrays that do not fit, or are not finite.
    """

    def decay(iou: Floats) -> Floats:
        powers = np.square(iou)
        powers *= -1.0 / sigma
        np.exp(powers, out=powers)
        if overlap > 0:
            powers[iou < overlap] = 1.0
        return powers

    picked = _suppress(bounds, scores, groups, decay, floor, top_k, variant == "released_v1")
    if variant != "default":
        picked = picked.take(~picked.alone)
    order = np.argsort(picked.index) if variant == "released" else np.argsort(-picked.score, kind="stable")
    return picked.index[order], picked.score[order]


def hard_nms(
    bounds: NDArray[Any],
    scores: NDArray[Any],
    groups: NDArray[Any] | None = None,
    *,
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.5,
    top_k: Annotated[int, Field(ge=1)] = 5000,
) -> Integers:
    """Indices (K,) of what plain NMS keeps, the surest first: no two of a group have a tIoU above `overlap`.

    Arguments and errors as `soft_nms`.
    """

    def decay(iou: Floats) -> Floats:
        return (iou <= overlap).astype(np.float64)

    picked = _suppress(bounds, scores, groups, decay, np.finfo(np.float64).tiny, top_k, False)
    return picked.index[np.argsort(-picked.score, kind="stable")]


@dataclass(frozen=True)
class _Picked:
    """Picks (K,): candidate, score when picked, and whether no other candidate of its group was left then."""

    index: Integers
    score: Floats
    alone: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> _Picked:
        return _Picked(self.index[rows], self.score[rows], self.alone[rows])


def _suppress(
    bounds: NDArray[Any],
    scores: NDArray[Any],
    groups: NDArray[Any] | None,
    decay: Decay,
    floor: float,
    top_k: int,
    narrow: bool,
) -> _Picked:
    """Picks of all groups, sorted by candidate."""
    bounds, scores = np.asarray(bounds, np.float64).reshape(-1, 2), np.asarray(scores, np.float64)
    groups = np.zeros(len(scores), np.int64) if groups is None else np.asarray(groups)
    if not len(bounds) == len(scores) == len(groups):
        raise DataError(f"{len(bounds)} candidates, {len(scores)} scores and {len(groups)} groups do not fit")
    if not (np.isfinite(bounds).all() and np.isfinite(scores).all()):
        raise DataError("a candidate's bounds or score are not finite")
    kept = np.flatnonzero(scores >= floor)
    picks = [_Picked(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))]
    for rows in _blocks(groups[kept]):
        index = np.where(rows < 0, -1, kept[rows])
        picks.extend(_Block(bounds, scores, index, floor).run(decay, top_k, narrow))
    joined = _Picked(*(np.concatenate([getattr(pick, name) for pick in picks]) for name in ("index", "score", "alone")))
    return joined.take(np.argsort(joined.index))


def _blocks(groups: NDArray[Any]) -> Iterator[Integers]:
    """Members of groups as rows (groups, widest), -1 beside the end; groups of like size together, widest first."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.argsort(group, kind="stable")
    first = np.cumsum(sizes) - sizes
    widest = np.argsort(-sizes, kind="stable")
    done = 0
    while done < len(widest):
        width = int(sizes[widest[done]])
        rows = widest[done : done + max(CELLS // width, 1)]
        place = np.arange(width)
        inside = place < sizes[rows][:, None]
        yield np.where(inside, members[np.where(inside, first[rows][:, None] + place, 0)], -1)
        done += len(rows)


class _Block:
    """Candidates of several groups (rows), padded; a dead or picked candidate has score 0."""

    def __init__(self, bounds: Floats, scores: Floats, index: Integers, floor: float) -> None:
        absent = index < 0
        self.index = index
        self.score = np.where(absent, 0.0, scores[index])
        self.start, self.end = bounds[index, 0], bounds[index, 1]
        self.width = self.end - self.start
        self.floor = floor

    def run(self, decay: Decay, top_k: int, narrow: bool) -> Iterator[_Picked]:
        """One pick of every group that has candidates left, each round."""
        for number in range(min(top_k, self.score.shape[1])):
            if number % ROUNDS == 0:
                self._pack()
            if self.score.size == 0:
                return
            rows = np.arange(len(self.score))
            top = self.score.argmax(1)
            best = self.score[rows, top]
            picked = best >= self.floor
            if not picked.any():
                return
            left = np.count_nonzero(self.score >= self.floor, axis=1)
            yield _Picked(self.index[rows, top][picked], best[picked], (left == 1)[picked])
            self._lower(rows, top, decay, narrow)

    def _lower(self, rows: Integers, top: Integers, decay: Decay, narrow: bool) -> None:
        """Lower the scores of all that overlap their group's pick, and take the pick out."""
        start, end = self.start[rows, top][:, None], self.end[rows, top][:, None]
        width = (np.minimum if narrow else np.maximum)(end - start, SHORTEST)
        shared = np.minimum(self.end, end)
        shared -= np.maximum(self.start, start)
        np.maximum(shared, 0.0, out=shared)
        union = self.width + width
        union -= shared
        iou = np.divide(shared, union, out=shared, where=union != 0)
        self.score *= decay(iou)
        self.score[rows, top] = 0.0

    def _pack(self) -> None:
        """Drop groups and columns in which nobody is alive, if that halves the block."""
        alive = self.score >= self.floor
        left = alive.sum(1)
        rows, widest = np.flatnonzero(left), int(left.max(initial=0))
        if 2 * len(rows) * widest > alive.size:
            return
        order = np.argsort(~alive[rows], axis=1, kind="stable")[:, :widest]
        for name in ("index", "score", "start", "end", "width"):
            setattr(self, name, np.take_along_axis(getattr(self, name)[rows], order, axis=1))
