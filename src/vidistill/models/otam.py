"""`otam`: ordered temporal alignment of frames, without parameters.

Cao, Ji, Cao, Chang, Niebles: Few-Shot Video Classification via Temporal Alignment, CVPR 2020, section 3.3, in the form
of the code of Lite-MKD (ACM MM 2023) and TRX (CVPR 2021).

    d[l, m] = 1 - x_l . y_m / (|x_l| |y_m| + 0.01)        frames of one clip against those of another
    c[0, m] = sum of d[0, k], k <= m;   c[l, 0] = 0, l > 0
    c[l, m] = d[l, m] - s ln sum exp(-c' / s)             c' in c[l-1, m-1], c[l, m-1]; at m = 1 and m = M + 1 c[l-1, m]
    D = c[L-1, M+1](d) + c[M-1, L+1](d transposed)        soft-min of smoothing s; d has a column of 0 at either end

The logit is the mean of -D over the shots of a class. The recursion along a row is the logarithm of a running sum of
exponentials: with u = -c / s, S[m] = sum of -d[l, k] / s up to m, and a[m] what comes from the row above,
u[m] - S[m] = log sum over k <= m of exp(a[k] - S[k-1]). So only rows are looped over, for all pairs of clips at once.

Deviation: the published head gives softmax(-D), already probabilities, which then go through the softmax of a
cross-entropy once more, so that the loss cannot come near 0; `variant: released` does so.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vidistill.models.episode_heads import EPISODE_HEADS, FLOAT_BYTES, EpisodeHead, Projected, check_frames

EPSILON = 0.01
"""Added to the product of lengths, as published: frames much shorter than 0.1 are far from everything."""


def frame_distances(queries: Projected, support: Projected) -> Tensor:
    """1 - cosine of every query frame with every support frame.

    Args:
        queries: frames (E, Q, L, D) and their lengths (E, Q, L).
        support: frames (E, S, M, D) and their lengths (E, S, M).

    Returns:
        (E, Q, S, L, M).
    """
    counts = (*queries[1].shape[1:], *support[1].shape[1:])
    products = queries[0].flatten(1, 2) @ support[0].flatten(1, 2).transpose(1, 2)
    lengths = queries[1].flatten(1)[:, :, None] * support[1].flatten(1)[:, None]
    cosines = (products / (lengths + EPSILON)).reshape(-1, *counts)
    return 1.0 - cosines.transpose(2, 3)


def alignment(distances: Tensor, smoothing: float) -> Tensor:
    """Cost (…) of the soft best alignment of rows (…, L, M) to columns, in one direction; `smoothing` above 0."""
    scaled = functional.pad(distances, (1, 1)) / -smoothing
    sums = scaled.cumsum(-1)
    row = sums[..., 0, :]
    for number in range(1, scaled.shape[-2]):
        above = row[..., :-1]
        # At both ends the path may also come straight from above: to leave out frames before and after the action.
        entry = torch.cat(
            [
                torch.logaddexp(above[..., :1], row[..., 1:2]),
                above[..., 1:-1],
                torch.logaddexp(above[..., -1:], row[..., -1:]),
            ],
            dim=-1,
        )
        total = sums[..., number, :]
        ways = torch.cat([torch.zeros_like(entry[..., :1]), entry - total[..., :-1]], dim=-1)
        row = total + torch.logcumsumexp(ways, dim=-1)
    return -smoothing * row[..., -1]


@EPISODE_HEADS.register("otam")
class Otam(EpisodeHead):
    """Soft alignment of frames in both directions.

    Args:
        length: L.
        width: D.
        smoothing: lambda of the soft minimum; near 0 it is the minimum.
        variant: `default` gives negated costs, `released` their softmax over classes (see the top of this file).
    """

    def __init__(
        self,
        length: int,
        width: int,
        smoothing: Annotated[float, Field(gt=0)] = 0.1,
        variant: Literal["default", "released"] = "default",
    ) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.smoothing = smoothing
        self.released = variant == "released"

    def project(self, frames: Tensor) -> Projected:
        """The frames (N, L, D) and their lengths (N, L)."""
        check_frames("otam", frames, self.length, self.width)
        return frames, torch.linalg.vector_norm(frames, dim=-1)

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """Both directions' distances of all pairs of frames."""
        return 2 * FLOAT_BYTES * queries[1][0].numel() * support[1][0].numel()

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way): costs, negated; `released`: probabilities."""
        way, shot = support[1].shape[1:3]
        distances = frame_distances(queries, tuple(part.flatten(1, 2) for part in support))
        # Both directions are square, L x L, and go through the recursion together.
        costs = alignment(torch.stack([distances, distances.transpose(-1, -2)]), self.smoothing).sum(0)
        logits = -costs.reshape(*costs.shape[:2], way, shot).mean(dim=-1)
        return logits.softmax(dim=-1) if self.released else logits
