"""Tasks: what a student is for. Each has a loss from labels, a decoding of its outputs and its metrics."""

from __future__ import annotations

from vidistill.tasks.metrics import Interval, paired_difference
from vidistill.tasks.recognition import TASKS, Recognition

__all__ = ["TASKS", "Interval", "Recognition", "paired_difference"]
