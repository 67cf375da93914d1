"""Fusions for few-shot recognition: vectors of frames of 2 to 5 modalities become one clip's (B, L, D).

Source: Lite-MKD (ACM MM 2023), multi-modal fusion module (MFM) and the alternatives it is compared with. `FUSIONS`
has them by name; `build_fusion` makes a `FusionNetwork` with an episode head, the interface of `EpisodeNetwork`.

MFM with modalities m1…mM (m1 leads): F = joint(m1, …, mM) + sum over k > 1 of pair(m1, shift_k(mk)). `joint` and
`pair` are transformers over the frames (`fusion_blocks.Joint`); one `pair` serves all pairs, and is the `joint` too
where there are two modalities. The shift lets a frame of m1 meet the next or the last frame of another modality.

Deviations from the published code (each switchable):
- `bottleneck`: 551 million parameters for 8 vectors a clip are not needed; None is the published size.
- `shift`: the paper shifts modalities against each other in both directions. The code's shift to the right leaves the
  frames as they are, so that only the second modality moves (`released_training`; of five also the fifth), while
  features are extracted with all moved left (`released_extraction`): the student sees what the fusion was not trained
  on. `paper` is the default: left, right, left, …
- `missing`: see `fusion_blocks.Entrance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.core.registry import Registry
from vidistill.models.episode_heads import EpisodeHead
from vidistill.models.episode_network import comparison_head
from vidistill.models.fusion_blocks import Attention, Entrance, Joint, Missing

Shift = Literal["paper", "released_training", "released_extraction", "none"]

LEFT, STAY, RIGHT = -1, 0, 1


class Fusion(nn.Module):
    """Several modalities' frames to one; a subclass sets `dim`, the width of its result."""

    dim: int
    length: int

    def forward(self, frames: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Fused frames (B, L, dim) of `frames` {modality: (B, L, D_m)}; `present` {modality: (B,) bool}, None: all."""
        raise NotImplementedError

    def make_head(self, comparison: Mapping[str, Any] | None) -> EpisodeHead:
        """The episode head over the fused frames."""
        return comparison_head(comparison, self.length, self.dim, "fusion.comparison")


FusionBuilder = Callable[..., Fusion]
"""`(widths, length, dim, **options) -> Fusion`; the options are the builder's remaining parameters."""

FUSIONS: Registry[FusionBuilder] = Registry("fusion")


def directions(shift: Shift, others: int) -> tuple[int, ...]:
    """Which way each modality after the first moves along time: LEFT (frame t meets t + 1), STAY or RIGHT."""
    pattern = {
        "paper": (LEFT, RIGHT),
        "released_training": (LEFT, STAY, STAY),
        "released_extraction": (LEFT,),
        "none": (STAY,),
    }[shift]
    return tuple(pattern[index % len(pattern)] for index in range(others))


@FUSIONS.register("mfm")
class MultiModalFusion(Fusion):
    """The multi-modal fusion module (MFM).

    Args:
        widths: D_m by modality; the first one leads.
        length: frames of a clip.
        dim: width of the result.
        layers: of each transformer.
        bottleneck: width of a modality inside; None: `dim`, as published (551 M parameters at 2048).
        heads: of attention; None: 2, 3, 2, 5 for 2, 3, 4, 5 modalities.
        feedforward: width inside a transformer layer.
        dropout: while training.
        shift: of the pairs; see the top of this file.
        shift_by: frames.
        joint: how many of the first modalities the joint fusion takes; None: all, 0: there is no joint fusion.
        pairs: whether there are pair fusions.
        missing: `token` or `zeros`; see `fusion_blocks.Entrance`.

    Raises:
        ModelError: fewer than 2 or more than 5 modalities, neither a joint fusion nor pairs, heads that do not fit.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        length: int,
        dim: int,
        layers: Annotated[int, Field(ge=1)] = 2,
        bottleneck: Annotated[int | None, Field(ge=1)] = 256,
        heads: Annotated[int | None, Field(ge=1)] = None,
        feedforward: Annotated[int, Field(ge=1)] = 2048,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        shift: Shift = "paper",
        shift_by: Annotated[int, Field(ge=0)] = 1,
        joint: Annotated[int | None, Field(ge=0)] = None,
        pairs: bool = True,
        missing: Missing = "token",
    ) -> None:
        super().__init__()
        count = len(widths)
        self.joined = count if joint is None else joint
        if not 2 <= count <= 5:
            raise ModelError(f"a fusion takes 2 to 5 modalities, not {count} ({', '.join(widths)})")
        if not (self.joined or pairs) or self.joined == 1 or self.joined > count:
            raise ModelError(f"a joint fusion of {self.joined} of {count} modalities, pairs: {pairs}: nothing to fuse")
        self.dim, self.length = dim, length
        self.entrance = Entrance(widths, bottleneck or dim, missing, always=bottleneck is not None)
        self.shifts = tuple(way * shift_by for way in directions(shift, count - 1)) if pairs else ()
        options = (bottleneck or dim, dim, length, layers, heads, feedforward, dropout)
        if pairs or self.joined == 2:
            self.pair = Joint(2, *options)
        if self.joined > 2:
            self.joint = Joint(self.joined, *options)

    def forward(self, frames: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Fused frames (B, L, dim); see `Fusion`."""
        parts = self.entrance(frames, present)
        fused = []
        if self.joined:
            fused.append((self.joint if self.joined > 2 else self.pair)(parts[: self.joined]))
        for other, shift in zip(parts[1:], self.shifts, strict=False):
            fused.append(self.pair((parts[0], other.roll(shift, dims=1) if shift else other)))
        return torch.stack(fused).sum(0)


@FUSIONS.register("cross_attention")
class CrossAttentionFusion(Fusion):
    """The first modality's frames ask those of each other modality, one attention for all; the answers are summed.

    Args:
        widths: D_m by modality; the first one asks.
        length: frames of a clip.
        dim: width of the result and of the attention.
        heads: of the attention.
        dropout: while training.
        missing: `token` or `zeros`; see `fusion_blocks.Entrance`.

    There is no encoding of time: frames of the other modalities may come in any order, as published.

    Raises:
        ModelError: fewer than 2 or more than 5 modalities, or heads that do not fit.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        length: int,
        dim: int,
        heads: Annotated[int, Field(ge=1)] = 2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        missing: Missing = "token",
    ) -> None:
        super().__init__()
        if not 2 <= len(widths) <= 5:
            raise ModelError(f"a fusion takes 2 to 5 modalities, not {len(widths)} ({', '.join(widths)})")
        self.dim, self.length = dim, length
        self.entrance = Entrance(widths, dim, missing)
        self.cross = Attention(dim, heads, dropout)

    def forward(self, frames: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Fused frames (B, L, dim); see `Fusion`."""
        first, *others = self.entrance(frames, present)
        return torch.stack([self.cross(first, other) for other in others]).sum(0)
