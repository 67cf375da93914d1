"""What fusions are made of: completion of missing modalities, a transformer over several, attention of one to another.

Shapes: B clips, L frames, D features; a fusion of M modalities takes M tensors (B, L, D_m) in a fixed order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.models.positions import TrainablePositions

Missing = Literal["token", "zeros"]

HEADS_OF = {2: 2, 3: 3, 4: 2, 5: 5}
"""Attention heads by number of modalities; the first three as published."""


class Entrance(nn.Module):
    """All modalities at one width, the missing ones filled.

    The published loader reads zeros where a modality has no file, and says nothing. Here a learned vector stands for
    every frame of what is missing (`missing="token"`); `missing="zeros"` has no such parameters, as the published
    checkpoints have none.

    Args:
        widths: D_m by modality; their order is the order of fusion.
        width: common width; modalities that have it already pass unchanged, unless `always`. None: all keep theirs.
        missing: what stands for a missing modality.
        always: a linear layer also where the width fits, as a narrow entrance to a smaller fusion.
    """

    def __init__(self, widths: Mapping[str, int], width: int | None, missing: Missing, always: bool = False) -> None:
        super().__init__()
        self.names = tuple(widths)
        self.layers = nn.ModuleList(
            nn.Linear(own, width) if width and (always or own != width) else nn.Identity() for own in widths.values()
        )
        self.tokens = nn.ParameterList(
            nn.Parameter(0.02 * torch.randn(own)) for own in (widths.values() if missing == "token" else ())
        )

    def forward(self, frames: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """(B, L, width) of each modality in order.

        Raises:
            ModelError: a modality of the fusion is not among `frames`.
        """
        absent = [name for name in self.names if name not in frames]
        if absent:
            raise ModelError(
                f"the fusion of {', '.join(self.names)} was given no {', '.join(absent)}",
                todo="Give zeros, and False in `present`, for clips that lack a modality.",
            )
        return [layer(self._filled(index, frames, present or {})) for index, layer in enumerate(self.layers)]

    def _filled(self, index: int, frames: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        name = self.names[index]
        x = frames[name]
        if name not in present:
            return x
        token = self.tokens[index].to(x.dtype) if len(self.tokens) else x.new_zeros(())
        return torch.where(present[name][:, None, None], x, token)


class Joint(nn.Module):
    """Several modalities side by side through a transformer over the frames, and back to `dim` features.

    Trainable positions for each modality, concatenation of features, post-norm encoder, linear layer. All frames
    attend to all frames of their own clip.

    Args:
        count: modalities.
        width: of each.
        dim: of the result.
        length: frames.
        layers: of the encoder.
        heads: of its attention; None: 2, 3, 2, 5 for 2, 3, 4, 5 modalities.
        feedforward: width inside an encoder layer.
        dropout: after positions, in the encoder and on the result, while training.

    Raises:
        ModelError: the heads do not share out the width.
    """

    def __init__(
        self,
        count: int,
        width: int,
        dim: int,
        length: int,
        layers: int = 2,
        heads: int | None = None,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        heads = heads or HEADS_OF[count]
        if count * width % heads:
            raise ModelError(f"{heads} attention heads cannot share {count} x {width} features", todo="Set heads.")
        self.positions = nn.ModuleList(TrainablePositions(length, width, dropout) for _ in range(count))
        layer = nn.TransformerEncoderLayer(count * width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(count * width, dim)
        self.dropout = nn.Dropout(dropout)

    def placed(self, frames: Sequence[Tensor]) -> Tensor:
        """All modalities with their positions, side by side (B, L, count x width)."""
        return torch.cat([place(x) for place, x in zip(self.positions, frames, strict=True)], dim=-1)

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        """The fused frames (B, L, dim)."""
        fused: Tensor = self.dropout(self.out(self.encoder(self.placed(frames))))
        return fused


class Attention(nn.Module):
    """Frames of one modality ask those of another; a dense layer, the asking frames added, layer norm (BERT).

    Args:
        width: of both modalities.
        heads: of the attention, each scaled by the root of its width.
        dropout: on attention weights and on the dense layer, while training.

    Raises:
        ModelError: the heads do not share out the width.
    """

    def __init__(self, width: int, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"{heads} attention heads cannot share {width} features", todo="Set heads.")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)
        self.normalisation = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """(B, L, width) of `asking` (B, L, width) and `asked` (B, L', width)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        rate = self.dropout.p if self.training else 0.0
        answer = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        answer = self.dropout(self.dense(answer.transpose(1, 2).flatten(2)))
        result: Tensor = self.normalisation(answer + asking)
        return result
