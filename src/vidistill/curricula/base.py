"""What every curriculum is: which clips an epoch shows, and how labels and distillation weigh for each clip.

A curriculum may ask for a **survey** before an epoch: student and teachers look once at every clip, without learning,
at views that may be interrupted, and the curriculum is told each clip's distillation loss and the teachers' embedding.
The views of survey k have one number after all training views, so that a cache of teacher outputs holds them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.registry import Registry, check_options
from vidistill.core.types import Losses
from vidistill.curricula.interruption import Interruption


class Curriculum(Protocol):
    """What the loop asks of a curriculum. Its memory travels in the checkpoint.

    Attributes:
        clips: store indices (N,) of all clips there are to choose from.
        size: number of clips of an epoch.
        surveys: the interruption of each survey of the whole training, in order.
    """

    clips: NDArray[np.int64]
    size: int
    surveys: tuple[Interruption, ...]

    def survey(self, epoch: int) -> int | None:
        """The number of the survey that is due before an epoch; None where none is."""

    def learn(self, survey: int, clips: NDArray[np.int64], losses: Tensor, features: Tensor) -> None:
        """Take in a survey.

        Args:
            survey: its number.
            clips: store indices (M,) in the order in which they were seen; one may occur more than once, or never.
            losses: weighted distillation loss of each (M,).
            features: the teachers' embeddings of each, side by side (M, D).
        """

    def learned_of(self) -> dict[str, NDArray[np.generic]]:
        """What the last survey taught, in the order of `clips`, for the report: "difficulty" and "strength" (N,) float,
        "chosen" (N,) bool; empty where there are no surveys.
        """

    def select(self, epoch: int) -> NDArray[np.int64]:
        """Store indices of the clips of an epoch."""

    def weights(self, clips: Tensor) -> tuple[Tensor, Tensor] | None:
        """Factors (B,) of the label terms and of the distillation terms; None for ones."""

    def update(self, clips: Tensor, losses: Losses) -> None:
        """Learn from a step's per-clip losses."""

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's memory: tensors, numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory."""


CURRICULA: Registry[Callable[..., Curriculum]] = Registry("curriculum")
"""Builders `(clips, seed, epochs, **options)`."""
VARIANTS: Registry[Callable[..., Curriculum]] = Registry("variant of a curriculum")
"""Builders of what `variant` names beside "default", filed under "<name>/<variant>"; their options are their own."""


def find_curriculum(
    name: str, options: Mapping[str, Any], where: str = "curriculum"
) -> tuple[Callable[..., Curriculum], dict[str, Any]]:
    """The builder of a curriculum as `variant` among its options has it, and its checked options.

    Raises:
        RecipeError: no such curriculum, variant or option, or a wrong value.
    """
    own = dict(options)
    variant = own.pop("variant", "default")
    builder = CURRICULA.get(name, where=where)
    if variant != "default":
        builder = VARIANTS.get(f"{name}/{variant}", where=f"{where}.variant")
    return builder, check_options(builder, own, where, skip=3)


def build_curriculum(
    name: str, clips: NDArray[np.int64], seed: int, epochs: int, options: dict[str, Any]
) -> Curriculum:
    """The curriculum `name` over the given store indices, for a training of `epochs`."""
    builder, checked = find_curriculum(name, options)
    return builder(clips, seed, epochs, **checked)


class Unweighted:
    """Shared by curricula without surveys, weights and memory."""

    surveys: tuple[Interruption, ...] = ()

    def survey(self, epoch: int) -> None:
        """Never."""

    def learn(self, survey: int, clips: NDArray[np.int64], losses: Tensor, features: Tensor) -> None:
        """Nothing to learn."""

    def learned_of(self) -> dict[str, NDArray[np.generic]]:
        """Nothing was learned."""
        return {}

    def weights(self, clips: Tensor) -> None:
        """Ones."""

    def update(self, clips: Tensor, losses: Losses) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """No memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No memory."""
