"""Cells `segments:<head>` of a manifest: `[[2.95, 6.15, "walk"], [6.15, 8.58, "sit"]]`, seconds from a clip's start."""

from __future__ import annotations

import json
import math
from typing import Any

from vidistill.core.errors import DataError
from vidistill.core.types import Segment

FORM = "[[start, end, label], ...] as JSON"


def read_segments(cell: str, column: str, where: str, seconds: float | None = None) -> tuple[Segment, ...]:
    """A cell as segments in order of time.

    Args:
        cell: the text.
        column: its column, for messages.
        where: file and row, for messages.
        seconds: length of the clip, where the row says it.

    Raises:
        DataError: no such JSON, times that are no numbers, a segment that ends before it starts or begins after the
            clip's end; which segment of the cell (from 1) is told.
    """
    try:
        rows = json.loads(cell)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise DataError(f"column {column!r} holds {cell[:60]!r}, not {FORM}", where=where)
    place = f"{where}: column {column!r}, segment"
    found = [_segment(row, f"{place} {number}", seconds) for number, row in enumerate(rows, start=1)]
    return tuple(sorted(found, key=lambda segment: (segment.start, segment.end)))


def _segment(row: Any, where: str, seconds: float | None) -> Segment:
    if not isinstance(row, list) or len(row) != 3 or not all(map(_is_number, row[:2])):
        raise DataError(f"{json.dumps(row, ensure_ascii=False)[:60]} is not [start, end, label]", where=where)
    try:
        start, end = float(row[0]), float(row[1])
    except OverflowError:
        start = end = math.inf
    label = row[2]
    if not (isinstance(label, str) and label):
        raise DataError(f"the label {label!r} is no text", where=where)
    if not (math.isfinite(end) and 0 <= start < end):
        raise DataError(f"{start} to {end} s is empty, reversed or before the start", where=where)
    if seconds is not None and start >= seconds:
        raise DataError(f"it begins at {start:g} s, the clip ends after {seconds:g} s", where=where)
    return Segment(start, end, label)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
