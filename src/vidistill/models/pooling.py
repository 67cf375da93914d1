"""From a vector a frame to a vector a clip: `mean` and `max` ignore the order of frames, `conv` and `gru` know it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Temporal = Literal["mean", "max", "conv", "gru"]


class MeanFrames(nn.Module):
    """Mean of (B, T, D) over T."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class MaxFrames(nn.Module):
    """Maximum of (B, T, D) over T."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=1)


class ConvolvedFrames(nn.Module):
    """(B, T, D) to `width` channels, two residual convolutions over time (reach: 7 frames), mean over T."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv1d(inputs, width, 1, bias=False), nn.BatchNorm1d(width))
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv1d(width, width, 3, padding=reach, dilation=reach, bias=False), nn.BatchNorm1d(width)
            )
            for reach in (1, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x.transpose(1, 2))
        for convolution in self.convolutions:
            x = x + convolution(x)
        return torch.relu(x).mean(dim=2)


class RecurrentFrames(nn.Module):
    """(B, T, D) through a bidirectional GRU of `width` // 2 units a direction, mean over T."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.normalisation = nn.LayerNorm(inputs)
        self.recurrent = nn.GRU(inputs, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.recurrent(self.normalisation(x))
        return x.mean(dim=1)


def temporal_pooling(kind: Temporal, inputs: int, width: int = 256) -> tuple[nn.Module, int]:
    """The module, (B, T, inputs) -> (B, outputs), and its `outputs`: `inputs`, or at most `width` for conv and gru."""
    width = min(width, inputs)
    if kind == "conv":
        return ConvolvedFrames(inputs, width), width
    if kind == "gru":
        return RecurrentFrames(inputs, width), width // 2 * 2
    return (MaxFrames() if kind == "max" else MeanFrames()), inputs
