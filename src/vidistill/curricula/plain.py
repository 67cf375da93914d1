"""Curricula that know nothing of the clips: all of them, or a random part."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidistill.core.seeds import generator
from vidistill.curricula.base import CURRICULA, Unweighted
from vidistill.curricula.dpp import pick_count

Ratio = Annotated[float, Field(gt=0, le=1)]
Interval = Annotated[int, Field(ge=1)]


@CURRICULA.register("all")
class AllClips(Unweighted):
    """Every clip in every epoch, labels and distillation at full weight."""

    def __init__(self, clips: NDArray[np.int64], seed: int, epochs: int) -> None:
        self.clips, self.size = clips, len(clips)

    def select(self, epoch: int) -> NDArray[np.int64]:
        """All clips."""
        return self.clips


@CURRICULA.register("random")
class RandomPart(Unweighted):
    """A random part of the clips, drawn anew now and then: what a chosen part must be better than.

    Args:
        clips: store indices.
        seed: of the draws.
        epochs: of the training.
        ratio: part of the clips of an epoch.
        interval: epochs that one draw serves.
    """

    def __init__(
        self, clips: NDArray[np.int64], seed: int, epochs: int, *, ratio: Ratio = 0.1, interval: Interval = 5
    ) -> None:
        self.clips, self.seed, self.interval = clips, seed, interval
        self.size = pick_count(ratio, len(clips))

    def select(self, epoch: int) -> NDArray[np.int64]:
        """The part that serves this epoch."""
        random = generator(self.seed, "random part", epoch // self.interval)
        return np.sort(random.choice(self.clips, self.size, replace=False))
