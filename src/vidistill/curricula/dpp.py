"""A good and diverse selection: greedy search for the likeliest set of a determinantal point process (k-DPP).

Kulesza, Taskar: k-DPPs, ICML 2011; Chen, Zhang, Zhou: Fast Greedy MAP Inference for Determinantal Point Process,
NeurIPS 2018, arXiv 1709.05135; as selection for distillation: SAKD, ACM MM 2025, arXiv 2504.00606.

    L_ij      = q_i K_ij q_j,     K = F F^T + ridge I,     q_i = exp( gamma u_i / (2 (1 - gamma)) )
    next pick = argmax over i of   gamma u_i + (1 - gamma) log r_i,      r_i = K_ii - K_iS K_SS^-1 K_Si

    symbol   here        meaning
    F        features    (N, D), each row scaled to length 1; a row of zeros is like no other and adds no volume
    u        quality     (N,), any scale; SAKD's difficulty gives [0, 1]
    gamma    gamma       quality against diversity: 0 diversity alone, 1 the best by quality alone, 0.5 as published
    S        picks       what was picked before
    r_i      residual    what of clip i the picks do not explain, in [0, 1 + ridge]

A pick adds log r_i + 2 log q_i to log det L_S; the greedy step compares (1 - gamma) times that.

K is never formed. The Cholesky factor's rows grow by one a pick: O(N (D + t)) work for pick t and O(N m) memory for m
picks. K has at most D directions: after that (residuals within rounding of 0) no clip adds volume, and the best
remaining ones by quality follow. `ridge` above 0 keeps residuals positive, so that picks go on to be spread over the
directions (it acts where it is above rounding: 1e-3, say). Equal clips are picked in the order of their index.

Large sets are cut at random into equal shards of at most `shard` clips, and each gives its share of the picks: work and
memory grow with N instead of N^2. A random shard resembles the whole; near-duplicates in two shards may both be picked.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.seeds import generator

Precision = Literal["float32", "float64"]
SHARD = 10_000
EXPLAINED = {"float32": 1e-5, "float64": 1e-10}
"""Residuals below this are rounding errors of a clip that the picks explain."""


def pick_count(ratio: float, clips: int) -> int:
    """`ratio` of so many clips, rounded (halves up), at least 1 and at most all; 0 of none."""
    return min(max(int(np.floor(ratio * clips + 0.5)), 1), clips)


def select(
    features: NDArray[Any],
    quality: NDArray[Any],
    count: int,
    *,
    gamma: float = 0.5,
    ridge: float = 0.0,
    shard: int = SHARD,
    seed: int = 0,
    precision: Precision = "float32",
) -> NDArray[np.int64]:
    """`count` different clips, good and diverse.

    Args:
        features: (N, D) of any float type; converted shard by shard.
        quality: (N,); more is better.
        count: picks, in [0, N].
        gamma: in [0, 1], see above.
        ridge: 0 or more, see above.
        shard: most clips that are compared with each other, 1 or more.
        seed: of the cut into shards; without effect where one shard holds all.
        precision: of the arithmetic.

    Returns:
        (count,) rows of `features`, shard by shard, each in the order of picking.

    Raises:
        DataError: features or quality that are not finite or of other lengths, or more picks than clips.
    """
    clips = len(features)
    quality = np.asarray(quality, np.float64)
    if quality.shape != (clips,) or not np.isfinite(quality).all():
        raise DataError(f"quality must be {clips} finite numbers (got {quality.shape})")
    if not 0 <= count <= clips:
        raise DataError(f"{count} of {clips} clips cannot be picked")
    if clips <= shard:
        return _greedy(_directions(features, precision), quality, count, gamma, ridge)
    parts = np.array_split(generator(seed, "shards").permutation(clips), -(-clips // max(shard, 1)))
    ends = np.cumsum([len(part) for part in parts])
    due = (2 * count * ends + clips) // (2 * clips)  # rounded shares that add up to `count`
    picked = []
    for part, share in zip(parts, np.diff(due, prepend=0), strict=True):
        rows = np.sort(part)
        local = _greedy(_directions(features[rows], precision), quality[rows], int(share), gamma, ridge)
        picked.append(rows[local])
    return np.concatenate(picked)


def _directions(features: NDArray[Any], precision: Precision) -> NDArray[Any]:
    """Rows scaled to length 1; rows of zeros stay.

    Raises:
        DataError: not a matrix, or not finite.
    """
    values = np.array(features, precision)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(f"features must be a matrix of finite numbers (got {values.shape})")
    # By the largest entry first: squares of large or tiny features leave the range of float32.
    values /= np.maximum(np.abs(values).max(1, initial=0.0, keepdims=True), np.finfo(values.dtype).tiny)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    values /= np.where(length > 0, length, 1.0)
    return values


def _greedy(
    features: NDArray[Any], quality: NDArray[np.float64], count: int, gamma: float, ridge: float
) -> NDArray[np.int64]:
    """`count` rows of `features` (rows of length 1), in the order of picking."""
    by_quality = np.argsort(-quality, kind="stable")
    if gamma >= 1.0:
        return by_quality[:count]
    clips = len(features)
    explained = EXPLAINED[str(features.dtype)]
    steps = count if ridge else min(count, features.shape[1])  # K has no more directions
    factor = np.empty((steps, clips), features.dtype)  # row t: column t of the Cholesky factor, for all clips
    # Exactly equal at the start, so that rounding does not decide between clips of equal quality.
    residual = np.where(features.any(axis=1), 1.0, 0.0) + ridge
    picks: list[int] = []
    free = np.ones(clips, bool)
    for t in range(steps):
        eligible = free & (residual > explained)
        if not eligible.any():
            break
        gain = np.full(clips, -np.inf)
        gain[eligible] = gamma * quality[eligible] + (1.0 - gamma) * np.log(residual[eligible])
        best = int(gain.argmax())
        picks.append(best)
        free[best] = False
        row = features @ features[best]
        row -= factor[:t, best] @ factor[:t]
        row /= np.sqrt(residual[best])
        factor[t] = row
        residual = np.maximum(residual - np.square(row, dtype=np.float64), ridge)
    rest = by_quality[free[by_quality]][: count - len(picks)]
    return np.concatenate([np.array(picks, np.int64), rest])
