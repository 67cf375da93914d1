"""How hard a clip is to distil, how strongly it is therefore taught, and how often it was: the memory of a curriculum.

SAKD: Sample-level Adaptive Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606.

    p_i     = (1 / (c_i + 1)) / sum_j 1 / (c_j + 1)
    d_i     = (l_i - min l) / (max l - min l)
    e_i     = 1 - d_i  (teach: easy)      d_i  (teach: hard)
    u_i     = min-max( e_i * p_i )
    alpha_i = e_i in the first round, then  lambda * alpha_i + (1 - lambda) * rate * e_i

    symbol    here                    meaning
    l_i       losses                  distillation loss of an interrupted clip, one value a clip
    c_i       counts                  how often the clip was selected
    p_i       selection_probability   falls with each selection, so that all clips have their turn
    d_i       min_max                 distillation difficulty in [0, 1]; 0.5 for all where losses are equal
    e_i       teachability            how much the clip is worth teaching now
    u_i       quality                 what selection trades against diversity (`dpp.select`)
    alpha_i   strength                share of distillation in the clip's loss, (1 - alpha) label + alpha distillation
    lambda    smoothing               share of the old strength
    rate      interruption rate       of the round; 1 leaves it out

Deviations. The paper's abstract says that distillation should dominate for easy clips and that clips of low difficulty
are selected; the released code does the opposite (strength and selection grow with the loss). `teach: easy` is what the
paper says, `teach: hard` is the other sign. The paper multiplies the loss by p_i before normalising it; with easy clips
preferred, a clip would then look the easier the more often it was selected, so p_i multiplies the teachability instead.
The released code, batch by batch and with its faults, is in `released.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.errors import StoreError, VidistillError

Teach = Literal["easy", "hard"]


def min_max(values: Tensor) -> Tensor:
    """Values (N,) scaled to [0, 1] in float64; 0.5 for all where they are equal (or there is one).

    Raises:
        VidistillError: a value is not finite.
    """
    values = values.double()
    if not len(values):
        return values
    require_finite(values)
    low, high = values.min(), values.max()
    return torch.full_like(values, 0.5) if low == high else ((values - low) / (high - low)).clamp(0.0, 1.0)


def require_finite(losses: Tensor) -> None:
    """Refuse distillation losses (N,) of clips that cannot be ranked.

    Raises:
        VidistillError: a loss is not finite.
    """
    if not losses.isfinite().all():
        raise VidistillError(
            f"{int((~losses.isfinite()).sum())} of {len(losses)} clips have a distillation loss that is not finite",
            todo="Lower schedule.learning_rate or set schedule.clip_norm",
        )


def clip_means(rows: Tensor, losses: Tensor, clips: int) -> Tensor:
    """Mean loss (clips,) float32 of each clip; one that does not occur has the mean of all losses.

    Args:
        rows: (M,) in [0, clips): whose loss it is; a clip may occur more than once.
        losses: (M,).
        clips: how many there are.
    """
    count = torch.zeros(clips).index_add_(0, rows, torch.ones(len(rows)))
    total = torch.zeros(clips).index_add_(0, rows, losses.float())
    return torch.where(count > 0, total / count.clamp(min=1), losses.float().mean())


def teachability(losses: Tensor, teach: Teach = "easy") -> Tensor:
    """How much each clip is worth teaching, (N,) float64 in [0, 1], from the clips' distillation losses (N,).

    Raises:
        VidistillError: a loss is not finite.
    """
    difficulty = min_max(losses)
    return 1.0 - difficulty if teach == "easy" else difficulty


def selection_probability(counts: Tensor) -> Tensor:
    """Probabilities (N,) float64 of clips that were selected `counts` (N,) times; they sum to 1."""
    chance = 1.0 / (counts.double() + 1.0)
    return chance / chance.sum()


class ClipMemory:
    """What a curriculum remembers of each clip from round to round.

    Clips are named by their store index, in any order; one that the memory does not hold must not be asked for.

    Args:
        clips: store indices (N,) of all clips that may be selected, each once.
        teach: whether easy or hard clips are taught more.
        smoothing: share of the old strength that stays at each round, in [0, 1].
    """

    def __init__(self, clips: NDArray[np.int64], *, teach: Teach = "easy", smoothing: float = 0.1) -> None:
        self.clips = torch.from_numpy(np.asarray(clips, np.int64).copy())
        self.teach, self.smoothing = teach, smoothing
        self.counts = torch.zeros(len(self.clips), dtype=torch.int64)
        self.strength = torch.zeros(len(self.clips))
        self.rounds = 0
        self._row = torch.full((int(self.clips.max()) + 1 if len(self.clips) else 0,), -1)
        self._row[self.clips] = torch.arange(len(self.clips))

    def rows(self, clips: Tensor) -> Tensor:
        """Rows (B,) of the memory for store indices (B,), on their device; strengths move there too."""
        if self._row.device != clips.device:
            self._row, self.strength = self._row.to(clips.device), self.strength.to(clips.device)
        return self._row[clips]

    def learn(self, losses: Tensor, rate: float = 1.0) -> Tensor:
        """Take in a round's distillation losses (N,), in the order of `clips`; strengths are updated.

        Args:
            losses: one value a clip, of interrupted clips.
            rate: the round's interruption rate, by which its teachability counts after the first round.

        Returns:
            quality (N,) float64 in [0, 1], for `dpp.select`.

        Raises:
            VidistillError: a loss is not finite.
        """
        worth = teachability(losses, self.teach).to(self.strength.device)
        if self.rounds == 0:
            strength = worth
        else:
            strength = self.smoothing * self.strength.double() + (1.0 - self.smoothing) * rate * worth
        self.strength = strength.float()
        self.rounds += 1
        return min_max(worth.cpu() * selection_probability(self.counts))

    def selected(self, clips: NDArray[np.int64]) -> None:
        """Count a selection of store indices."""
        rows = self._row.cpu()[torch.from_numpy(np.asarray(clips, np.int64))]
        self.counts.index_add_(0, rows, torch.ones_like(rows))

    def factors(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (B,) of label terms and of distillation terms, `2 (1 - alpha)` and `2 alpha`: 1 and 1 at one half."""
        rows = self.rows(clips)
        strength = self.strength[rows]
        return 2.0 * (1.0 - strength), 2.0 * strength

    def state_dict(self) -> dict[str, Any]:
        """Clips, counts, strengths and the number of rounds."""
        return {
            "clips": self.clips,
            "counts": self.counts,
            "strength": self.strength.cpu(),
            "rounds": self.rounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory.

        Raises:
            StoreError: it is of other clips.
        """
        if not torch.equal(state["clips"], self.clips):
            raise StoreError(
                "the curriculum's memory is of other clips than those of this run",
                todo="Remove the run's state.pt or restore its data",
            )
        self.counts, self.strength = state["counts"].clone(), state["strength"].clone()
        self.rounds = int(state["rounds"])
