"""Optimizers and learning rates. The rate is a pure function of the step, so there is no scheduler state to resume."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vidistill.core.recipe import Schedule
from vidistill.methods.base import Method


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
        return float(schedule.gamma ** sum(step >= round(part * total, 6) for part in schedule.milestones))
    return 1.0


def build_optimizer(schedule: Schedule, network: nn.Module, method: Method | None = None) -> torch.optim.Optimizer:
    """AdamW or SGD over all trainable parameters; norms, biases and other vectors are not decayed.

    The method's own parameters are groups of their own, with the factor `scale` of the learning rate that the method
    asks for; networks that learn along with the student have the student's rate.
    """
    groups = _groups(network.parameters(), schedule, 1.0)
    if method is not None:
        groups += _groups(method.peers.parameters(), schedule, 1.0)
        for parameters, scale in method.own_parameters():
            groups += _groups(parameters, schedule, scale)
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def _groups(parameters: Iterable[nn.Parameter], schedule: Schedule, scale: float) -> list[dict[str, Any]]:
    """Two optimizer groups: what is decayed and what is not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay, "scale": scale},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "scale": scale},
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, each times its `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
