"""Tasks: what a student is for. Each has a loss from labels, a decoding of its outputs and its metrics."""

from __future__ import annotations

from vidistill.tasks.anchor_detection import AnchorDetection
from vidistill.tasks.base import TASKS, Predictions, Task
from vidistill.tasks.detection import Detection
from vidistill.tasks.fewshot import FewShot
from vidistill.tasks.metrics import Interval, paired_difference
from vidistill.tasks.multilabel import MultiLabel
from vidistill.tasks.recognition import Recognition

__all__ = [
    "TASKS",
    "AnchorDetection",
    "Detection",
    "FewShot",
    "Interval",
    "MultiLabel",
    "Predictions",
    "Recognition",
    "Task",
    "paired_difference",
]
