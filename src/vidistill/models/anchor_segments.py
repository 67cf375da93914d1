"""Where anchors lie in a window, and where an anchor-free detector looks around a coarse segment's boundaries.

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021. An anchor is a
step of a pyramid level of t steps, its centre c = (i + 0.5) / t as a part of the window. Around the start s and the
end e of a segment of width w lie the windows

    [s - out, s + in]  and  [e - in, e + out],    in = max(w / 4, 1),  out = max(w / 10, 1),  rounded half to even

Shapes: B windows of `frames` frames, A anchors, n segments.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vidistill.models.boundary_pooling import Variant, boundary_max_pool


def anchor_centres(steps: int, device: torch.device | None = None) -> Tensor:
    """Centres (steps,) of the anchors of a level, as parts of the window."""
    return (torch.arange(steps, device=device) + 0.5) / steps


def boundary_windows(start: Tensor, end: Tensor, width: Tensor) -> Tensor:
    """Windows (..., 4) around starts and ends (...): first and last step around the start, then around the end."""
    inside = (width / 4).clamp(min=1.0)
    outside = (width / 10).clamp(min=1.0)
    return torch.stack([start - outside, start + inside, end - inside, end + outside], dim=-1).round()


def _at_least_float32(loc: Tensor) -> Tensor:
    """Half precision cannot tell the frames of a window of some hundreds from each other."""
    return loc.to(torch.promote_types(loc.dtype, torch.float32))


@torch.no_grad()
def level_windows(loc: Tensor, frames: int) -> Tensor:
    """Boundary windows (B, t, 4), in steps of their level, of coarse segments.

    Args:
        loc: distances (B, t, 2) from each anchor's centre to its segment's start and end, in frames.
        frames: frames of the window.
    """
    steps = loc.shape[1]
    left, right = (_at_least_float32(loc) * steps / frames).unbind(-1)
    middle = (anchor_centres(steps, loc.device) * steps - 0.5).round()
    return boundary_windows(middle - left, middle + right, left + right)


@torch.no_grad()
def frame_windows(segments: Tensor) -> Tensor:
    """Boundary windows (B, n, 4), in frames, of segments (B, n, 2) in frames, both ends included."""
    start, end = segments.unbind(-1)
    return boundary_windows(start, end, end - start + 1.0)


@torch.no_grad()
def coarse_segments(loc: Tensor, frames: int) -> Tensor:
    """Segments (B, t, 2) in frames of distances `loc` (B, t, 2) in frames around the anchors of one level."""
    centre = anchor_centres(loc.shape[1], loc.device) * frames
    left, right = _at_least_float32(loc).unbind(-1)
    return torch.stack([centre - left, centre + right], dim=-1)


def pool_proposals(
    features: Mapping[str, Tensor], proposals: Tensor, variant: Variant = "default"
) -> tuple[Tensor, Tensor, Tensor]:
    """What an anchor detector saw around the boundaries of given segments (AFSD's boundary consistency learning).

    Args:
        features: of its outputs: `start` and `end` (B, W / 2, frames), and `start_loc_prop`, `end_loc_prop`,
            `start_conf_prop`, `end_conf_prop` (B, W, t).
        proposals: segments (B, n, 2), in frames of the window.
        variant: of `boundary_max_pool`.

    Returns:
        (B, W, n) at frame level, (B, 2W, n) of the localisation and (B, 2W, n) of the confidence branch; the first
        half of the channels was pooled around the segment's start, the second around its end.
    """
    windows = frame_windows(proposals)
    frames = features["start"].shape[2]
    pooled = []
    for name in ("", "_loc_prop", "_conf_prop"):
        sequence = torch.cat([features[f"start{name}"], features[f"end{name}"]], dim=1)
        pooled.append(boundary_max_pool(sequence, windows * sequence.shape[2] / frames, variant))
    return pooled[0], pooled[1], pooled[2]
