"""Encodings of position that are added to sequences (B, L, D): fixed waves and learned vectors.

Source: the waves are those of Vaswani et al. 2017 (section 3.5), scaled by 0.1 in TRX (Perrett et al., CVPR 2021); the
learned vectors are those of the fusion of Lite-MKD (ACM MM 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, width: int, scale: float = 1.0) -> Tensor:
    """Waves (length, width): [p, 2i] = scale sin(p w_i), [p, 2i + 1] = scale cos(p w_i), w_i = 10000^(-2i / width)."""
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    waves = torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=-1)
    return scale * waves.flatten(1)[:, :width]


class SinusoidalPositions(nn.Module):
    """Adds fixed waves, then drops values while training.

    The table is made from its sizes and is not saved; published tables (`pe.pe`) hold the same numbers.

    Args:
        length: positions it has waves for.
        width: D.
        scale: of the waves. 0.1 keeps them small beside features that are not normalised.
        dropout: while training.
    """

    table: Tensor

    def __init__(self, length: int, width: int, scale: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(length, width, scale), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) of `x` (B, L, D), L at most `length`."""
        placed: Tensor = self.dropout(x + self.table[: x.shape[1]])
        return placed


class TrainablePositions(nn.Module):
    """Adds a learned vector to each position, then layer normalisation, then dropout while training.

    Args:
        length: positions it has vectors for.
        width: D.
        dropout: while training.
    """

    def __init__(self, length: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(length, width)
        self.normalisation = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) of `x` (B, L, D), L at most `length`."""
        placed: Tensor = self.dropout(self.normalisation(x + self.embedding.weight[: x.shape[1]]))
        return placed
