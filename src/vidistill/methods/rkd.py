"""Relational knowledge distillation: the geometry of a batch of embeddings.

Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068, equations 4 to 9.

    d[i, j]    = |x_i - x_j| / mean over pairs of |x_i - x_j|
    a[i, j, k] = cos of the angle at x_i between x_j and x_k
    distance_i = mean over j != i            of huber( d_s[i, j] - d_t[i, j] )
    angle_i    = mean over j != k, both != i of huber( a_s[i, j, k] - a_t[i, j, k] )

    symbol   here                 meaning
    x        student, teacher     embeddings (B, D); the two sizes D may differ, so no projection is needed
    huber    smooth_l1_loss       quadratic below 1, linear above
    i        clip                 the anchor: its row is the clip's share; the mean over clips is the batch loss

Deviations: the mean is over pairs and triples of different clips; published code also counts the diagonal, which is
always zero, and so divides by B^2 and B^3. Clips a teacher could not see are left out of all pairs and triples. With
fewer than two (three) clips the distance (angle) part is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Weight, frozen, mean_present, precise

TINY = 1e-12


def rkd_losses(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Each clip's share of the distance and of the angle loss.

    Args:
        student: embeddings (B, D).
        teacher: embeddings (B, D').
        mask: (B,) bool: the clips that count.

    Returns:
        distance part (B,) and angle part (B,), 0 or more, zero where not `mask`. Memory is B^2 * D + B^3.
    """
    pairs = mask[:, None] & mask[None, :] & ~torch.eye(len(mask), dtype=torch.bool, device=mask.device)  # (B, B)
    distances, directions = zip(*(_relations(x, pairs) for x in (precise(student), frozen(teacher))), strict=True)
    by_pair = functional.smooth_l1_loss(distances[0], distances[1], reduction="none") * pairs
    distance = by_pair.sum(1) / pairs.sum(1).clamp(min=1)

    angles = [torch.einsum("ijd,ikd->ijk", unit, unit) for unit in directions]  # (B, B, B)
    triples = pairs[:, :, None] & pairs[:, None, :] & pairs[None, :, :]
    by_triple = functional.smooth_l1_loss(angles[0], angles[1], reduction="none") * triples
    angle = by_triple.sum((1, 2)) / triples.sum((1, 2)).clamp(min=1)
    return distance, angle


def _relations(embeddings: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, B) scaled to mean 1 over `pairs`, and unit directions from each clip to each other (B, B, D)."""
    differences = embeddings[None, :, :] - embeddings[:, None, :]  # (B, B, D)
    squares = differences.square().sum(2)
    apart = pairs & (squares > TINY)
    # The square root's gradient at 0 is infinite: pairs at one place get distance 0 with no gradient.
    distances = torch.where(apart, squares.where(apart, torch.ones_like(squares)).sqrt(), torch.zeros_like(squares))
    mean = distances.sum() / apart.sum().clamp(min=1)
    directions = differences / distances.where(apart, torch.ones_like(distances))[:, :, None]
    return distances / mean.clamp(min=TINY), directions * apart[:, :, None]


@METHODS.register("rkd")
class RKD(Method):
    """Distances and angles between the clips of a batch.

    Args:
        context: the networks.
        weight: factor of both terms.
        distance: factor of the distance part.
        angle: factor of the angle part.
        teachers: whose embeddings; none named means all. The loss is averaged over them.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        distance: Weight = 1.0,
        angle: Weight = 2.0,
        teachers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.distance = distance
        self.angle = angle
        self.teachers = self.check_teachers(teachers)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "rkd_distance" and "rkd_angle"."""
        masks = [self.teacher_mask(name, batch) for name in self.teachers]
        parts = [
            rkd_losses(student.embedding, teachers[name].embedding, mask)
            for name, mask in zip(self.teachers, masks, strict=True)
        ]
        return {
            "rkd_distance": Loss(mean_present([part[0] for part in parts], masks), self.weight * self.distance),
            "rkd_angle": Loss(mean_present([part[1] for part in parts], masks), self.weight * self.angle),
        }
