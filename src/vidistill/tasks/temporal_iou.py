"""Temporal intersection over union of segments [start, end].

    tIoU(a, b) = max(0, min(a_end, b_end) - max(a_start, b_start)) / union

The published PKU-MMD overlap (Luo et al., ECCV 2018) divides without the max(0, .) by the hull
max(a_end, b_end) - min(a_start, b_start): the same number where segments meet, negative where they are apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tiou(a: NDArray[Any], b: NDArray[Any], *, signed: bool = False) -> Floats:
    """Temporal IoU of segments (..., 2) with segments (..., 2), broadcast against each other.

    Args:
        a: start and end, in any unit.
        b: the same.
        signed: the published PKU-MMD form: minus the gap's share of the hull where segments do not meet.

    Returns:
        (...) in [0, 1], or in (-1, 1] if signed; 0 where both segments are the same instant.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shared = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    if not signed:
        shared = np.maximum(shared, 0.0)  # where segments meet, their hull is their union
    return np.asarray(np.divide(shared, hull, out=np.zeros(np.shape(shared)), where=hull > 0))


def pairwise_tiou(a: NDArray[Any], b: NDArray[Any], *, signed: bool = False) -> Floats:
    """Temporal IoU of every segment of a (N, 2) with every segment of b (M, 2): (N, M). See `tiou`."""
    return tiou(np.asarray(a)[:, None, :], np.asarray(b)[None, :, :], signed=signed)
