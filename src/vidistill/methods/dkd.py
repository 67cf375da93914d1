"""Decoupled knowledge distillation.

Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, equations 7 and 8.

    target_b = T^2 * KL( (p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y]) )           how sure of the label (TCKD)
    other_b  = T^2 * KL( q_t || q_s )                                             how the rest is shared (NCKD)
    L_b      = alpha * target_b + beta * other_b,      p = softmax(z / T),  q = softmax(z / T without class y)

    symbol        here            meaning
    z_s, z_t      student, teacher   logits (B, C)
    y             labels          class index (B,)
    alpha, beta   alpha, beta     weights of the two terms; plain KD has alpha = 1 and beta = 1 - p_t[y]

Deviations: everything stays in log space. The published code takes log(sum of probabilities), which is -inf (and the
loss +inf) as soon as a confident student's target or non-target probability underflows, and removes class y by
subtracting 1000 from its logit, which fails for logits of that size. Values agree wherever the published ones are
finite. Clips without a label, or that no teacher could see, give 0. With two classes `other` is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.types import ENSEMBLE, Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise


def dkd_losses(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two parts of DKD for each clip, unweighted, both with the factor T^2.

    Args:
        student: logits (B, C), C >= 2.
        teacher: logits (B, C).
        labels: class index (B,) in [0, C).
        temperature: above 0.

    Returns:
        target part (B,) and other part (B,), 0 or more, finite for any finite logits.
    """
    is_label = functional.one_hot(labels, student.shape[1]).bool()  # (B, C)
    student_pair, student_rest = _split(precise(student) / temperature, is_label)
    teacher_pair, teacher_rest = _split(frozen(teacher) / temperature, is_label)
    target = (teacher_pair.exp() * (teacher_pair - student_pair)).sum(1)
    difference = (teacher_rest - student_rest).masked_fill(is_label, 0.0)  # the label's own entry is -inf - -inf
    other = (teacher_rest.exp() * difference).sum(1)
    return target * temperature**2, other * temperature**2


def _split(logits: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, all others) (B, 2), and of each other class among the others (B, C)."""
    others = logits.masked_fill(is_label, -torch.inf)
    of_label = logits.masked_fill(~is_label, -torch.inf)
    pair = torch.stack([of_label.logsumexp(1), others.logsumexp(1)], dim=1)  # (B, 2) unnormalised
    return functional.log_softmax(pair, dim=1), functional.log_softmax(others, dim=1)


@METHODS.register("dkd")
class DKD(Method):
    """Label confidence and the ranking of the other classes, taught apart.

    Args:
        context: the networks.
        weight: factor of both terms.
        temperature: softening of both distributions.
        alpha: factor of the label part.
        beta: factor of the part over other classes.
        teacher: whose logits: one teacher's name or "ensemble".
        heads: which heads; none named means all.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        teacher: str = ENSEMBLE,
        heads: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.teacher = self.check_teacher(teacher)
        self.heads = self.check_heads(heads)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "dkd_target" and "dkd_other"."""
        seen = self.teacher_mask(self.teacher, batch)
        targets, others = [], []
        for head in self.heads:
            labels = batch.labels[head]
            logits = teachers[self.teacher].logits[head]
            target, other = dkd_losses(student.logits[head], logits, labels.clamp(min=0), self.temperature)
            targets.append(masked(target, seen & (labels >= 0)))
            others.append(masked(other, seen & (labels >= 0)))
        return {
            "dkd_target": Loss(torch.stack(targets).mean(0), self.weight * self.alpha),
            "dkd_other": Loss(torch.stack(others).mean(0), self.weight * self.beta),
        }
