"""Checks of learning-rate schedules."""

from __future__ import annotations

import numpy as np
from components import Component, checks

from vidistill.core.recipe import Schedule
from vidistill.training.schedule import rate_factor


@checks("ensemble/lr_schedule*")
def check_learning_rates(component: Component) -> None:
    warmup, total, rate = component["in_args"].tolist()
    schedule = Schedule(decay="linear", warmup=warmup / total, learning_rate=rate)
    steps = len(component["out_lr"])
    rates = np.array([rate * rate_factor(schedule, step, int(total)) for step in range(steps)])
    component.compare("out_lr", rates * 1e4, atol=1e-7)
