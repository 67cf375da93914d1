"""Boxes as rows of `layout.COLUMNS` numbers, from what files of detections say of them, and rows as frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.modalities.layout import CLASS, COLUMNS, HAND, OBJECT, SCORE, SIDE, SIDES, STATE, STATES

Rows = NDArray[np.float64]
"""Boxes (M, COLUMNS)."""
LARGEST = 1e6
"""No picture has so many pixels a side, and no score is so high."""


def box_row(item: Any, corners: Iterable[Any], where: str) -> list[float]:
    """One box as COLUMNS numbers; sides and states count from 0 in files and from 1 here, where 0 is none.

    Raises:
        DataError: no category, no four corners, or a side or state that there is not.
    """
    try:
        side, state = (-1 if item.get(name) is None else int(item[name]) for name in ("side", "state"))
        x1, y1, x2, y2 = (float(corner) for corner in corners)
        score = 1.0 if item.get("score") is None else float(item["score"])
        number = HAND if "hand" in item["category"].lower() else OBJECT
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise DataError(f"{str(item)[:80]} is not a box", where=where) from None
    if not (-1 <= side < SIDES - 1 and -1 <= state < STATES - 1):
        raise DataError(f"a box of side {side} and state {state}: 0 to 1 and 0 to 4 are known", where=where)
    row = [x1, y1, x2, y2, 0.0, 0.0, 0.0, 0.0]
    row[SCORE], row[CLASS], row[SIDE], row[STATE] = score, number, side + 1, state + 1
    return row


def clear_odd(rows: Rows) -> None:
    """Rows with a number that is not finite, or beyond any picture, become "no box" in place."""
    rows[~(np.abs(rows) <= LARGEST).all(1)] = 0.0


def ordered(corners: Rows) -> Rows:
    """Corners (M, 4) with x1 <= x2 and y1 <= y2."""
    first, second = corners[:, :2], corners[:, 2:]
    return np.concatenate((np.minimum(first, second), np.maximum(first, second)), 1)


def by_frame(rows: Rows, numbers: NDArray[np.int64], frames: int, count: int, file_order: bool) -> NDArray[np.float32]:
    """Rows (M, COLUMNS), `numbers` (M,) their frames in order, as (frames, count, COLUMNS): the `count` of best score.

    Best first, or in the file's order; rows of class 0 are left out, and zeros fill up.
    """
    rows, numbers = rows[rows[:, CLASS] > 0], numbers[rows[:, CLASS] > 0]
    place = np.arange(len(rows))
    order = np.lexsort((place, -rows[:, SCORE], numbers))
    order = order[_rank(numbers[order]) < count]
    if file_order:
        order = np.sort(order)
    values = np.zeros((frames, min(count, int(np.bincount(numbers).max(initial=1))), COLUMNS), np.float32)
    values[numbers[order], _rank(numbers[order])] = rows[order]
    return values


def _rank(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many entries of sorted `numbers` before each have its value."""
    return np.arange(len(numbers)) - np.searchsorted(numbers, numbers)


def need_list(value: Any, what: str, where: str) -> list[Any]:
    """`value`, if it is a list.

    Raises:
        DataError: it is not; `what` says what it would be.
    """
    if not isinstance(value, list):
        raise DataError(f"{what} should be a list, not {str(value)[:40]!r}", where=where)
    return value
