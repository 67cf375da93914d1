"""Random networks' outputs for tests of methods: two heads, two teachers of other sizes, one clip without audio."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.methods import MethodContext, build_method

CLASSES = {"verb": 5, "noun": 7}
DIMS = {"flow": 6, "audio": 4}
STUDENT_DIM = 6


class Heads(nn.Module):
    """A teacher's classifier: embedding -> logits by head."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({head: nn.Linear(size, count) for head, count in CLASSES.items()})

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        return {head: layer(embedding) for head, layer in self.layers.items()}


@dataclass
class World:
    """Everything a method is called with."""

    context: MethodContext
    student: Outputs
    teachers: dict[str, Outputs]
    batch: Batch
    heads: dict[str, Heads]

    def build(self, name: str, **options):
        torch.manual_seed(3)
        return build_method(name, self.context, options)

    def leaves(self) -> list[Tensor]:
        """The student's tensors, to ask gradients for."""
        return [*self.student.logits.values(), self.student.embedding, *self.student.features.values()]

    def teacher_tensors(self) -> list[Tensor]:
        found = []
        for outputs in self.teachers.values():
            found += [*outputs.logits.values(), outputs.embedding, *outputs.features.values()]
        return found


def outputs(count: int, size: int, positions: tuple[int, ...], grad: bool, dtype: torch.dtype) -> Outputs:
    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype).requires_grad_(grad)

    logits = {head: tensor(count, classes) for head, classes in CLASSES.items()}
    return Outputs(logits, tensor(count, size), {"map": tensor(count, 3 if size == STUDENT_DIM else 2, *positions)})


@pytest.fixture
def make_world():
    def make(count: int = 8, dtype: torch.dtype = torch.float32, absent: tuple[int, ...] = ()) -> World:
        torch.manual_seed(0)
        student = outputs(count, STUDENT_DIM, (4, 2, 2), True, dtype)
        teachers = {name: outputs(count, size, (4, 2, 2), True, dtype) for name, size in DIMS.items()}
        teachers[ENSEMBLE] = outputs(count, 1, (1,), True, dtype)
        present = {"flow": torch.ones(count, dtype=torch.bool), "sound": torch.ones(count, dtype=torch.bool)}
        present["sound"][list(absent)] = False
        labels = {head: torch.randint(classes, (count,)) for head, classes in CLASSES.items()}
        batch = Batch({}, labels, torch.arange(count), torch.zeros(count, dtype=torch.long), present)
        heads = {name: Heads(size).requires_grad_(False) for name, size in DIMS.items()}
        context = MethodContext(
            STUDENT_DIM,
            dict(DIMS),
            dict(CLASSES),
            parts=lambda teacher, part: {"head": heads[teacher]}[part],
            teacher_inputs={"flow": "flow", "audio": "sound"},
            student_shapes={"map": (3, 4, 2, 2)},
            teacher_shapes={"flow": {"map": (3, 4, 2, 2)}, "audio": {"map": (2, 4, 2, 2)}},
        )
        return World(context, student, teachers, batch, heads)

    return make
