"""Masking of spectrograms while training: a stretch of time, or of bands, is silenced.

Park et al.: SpecAugment, Interspeech 2019, arXiv 1904.08779; Radevski et al. (ICCV 2023) mask each of a clip's windows
by itself with probability one half, up to 80 of 128 bands and 80 of 335 columns.
"""

from __future__ import annotations

import numpy as np
import torch

from vidistill.core.seeds import generator

SILENCE = -100.0
"""Decibels of what is masked, as of no power at all."""


def masked(
    level: torch.Tensor,
    seed: int,
    clip: str,
    number: int,
    *,
    time: float = 0.0,
    bands: float = 0.0,
    probability: float = 0.5,
) -> torch.Tensor:
    """Decibels with masks drawn for (seed, clip, view number) alone, whatever else is drawn for the view.

    Args:
        level: (N, bands, columns); each of the N windows has masks of its own.
        seed: of training views.
        clip: its id.
        number: of the view.
        time: widest mask of columns, as a part of all, in [0, 1].
        bands: widest mask of bands, as a part of all, in [0, 1].
        probability: of a mask of either kind, for each window.

    Returns:
        (N, bands, columns); the argument is not changed.
    """
    random = generator(seed, "audio masks", clip, number)
    count, rows, columns = level.shape
    silent_columns = spans(random, count, columns, time, probability)[:, None, :]
    silent_bands = spans(random, count, rows, bands, probability)[:, :, None]
    return level.masked_fill(silent_columns | silent_bands, SILENCE)


def spans(random: np.random.Generator, count: int, length: int, widest: float, probability: float) -> torch.Tensor:
    """One span of places in each of `count` rows, bool (count, length): uniform width up to `widest`, then place."""
    chance, width, place = random.uniform(size=(3, count, 1))
    width = np.floor(width * widest * length) * (chance < probability)
    start = np.floor(place * (length - width + 1))
    index = np.arange(length)
    return torch.from_numpy((index >= start) & (index < start + width))
