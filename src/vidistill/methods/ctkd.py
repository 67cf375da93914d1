"""Curriculum temperature: distillation whose temperature is learned against the student, harder from epoch to epoch.

Li, Li, Yang, et al.: Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv 2211.16231, section 3.

    T      = T_0 + T_range * sigmoid(w)
    L_b    = mean over heads of  T^2 * KL( softmax(z_t / T) || softmax(z_s / T) )
    dL/dw  is multiplied by  lambda_n = -(1 - cos(pi * min(n, E) / E)) / 2

    symbol      here            meaning
    w           raw             one learned number, 1 at the start
    T_0         start           lowest temperature
    T_range     span            the highest is T_0 + T_range
    lambda_n    reversal        from 0 (temperature rests) to -1 (temperature climbs the loss the student descends)
    n           epoch + 1       epochs, counted from 1 as published
    E           growth_epochs   epochs until the gradient is fully reversed

Deviations: this is the global temperature (one number for all clips); the variant with a temperature for each clip is
not here. Clips that no teacher could see give 0.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.types import ENSEMBLE, Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise


def reversal(epoch: int, growth_epochs: int) -> float:
    """Factor of the temperature's gradient in an epoch (from 0), in [-1, 0]."""
    done = min(epoch + 1, growth_epochs) / growth_epochs
    return -0.5 * (1.0 - math.cos(math.pi * done))


@METHODS.register("ctkd")
class CTKD(Method):
    """Teacher's class probabilities, softened by a temperature that learns to make them hard to match.

    Args:
        context: the networks.
        weight: factor of the term.
        start: lowest temperature.
        span: highest temperature minus lowest.
        growth_epochs: epochs until the temperature's gradient is fully reversed.
        teacher: whose logits: one teacher's name or "ensemble".
        heads: which heads; none named means all.
    """

    gradient_factor: Tensor

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        start: Temperature = 1.0,
        span: Weight = 20.0,
        growth_epochs: Annotated[int, Field(ge=1)] = 10,
        teacher: str = ENSEMBLE,
        heads: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.start, self.span, self.growth_epochs = start, span, growth_epochs
        self.teacher = self.check_teacher(teacher)
        self.heads = self.check_heads(heads)
        self.raw = nn.Parameter(torch.ones(()))
        # A tensor, so that a compiled method is not compiled anew each epoch; the epoch gives it, so it is not saved.
        self.register_buffer("gradient_factor", torch.tensor(reversal(0, growth_epochs)), persistent=False)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Reverse the temperature's gradient further."""
        self.gradient_factor.fill_(reversal(epoch, self.growth_epochs))

    def temperature(self) -> Tensor:
        """The temperature (), between `start` and `start + span`; its gradient is turned against the student."""
        rest = self.raw.detach()
        return self.start + self.span * torch.sigmoid(rest + self.gradient_factor * (self.raw - rest))

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The term "ctkd"."""
        temperature = self.temperature()
        targets = teachers[self.teacher].logits
        losses = []
        for head in self.heads:
            log_student = functional.log_softmax(precise(student.logits[head]) / temperature, dim=1)
            log_teacher = functional.log_softmax(frozen(targets[head]) / temperature, dim=1)
            divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
            losses.append(divergence * temperature.square())
        values = torch.stack(losses).mean(0)
        return {"ctkd": Loss(masked(values, self.teacher_mask(self.teacher, batch)), self.weight)}
