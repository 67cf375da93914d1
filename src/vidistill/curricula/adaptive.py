"""Sample-adaptive distillation: a small part of the clips, easy to transfer and diverse, each taught as it deserves.

SAKD: Sample-level Adaptive Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606 (read through
its appendix, figure and code; see `difficulty.py`, `dpp.py` and `interruption.py` for the equations).

Every `interval` epochs the frozen student and its teachers look once at all clips with frames interrupted; a clip's
distillation loss is its difficulty. From difficulty, earlier selections and teacher features a k-DPP picks the clips of
the next epochs, and each clip's strength weighs its distillation terms against its label terms.

Deviations: difficulty and strength are of each clip, not of batches; strength is written for every clip; selection has
no duplicates and exactly `ratio` of the clips, but at least one. The published loop, fault for fault, is
`variant: released` (`adaptive_released.py`): it is there to be compared with.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vidistill.core.seeds import integer_seed
from vidistill.core.types import Losses
from vidistill.curricula.base import CURRICULA
from vidistill.curricula.difficulty import ClipMemory, Teach, clip_means
from vidistill.curricula.dpp import pick_count, select
from vidistill.curricula.interruption import Form, interruption_at
from vidistill.curricula.plain import Interval, Ratio

Share = Annotated[float, Field(ge=0, le=1)]


@CURRICULA.register("adaptive")
class Adaptive:
    """Clips chosen by difficulty and diversity, weighed by strength.

    Args:
        clips: store indices (N,).
        seed: of cuts into shards.
        epochs: of the training; interruption grows over them.
        ratio: part of the clips of an epoch.
        interval: epochs from one survey to the next.
        teach: "easy" clips are picked and taught more, as the paper says, or "hard" ones.
        smoothing: share of the old strength that stays at a survey (lambda).
        gamma: quality (1) against diversity (0) of the selection.
        eta: cap of the interruption rate; frames are dropped below it and shuffled at it.
        form: how the rate grows.
        scaled: the rate multiplies strength after the first survey, as published; else strength is difficulty alone.
        ridge: keeps spreading the picks where features have fewer directions than there are picks.
        shard: clips that are compared with each other at most.
    """

    def __init__(
        self,
        clips: NDArray[np.int64],
        seed: int,
        epochs: int,
        *,
        ratio: Ratio = 0.1,
        interval: Interval = 5,
        teach: Teach = "easy",
        smoothing: Share = 0.1,
        gamma: Share = 0.5,
        eta: Share = 0.5,
        form: Form = "poly",
        scaled: bool = True,
        ridge: Annotated[float, Field(ge=0)] = 0.01,
        shard: Annotated[int, Field(ge=1)] = 10_000,
    ) -> None:
        self.clips, self.seed, self.interval = clips, seed, interval
        self.size = pick_count(ratio, len(clips))
        self.gamma, self.ridge, self.shard, self.scaled = gamma, ridge, shard, scaled
        self.surveys = tuple(interruption_at(epoch, epochs, form=form, eta=eta) for epoch in range(0, epochs, interval))
        self.memory = ClipMemory(clips, teach=teach, smoothing=smoothing)
        self.chosen = clips[: self.size]
        self.difficulty = np.zeros(len(clips), np.float32)
        self.learned = 0

    def survey(self, epoch: int) -> int | None:
        """One at the start of every interval, unless it is learned already (a resumed run)."""
        number = epoch // self.interval
        return number if epoch % self.interval == 0 and number >= self.learned else None

    def learn(self, survey: int, clips: NDArray[np.int64], losses: Tensor, features: Tensor) -> None:
        """Choose the clips of the next epochs. A clip that no episode showed has the mean difficulty."""
        rate = self.surveys[survey].rate if self.scaled else 1.0
        rows = self.memory.rows(torch.from_numpy(clips))
        seen = clip_means(rows, losses, len(self.clips))
        bank = torch.zeros(len(self.clips), features.shape[1]).index_copy_(0, rows, features.float())
        quality = self.memory.learn(seen, rate)
        picks = select(
            bank.numpy(),
            quality.numpy(),
            self.size,
            gamma=self.gamma,
            ridge=self.ridge,
            shard=self.shard,
            seed=integer_seed(self.seed, "shards", survey),
        )
        self.chosen = np.sort(self.clips[picks])
        self.memory.selected(self.chosen)
        self.difficulty, self.learned = seen.numpy(), survey + 1

    def learned_of(self) -> dict[str, NDArray[np.generic]]:
        """Difficulty, strength and choice of the survey just learned."""
        chosen = np.isin(self.clips, self.chosen)
        return {"difficulty": self.difficulty, "strength": self.memory.strength.cpu().numpy(), "chosen": chosen}

    def select(self, epoch: int) -> NDArray[np.int64]:
        """The clips chosen at the last survey."""
        return self.chosen

    def weights(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """2 (1 - strength) of label terms and 2 strength of distillation terms."""
        return self.memory.factors(clips)

    def update(self, clips: Tensor, losses: Losses) -> None:
        """Only surveys teach."""

    def state_dict(self) -> dict[str, Any]:
        """Counts, strengths, the chosen clips and how many surveys were taken in."""
        return {
            "memory": self.memory.state_dict(),
            "chosen": torch.from_numpy(self.chosen.copy()),
            "learned": self.learned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory."""
        self.memory.load_state_dict(state["memory"])
        self.chosen, self.learned = state["chosen"].numpy().copy(), int(state["learned"])
