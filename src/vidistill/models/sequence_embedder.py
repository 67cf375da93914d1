"""`sequence_embedder`: a few vectors along a sequence, so that a pose can teach few-shot recognition."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidistill.models.base import Backbone, Features, expect_rank
from vidistill.models.episode_network import FRAMES, EpisodeNetwork, StreamHeads, comparison_head
from vidistill.models.networks import NETWORKS
from vidistill.models.sequence import Recurrent


def averaging(steps: int, frames: int) -> Tensor:
    """The matrix (frames, steps) of adaptive average pooling: row i is the mean of steps i·T/L up to (i+1)·T/L."""
    start = torch.arange(frames) * steps // frames
    end = -(-(torch.arange(frames) + 1) * steps // frames)
    step = torch.arange(steps)
    inside = (step >= start[:, None]) & (step < end[:, None])
    return inside / inside.sum(1, keepdim=True)


class SequenceEmbedder(Backbone):
    """A bidirectional GRU over (B, T, inputs), its steps averaged to `frames` vectors, then to the streams."""

    def __init__(
        self, steps: int, inputs: int, frames: int, hidden: int, layers: int, dropout: float, dim: int, streams: int
    ) -> None:
        super().__init__()
        self.sequence = Recurrent(inputs, hidden, layers, dropout, "mean")
        self.register_buffer("averaging", averaging(steps, frames), persistent=False)
        self.heads = StreamHeads(2 * hidden, dim, streams)
        self.embedding_dim = self.heads.width
        self.feature_names = (*self.sequence.feature_names, *self.heads.names)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of sequences (B, T, inputs) and all streams (B, frames, D); `sequence` when asked for."""
        _, maps = self.sequence(x, ("sequence",))
        streams = self.heads(self.get_buffer("averaging") @ maps["sequence"].transpose(1, 2))
        asked = {name: value for name, value in maps.items() if name in features}
        return streams[FRAMES].mean(dim=1), {**asked, **streams}


@NETWORKS.register("sequence_embedder")
def build_sequence_embedder(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    frames: Annotated[int, Field(ge=1)] = 8,
    hidden: Annotated[int, Field(ge=2)] = 128,
    layers: Annotated[int, Field(ge=1, le=8)] = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    dim: Annotated[int | None, Field(ge=0)] = 256,
    streams: Literal[1, 2] = 1,
    comparison: dict[str, Any] | None = None,
) -> EpisodeNetwork:
    """Sequences (T, D_in) of skeletons, poses or inertial signals to vectors (frames, D), compared in episodes.

    The published skeleton teachers read pictures of skeletons through a ResNet50; this reads the joints.

    Args:
        input_shape: (T, D_in).
        classes: classes by head; kept, but nothing depends on them.
        frames: vectors a clip. A fusion needs the same number from all its networks.
        hidden: units of each direction of the GRU.
        layers: stacked layers.
        dropout: after the input projection and between layers, while training.
        dim: width of a stream; 0 or None: 2 x hidden, without a layer.
        streams: 2 adds a stream for distillation beside the labelled one.
        comparison: the episode head, `{"name": "trx", ...its options}`; None: TRX.

    Raises:
        RecipeError: the comparison is unknown.
        ModelError: an input that is no sequence, or options that do not go together.
    """
    expect_rank("sequence_embedder", input_shape, "T, D")
    backbone = SequenceEmbedder(input_shape[0], input_shape[1], frames, hidden, layers, dropout, dim or 0, streams)
    head = comparison_head(comparison, frames, backbone.embedding_dim, "sequence_embedder.comparison")
    return EpisodeNetwork(backbone, head, input_shape, classes)
