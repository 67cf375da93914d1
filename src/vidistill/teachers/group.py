"""All teachers of a run as one: each one's answer, and the weighted ensemble's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.teachers.dropout import TeacherDropout
from vidistill.teachers.ensemble import combine, per_sample_weights, present_weights, uniform_weights


class Teacher(Protocol):
    """What live and cached teachers have in common."""

    name: str
    input_name: str

    def __call__(self, batch: Batch) -> Outputs:
        """Answers for a batch."""

    def part(self, name: str) -> nn.Module:
        """A frozen part of the teacher's network."""


class Rows(Protocol):
    """What a task makes of clips: the rows that teachers and student are compared by."""

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """A network's outputs, a row each."""

    def row_batch(self, batch: Batch) -> Batch:
        """The batch, a row each."""


@dataclass(frozen=True)
class Weighting:
    """How teachers weigh: the scheme, its temperature, fitted held-out weights and calibration temperatures.

    `held_out[head]` is (M,) in the order of the teachers; `temperatures[teacher][head]` divides that teacher's logits.
    """

    scheme: Literal["uniform", "held_out", "per_sample"] = "uniform"
    gamma: float = 1.0
    held_out: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    temperatures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def weights(self, head: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Weights (M,) or (B, M) before missing inputs are taken out. `logits`: (B, M, C)."""
        if self.scheme == "per_sample":
            return per_sample_weights(logits, labels, self.gamma)
        if self.scheme == "held_out":
            return torch.tensor(self.held_out[head], device=logits.device)
        return uniform_weights(logits.shape[1]).to(logits.device)


class Teachers:
    """Call it with a batch to get `{teacher name: Outputs, ..., ENSEMBLE: Outputs}`, a row for each row of the task.

    Calibrated logits are what students see: each teacher's logits come divided by its temperature.
    The ensemble's embedding has no columns: there is no embedding that all teachers share. Its feature `weights` (B, M)
    says how much each teacher weighed in the first head.

    Args:
        members: the teachers by name.
        weighting: how they weigh.
        task: says what rows are.
        dropout: who is left out of the ensemble at random; None: nobody.
    """

    def __init__(
        self, members: Mapping[str, Teacher], weighting: Weighting, task: Rows, dropout: TeacherDropout | None = None
    ) -> None:
        self.members, self.weighting, self.task, self.dropout = dict(members), weighting, task, dropout
        self._heads = {name: member.part("head") for name, member in members.items()}

    def __call__(self, batch: Batch) -> dict[str, Outputs]:
        """Answers of every teacher and of the ensemble, a row each."""
        answers = {name: self._calibrated(name, self._rows(name, batch)) for name in self.members}
        batch = self.task.row_batch(batch)
        present = self.heard(batch)
        combined: dict[str, Tensor] = {}
        shares: dict[str, Tensor] = {}
        for head in batch.labels:
            stacked = torch.stack([answer.logits[head] for answer in answers.values()], 1)  # (B, M, C)
            weights = self.weighting.weights(head, stacked, batch.labels[head])
            combined[head] = combine(stacked, weights, present)
            shares.setdefault("weights", present_weights(weights, present))
        empty = torch.zeros(len(batch), 0, device=batch.clip.device)
        return {**answers, ENSEMBLE: Outputs(combined, empty, shares)}

    def present(self, batch: Batch) -> Tensor:
        """Which teacher can see which clip: (B, M) bool."""
        return torch.stack([batch.present[member.input_name] for member in self.members.values()], 1)

    def heard(self, batch: Batch) -> Tensor:
        """Which teacher has a say in the ensemble for which clip: (B, M) bool. One's own answer is there regardless."""
        present = self.present(batch)
        return present if self.dropout is None else self.dropout(present, batch.clip, batch.view)

    def dropping(self, probability: float, seed: int, views: int) -> Teachers:
        """The same teachers as one student hears them; the ensemble leaves some out at random.

        Args:
            probability: that a teacher is left out of a clip's view, in [0, 1).
            seed: of the student.
            views: how many views of a clip are shown for learning; of later ones, surveys', nobody is left out.
        """
        dropout = TeacherDropout(probability, seed, tuple(self.members), views) if probability else None
        return Teachers(self.members, self.weighting, self.task, dropout)

    def weights(self, answers: Mapping[str, Outputs]) -> dict[str, Tensor]:
        """Weight (B,) of each teacher in the ensemble's first head, from what the group answered."""
        return dict(zip(self.members, answers[ENSEMBLE].features["weights"].unbind(1), strict=True))

    def _rows(self, name: str, batch: Batch) -> Outputs:
        with torch.inference_mode():
            return self.task.rows(self.members[name](batch), batch, self._heads[name])

    def _calibrated(self, name: str, outputs: Outputs) -> Outputs:
        temperatures = self.weighting.temperatures.get(name, {})
        logits = {head: value.clone() / temperatures.get(head, 1.0) for head, value in outputs.logits.items()}
        return Outputs(logits, outputs.embedding, outputs.features)
