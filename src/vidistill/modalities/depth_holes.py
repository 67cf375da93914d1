"""Holes of depth maps, filled with the nearest depth that was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_holes(frames: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Frames (T, H, W[, C]) in which every pixel that is not `valid` (T, H, W) takes the value of the nearest that is.

    Nearest is exact, by Euclidean distance within the frame; of equally near pixels, which one is unspecified. A frame
    without a valid pixel stays as it is.
    """
    return np.stack([_filled(frame, there) for frame, there in zip(frames, valid, strict=True)])


def _filled(frame: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """One frame (H, W[, C]) without holes.

    Two passes: the nearest valid row of each column; then the nearest of the columns, over growing sideways distances
    until none can be nearer. Small holes cost little, whatever the size of the frame.
    """
    if valid.all() or not valid.any():
        return frame
    height, width = valid.shape
    rows = _nearest_rows(valid)
    far = height * height + width * width
    straight = np.where(rows < 0, far, (rows - np.arange(height)[:, None]) ** 2)  # squared, up or down a column
    columns = np.broadcast_to(np.arange(width), valid.shape)
    best, source = straight.copy(), columns.copy()
    for shift in range(1, width):
        if shift * shift >= best.max():
            break
        right, left = np.s_[:, shift:], np.s_[:, :-shift]
        for here, there in ((right, left), (left, right)):
            distance = straight[there] + shift * shift
            nearer = distance < best[here]
            best[here] = np.where(nearer, distance, best[here])
            source[here] = np.where(nearer, columns[there], source[here])
    return np.asarray(frame[np.take_along_axis(rows, source, axis=1), source])


def _nearest_rows(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each pixel of (H, W) the nearest valid row of its column; -1 where the column has none."""
    height = len(valid)
    place = np.broadcast_to(np.arange(height)[:, None], valid.shape)
    above = np.maximum.accumulate(np.where(valid, place, -1))
    below = np.minimum.accumulate(np.where(valid, place, 2 * height)[::-1])[::-1]
    nearest = np.where((above >= 0) & (place - above <= below - place), above, below)
    return np.where(nearest >= height, -1, nearest)
