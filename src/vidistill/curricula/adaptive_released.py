"""`adaptive` with `variant: released`: the published SAKD loop in a training, fault for fault, to be compared with.

SAKD: Sample-level Adaptive Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606.

What a round does is in `released.py`, its faults with it. This curriculum gives it the batches: at each survey the
clips are shuffled and cut into M batches, the incomplete last one is left out; the mean loss of a batch's clips is its
loss; floor(ratio * training batches) picks of whole selection batches are made, so that a ratio of 0.1 is 30 % of the
clips with batches of 48 and 16.

    selection_batch   clips B of a selection batch, 48
    train_batch       clips of a training batch; by their number picks are counted, and each epoch's rest is left out

For the published run the rest of the recipe must be as published, too: `label_weight: 0.1`, `kd` with `weight: 0.9`,
or `crosskd` with `variant: released`; `optimizer: sgd`, `decay: constant`, `batch_size` equal to `train_batch`.

Deviations, where what curricula are does not allow the fault:
- Teachers are frozen and in eval mode; the released code leaves their dropout and batch statistics on. What a teacher
  says of a view could not be cached.
- Interrupted frames are drawn for each clip, not for each batch: a view is a pure function of its clip and number. With
  an odd number of frames the shuffle is an error, as published.
- Losses of a survey are of the schedule's batches. It matters for methods that relate clips of a batch (CrossKD).
- Draws come from (seed, survey), not from the global generator that everything shares.
- 0 / 0 where all batches are equally difficult is an error, and so is a selection of nothing.
- Counts, strengths, features and the selection are in the checkpoint; the released code forgets them.
- With several processes or `accumulate`, the mean strength is of the clips that are in one forward pass.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vidistill.core.errors import RecipeError, StoreError
from vidistill.core.interruption import Interrupted
from vidistill.core.seeds import generator, integer_seed
from vidistill.core.types import Losses
from vidistill.curricula.base import VARIANTS
from vidistill.curricula.difficulty import clip_means, require_finite
from vidistill.curricula.interruption import Interruption, Variant, interruption_at
from vidistill.curricula.plain import Interval, Ratio
from vidistill.curricula.released import ReleasedMemory, batch_kernel, select_batches

Clips = Annotated[int, Field(ge=1)]


class ReleasedInterruption(Interruption):
    """As published, the shuffle breaks with an odd number of frames."""

    def for_clip(
        self, length: int, seed: int, clip: str, view: int, variant: Variant = "released"
    ) -> Interrupted | None:
        """See `Interruption.for_clip`."""
        return super().for_clip(length, seed, clip, view, variant)


@VARIANTS.register("adaptive/released")
class AdaptiveReleased:
    """Batches of clips chosen by their loss, weighed by a strength that hardly any clip has.

    Args:
        clips: store indices (N,).
        seed: of the batches, the picks and what is left out.
        epochs: of the training; interruption grows over them, as "poly".
        ratio: of the training batches; so many selection batches are picked.
        interval: epochs from one survey to the next.
        eta: cap of the interruption rate; frames are dropped below it and shuffled at it.
        selection_batch: clips B of a selection batch.
        train_batch: clips of a training batch: the schedule's `batch_size`.
    """

    def __init__(
        self,
        clips: NDArray[np.int64],
        seed: int,
        epochs: int,
        *,
        ratio: Ratio = 0.1,
        interval: Interval = 5,
        eta: Annotated[float, Field(ge=0, le=1)] = 0.5,
        selection_batch: Clips = 48,
        train_batch: Clips = 16,
    ) -> None:
        self.clips, self.seed, self.interval, self.ratio = clips, seed, interval, ratio
        self.selection_batch, self.train_batch = selection_batch, train_batch
        self.picks = math.floor(ratio * (len(clips) // train_batch))
        self.size = max(self.picks * selection_batch // train_batch, 1) * train_batch
        schedule = (interruption_at(epoch, epochs, eta=eta) for epoch in range(0, epochs, interval))
        self.surveys: tuple[Interruption, ...] = tuple(ReleasedInterruption(each.kind, each.rate) for each in schedule)
        self.memory = ReleasedMemory(len(clips), 0)
        self.chosen = clips[: self.picks * selection_batch]
        self.difficulty = np.zeros(len(clips), np.float32)
        self.learned = 0
        self._row = torch.full((int(clips.max(initial=-1)) + 1,), -1)
        self._row[torch.from_numpy(clips)] = torch.arange(len(clips))

    def survey(self, epoch: int) -> int | None:
        """One at the start of every interval, unless it is learned already (a resumed run).

        Raises:
            RecipeError: nothing would be selected, or there is nothing to rank.
        """
        number = epoch // self.interval
        if epoch % self.interval or number < self.learned:
            return None
        self._check()
        return number

    def learn(self, survey: int, clips: NDArray[np.int64], losses: Tensor, features: Tensor) -> None:
        """Choose the batches of the next epochs."""
        require_finite(losses)
        memory, interruption = self.memory, self.surveys[survey]
        memory.strength = memory.strength.cpu()
        if not memory.bank.shape[1]:
            memory.bank = torch.zeros(len(self.clips), features.shape[1])
        rows = self._row.cpu()[torch.from_numpy(clips)]
        seen = clip_means(rows, losses, len(self.clips))
        fresh = torch.zeros_like(memory.bank).index_copy_(0, rows, features.float())
        batches = self.batches(survey)
        memory.remember(batches.flatten(), fresh[batches.flatten()], interruption.kind)
        difficulty = memory.finish_round(batches, seen[batches].mean(1), interruption.rate)
        source = torch.Generator().manual_seed(integer_seed(self.seed, "released picks", survey))
        picks, _ = select_batches(
            batch_kernel(memory.bank[batches]),
            difficulty[:-1],
            self.picks,
            lambda weights, _: int(torch.multinomial(weights, 1, generator=source)),
        )
        chosen = batches[picks].flatten()
        memory.selected(chosen)
        self.chosen = self.clips[chosen.numpy()]
        # For the report: a clip has its batch's loss; one of the batch that was left out, the mean of all.
        shared = torch.full((len(self.clips),), float(seen[batches].mean()))
        shared[batches] = seen[batches].mean(1, keepdim=True)
        self.difficulty, self.learned = shared.numpy(), survey + 1

    def batches(self, survey: int) -> Tensor:
        """Positions in `clips` of a survey's selection batches (M, B), in their order: the last one is special."""
        order = generator(self.seed, "selection batches", survey).permutation(len(self.clips))
        count = len(order) // self.selection_batch
        return torch.from_numpy(order[: count * self.selection_batch].reshape(count, -1))

    def learned_of(self) -> dict[str, NDArray[np.generic]]:
        """Mean loss of each clip's batch, strength, and choice of the survey just learned."""
        chosen = np.isin(self.clips, self.chosen)
        return {"difficulty": self.difficulty, "strength": self.memory.strength.cpu().numpy(), "chosen": chosen}

    def select(self, epoch: int) -> NDArray[np.int64]:
        """The clips of the picked batches, some twice; what fills no training batch is left out, others each epoch."""
        if self.size >= len(self.chosen):
            return self.chosen
        kept = generator(self.seed, "released rest", epoch).permutation(len(self.chosen))[: self.size]
        return self.chosen[np.sort(kept)]

    def weights(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """2 (1 - strength) of label terms and 2 strength of distillation terms, by the mean strength of `clips`."""
        if self._row.device != clips.device:
            self._row = self._row.to(clips.device)
        if self.memory.strength.device != clips.device:
            self.memory.strength = self.memory.strength.to(clips.device)
        return self.memory.factors(self._row[clips])

    def update(self, clips: Tensor, losses: Losses) -> None:
        """Only surveys teach."""

    def state_dict(self) -> dict[str, Any]:
        """Counts, strengths, features, the chosen clips and how many surveys were taken in."""
        return {
            "clips": torch.from_numpy(self.clips.copy()),
            "memory": {**self.memory.state_dict(), "strength": self.memory.strength.cpu()},
            "chosen": torch.from_numpy(self.chosen.copy()),
            "learned": self.learned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory.

        Raises:
            StoreError: it is of other clips.
        """
        if not np.array_equal(state["clips"].numpy(), self.clips):
            raise StoreError(
                "the curriculum's memory is of other clips than those of this run",
                todo="Remove the run's state.pt or restore its data",
            )
        self.memory.load_state_dict(state["memory"])
        self.chosen, self.learned = state["chosen"].numpy().copy(), int(state["learned"])

    def _check(self) -> None:
        """Refuse what the released code goes on with: a selection, or a training set, of nothing."""
        count, available = len(self.clips), len(self.clips) // self.train_batch
        if count // self.selection_batch < 2:
            raise RecipeError(
                f"{count} clips are fewer than two selection batches of {self.selection_batch}: nothing can be ranked",
                where="curriculum.selection_batch",
                todo=f"Set it to {max(count // 2, 1)} or less, or use 'variant: default'",
            )
        if not available:
            raise RecipeError(
                f"{count} clips do not fill one training batch of {self.train_batch}",
                where="curriculum.train_batch",
                todo="Set it to the schedule's batch_size, and that to fewer clips",
            )
        needed = max(-(-self.train_batch // self.selection_batch), 1)
        if self.picks < needed:
            least = math.ceil(needed * 1e6 / available) / 1e6
            raise RecipeError(
                f"ratio {self.ratio:g} of {available} training batches selects {self.picks} batches of "
                f"{self.selection_batch} clips, which fill no training batch of {self.train_batch}",
                where="curriculum.ratio",
                todo=f"Set it to {least:g} or more" if least <= 1 else "Lower curriculum.train_batch",
            )
