"""STLT, the Spatial-Temporal Layout Transformer: what happens, from where boxes are and what they hold.

Sources: Radevski et al., Revisiting Spatio-Temporal Layouts for Compositional Action Recognition, BMVC 2021, arXiv
2111.01936; as layout teacher in Radevski et al., ICCV 2023, arXiv 2307.07483.

Per frame, a transformer over the boxes' slots and a class token before them, whose answer stands for the frame; over
the frames, a causal transformer with a class token at the end, whose answer is the embedding. Slots have no order, and
a frame's answer does not depend on how many of them are padding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.modalities.layout import CLASS, CLASSES, COLUMNS, SCORE, SIDE, SIDES, STATE, STATES
from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS

PUBLISHED_EPSILON = 0.1
Padding = Literal["auto", "dynamic", "fixed"]


class SlotEmbedding(nn.Module):
    """Slots (..., COLUMNS) as vectors (..., D): the sum of what each property says, normalised."""

    def __init__(self, width: int, dropout: float, epsilon: float) -> None:
        super().__init__()
        self.category = nn.Embedding(CLASSES, width, padding_idx=0)
        self.box = nn.Linear(4, width)
        self.score = nn.Linear(1, width)
        self.side = nn.Embedding(SIDES, width, padding_idx=0)
        self.state = nn.Embedding(STATES, width, padding_idx=0)
        self.normalisation = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, slots: Tensor) -> Tensor:
        named = self.category(numbers(slots, CLASS, CLASSES)) + self.side(numbers(slots, SIDE, SIDES))
        named = named + self.state(numbers(slots, STATE, STATES))
        placed = self.box(slots[..., :4]) + self.score(slots[..., SCORE, None])
        embedded: Tensor = self.dropout(self.normalisation(named + placed))
        return embedded


class Layers(nn.Module):
    """A class token and post-norm transformer layers.

    Sequences are (L, B, D): layers that take (B, L, D) use a fused kernel in eval mode, which cannot be exported and
    whose multiply-adds nobody counts.
    """

    def __init__(self, width: int, heads: int, layers: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, feedforward, dropout, "gelu", batch_first=False)
            for _ in range(layers)
        )

    def run(self, x: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Sequences (L, B, D) through all layers; `mask` (L, L) and `padding` (B, L) say what nobody looks at."""
        for layer in self.layers:
            x = layer(x, src_mask=mask, src_key_padding_mask=padding, is_causal=mask is not None)
        return x


class SpatialTransformer(Layers):
    """Slots (M, N, D) of M frames, `absent` (M, N) among them, as one vector a frame (M, D)."""

    def forward(self, slots: Tensor, absent: Tensor) -> Tensor:
        sequence = torch.cat((self.token.expand(1, slots.shape[0], -1), slots.transpose(0, 1)))
        padding = nn.functional.pad(absent, (1, 0), value=False)
        return self.run(sequence, padding=padding)[0]


class TemporalTransformer(Layers):
    """Frames (B, T, D), T at most `frames`, as (B, T + 1, D): each place knows itself and those before it."""

    def __init__(
        self, frames: int, width: int, heads: int, layers: int, feedforward: int, dropout: float, epsilon: float
    ) -> None:
        super().__init__(width, heads, layers, feedforward, dropout)
        self.positions = nn.Embedding(frames, width)
        self.normalisation = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        placed = self.dropout(self.normalisation(frames + self.positions.weight[: frames.shape[1]]))
        sequence = torch.cat((placed.transpose(0, 1), self.token.expand(1, frames.shape[0], -1)))
        later = torch.ones(sequence.shape[0], sequence.shape[0], dtype=torch.bool, device=frames.device).triu(1)
        return self.run(sequence, mask=later).transpose(0, 1)


class LayoutTransformer(Backbone):
    """Slots, a spatial and a temporal transformer; embedding (B, D) is the temporal class token's answer.

    Features: `slots` (B, D, T, N), the embedded slots; `frames` (B, D, T), the spatial class token's answers;
    `sequence` (B, D, T), the temporal answers at the frames.
    """

    feature_names = ("slots", "frames", "sequence")

    def __init__(
        self, embedding: SlotEmbedding, spatial: SpatialTransformer, temporal: TemporalTransformer, padding: Padding
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.spatial = spatial
        self.temporal = temporal
        self.padding = padding
        self.embedding_dim = spatial.token.shape[-1]

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of slots (B, T, N * COLUMNS) and the named maps."""
        slots = x.reshape(*x.shape[:2], -1, COLUMNS)
        if self.trims(x) and "slots" not in features:
            slots = slots[:, :, : fullest(slots)]
        embedded = self.embedding(slots)
        absent = numbers(slots, CLASS, CLASSES) == 0
        frames = self.spatial(embedded.flatten(0, 1), absent.flatten(0, 1)).reshape(*x.shape[:2], -1)
        sequence = self.temporal(frames)
        maps = {
            "slots": embedded.permute(0, 3, 1, 2),
            "frames": frames.transpose(1, 2),
            "sequence": sequence[:, :-1].transpose(1, 2),
        }
        return sequence[:, -1], {name: maps[name] for name in self.feature_names if name in features}

    def trims(self, x: Tensor) -> bool:
        """Whether slots that no frame of the batch fills are left out.

        Their number must be known to the host. On an accelerator that makes it wait for all that was started before,
        so "auto" leaves them in there; a graph that is compiled or exported has one size.
        """
        if self.padding == "fixed" or x.is_meta or torch.compiler.is_compiling():
            return False
        return self.padding == "dynamic" or x.device.type == "cpu"


def numbers(slots: Tensor, column: int, count: int) -> Tensor:
    """A column of slots (..., COLUMNS) as whole numbers from 0 to `count` - 1."""
    return slots[..., column].round().clamp(0, count - 1).long()


def fullest(slots: Tensor) -> int:
    """How many slots (B, T, N, COLUMNS) the fullest frame fills, from the first on.

    All, where there is no box at all: what one empty clip costs then tells what a clip can cost (`deploy.measure`).
    """
    filled = (numbers(slots, CLASS, CLASSES) > 0).flatten(0, 1).any(0).nonzero()
    return int(filled.max()) + 1 if len(filled) else slots.shape[2]


@NETWORKS.register("stlt")
def build_stlt(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    width: Annotated[int, Field(ge=2)] = 768,
    heads: Annotated[int, Field(ge=1)] = 8,
    spatial_layers: Annotated[int, Field(ge=1)] = 6,
    temporal_layers: Annotated[int, Field(ge=1)] = 6,
    feedforward: Annotated[int | None, Field(ge=1)] = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    epsilon: Annotated[float, Field(gt=0)] = PUBLISHED_EPSILON,
    padding: Padding = "auto",
) -> Network:
    """The layout transformer over boxes encoded with `kind: layout`; by default of the published size, 85 M parameters.

    Args:
        input_shape: (T, N * COLUMNS): the frames, of which it learns the positions, and N slots.
        classes: classes by head.
        width: D.
        heads: of attention; they share out D.
        spatial_layers: of the transformer over a frame's slots.
        temporal_layers: of the transformer over frames.
        feedforward: width within layers (None: 4 D).
        dropout: while training, of embedded slots and frames and within layers; the classifier sees no dropout.
        epsilon: of the layer normalisation of embedded slots and frames. The published 0.1 is far above the usual 1e-5,
            and equals the dropout, for which it may have been meant; published weights need it.
        padding: dynamic leaves out slots that no frame of the batch fills, fixed never, auto where that is free (on the
            CPU). The outputs are the same.

    Raises:
        ModelError: the input is no layout, or heads do not share out the width.
    """
    expect_rank("stlt", input_shape, "T, D")
    if input_shape[1] % COLUMNS:
        raise ModelError(
            f"network 'stlt' takes slots of {COLUMNS} numbers, not {input_shape[1]} numbers a frame",
            todo="Encode boxes with kind: layout.",
        )
    if width % heads:
        raise ModelError(f"{heads} heads do not share out a width of {width}", todo="Choose heads that divide it.")
    inside = feedforward or 4 * width
    backbone = LayoutTransformer(
        SlotEmbedding(width, dropout, epsilon),
        SpatialTransformer(width, heads, spatial_layers, inside, dropout),
        TemporalTransformer(input_shape[0], width, heads, temporal_layers, inside, dropout, epsilon),
        padding,
    )
    return Network(backbone, input_shape, classes)
