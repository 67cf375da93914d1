"""What anchors should say, from annotated segments: matching, refinement, boundary maps, background.

Lin et al.: AFSD, CVPR 2021, sections 3.3 and 3.4; Generative Model-based Feature Knowledge Distillation, AAAI 2024,
arXiv 2312.08644, for the background intervals.

    segments   (B, M, 3)   start and end as fractions of the window, class number; class -1 is padding
    priors     (A,)        centres of the anchors, fractions of the window
    distances  (..., 2)    left and right from an anchor's centre, in frames of the window

Class 0 is background. Rows that are padding, not finite, or do not end after they start, hold no anchor. All functions
work on whole batches, never wait for the device, and give no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import DataError
from vidistill.tasks.segment_losses import iou

PADDING = -1
"""Class number of a row that is no segment."""
BOUNDARY_SHARE, LEAST_BOUNDARY = 0.1, 2.0
"""Length of a boundary as a share of its segment, and the least, in frames."""


def pad_segments(segments: Sequence[NDArray[Any]], *, names: Sequence[str] | None = None) -> Tensor:
    """Annotations of several windows as one tensor; for the reading side, where data may be wrong.

    Args:
        segments: one (n, 3) a window: start, end, class; n may be 0.
        names: what to call the windows in errors; None: their numbers.

    Returns:
        (B, M, 3) float32 with M >= 1, padded.

    Raises:
        DataError: another shape, values that are not finite, a segment that does not end after it starts, that leaves
            the window, or whose class is not a whole number from 0 on.
    """
    rows = [np.asarray(each, np.float64) for each in segments]
    for number, each in enumerate(rows):
        _check_rows(each, names[number] if names else f"window {number}")
    padded = np.full((len(rows), max((len(each) for each in rows), default=0) or 1, 3), [0.0, 0.0, PADDING], np.float32)
    for number, each in enumerate(rows):
        padded[number, : len(each)] = each.reshape(-1, 3)
    return torch.from_numpy(padded)


def _check_rows(rows: NDArray[np.float64], name: str) -> None:
    if rows.size == 0:
        return
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise DataError(f"segments of shape {rows.shape}, expected (n, 3): start, end, class", where=name)
    start, end, label = rows.T
    faults = {
        "has a value that is not a finite number": ~np.isfinite(rows).all(1),
        "does not end after it starts": end <= start,
        "leaves the window [0, 1]": (start < 0) | (end > 1),
        "has a class that is not a whole number from 0 on": (label < 0) | (label != np.floor(label)),
    }
    for what, wrong in faults.items():
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(f"segment {row} {rows[row].tolist()} {what}", where=name, todo="Correct the annotation.")


def is_segment(segments: Tensor) -> Tensor:
    """Which rows (B, M) of (B, M, 3) are segments: not padding, finite, of positive length."""
    return (segments[..., 2] >= 0) & (segments[..., 1] > segments[..., 0]) & segments.isfinite().all(-1)


@dataclass(frozen=True)
class Matches:
    """What each anchor should say.

    Attributes:
        label: class number (B, A), 0 where no segment holds the anchor.
        distances: (B, A, 2) to the matched segment's start and end; ones where there is none.
    """

    label: Tensor
    distances: Tensor

    @property
    def positive(self) -> Tensor:
        """Anchors (B, A) in a segment that is not background."""
        return self.label > 0


@torch.no_grad()
def match_anchors(priors: Tensor, segments: Tensor, *, frames: int) -> Matches:
    """The shortest segment that holds each anchor's centre, bounds included; the first of equally short ones.

    Args:
        priors: centres (A,) or (A, 1).
        segments: (B, M, 3).
        frames: length of the window.
    """
    segments = functional.pad(segments, (0, 0, 0, 1), value=PADDING)  # nothing to choose from is a case like others
    centre = priors.reshape(1, -1, 1)
    start, end, label = (column.unsqueeze(1) for column in segments.unbind(-1))
    holds = is_segment(segments).unsqueeze(1) & (start <= centre) & (centre <= end)
    length = torch.where(holds, end - start, torch.inf)
    best = length.argmin(-1, keepdim=True)
    found = holds.gather(-1, best)
    distances = torch.stack([centre - start, end - centre], dim=-1) * frames
    chosen = distances.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, 2)).squeeze(2)
    labels = label.expand_as(length).gather(-1, best)
    return Matches(torch.where(found, labels, 0).squeeze(-1).long(), torch.where(found, chosen, 1.0))


@torch.no_grad()
def match_refined(coarse: Tensor, matches: Matches, *, overlap: float = 0.5) -> Matches:
    """What the refining branch should say: only anchors whose coarse segment already overlaps theirs are positive.

    Args:
        coarse: predicted distances (B, A, 2), in frames.
        matches: of the anchors.
        overlap: least IoU of coarse and matched segment.

    Returns:
        Labels, 0 where the overlap is less; `distances` are what is missing of the coarse ones, in units of half the
        coarse length (ones where not positive): the refined distances are coarse + half length * this.
    """
    positive = matches.positive & (iou(coarse, matches.distances) >= overlap)
    half = torch.where(positive, 0.5 * coarse.sum(-1), 1.0).unsqueeze(-1)
    missing = torch.where(positive.unsqueeze(-1), (matches.distances - coarse) / half, 1.0)
    return Matches(torch.where(positive, matches.label, 0), missing)


@torch.no_grad()
def boundary_maps(segments: Tensor, *, frames: int) -> Tensor:
    """Ones around starts and around ends: a tenth of the segment's length wide, two frames at least.

    Ones lie on frames round(s - d/2) to round(s + d/2), both included, halves rounded to even, with
    d = max((e - s)/10, 2), s and e in frames.

    Args:
        segments: (B, M, 3); float64 where halves must be rounded as from float64 frames.
        frames: T.

    Returns:
        (B, 2, T) in {0, 1}, float32: starts, ends. Frames outside the window are left out.
    """
    bounds = segments[..., :2].double() * frames
    half = (BOUNDARY_SHARE * (bounds[..., 1] - bounds[..., 0])).clamp(min=LEAST_BOUNDARY).unsqueeze(-1) / 2
    frame = torch.arange(frames, device=segments.device)
    first, last = (bounds - half).round().unsqueeze(-1), (bounds + half).round().unsqueeze(-1)
    near = (first <= frame) & (frame <= last) & is_segment(segments)[..., None, None]
    return near.any(1).float()


@torch.no_grad()
def background_intervals(segments: Tensor, *, variant: Literal["default", "released"] = "default") -> Tensor:
    """What no segment covers, as segments of class 0.

    Args:
        segments: (B, M, 3).
        variant: "released" takes segments in the order given, neither sorted nor merged, as the published code does:
            the stretch between each end and the next start is background even where it is inverted or inside another
            segment. Only rows that are not padding count there.

    Returns:
        (B, M + 1, 3), class 0; rows that are no interval are padding.
    """
    real = is_segment(segments) if variant == "default" else segments[..., 2] >= 0
    # Rows that do not count become [1, 1], which is nothing, and go to the end.
    start = torch.where(real, segments[..., 0], 1.0)
    end = torch.where(real, segments[..., 1], 1.0)
    if variant == "default":
        start, order = start.clamp(0.0, 1.0).sort(dim=1)
        end = end.clamp(0.0, 1.0).gather(1, order)
    else:
        order = (~real).byte().argsort(dim=1, stable=True)
        start, end, real = start.gather(1, order), end.gather(1, order), real.gather(1, order)
    after = functional.pad(start, (0, 1), value=1.0)
    before = functional.pad(end, (1, 0), value=0.0)
    if variant == "default":
        before = before.cummax(1).values
    kept = after > before
    if variant == "released":
        kept[:, 1:-1] |= real[:, 1:]
    # No constant tensor: to copy one to the device would wait for it.
    bounds = torch.where(kept.unsqueeze(-1), torch.stack([before, after], dim=-1), 0.0)
    label = torch.where(kept, 0.0, float(PADDING)).to(bounds.dtype)
    return torch.cat([bounds, label.unsqueeze(-1)], dim=-1)
