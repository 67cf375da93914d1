"""Interrupted clips: how well can a student follow its teacher when frames are missing or out of order?

SAKD: Sample-level Adaptive Knowledge Distillation for Action Recognition, ACM MM 2025, arXiv 2504.00606, section on
temporal interruption and its appendix (Fig. 1).

    x        = n / N                                         n epochs done of N
    rate(n)  = min( 1 - (1 - x)^0.9, eta )                   poly (the published one)
               min( x, eta )                                 linear
               min( (1 - cos(pi x)) / 2, eta )               cosine

    rate < eta   dropout: floor(rate * T) random frames become the mean colour (zero after normalisation)
    rate = eta   shuffle: a random half of the frames changes places with the other half

Deviations: each clip has its own random frames, from a counter (seed, clip, view), as the method's name says;
`for_batch` has the published form, the same frames for a whole batch. With an odd number of frames one stays where it
is; the released code breaks there, and so does `variant: released`, with an error that says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.interruption import Interrupted, apply_interruption
from vidistill.core.seeds import generator

__all__ = [
    "Interrupted",
    "Interruption",
    "apply_interruption",
    "drop",
    "exchange",
    "interruption_at",
    "interruption_rate",
]

Form = Literal["poly", "linear", "cosine"]
Kind = Literal["none", "dropout", "shuffle"]
Variant = Literal["default", "released"]

CLOSE = 1e-9
"""Rates this near to eta are eta, and this near to a whole number of frames are that number: cos and ** round."""


def interruption_rate(epoch: int, epochs: int, *, form: Form = "poly", eta: float = 0.5, power: float = 0.9) -> float:
    """The interruption rate of an epoch.

    Args:
        epoch: epochs done before it, from 0.
        epochs: epochs in all, 1 or more.
        form: how it grows.
        eta: its cap, in [0, 1].
        power: exponent of "poly".

    Returns:
        In [0, eta], not decreasing with `epoch`; exactly `eta` once the cap is reached.
    """
    x = min(max(epoch / max(epochs, 1), 0.0), 1.0)
    if form == "poly":
        rate = 1.0 - (1.0 - x) ** power
    else:
        rate = x if form == "linear" else 0.5 * (1.0 - math.cos(math.pi * x))
    return eta if rate >= eta - CLOSE else rate


@dataclass(frozen=True)
class Interruption:
    """How the clips of one selection pass are interrupted: which way, and how many of the frames (a rate in [0, 1])."""

    kind: Kind
    rate: float

    def for_clip(
        self, length: int, seed: int, clip: str, view: int, variant: Variant = "default"
    ) -> Interrupted | None:
        """What happens to the `length` frames of one view of one clip: always the same for the same arguments.

        Raises:
            DataError: "released" and a shuffle of an odd number of frames.
        """
        return self._drawn(length, generator(seed, "interruption", clip, view), variant)

    def for_batch(self, length: int, seed: int, epoch: int, number: int) -> Interrupted | None:
        """The published form: what happens to every clip of the `number`-th batch of an epoch's selection pass.

        Raises:
            DataError: a shuffle of an odd number of frames.
        """
        return self._drawn(length, generator(seed, "interruption of a batch", epoch, number), "released")

    def _drawn(self, length: int, random: np.random.Generator, variant: Variant) -> Interrupted | None:
        if self.kind == "none":
            return None
        order = random.permutation(length)
        return drop(order, self.rate) if self.kind == "dropout" else exchange(order, variant)


def interruption_at(
    epoch: int, epochs: int, *, form: Form = "poly", eta: float = 0.5, power: float = 0.9
) -> Interruption:
    """The interruption of an epoch: none at rate 0, dropout below `eta`, shuffle at it (from the start if that is 0).

    Arguments are those of `interruption_rate`.
    """
    rate = interruption_rate(epoch, epochs, form=form, eta=eta, power=power)
    if rate >= eta:
        return Interruption("shuffle", rate)
    return Interruption("dropout" if rate > 0 else "none", rate)


def drop(order: NDArray[np.int64], rate: float) -> Interrupted:
    """The first floor(rate * T) frames of a random `order` (T,) are blanked; the frames stay in place."""
    count = math.floor(rate * len(order) + CLOSE)
    return Interrupted(tuple(sorted(order[:count].tolist())), tuple(range(len(order))))


def exchange(order: NDArray[np.int64], variant: Variant = "default") -> Interrupted:
    """The first half of a random `order` (T,), as drawn, changes places with the second half, ascending.

    Applied twice it changes nothing. With an odd T the last frame of `order` stays in place.

    Raises:
        DataError: "released" and an odd T.
    """
    half = len(order) // 2
    if variant == "released" and len(order) % 2:
        raise DataError(
            f"the released shuffle cannot exchange the halves of {len(order)} frames",
            todo="Take an even number of frames or 'variant: default'",
        )
    chosen, rest = order[:half], np.sort(order[half : 2 * half])
    sources = np.arange(len(order))
    sources[chosen], sources[rest] = rest, chosen
    return Interrupted((), tuple(sources.tolist()))
