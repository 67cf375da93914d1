"""Who is taught what, when. A curriculum chooses an epoch's clips and weighs labels against distillation per clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.registry import Registry, check_options
from vidistill.core.types import Losses


class Curriculum(Protocol):
    """What the loop asks of a curriculum. Its memory travels in the checkpoint."""

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


def build_curriculum(name: str, clips: NDArray[np.int64], seed: int, options: dict[str, Any]) -> Curriculum:
    """The curriculum `name` over the given store indices."""
    builder = CURRICULA.get(name, where="curriculum")
    return builder(clips, seed, **check_options(builder, options, "curriculum", skip=2))


@CURRICULA.register("all")
class AllClips:
    """Every clip in every epoch, labels and distillation at full weight."""

    def __init__(self, clips: NDArray[np.int64], seed: int) -> None:
        self.clips = clips

    def select(self, epoch: int) -> NDArray[np.int64]:
        """All clips."""
        return self.clips

    def weights(self, clips: Tensor) -> None:
        """Ones."""

    def update(self, clips: Tensor, losses: Losses) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """No memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No memory."""
