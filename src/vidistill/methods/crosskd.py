"""CrossKD as used for action recognition: the teacher's own head judges the student's features.

Wang, Yin, Wang, et al.: CrossKD, CVPR 2024, arXiv 2306.11369, brought to recognition by SAKD: Sample-level Adaptive
Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606.

    f_hat = (f_s - mean_s) / (std_s + 1e-6) * std_t + mean_t          statistics over the batch, for each channel
    z_hat = head_t( f_hat )
    L_b   = T^2 * KL( softmax(z_t / T) || softmax(z_hat / T) )

    symbol       here                meaning
    f_s, f_t     student, teacher    embeddings (B, D); a learned linear map comes first where the sizes differ
    std          unbiased            sample standard deviation (B - 1)
    head_t       part "head"         the teacher's classifier, frozen: the gradient passes through it to the student
    z_t          teacher logits      of the same teacher

Deviations: `variant: default` differentiates through the alignment and the frozen head, as the method intends.
`variant: released` reproduces the released SAKD code, which computes all of this inside no_grad: the value is the same
and the student learns nothing from it. A batch of one clip has no spread (the released code gives NaN): its feature
goes to the head unaligned. Clips the teacher could not see are left out of the statistics and give 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise
from vidistill.methods.kd import kd_loss

EPSILON = 1e-6


def align(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The student's features with the teacher's mean and standard deviation, channel by channel.

    Args:
        student: features (B, D).
        teacher: features (B, D).
        mask: (B,) bool: the clips over which statistics are taken.

    Returns:
        (B, D); the student's features as they are where fewer than two clips count.
    """
    ours, theirs = precise(student), frozen(teacher)
    mean_ours, std_ours = _statistics(ours, mask)
    mean_theirs, std_theirs = _statistics(theirs, mask)
    aligned = (ours - mean_ours) / (std_ours + EPSILON) * std_theirs + mean_theirs
    return torch.where(mask.sum() > 1, aligned, ours)


def _statistics(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased standard deviation (D,) over the rows where `mask`; the gradient is finite at spread 0."""
    rows = mask[:, None].to(values.dtype)
    count = rows.sum()
    mean = (values * rows).sum(0) / count.clamp(min=1.0)
    variance = ((values - mean).square() * rows).sum(0) / (count - 1.0).clamp(min=1.0)
    spread = variance > 0
    return mean, torch.where(spread, variance.where(spread, torch.ones_like(variance)).sqrt(), variance)


@METHODS.register("crosskd")
class CrossKD(Method):
    """Student features through one teacher's frozen head.

    Args:
        context: the networks; `context.parts(teacher, "head")` maps embeddings to logits by head.
        weight: factor of the term.
        temperature: softening of both distributions.
        teacher: one teacher's name; may be left out where there is one teacher only.
        heads: which heads; none named means all.
        variant: "default", or "released" for the released code's value without gradient.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        teacher: str | None = None,
        heads: tuple[str, ...] = (),
        variant: Literal["default", "released"] = "default",
    ) -> None:
        super().__init__(context)
        if teacher is None and len(context.teacher_dims) != 1:
            raise RecipeError(
                f"crosskd needs one teacher's head and there are {len(context.teacher_dims)} teachers",
                todo=f"Set 'teacher' to one of: {', '.join(context.teacher_dims) or 'none'}.",
            )
        self.weight = weight
        self.temperature = temperature
        self.teacher = self.check_teacher(teacher or next(iter(context.teacher_dims)), ensemble=False)
        self.heads = self.check_heads(heads)
        self.variant = variant
        size = context.teacher_dims[self.teacher]
        self.projection = nn.Identity() if context.student_dim == size else nn.Linear(context.student_dim, size)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The term "crosskd"."""
        mask = self.teacher_mask(self.teacher, batch)
        answers = teachers[self.teacher]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variant == "default"):
            crossed = self._through_head(align(self.projection(student.embedding), answers.embedding, mask))
            losses = [kd_loss(crossed[head], answers.logits[head], self.temperature) for head in self.heads]
        return {"crosskd": Loss(masked(torch.stack(losses).mean(0), mask), self.weight)}

    def _through_head(self, embedding: Tensor) -> dict[str, Tensor]:
        """Logits by head from the teacher's frozen head; its parameters get no gradient even if someone thawed them."""
        head: Callable[..., Any] = self.context.parts(self.teacher, "head")
        if not isinstance(head, nn.Module):
            return dict(head(embedding))
        state = {name: value.detach() for name, value in (*head.named_parameters(), *head.named_buffers())}
        logits = torch.func.functional_call(head, state, (embedding,))
        return {self.heads[0]: logits} if isinstance(logits, Tensor) else dict(logits)
