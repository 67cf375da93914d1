"""Random ground truth and detections for the tests of detection metrics."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from vidistill.tasks.segments import Detections, Segments


def make(columns: list[tuple], scored: bool):
    video, label, start, length, score = (np.array(values) for values in zip(*columns, strict=True))
    segments = (video, start, start + length, label)
    return Detections(*segments, score / 1000.0) if scored else Segments(*segments)


def rows(least: int, most: int):
    """(video, class, start, length, score): small whole numbers, so that overlaps and ties of overlap occur; of
    different scores."""
    row = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 12), st.integers(1, 8), st.integers(1, 999))
    return st.lists(row, min_size=least, max_size=most, unique_by=lambda each: each[4])


truths = rows(1, 8).map(lambda columns: make(columns, False))
detections = rows(1, 14).map(lambda columns: make(columns, True))
NAMES = {"videos": np.arange(3), "classes": np.arange(3)}
"""All videos and classes that occur."""


def overlap_of(a, b) -> float:
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / (max(a[1], b[1]) - min(a[0], b[0])) if shared > 0 else 0.0


def repeated(segments, counts):
    """Each video as often as `counts` says, copies as videos of their own."""
    copies = np.array(counts)[segments.clip]
    place = np.repeat(np.arange(len(segments)), copies)
    number = np.arange(len(place)) - np.repeat(np.cumsum(copies) - copies, copies)
    several = segments.take(place)
    object.__setattr__(several, "clip", several.clip + 10 * number)
    return several
