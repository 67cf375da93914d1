"""Boundary consistency as training sees it: a second look at windows with background moved into an action.

Lin et al.: AFSD, CVPR 2021, section 3.5. The window is made where labels are (`boundary_clips.py`), as an order of its
own frames; the network looks at it again, and what it saw around the moved boundaries is compared.

Deviations: every window of a batch counts, published: the first. The published code also asks for the teacher's
attention on the second look; here the second look is the labels' affair alone.

Shapes: B windows of T frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.seeds import generator
from vidistill.core.types import View
from vidistill.models.anchor_segments import pool_proposals
from vidistill.tasks.base import Look
from vidistill.tasks.boundary_clips import LEAST_CHUNK, boundary_clip, boundary_triplets

ORDER, PARTS, FOUND = "moved:order", "moved:parts", "moved:found"
"""Keys of a batch's labels: frames (B, T), segments (B, 3, 2) in frames, whether there was anything to move (B,)."""


def moved_labels(segments: NDArray[np.float32], view: View, frames: int) -> dict[str, NDArray[np.generic]]:
    """A window's order of frames, its parts and whether anything was moved; chance is the view's own.

    The chunk is as long as the shortest action, as published (there: of the video).

    Args:
        segments: (M, 3): start and end as parts of the window, class.
        view: of training.
        frames: T.
    """
    bounds = segments[:, :2].astype(np.float64) * frames
    shortest = math.ceil((bounds[:, 1] - bounds[:, 0]).min()) if len(bounds) else 0
    assert view.seed is not None
    choose = generator(view.seed, "boundary", view.clip, view.number).integers
    moved = boundary_clip(bounds, choose, chunk=max(LEAST_CHUNK, shortest), frames=frames)
    return {ORDER: moved.frames, PARTS: moved.proposals.astype(np.float32), FOUND: np.array(moved.found)}


def consistency(look: Look, x: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
    """The triplet loss (B,) of a second look at windows x (B, S, C, F, H, W) of S steps of F frames."""
    steps, frames = x.shape[1], x.shape[3]
    in_order = x.transpose(2, 3).flatten(1, 2)
    moved = in_order[torch.arange(len(x), device=x.device)[:, None], labels[ORDER]]
    seen = look(moved.reshape(len(x), steps, frames, *moved.shape[2:]).transpose(2, 3))
    return boundary_triplets(pool_proposals(seen.features, labels[PARTS]), labels[FOUND]).sum(0)
