"""Optimizers and learning rates. The rate is a pure function of the step, so there is no scheduler state to resume."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from vidistill.core.recipe import Schedule


def rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """Factor of the learning rate at `step` in [0, total): linear warm-up from 0, then the schedule's decay.

    Linear: step / warm-up, then (total - step) / (total - warm-up), as `get_linear_schedule_with_warmup` of
    transformers does; the first step has rate 0 only where there is a warm-up.
    """
    warmup = int(schedule.warmup * total)
    if step < warmup:
        return step / warmup if schedule.decay == "linear" else (step + 1) / (warmup + 1)
    part = (step - warmup) / max(1, total - warmup)
    if schedule.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
    if schedule.decay == "linear":
        return max(0.0, 1 - part)
    if schedule.decay == "step":
        return float(schedule.gamma ** sum(step >= milestone * total for milestone in schedule.milestones))
    return 1.0


def build_optimizer(schedule: Schedule, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """AdamW or SGD over all trainable parameters; norms, biases and other vectors are not decayed."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
