"""What an anchor-free detector's raw outputs say: refined segments and scores. See `anchor_decoding.py` for symbols.

Lin et al.: AFSD, CVPR 2021, section 3.5.

    d = loc + (l + r) / 2 * prop_loc;    segment [T c - d_l, T c + d_r];    p = s (softmax conf + softmax prop_conf) / 2

Shapes: B windows, A anchors, K classes with background (class 0). Both functions can be exported.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12


def refined_segments(loc: Tensor, prop_loc: Tensor, priors: Tensor, frames: int) -> Tensor:
    """Start and end (B, A, 2) of refined segments, in frames, within the window of `frames` frames.

    Args:
        loc: distances (B, A, 2) to start and end, in frames.
        prop_loc: growth (B, A, 2) of the distances, in half widths.
        priors: centres (A,) or (B, A) of the anchors as parts of the window.
        frames: T.
    """
    distances = 0.5 * loc.sum(-1, keepdim=True) * prop_loc + loc
    centre = priors * frames
    bounds = torch.stack([centre - distances[..., 0], centre + distances[..., 1]], dim=-1)
    return bounds.clamp(0.0, float(frames))


def anchor_scores(conf: Tensor, prop_conf: Tensor, center: Tensor) -> Tensor:
    """Scores (B, A, K) of every anchor's segment in every class, in [0, 1].

    Args:
        conf: logits (B, A, K).
        prop_conf: logits (B, A, K) of the refined segments.
        center: logits (B, A) or (B, A, 1).
    """
    fits = center.reshape(conf.shape[:-1]).sigmoid().unsqueeze(-1)
    return 0.5 * (conf.softmax(-1) + prop_conf.softmax(-1)) * fits


def anchor_log_probabilities(conf: Tensor, prop_conf: Tensor, center: Tensor) -> Tensor:
    """Logarithms (B, A, K) of probabilities: of classes 1..K-1 their scores, of background what is left."""
    scores = anchor_scores(conf.float(), prop_conf.float(), center.float())[..., 1:]
    left = 1.0 - scores.sum(-1, keepdim=True)
    return torch.cat([left, scores], dim=-1).clamp(min=TINY).log()
