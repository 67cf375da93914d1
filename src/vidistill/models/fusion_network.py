"""A fusion with an episode head: the interface of `EpisodeNetwork`, over several modalities' frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import check_options, nearest
from vidistill.core.types import Outputs
from vidistill.models import score_fusion  # noqa: F401 (registers)
from vidistill.models.episode_network import FRAMES
from vidistill.models.fusion import FUSIONS, Fusion


class FusionNetwork(nn.Module):
    """Frames of several modalities in, one clip's frames out; its `head` compares clips of an episode.

    Attributes:
        name: of the fusion in `FUSIONS`; `options`: all its options, defaults filled in.
        input_shape: (L, D_m) by modality.
        classes: classes of the data, by head; they size nothing.
        embedding_dim: D of the fused frames and of the embedding.
        head: the episode head. It is not applied by `forward`.
        streams: names of the features that the head compares.
    """

    streams = (FRAMES,)

    def __init__(
        self,
        fusion: Fusion,
        comparison: Mapping[str, Any] | None,
        widths: Mapping[str, int],
        classes: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.name = type(fusion).__name__
        self.options: dict[str, Any] = {}
        self.input_shape = {name: (fusion.length, width) for name, width in widths.items()}
        self.classes = dict(classes)
        self.embedding_dim = fusion.dim
        self.fusion = fusion
        self.head = fusion.make_head(comparison)

    def forward(
        self,
        frames: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        features: tuple[str, ...] = (),
    ) -> Outputs:
        """No logits; the embedding (B, D), the mean over frames; and the feature `frames` (B, L, D).

        Args:
            frames: (B, L, D_m) by modality, rows of missing ones anything finite.
            present: (B,) bool by modality; a modality that is not named is there. None: all are.
            features: may name `frames`, which is always given.

        Raises:
            RecipeError: a feature that a fusion does not make.
            ModelError: a modality of the fusion is not among `frames`.
        """
        for feature in features:
            if feature not in self.streams:
                raise RecipeError(
                    f"fusion {self.name!r} has no feature {feature!r}", todo=nearest(feature, self.streams)
                )
        fused = self.fusion(frames, present)
        return Outputs({}, fused.mean(dim=1), {FRAMES: fused})

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape without batch of each feature `forward` gives."""
        return {FRAMES: (self.fusion.length, self.embedding_dim)}


def build_fusion(
    name: str,
    widths: Mapping[str, int],
    length: int,
    dim: int | None = None,
    classes: Mapping[str, int] | None = None,
    comparison: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    where: str | None = None,
) -> FusionNetwork:
    """The fusion `name` of modalities that give `length` vectors of `widths` a clip, with an episode head.

    Args:
        name: in `FUSIONS`.
        widths: D_m by modality; the first one leads.
        length: L, the same for all.
        dim: width of the fused frames; None: the first modality's.
        classes: classes of the data by head.
        comparison: the episode head, `{"name": "trx", ...its options}`; None: TRX.
        options: of the fusion.
        where: the place in a recipe, for messages.

    Raises:
        RecipeError: unknown name or options, or wrong types.
        ModelError: modalities or options that do not go together.
    """
    if not widths:
        raise ModelError("a fusion needs modalities", where=where)
    builder = FUSIONS.get(name, where)
    checked = check_options(builder, options or {}, where or f"fusion {name!r}", skip=3)
    fusion = builder(dict(widths), length, dim or next(iter(widths.values())), **checked)
    network = FusionNetwork(fusion, comparison, widths, classes or {})
    network.name, network.options = name, checked
    return network


class StackedFusion(nn.Module):
    """A fusion network whose members' frames come as one tensor, so that it is a network over one input like others.

    Its input (B, L, sum of D_m + M) holds the members' frames side by side and, in the last M columns, 1 where a
    member could see the clip and 0 where it could not (see `teachers/stored.py`).

    Attributes:
        network: the `FusionNetwork`; name, options, classes, embedding_dim, head and streams are its own.
    """

    def __init__(self, network: FusionNetwork, widths: Mapping[str, int], length: int) -> None:
        super().__init__()
        self.network = network
        self.widths = dict(widths)
        self.input_shape = (length, sum(widths.values()) + len(widths))
        self.name, self.options, self.classes = network.name, network.options, network.classes
        self.embedding_dim, self.streams = network.embedding_dim, network.streams

    @property
    def head(self) -> nn.Module:
        """The episode head."""
        return self.network.head

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """See `FusionNetwork.forward`."""
        sizes = [*self.widths.values(), *([1] * len(self.widths))]
        parts = torch.split(x, sizes, dim=2)
        frames = dict(zip(self.widths, parts, strict=False))
        flags = parts[len(self.widths) :]
        present = {name: flag[:, 0, 0] > 0.5 for name, flag in zip(self.widths, flags, strict=True)}
        outputs: Outputs = self.network(frames, present, features)
        return outputs

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `FusionNetwork.feature_shapes`."""
        return self.network.feature_shapes()
