"""Time steps of untrimmed clips: their inputs, the seconds they span, and which class each one shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.types import Segment, Signal, View
from vidistill.data.views import ClipShape, ViewPolicy

BACKGROUND = "background"
"""Name of class 0 of a detection head: nothing that is labelled."""
UNKNOWN = -1
"""Label of a step that lies past the clip's end."""


@dataclass(frozen=True)
class Steps:
    """An encoding applied to each step of a window: `shape` is (steps, *shape of one step)."""

    encoding: Any
    steps: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window, without the batch."""
        return (self.steps, *self.encoding.shape)

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """A window as float32 of `shape`; every step is encoded by itself, as a trimmed clip would be."""
        parts = np.split(view.times, self.steps)
        return torch.stack([self.encoding.encode(signal, replace(view, times=times)) for times in parts])


def step_spans(view: View, policy: ViewPolicy, shape: ClipShape) -> NDArray[np.float64]:
    """Start and end in seconds (steps, 2) of a window's steps; those past the clip's end have no length."""
    end = shape.frames / shape.rate
    width = policy.step_frames / shape.rate
    starts = view.times[0] + width * np.arange(policy.steps)
    return np.stack([np.minimum(starts, end), np.minimum(starts + width, end)], 1)


def step_labels(
    spans: NDArray[np.float64], segments: Sequence[Segment], numbers: dict[str, int], ratio: float = 0.5
) -> NDArray[np.int64]:
    """The class (steps,) that each step shows: of the segment that covers most of it, if more than `ratio` of it.

    Args:
        spans: start and end in seconds (steps, 2).
        segments: of the clip, any order.
        numbers: class number by label, from 1; 0 is the background.
        ratio: the part of a step that must be covered.

    Returns:
        0 for background, `UNKNOWN` for steps without length.
    """
    lengths = spans[:, 1] - spans[:, 0]
    labels = np.zeros(len(spans), np.int64)
    if segments:
        bounds = np.array([[s.start, s.end] for s in segments])
        overlap = np.minimum(spans[:, None, 1], bounds[:, 1]) - np.maximum(spans[:, None, 0], bounds[:, 0])
        best = overlap.argmax(1)
        covered = overlap[np.arange(len(spans)), best] > ratio * lengths
        labels = np.where(covered, np.array([numbers[s.label] for s in segments])[best], 0)
    return np.where(lengths > 1e-9, labels, UNKNOWN).astype(np.int64)


def sliding_windows(steps: Iterator[torch.Tensor], starts: list[int], size: int) -> Iterator[NDArray[np.float32]]:
    """Windows (size, *shape of one step) that begin at `starts`, increasing; steps behind the next window are let go.

    Where the steps end inside a window the last one is repeated.
    """
    kept: dict[int, NDArray[np.float32]] = {}
    known = 0
    for start in starts:
        while known < start + size:
            step = next(steps, None)
            kept[known] = kept[known - 1] if step is None else step.numpy()
            known += 1
        yield np.stack([kept[place] for place in range(start, start + size)])
        kept = {place: step for place, step in kept.items() if place > start}
