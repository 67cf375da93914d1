"""DIST: match relations instead of values, for teachers much stronger than the student.

Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536,
equations 8 to 10.

    inter_b = T^2 * (1 - corr_c( p_s[b, c], p_t[b, c] ))                  how a clip ranks the classes
    intra   = T^2 * mean_c (1 - corr_b( p_s[b, c], p_t[b, c] ))           how a class ranks the clips of a batch
    L       = beta * mean_b inter_b + gamma * intra

    symbol        here          meaning
    p_s, p_t      student, teacher   softmax(z / T), (B, C)
    corr          _standardise       Pearson correlation over the named axis
    beta, gamma   beta, gamma        weights of the two relations

`intra` is a relation of the batch. With columns u (student) and v (teacher) centred and of unit length, 1 - corr =
1/2 sum_b (u[b] - v[b])^2, so clip b's share is B/2 * mean_c (u[b, c] - v[b, c])^2: its mean over clips is `intra`, it
is never negative, and a curriculum can weigh it.

Deviations: a class (or clip) whose probabilities are all equal in both networks counts 0, not 1: there is nothing to
match. Clips no teacher could see are left out of the batch's relations and give 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidistill.core.types import ENSEMBLE, Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise

EPSILON = 1e-8


def dist_losses(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The two relations of DIST, unweighted, both with the factor T^2.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: above 0.
        mask: (B,) bool: the clips that count.

    Returns:
        inter-class part (B,) and each clip's share of the intra-class part (B,), 0 or more, zero where not `mask`.
        The mean of the shares over the counted clips is the batch's intra-class loss.
    """
    rows = mask[:, None].to(precise(student).dtype)  # (B, 1)
    ours = torch.softmax(precise(student) / temperature, dim=1)
    theirs = torch.softmax(frozen(teacher) / temperature, dim=1)
    everything = torch.ones_like(rows)
    across_classes = _standardise(ours, 1, everything) - _standardise(theirs, 1, everything)
    inter = across_classes.square().sum(1) / 2.0
    across_clips = _standardise(ours, 0, rows) - _standardise(theirs, 0, rows)
    intra = across_clips.square().mean(1) * rows.sum() / 2.0
    return masked(inter, mask) * temperature**2, masked(intra, mask) * temperature**2


def _standardise(values: Tensor, axis: int, rows: Tensor) -> Tensor:
    """`values` (B, C) centred and of unit length along `axis`, over the rows that count; near 0 where all are equal."""
    counted = rows.expand_as(values)
    mean = (values * counted).sum(axis, keepdim=True) / counted.sum(axis, keepdim=True).clamp(min=1.0)
    centred = (values - mean) * counted
    return centred / (centred.square().sum(axis, keepdim=True) + EPSILON**2).sqrt()


@METHODS.register("dist")
class DIST(Method):
    """Correlations between classes and between clips.

    Args:
        context: the networks.
        weight: factor of both terms.
        temperature: softening of both distributions.
        beta: factor of the relation between classes.
        gamma: factor of the relation between clips.
        teacher: whose logits: one teacher's name or "ensemble".
        heads: which heads; none named means all.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 1.0,
        beta: Weight = 1.0,
        gamma: Weight = 1.0,
        teacher: str = ENSEMBLE,
        heads: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma
        self.teacher = self.check_teacher(teacher)
        self.heads = self.check_heads(heads)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "dist_inter" and "dist_intra"."""
        mask = self.teacher_mask(self.teacher, batch)
        targets = teachers[self.teacher].logits
        parts = [dist_losses(student.logits[head], targets[head], self.temperature, mask) for head in self.heads]
        inter, intra = (torch.stack(values).mean(0) for values in zip(*parts, strict=True))
        return {
            "dist_inter": Loss(inter, self.weight * self.beta),
            "dist_intra": Loss(intra, self.weight * self.gamma),
        }
