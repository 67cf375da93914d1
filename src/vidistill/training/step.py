"""What one step computes: the student, the method and the label loss as one module; and what is trained at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidistill.core.progress import Counter
from vidistill.core.recipe import Schedule
from vidistill.core.types import Batch, Losses, Outputs
from vidistill.curricula import Curriculum
from vidistill.data.batches import ViewDataset
from vidistill.methods.base import Method, module_key
from vidistill.tasks.base import Task
from vidistill.teachers.group import Teachers


@dataclass
class Training:
    """What is trained, on what, by whom, and where its files go.

    `method` and `teachers` are None for a network that learns from labels alone. `validate` measures the network (given
    in eval mode by the caller's choice) and returns metrics for the history. `survey_views` is the view number of the
    curriculum's first survey.
    """

    folder: Path
    network: nn.Module
    input_name: str
    dataset: ViewDataset
    curriculum: Curriculum
    task: Task
    schedule: Schedule
    seed: int
    accelerator: Accelerator
    method: Method | None = None
    teachers: Teachers | None = None
    label_weight: float = 1.0
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    survey_views: int = 0
    counter: Counter | None = None


class Step(nn.Module):
    """Student, method and label loss as one module, so that data-parallel training sees every parameter once."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        network = training.network
        self.network = torch.compile(network) if training.schedule.compile else network
        # Of the plain network: a compiled one hides its parts, and a second name would register them twice.
        self.head: Callable[[], nn.Module] = partial(getattr, network, "head")
        self.learning: Callable[[bool], nn.Module] = network.train
        self.method = training.method
        self.task = training.task
        known = getattr(getattr(network, "backbone", None), "feature_names", ())
        self.wanted = tuple(name for name in training.task.features if name in known)
        self.input_name, self.label_weight = training.input_name, training.label_weight

    def forward(self, batch: Batch, taught: dict[str, Outputs] | None) -> tuple[Losses, dict[str, Tensor]]:
        """Losses a row, and by head which rows (R,) are right."""
        learns = self.method is None or self.method.student_learns
        features = dict.fromkeys((*(self.method.student_features if self.method is not None else ()), *self.wanted))
        self.learning(learns and self.training)
        x = batch.inputs[self.input_name]
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            outputs = self.network(x, features=tuple(features))
            outputs = self.task.rows(outputs, batch, self.head())
        rows = self.task.row_batch(batch)
        losses = self.task.loss(outputs, rows, taught is not None) if learns else {}
        if learns and self.training:
            losses |= self.task.again(partial(self.network, features=self.wanted), x, batch)
        for loss in losses.values():
            loss.weight *= self.label_weight
        if self.method is not None:
            losses |= self.method(outputs, {**(taught or {}), **self._peers(self.method, batch)}, rows)
        right = {head: outputs.logits[head].detach().argmax(1) == labels for head, labels in rows.labels.items()}
        return losses, right

    def _peers(self, method: Method, batch: Batch) -> dict[str, Outputs]:
        """What the networks say that learn along with the student; to mask clips without input is the method's part."""
        answers = {}
        for name, input_name in method.peer_inputs.items():
            peer: Any = method.peers[module_key(name)]
            answers[name] = self.task.rows(peer(batch.inputs[input_name]), batch, peer.head)
        return answers
