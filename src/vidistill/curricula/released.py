"""The selection and the strengths of the released SAKD code, fault for fault: `variant: released`, and for parity.

SAKD: Sample-level Adaptive Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606.

A round looks once at all clips, in M batches of B. Its unit is the batch, not the clip. What differs from
`difficulty.py` and `dpp.py`, and why it is a fault:

1. All values of a batch are shared by its clips: one loss, one difficulty, one mean strength in training.
2. Strengths are written for the clips of the last batch only, by all batches in turn; that batch can never be selected
   in the same round. All other clips keep strength 0, so distillation hardly counts.
3. Where all difficulties are equal, or there is one batch, they are 0 / 0; here that is an error.
4. The kernel's diagonal grows with the loss: hard batches are preferred, the paper wants easy ones.
5. Picks are drawn by row energies of a Cholesky factor of which rows and columns are deleted. That is no conditional
   volume: diversity hardly counts. A pick is a position among the remaining batches but is looked up among all of them,
   so that duplicates occur, and the positions that are kept from a second draw point one too low (or at the last row).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import VidistillError
from vidistill.curricula.difficulty import selection_probability
from vidistill.curricula.interruption import Kind

SMOOTHING = 0.1
"""Share of the old value in strengths and in the feature bank."""
RIDGE, FLOOR = 1e-6, 1e-4

Choose = Callable[[Tensor, int], int]
"""Chooses a position from weights (R,) that sum to just below 1; the second argument counts picks from 0."""


class ReleasedMemory:
    """Counts, strengths and teacher features of all clips, all zero at the start.

    Args:
        clips: number of clips N; clips are rows in [0, N).
        size: D of the teacher's features.
    """

    def __init__(self, clips: int, size: int) -> None:
        self.counts = torch.zeros(clips, dtype=torch.int64)
        self.strength = torch.zeros(clips)
        self.bank = torch.zeros(clips, size)
        self.rounds = 0

    def batch_probability(self, batches: Tensor) -> Tensor:
        """Mean selection probability (M,) of the clips of each batch (M, B)."""
        return selection_probability(self.counts).float()[batches].mean(1)

    def remember(self, rows: Tensor, features: Tensor, kind: Kind) -> None:
        """Take a batch's teacher features (B, D) into the bank; shuffled clips change it in the first round only."""
        if self.rounds == 0:
            self.bank[rows] = features
        if kind != "shuffle":
            self.bank[rows] = SMOOTHING * self.bank[rows] + (1.0 - SMOOTHING) * features

    def finish_round(self, batches: Tensor, losses: Tensor, rate: float) -> Tensor:
        """Take in a round's losses: strengths of the last batch's clips are updated by all batches in turn.

        Args:
            batches: rows (M, B) in the order of the pass.
            losses: (M,) weighted mean distillation loss of each interrupted batch.
            rate: the round's interruption rate.

        Returns:
            difficulty (M,) in [0, 1].

        Raises:
            VidistillError: all batches are equally difficult.
        """
        difficulty = batch_difficulty(losses * self.batch_probability(batches))
        last = batches[-1]
        if self.rounds == 0:
            self.strength[last] = difficulty[-1]
        else:
            # a <- 0.1 a + 0.9 rate d for each batch in turn, as one sum of powers of 0.1.
            fading = SMOOTHING ** torch.arange(len(difficulty) - 1, -1, -1, dtype=torch.float64)
            added = ((1.0 - SMOOTHING) * rate * difficulty.double() * fading).sum()
            self.strength[last] = (self.strength[last].double() * SMOOTHING ** len(difficulty) + added).float()
        self.rounds += 1
        return difficulty

    def selected(self, rows: Tensor) -> None:
        """Count a selection (S,), duplicates as often as they occur."""
        rows = rows.flatten()
        self.counts.index_add_(0, rows, torch.ones_like(rows))

    def factors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (B,) of label and distillation terms of a training batch (B,): one mean strength for all."""
        mean = self.strength.to(rows.device)[rows].mean().expand(len(rows))
        return 2.0 * (1.0 - mean), 2.0 * mean

    def state_dict(self) -> dict[str, Any]:
        """Counts, strengths, features and the number of rounds; the released code saves none of them."""
        return {"counts": self.counts, "strength": self.strength, "bank": self.bank, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory."""
        self.counts, self.strength, self.bank = (state[name].clone() for name in ("counts", "strength", "bank"))
        self.rounds = int(state["rounds"])


def batch_difficulty(adjusted: Tensor) -> Tensor:
    """Losses times selection probability (M,), scaled to [0, 1].

    Raises:
        VidistillError: all are equal; the released code goes on with NaN.
    """
    low, high = adjusted.min(), adjusted.max()
    if not high > low:
        raise VidistillError(
            f"the released curriculum cannot rank {len(adjusted)} batches of equal difficulty",
            todo="Use smaller selection batches or 'variant: default'",
        )
    return (adjusted - low) / (high - low)


def batch_kernel(features: Tensor) -> Tensor:
    """Similarity (M - 1, M - 1) of batches by their features (M, B, D) side by side; the last batch is left out."""
    flat = functional.normalize(features[:-1].flatten(1), dim=1)
    return flat @ flat.T


def draw(weights: Tensor, _: int) -> int:
    """The published choice: drawn from the weights, by torch's global generator."""
    return int(torch.multinomial(weights, 1))


def select_batches(
    kernel: Tensor,
    difficulty: Tensor,
    count: int,
    choose: Choose = draw,
    observe: Callable[[Tensor], None] | None = None,
) -> tuple[list[int], list[int]]:
    """The released "DPP": positions to look up in the list of all batches, with duplicates.

    Args:
        kernel: (R, R) of `batch_kernel`.
        difficulty: (R,) of the same batches.
        count: picks.
        choose: how a position is chosen.
        observe: is shown the weights of each pick.

    Returns:
        picks (count,), and the positions (count,) that are barred in the end; -1 is the last row.

    Raises:
        VidistillError: all positions are barred before `count` picks.
    """
    factor = cholesky(kernel, difficulty)
    picks: list[int] = []
    barred: list[int] = []
    for number in range(count):
        energy = factor.square().sum(1)
        energy[barred] = 0.0
        if not energy.any():
            raise VidistillError(
                f"the released selection bars all of its {len(kernel)} batches after {number} of {count} picks",
                todo="Lower 'ratio' or use 'variant: default'",
            )
        weights = energy / (energy.sum() + FLOOR)
        if observe is not None:
            observe(weights)
        pick = choose(weights, number)
        picks.append(pick)
        barred.append(pick)
        if len(barred) < len(factor):
            kept = torch.arange(len(factor)) != pick
            factor = factor[kept][:, kept]
            barred = [position if position < pick else position - 1 for position in barred]
    return picks, barred


def cholesky(kernel: Tensor, difficulty: Tensor) -> Tensor:
    """Lower factor (R, R) of kernel + diag(difficulty) + 1e-6 I."""
    ridge = torch.full_like(difficulty, RIDGE)
    factor: Tensor = torch.linalg.cholesky(kernel + torch.diag(difficulty + ridge))
    return factor
