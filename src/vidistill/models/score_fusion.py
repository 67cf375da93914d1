"""`score_fusion`: every modality is compared by a head of its own; their logits are added with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.registry import nearest
from vidistill.models.episode_heads import EpisodeHead, Projected
from vidistill.models.episode_network import comparison_head
from vidistill.models.fusion import FUSIONS, Fusion
from vidistill.models.fusion_blocks import Entrance, Missing


class ScoreHead(EpisodeHead):
    """Frames of several modalities side by side, each compared by its own head; the weighted sum of their logits.

    Args:
        heads: one a modality.
        widths: of the modalities, in the order in which they lie side by side.
        weights: of their logits.
        length: frames.
    """

    def __init__(self, heads: Sequence[EpisodeHead], widths: Sequence[int], weights: Sequence[float], length: int):
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = list(widths)
        self.weights = tuple(weights)
        with torch.no_grad():
            frames = [torch.zeros(1, length, width) for width in widths]
            self.counts = tuple(len(head.project(x)) for head, x in zip(heads, frames, strict=True))

    def project(self, frames: Tensor) -> Projected:
        """All heads' projections of frames (N, L, sum of widths), one head's after another's."""
        parts = torch.split(frames, self.widths, dim=-1)
        return tuple(value for head, part in zip(self._heads(), parts, strict=True) for value in head.project(part))

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """Nothing beside what the heads take, and they see to their own memory."""
        return 0

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way)."""
        logits, start = [], 0
        for head, weight, count in zip(self._heads(), self.weights, self.counts, strict=True):
            part = slice(start, start + count)
            logits.append(weight * head.compare(support[part], queries[part]))
            start += count
        return torch.stack(logits).sum(0)

    def _heads(self) -> list[EpisodeHead]:
        return [head for head in self.heads if isinstance(head, EpisodeHead)]


@FUSIONS.register("score_fusion")
class ScoreFusion(Fusion):
    """Late fusion (TSF of the published code): nothing is mixed but the logits.

    Args:
        widths: D_m by modality.
        length: frames of a clip.
        dim: unused: the result is as wide as all modalities together.
        weights: of the logits by modality; None: 1 for the first, 0.3 for each other, as published.
        missing: `token` or `zeros`; see `fusion_blocks.Entrance`.

    Raises:
        RecipeError: a weight for a modality that is not fused, or none for one that is.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        length: int,
        dim: int,
        weights: dict[str, float] | None = None,
        missing: Missing = "token",
    ) -> None:
        super().__init__()
        for name in (weights or {}).keys() ^ widths.keys() if weights else ():
            raise RecipeError(f"score fusion: weights and modalities differ in {name!r}", todo=nearest(name, widths))
        self.widths = dict(widths)
        self.weights = weights or {name: 0.3 if index else 1.0 for index, name in enumerate(widths)}
        self.length, self.dim = length, sum(widths.values())
        self.entrance = Entrance(widths, None, missing)

    def forward(self, frames: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """All modalities' frames side by side (B, L, sum of D_m); see `Fusion`."""
        return torch.cat(self.entrance(frames, present), dim=-1)

    def make_head(self, comparison: Mapping[str, Any] | None) -> EpisodeHead:
        """A head a modality, all of the same kind."""
        heads = [comparison_head(comparison, self.length, width, "fusion.comparison") for width in self.widths.values()]
        return ScoreHead(heads, [*self.widths.values()], [self.weights[name] for name in self.widths], self.length)
