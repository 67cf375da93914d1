"""Knowledge distillation on logits.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531, section 2.

    L_b = mean over heads of  T^2 * sum_c p_t[c] * (log p_t[c] - log p_s[c]),      p = softmax(z / T)

    symbol   here            meaning
    z_s      student         student logits (B, C)
    z_t      teacher         teacher logits (B, C), by default the weighted ensemble of all teachers
    T        temperature     softening; T^2 keeps the gradient's size independent of T
    L_b      values          one value a clip

Deviations: the KL divergence is used instead of the cross-entropy with soft targets (they differ by the teacher's
entropy, a constant: same gradient, zero at equality). Clips that no teacher could see give 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.types import ENSEMBLE, Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) for each clip.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: above 0.

    Returns:
        (B,), 0 or more, finite for any finite logits.
    """
    log_student = functional.log_softmax(precise(student) / temperature, dim=1)
    log_teacher = functional.log_softmax(frozen(teacher) / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return divergence * temperature**2


@METHODS.register("kd")
class KD(Method):
    """Teacher's softened class probabilities as targets.

    Args:
        context: the networks.
        weight: factor of the term.
        temperature: softening of both distributions.
        teacher: whose logits: one teacher's name or "ensemble".
        heads: which heads; none named means all.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        teacher: str = ENSEMBLE,
        heads: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.temperature = temperature
        self.teacher = self.check_teacher(teacher)
        self.heads = self.check_heads(heads)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The term "kd"."""
        targets = teachers[self.teacher].logits
        values = torch.stack([kd_loss(student.logits[head], targets[head], self.temperature) for head in self.heads])
        return {"kd": Loss(masked(values.mean(0), self.teacher_mask(self.teacher, batch)), self.weight)}
