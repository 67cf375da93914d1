"""A sum of methods as one recipe entry, e.g. soft targets together with feature regression.

    L_b = weight * sum_i L_i[b]

    symbol   here      meaning
    L_i      methods   the terms of method i, each with its own weight
    weight   weight    factor of all of them

No publication: most published recipes are such sums. Terms keep their names; a second method with a term of the same
name gets "_2" after it, and so on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Weight, build_method


@METHODS.register("sum")
class Sum(Method):
    """Several methods at once.

    Args:
        context: the networks.
        methods: one mapping a method: `name` and its options, e.g. `[{name: kd, temperature: 4}, {name: feature_mse}]`.
        weight: factor of all terms.

    Raises:
        RecipeError: an empty list, an entry without a name, or whatever a method says of its options.
    """

    def __init__(self, context: MethodContext, *, methods: list[dict[str, Any]], weight: Weight = 1.0) -> None:
        super().__init__(context)
        if not methods:
            raise RecipeError("'methods' of the sum is empty", todo="Name at least one, e.g. [{name: kd}].")
        self.weight = weight
        parts = []
        for number, entry in enumerate(methods):
            options = dict(entry)
            name = options.pop("name", None)
            if not isinstance(name, str):
                raise RecipeError(f"'methods.{number}' has no name", todo="Write e.g. {name: kd, temperature: 4}.")
            parts.append(build_method(name, context, options, f"methods.{number}"))
        self.methods = nn.ModuleList(parts)
        self.student_features = _union(part.student_features for part in parts)
        names = {name for part in parts for name in part.teacher_features}
        self.teacher_features = {n: _union(part.teacher_features.get(n, ()) for part in parts) for n in sorted(names)}
        self.phases = _union(part.phases for part in parts)
        for part in parts:
            twice = sorted(set(part.peer_inputs) & set(self.peer_inputs))
            if twice:
                raise RecipeError(f"two methods of the sum train {twice[0]!r} along", todo="Let one of them do so.")
            self.peers.update(dict(part.peers.items()))
            self.peer_inputs |= part.peer_inputs

    def own_parameters(self) -> list[tuple[list[nn.Parameter], float]]:
        """Those of all methods."""
        return [group for method in self.methods for group in method.own_parameters()]  # type: ignore[operator]

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms of all methods."""
        terms: Losses = {}
        for method in self.methods:
            for name, loss in method(student, teachers, batch).items():
                terms[_free(name, terms)] = replace(loss, weight=loss.weight * self.weight)
        return terms


def _union(names: Any) -> tuple[str, ...]:
    """All names once, in order of appearance."""
    return tuple(dict.fromkeys(name for group in names for name in group))


def _free(name: str, taken: Losses) -> str:
    """`name`, or `name_2`, `name_3`, ... where it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
