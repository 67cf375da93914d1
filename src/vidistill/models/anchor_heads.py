"""The heads of an anchor-free detector: a coarse segment at every anchor, and its refinement by its boundaries.

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization (AFSD), CVPR 2021, sections
3.2 and 3.3, as Generative Model-based Feature Knowledge Distillation (AAAI 2024) uses it. All levels of the pyramid
share the heads; only the scale of the distances is a level's own.

Shapes: B windows of `frames` frames, A anchors (the steps of all levels, longest level first), K classes with
background, W the pyramid's width, t steps of a level. Sequences have channels second, answers of anchors last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidistill.models.anchor_pyramid import Pyramid, activated
from vidistill.models.anchor_segments import anchor_centres, coarse_segments, frame_windows, level_windows
from vidistill.models.boundary_pooling import Variant, pool_sequences, pool_sets
from vidistill.models.same_padding import SameConv1d

KERNEL = 3
"""Of the towers and the coarse heads, in steps."""
SPREAD = 0.01
"""Standard deviation of the first weights of all that is shared by the levels, as published."""


@dataclass(frozen=True)
class CoarseAnswers:
    """Of every anchor: distances to the start and the end of its segment, and logits of its class.

    Attributes:
        loc: (B, A, 2), in frames, positive.
        conf: (B, A, K).
    """

    loc: Tensor
    conf: Tensor


@dataclass(frozen=True)
class AnchorAnswers(CoarseAnswers):
    """All that the heads say.

    Attributes:
        prop_loc: (B, A, 2), by which the distances grow, in half widths of the coarse segment.
        prop_conf: (B, A, K), logits of the refined segment's class.
        center: (B, A, 1), logit of how well the segment fits.
        priors: (A,), the anchors' centres as parts of the window.
        start: (B, W / 2, frames), and `end`: the halves of the frame-level sequence.
        start_loc_prop: (B, W, t of the first level), and `end_loc_prop`, `start_conf_prop`, `end_conf_prop`: the
            halves of the first level's sequence in either proposal branch.
        proposals: (B, A, W), the confidence branch's vector of every anchor's segment.
    """

    prop_loc: Tensor
    prop_conf: Tensor
    center: Tensor
    priors: Tensor
    start: Tensor
    end: Tensor
    start_loc_prop: Tensor
    end_loc_prop: Tensor
    start_conf_prop: Tensor
    end_conf_prop: Tensor
    proposals: Tensor


class Scale(nn.Module):
    """exp(scale * x), distances in frames."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x * self.scale)


class ProposalBranch(nn.Module):
    """A vector for every anchor's coarse segment, of the anchor itself and of what is near the segment's boundaries."""

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.variant: Variant = variant
        self.point = nn.Sequential(*activated(SameConv1d(width, width, 1)))
        self.sides = nn.Sequential(*activated(SameConv1d(width, 2 * width, 1)))
        self.at_frames = nn.Sequential(*activated(SameConv1d(width, width, 1)))
        self.merge = nn.Sequential(*activated(SameConv1d(4 * width, width, 1)))

    def forward(
        self, levels: Sequence[Tensor], windows: Sequence[Tensor], near_frames: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Proposal vectors (B, W, t) of each level, and the first level's sequence (B, 2W, t) that was pooled.

        Args:
            levels: a tower's sequences (B, W, t).
            windows: around the boundaries of each anchor's segment (B, t, 4), in steps of its level.
            near_frames: the frame-level sequence, pooled around the same boundaries (B, W, t).
        """
        sides = [self.sides(x) for x in levels]
        near = pool_sequences(sides, windows, self.variant)
        parts = zip(near_frames, near, levels, strict=True)
        return [self.merge(torch.cat([self.at_frames(f), s, self.point(x)], dim=1)) for f, s, x in parts], sides[0]


def tower(width: int) -> nn.Sequential:
    """Two convolutions over time."""
    return nn.Sequential(*(layer for _ in range(2) for layer in activated(SameConv1d(width, width, KERNEL))))


class AnchorHeads(nn.Module):
    """The pyramid over the maps of a window and all heads on its levels.

    Args:
        shapes: (C, T, H, W) of each map, the longest first.
        classes: K, background (class 0) included.
        width: W, channels of the pyramid, even.
        levels: of the pyramid.
        frames: of the window.
        variant: of the boundary pooling; "released" has the published gradient.

    Raises:
        ModelError: maps that make no such pyramid.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        classes: int,
        width: int,
        levels: int,
        frames: int,
        variant: Variant = "default",
    ) -> None:
        super().__init__()
        self.frames = frames
        self.loc_tower, self.conf_tower = tower(width), tower(width)
        self.loc_head, self.conf_head = SameConv1d(width, 2, KERNEL), SameConv1d(width, classes, KERNEL)
        self.scales = nn.ModuleList(Scale() for _ in range(levels))
        self.loc_branch, self.conf_branch = ProposalBranch(width, variant), ProposalBranch(width, variant)
        self.prop_loc_head, self.prop_conf_head = SameConv1d(width, 2, 1), SameConv1d(width, classes, 1)
        self.center_head = SameConv1d(width, 1, KERNEL)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=SPREAD)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.pyramid = Pyramid(shapes, width, levels, frames)  # after the loop: it starts otherwise

    def priors(self, device: torch.device | None = None) -> Tensor:
        """Centres (A,) of all anchors, as parts of the window."""
        return torch.cat([anchor_centres(steps, device) for steps in self.pyramid.lengths])

    def coarse(self, maps: Sequence[Tensor]) -> CoarseAnswers:
        """The coarse answers alone."""
        found = [self._coarse(level, x)[:2] for level, x in enumerate(self.pyramid.sequences(maps))]
        loc, conf = zip(*found, strict=True)
        return CoarseAnswers(torch.cat(loc, dim=1), torch.cat(conf, dim=1))

    def _coarse(self, level: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distances (B, t, 2), logits (B, t, K) and both towers' sequences of one level (B, W, t)."""
        at_loc, at_conf = self.loc_tower(x), self.conf_tower(x)
        loc = self.scales[level](self.loc_head(at_loc)).transpose(1, 2)
        return loc, self.conf_head(at_conf).transpose(1, 2), at_loc, at_conf

    def forward(self, maps: Sequence[Tensor]) -> AnchorAnswers:
        """The answers for windows of which the maps (B, C, T, H, W) are given, in the order of `shapes`."""
        levels, frame_level = self.pyramid(maps)
        found = [self._coarse(level, x) for level, x in enumerate(levels)]
        loc, conf, at_loc, at_conf = zip(*found, strict=True)
        windows = [level_windows(each, self.frames) for each in loc]
        in_frames = [frame_windows(coarse_segments(each, self.frames)) for each in loc]
        near_frames = pool_sets(frame_level, in_frames, self.loc_branch.variant)
        loc_proposals, loc_sides = self.loc_branch(at_loc, windows, near_frames)
        conf_proposals, conf_sides = self.conf_branch(at_conf, windows, near_frames)
        start, end = frame_level.chunk(2, dim=1)
        start_loc, end_loc = loc_sides.chunk(2, dim=1)
        start_conf, end_conf = conf_sides.chunk(2, dim=1)
        return AnchorAnswers(
            loc=torch.cat(loc, dim=1),
            conf=torch.cat(conf, dim=1),
            prop_loc=_by_anchor([self.prop_loc_head(x) for x in loc_proposals]),
            prop_conf=_by_anchor([self.prop_conf_head(x) for x in conf_proposals]),
            center=_by_anchor([self.center_head(x) for x in loc_proposals]),
            priors=self.priors(frame_level.device),
            start=start,
            end=end,
            start_loc_prop=start_loc,
            end_loc_prop=end_loc,
            start_conf_prop=start_conf,
            end_conf_prop=end_conf,
            proposals=_by_anchor(conf_proposals),
        )


def _by_anchor(levels: Sequence[Tensor]) -> Tensor:
    """Sequences (B, C, t) of all levels as answers of anchors (B, A, C)."""
    return torch.cat([*levels], dim=2).transpose(1, 2)
