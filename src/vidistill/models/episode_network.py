"""Networks of few-shot recognition: a vector for every frame, and an episode head instead of classifiers.

Shapes: B clips, L frames, D features. Streams: `frames` is taught by labels, `distilled_frames` by a teacher (the
two-head students of Lite-MKD, MM 2023); both are compared by the same head, and their logits are summed at test time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Outputs
from vidistill.models.base import Backbone, Network
from vidistill.models.episode_heads import EpisodeHead, build_episode_head

FRAMES = "frames"
DISTILLED = "distilled_frames"
PATCHES = "patch_frames"
"""Vectors of frames before their enrichment over time (STRM), which its patch-level classifier compares."""

STREAMS = (FRAMES, DISTILLED, PATCHES)


class StreamHeads(nn.Module):
    """Vectors of frames (B, L, inputs) to one or two streams of width `dim`, each by a linear layer of its own.

    Without `dim` there is no layer and one stream, the vectors themselves.

    Raises:
        ModelError: two streams without a layer would be one stream twice.
    """

    def __init__(self, inputs: int, dim: int | None, streams: int) -> None:
        super().__init__()
        if streams == 2 and not dim:
            raise ModelError("two streams need a head each", todo="Set dim, or streams to 1.")
        self.names = (FRAMES, DISTILLED)[:streams]
        self.width = dim or inputs
        self.layers = nn.ModuleDict({name: nn.Linear(inputs, dim) for name in self.names} if dim else {})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The streams by name."""
        return {name: layer(x) for name, layer in self.layers.items()} if self.layers else {FRAMES: x}


class EpisodeNetwork(Network):
    """A network of one modality that gives vectors of frames; its `head` compares clips of an episode.

    Attributes:
        head: the episode head, shared by all streams. It is not applied by `forward`: logits need an episode.
        streams: names of the features that the head compares, the labelled one first.
        classes: classes of the data, by head. They size nothing: a few-shot network has no classifier.
    """

    head: EpisodeHead  # type: ignore[assignment]

    def __init__(
        self, backbone: Backbone, head: EpisodeHead, input_shape: tuple[int, ...], classes: Mapping[str, int]
    ) -> None:
        nn.Module.__init__(self)  # Network's own constructor makes the linear classifiers that there are none of here
        self.name = type(backbone).__name__
        self.options: dict[str, Any] = {}
        self.input_shape = tuple(input_shape)
        self.classes = dict(classes)
        self.embedding_dim = backbone.embedding_dim
        self.backbone = backbone
        self.head = head
        self.streams = tuple(name for name in backbone.feature_names if name in (FRAMES, DISTILLED))
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """No logits; the embedding (B, D), which is the labelled stream's mean over frames; and features.

        Features always hold `frames` (B, L, D) and, where the network makes them, `distilled_frames` and
        `patch_frames`; maps of the trunk come when asked for.

        Raises:
            RecipeError: a feature this network does not make.
        """
        for feature in features:
            if feature not in self.backbone.feature_names:
                hint = nearest(feature, self.backbone.feature_names)
                raise RecipeError(f"network {self.name!r} has no feature {feature!r}", todo=hint)
        embedding, found = self.backbone(x, tuple(features))
        return Outputs({}, embedding, found)


def episode_logits(
    network: EpisodeNetwork, features: Mapping[str, Tensor], support_index: Tensor, query_index: Tensor
) -> Tensor:
    """Logits (E, Q, way) of episodes at test time: the sum over the network's streams (Lite-MKD: kl + ce).

    Args:
        network: its head compares, its `streams` are summed.
        features: streams (N, L, D) of N clips.
        support_index: (E, way, shot) positions among the N.
        query_index: (E, Q) positions among the N.
    """
    scores = [network.head(features[name], support_index, query_index) for name in network.streams]
    total: Tensor = torch.stack(scores).sum(0)
    return total


class FrameExport(nn.Module):
    """The part of an episode network that runs on a clip, for export: clips in, vectors of frames (B, L, D) out.

    Args:
        network: an `EpisodeNetwork`.
        streams: names of the streams to give, in this order; None gives all that the network's head compares.
    """

    def __init__(self, network: EpisodeNetwork, streams: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.streams = network.streams if streams is None else tuple(streams)
        unknown = [name for name in self.streams if name not in network.backbone.feature_names]
        if unknown or not self.streams:
            raise ModelError(f"network {network.name!r} has no stream {unknown}", todo=f"It has {network.streams}.")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One tensor (B, L, D) a stream."""
        _, found = self.backbone(x)
        return tuple(found[name] for name in self.streams)


def comparison_head(
    comparison: Mapping[str, Any] | None, length: int, width: int, where: str = "comparison"
) -> EpisodeHead:
    """The episode head that `comparison` names, `{"name": "trx", ...its options}`; None is TRX as published.

    Raises:
        RecipeError: no name, an unknown one, or options the head does not have.
    """
    options = dict(comparison or {"name": "trx"})
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RecipeError("the comparison needs a name", where=where, todo='For example {"name": "trx"}.')
    return build_episode_head(name, length, width, options, where)
