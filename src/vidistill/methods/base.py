"""What every method is: a loss over (student outputs, teacher outputs, batch) that gives one value a clip.

A method asks for named features by its attributes `student_features` and, by teacher, `teacher_features`, may own
parameters (they are the module's) and may declare `phases` that an epoch runs in turn. Teachers' tensors may come from
inference mode and in half precision; `frozen` makes them safe to differentiate against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.registry import Registry, check_options, nearest
from vidistill.core.types import ENSEMBLE, Batch, Losses, Outputs

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A factor of a term: 0 or more."""
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A softmax temperature: above 0."""


@dataclass(frozen=True)
class MethodContext:
    """What a method may know of the networks it stands between, before the first batch.

    Attributes:
        student_dim: size D of the student's embedding.
        teacher_dims: size of each teacher's embedding, by teacher name (the ensemble has none).
        classes: number of classes by head.
        parts: `parts(teacher, part)` gives a frozen part of a teacher; "head" maps an embedding to logits by head.
        teacher_inputs: the input (key of `Batch.present`) that each teacher sees.
        student_shapes: shape without batch of each feature the student can give.
        teacher_shapes: the same for each teacher, by teacher name.
        teacher_accuracy: fraction of the validation part that each teacher gets right, by teacher name, in [0, 1];
            empty where it was not measured.
        learner: `learner(teacher)` gives a trainable copy of a teacher's network with its trained weights; None where
            no networks can learn along with the student.
    """

    student_dim: int
    teacher_dims: dict[str, int]
    classes: dict[str, int]
    parts: Callable[[str, str], nn.Module]
    teacher_inputs: dict[str, str] = field(default_factory=dict)
    student_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_shapes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    teacher_accuracy: dict[str, float] = field(default_factory=dict)
    learner: Callable[[str], nn.Module] | None = None


class Method(nn.Module):
    """Base of all methods. Subclasses take `context` first and their options by keyword, and implement `forward`.

    Attributes:
        student_features: the student's features to ask for.
        teacher_features: the teachers' features to ask for, by teacher name.
        phases: names of phases; an epoch goes over its clips once in each, in this order. None: once.
        student_learns: whether the student learns in the running phase. Where it does not, it runs in eval mode without
            gradient, labels teach nothing, and a curriculum is not told.
        peers: networks that learn along with the student, by `module_key` of a teacher's name. The loop runs each in
            train mode and puts its outputs, with gradient, in place of the frozen teacher's.
        peer_inputs: the input (key of `Batch.inputs`) of each peer, by teacher name.
        learning_rate_scale: factor of the student's learning rate for the method's own parameters; peers learn at the
            student's rate.
    """

    student_features: tuple[str, ...] = ()
    teacher_features: Mapping[str, tuple[str, ...]] = {}
    phases: tuple[str, ...] = ()
    student_learns: bool = True
    learning_rate_scale: float = 1.0

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self.peers = nn.ModuleDict()
        self.peer_inputs: dict[str, str] = {}

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """Named terms, each with one value a clip (B,).

        Args:
            student: the student's outputs, with gradient.
            teachers: each teacher's outputs by name, and the ensemble's logits under `ENSEMBLE`.
            batch: the clips; `batch.present` says which inputs each clip has.
        """
        raise NotImplementedError

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Called before the first step of each epoch, also of one that a resumed run enters half-way.

        What a method derives from the epoch it derives here, so that it needs no memory. By default nothing, but the
        methods that this one is made of are told.

        Args:
            epoch: from 0.
            epochs: in all.
        """
        for part in self.modules():
            if isinstance(part, Method) and part is not self:
                part.start_epoch(epoch, epochs)

    def start_phase(self, name: str) -> None:
        """Called before the first step of each phase of each epoch, also of one that a resumed run enters half-way.

        By default the methods that this one is made of are told. A phase that a method does not know is not its own.

        Args:
            name: one of `phases`.
        """
        for part in self.modules():
            if isinstance(part, Method) and part is not self:
                part.start_phase(name)

    def own_parameters(self) -> list[tuple[list[nn.Parameter], float]]:
        """The method's own parameters, without its peers', with the factor of the learning rate they ask for."""
        peers = {id(parameter) for parameter in self.peers.parameters()}
        return [([p for p in self.parameters() if id(p) not in peers], self.learning_rate_scale)]

    def teacher_mask(self, teacher: str, batch: Batch) -> Tensor:
        """Which clips (B,) bool the teacher could see; for the ensemble: which clips at least one teacher could see."""
        inputs = self.context.teacher_inputs
        everyone = torch.ones(len(batch), dtype=torch.bool, device=batch.clip.device)
        if teacher != ENSEMBLE:
            return batch.present.get(inputs.get(teacher, ""), everyone)
        masks = [batch.present.get(name, everyone) for name in inputs.values()]
        return torch.stack(masks).any(0) if masks else everyone

    def check_teacher(self, teacher: str, *, ensemble: bool = True) -> str:
        """The teacher's name where there is such a teacher.

        Raises:
            RecipeError: no such teacher, or the ensemble where a method needs one teacher's features.
        """
        known = [*self.context.teacher_dims, *([ENSEMBLE] if ensemble else [])]
        if teacher not in known:
            raise RecipeError(f"no teacher {teacher!r} for this method", todo=nearest(teacher, known))
        return teacher

    def check_teachers(self, teachers: Iterable[str]) -> tuple[str, ...]:
        """The named teachers, or all of them where none is named; never the ensemble, which has no features."""
        chosen = tuple(self.check_teacher(name, ensemble=False) for name in teachers) or tuple(
            self.context.teacher_dims
        )
        if not chosen:
            raise RecipeError("this method needs a teacher and the recipe has none", todo="Add one under 'teachers'.")
        return chosen

    def check_heads(self, heads: Iterable[str]) -> tuple[str, ...]:
        """The named heads, or all of them where none is named.

        Raises:
            RecipeError: the labels have no such head.
        """
        known = self.context.classes
        for head in heads:
            if head not in known:
                raise RecipeError(f"no head {head!r} for this method", todo=nearest(head, known))
        return tuple(heads) or tuple(known)


METHODS: Registry[type[Method]] = Registry("method")


def build_method(name: str, context: MethodContext, options: Mapping[str, Any], where: str | None = None) -> Method:
    """The method `name` with its options checked.

    Args:
        name: a registered method.
        context: the networks it stands between.
        options: keyword options of the method, e.g. `{"temperature": 4}`.
        where: what an error names as the place, e.g. "recipe.yaml: method".

    Raises:
        RecipeError: unknown method, unknown or wrong options, a teacher or head that does not exist.
    """
    part = METHODS.get(name, where)
    place = f"{where}.{name}" if where else f"method {name!r}"
    checked = check_options(part, options, place, skip=1)
    try:
        return part(context, **checked)
    except RecipeError as error:
        line = str(error)
        raise RecipeError(line, where=None if line.startswith(place) else place) from None


def module_key(name: str) -> str:
    """A network's name as the name of a module, which may hold no dot and must not be an attribute of a module."""
    return "of_" + name.replace(".", "_dot_")


def precise(values: Tensor) -> Tensor:
    """Half precision as float32 (losses of 8 bits of mantissa are noise); float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def frozen(values: Tensor) -> Tensor:
    """A teacher's tensor, safe to differentiate against: no gradient, not an inference tensor, at least float32."""
    # Autograd refuses to save tensors made under inference_mode; a clone made outside is an ordinary tensor. To ask
    # whether it is one (`is_inference`) would break the graph of a compiled method.
    return precise(values.detach().clone())


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` (B,) with zeros where `mask` (B,) is False."""
    return torch.where(mask, values, torch.zeros_like(values))


def mean_present(values: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Mean (B,) over the teachers that saw each clip; zero where none did. `values` and `masks`: one (B,) a teacher."""
    total = torch.stack([masked(value, mask) for value, mask in zip(values, masks, strict=True)]).sum(0)
    return total / torch.stack(masks).sum(0).clamp(min=1)
