"""`gru_mean`: a plain GRU over sequences (T, D), the published encoder of skeleton features.

Luo et al., Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018 (visual encoder of skeleton
modalities). It differs from `gru`, which is ours: one direction instead of two; the input enters as it is, without
normalisation and projection (the encoding must bring it to unit scale); the plain mean of the top layer over time
instead of learned attention; no dropout on the embedding; PyTorch's own initialisation.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS


class PlainRecurrent(Backbone):
    """GRU layers from a zero state, then the mean over time. Feature `sequence`: (B, hidden, T)."""

    feature_names = ("sequence",)

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.recurrent = nn.GRU(inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.embedding_dim = hidden

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, hidden) of sequences (B, T, D)."""
        x, _ = self.recurrent(x)
        maps = {"sequence": x.transpose(1, 2)} if "sequence" in features else {}
        return x.mean(dim=1), maps


@NETWORKS.register("gru_mean")
def build_gru_mean(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    hidden: Annotated[int, Field(ge=1)] = 512,
    layers: Annotated[int, Field(ge=1, le=8)] = 3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> Network:
    """A one-directional GRU over sequences (T, D) whose embedding is the mean over time of its top layer.

    Args:
        input_shape: (T, D).
        classes: classes by head.
        hidden: units of a layer, and size of the embedding.
        layers: stacked layers.
        dropout: between layers only, while training.

    Raises:
        ModelError: inputs that are no sequences (T, D).
    """
    expect_rank("gru_mean", input_shape, "T, D")
    return Network(PlainRecurrent(input_shape[1], hidden, layers, dropout), input_shape, classes)
