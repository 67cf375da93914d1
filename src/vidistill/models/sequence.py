"""Networks over sequences (T, D): skeleton distances and joints, 2-D pose, inertial signals, audio frames.

`gru` reads a sequence in both directions; `temporal_conv` is a light stack of residual 1-D convolutions. Inputs of
different scales (metres, degrees a second, log energies) are brought together by normalisation at the entrance.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS


class AttentionPooling(nn.Module):
    """Mean of a sequence (B, T, D) over time with learned weights; it starts as the plain mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1, bias=False))
        nn.init.zeros_(self.score[2].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.score(x).softmax(dim=1)
        return (weights * x).sum(dim=1)


class MeanPooling(nn.Module):
    """Mean of a sequence (B, T, D) over time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class Recurrent(Backbone):
    """Normalise, project, bidirectional GRU layers, pool over time. Feature `sequence`: (B, 2 x hidden, T)."""

    feature_names = ("sequence",)

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float, pooling: str) -> None:
        super().__init__()
        self.normalisation = nn.LayerNorm(inputs)
        self.projection = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.recurrent = nn.GRU(
            hidden, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.pooling = AttentionPooling(2 * hidden) if pooling == "attention" else MeanPooling()
        self.embedding_dim = 2 * hidden
        for name, weight in self.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.chunk(3):
                    nn.init.orthogonal_(gate.data)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, 2 x hidden) of sequences (B, T, D)."""
        x, _ = self.recurrent(self.projection(self.normalisation(x)))
        maps = {"sequence": x.transpose(1, 2)} if "sequence" in features else {}
        return self.pooling(x), maps


class ConvolutionBlock(nn.Module):
    """Two 1-D convolutions around a shortcut."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inside, outside, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm1d(outside),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv1d(outside, outside, kernel, 1, kernel // 2, bias=False),
            nn.BatchNorm1d(outside),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv1d(inside, outside, 1, stride, bias=False), nn.BatchNorm1d(outside))
        nn.init.zeros_(self.body[5].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class TemporalConvolution(Backbone):
    """Normalise over the batch, project to `width` channels, stages of residual convolutions, mean over time.

    Feature `stage<n>`: (B, C, T'), where every stage after the first halves T and multiplies the channels by 1.5.
    """

    def __init__(self, inputs: int, width: int, stages: int, depth: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.Conv1d(inputs, width, 1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleDict()
        inside = width
        for number in range(1, stages + 1):
            outside = inside if number == 1 else inside * 3 // 2
            blocks = [ConvolutionBlock(inside, outside, kernel, 1 if number == 1 else 2, dropout)]
            blocks += [ConvolutionBlock(outside, outside, kernel, 1, dropout) for _ in range(depth - 1)]
            self.stages[f"stage{number}"] = nn.Sequential(*blocks)
            inside = outside
        self.feature_names = tuple(self.stages)
        self.embedding_dim = inside

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, C) of sequences (B, T, D) and the named stages' maps."""
        maps: Features = {}
        x = self.stem(x.transpose(1, 2))
        for name, stage in self.stages.items():
            x = stage(x)
            if name in features:
                maps[name] = x
        return x.mean(dim=2), maps


@NETWORKS.register("gru")
def build_gru(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    hidden: Annotated[int, Field(ge=2)] = 128,
    layers: Annotated[int, Field(ge=1, le=8)] = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    pooling: Literal["attention", "mean"] = "attention",
) -> Network:
    """A bidirectional GRU over sequences (T, D).

    Args:
        input_shape: (T, D).
        classes: classes by head.
        hidden: units of each direction; the embedding has twice as many.
        layers: stacked layers.
        dropout: after the input projection, between layers and on the embedding, while training.
        pooling: over time, by learned attention or the plain mean.
    """
    expect_rank("gru", input_shape, "T, D")
    return Network(Recurrent(input_shape[1], hidden, layers, dropout, pooling), input_shape, classes, dropout)


@NETWORKS.register("temporal_conv")
def build_temporal_conv(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    width: Annotated[int, Field(ge=4)] = 64,
    stages: Annotated[int, Field(ge=1, le=6)] = 3,
    depth: Annotated[int, Field(ge=1, le=8)] = 1,
    kernel: Annotated[int, Field(ge=1)] = 5,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> Network:
    """Residual 1-D convolutions over sequences (T, D).

    Args:
        input_shape: (T, D).
        classes: classes by head.
        width: channels of the first stage.
        stages: number of stages, `stage1`…; each after the first halves T.
        depth: residual blocks a stage.
        kernel: time steps of a convolution; an even number is raised by one.
        dropout: within blocks and on the embedding, while training.
    """
    expect_rank("temporal_conv", input_shape, "T, D")
    backbone = TemporalConvolution(input_shape[1], width, stages, depth, kernel | 1, dropout)
    return Network(backbone, input_shape, classes, dropout)
