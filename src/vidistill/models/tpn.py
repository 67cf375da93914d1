"""`tpn`: a ResNet inflated over time whose last two stages are read at their own tempo and fused.

Yang et al., Temporal Pyramid Network for Action Recognition, CVPR 2020, as published with the 3-D ResNets. The maps of
`layer3` and `layer4` become two levels of one size (spatial modulation), each is pooled over `temporal_scale` frames
(temporal modulation), then information flows from the deep level to the shallow one (top-down) and back (bottom-up).

The published code has an auxiliary classifier on `layer3` that its forward pass never uses; we have none, and the key
map drops it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.import_ import prefix_map
from vidistill.models.inflated_resnet import (
    EXPANSION,
    R50,
    R101,
    Layers,
    activated,
    convolution,
    load_backbone,
    make_stage,
    stem,
)
from vidistill.models.networks import NETWORKS

Variant = Literal["f8s8_r50", "f16s4_r50", "f32s2_r50", "f8s8_r101", "f16s4_r101", "f32s2_r101"]
Flow = Literal["sequential", "parallel"]

STAGES = ("layer1", "layer2", "layer3", "layer4")
PYRAMID = "pyramid"
TIME_KERNELS = (1, 1, 3, 3)
"""Extent over time of the blocks of each stage."""

GROUPS = 32
"""Of the convolutions within a level."""


class Parts(NamedTuple):
    """What distinguishes the published variants. fFsS stands for F frames, S raw frames apart."""

    layers: Layers
    temporal_scale: int


VARIANTS: dict[Variant, Parts] = {
    "f8s8_r50": Parts(R50, 8),
    "f16s4_r50": Parts(R50, 16),
    "f32s2_r50": Parts(R50, 32),
    "f8s8_r101": Parts(R101, 8),
    "f16s4_r101": Parts(R101, 16),
    "f32s2_r101": Parts(R101, 32),
}

NECK = "TPN_neck."


def _published_prefixes() -> dict[str, str | None]:
    ours = "backbone.neck."
    spatial = f"{NECK}spatial_modulation.spatial_modulation.0.0."
    prefixes: dict[str, str | None] = {
        "conv1.": "backbone.stem.0.",
        "bn1.": "backbone.stem.1.",
        **{f"{stage}.": f"backbone.stages.{stage}." for stage in STAGES},
        f"{spatial}conv.": f"{ours}spatial.0.",
        f"{spatial}bn.": f"{ours}spatial.1.",
        f"{NECK}downsampling_ops.0.conv.": f"{ours}upward.",
        f"{NECK}pyramid_fusion_op.": f"{ours}merge.",
        f"{NECK}aux_head.": None,
    }
    fusions = {"level_fusion_op2.": "top_down.", "level_fusion_op.": "bottom_up."}
    prefixes |= {f"{NECK}{old}fusion_conv.": f"{ours}{new}merge." for old, new in fusions.items()}
    for level in (0, 1):
        prefixes[f"{NECK}temporal_modulation_ops.{level}.conv."] = f"{ours}temporal.{level}.0."
        for old, new in fusions.items():
            prefixes[f"{NECK}{old}ops.{level}.conv."] = f"{ours}{new}levels.{level}.0."
            prefixes[f"{NECK}{old}ops.{level}.norm."] = f"{ours}{new}levels.{level}.1."
    return prefixes


PUBLISHED_PREFIXES = _published_prefixes()
"""Published prefix -> ours, without the classifier; None drops the keys."""


class LevelFusion(nn.Module):
    """A grouped convolution a level, then one over all levels: two maps (B, C, T, H, W) -> (B, 2C, T, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        point = (1, 1, 1)
        self.levels = nn.ModuleList(activated(convolution(channels, channels, point, groups=GROUPS)) for _ in range(2))
        self.merge = activated(convolution(2 * channels, 2 * channels, point))

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """The fused map of both levels."""
        levels = [layer(level) for layer, level in zip(self.levels, (shallow, deep), strict=True)]
        fused: Tensor = self.merge(torch.cat(levels, dim=1))
        return fused


class TemporalPyramid(nn.Module):
    """The neck over the maps of `layer3` (B, C, T, H, W) and `layer4` (B, 2C, T, H / 2, W / 2)."""

    def __init__(self, channels: int, temporal_scale: int, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.spatial = activated(convolution(channels, 2 * channels, (1, 3, 3), (1, 2, 2)))
        scale = (temporal_scale, 1, 1)
        self.temporal = nn.ModuleList(
            nn.Sequential(
                convolution(2 * channels, channels, (3, 1, 1), groups=GROUPS),
                nn.MaxPool3d(scale, scale, ceil_mode=True),
            )
            for _ in range(2)
        )
        self.upward = convolution(channels, channels, (3, 1, 1))
        self.top_down = LevelFusion(channels)
        self.bottom_up = LevelFusion(channels)
        self.merge = activated(convolution(4 * channels, 2 * channels, (1, 1, 1)))

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """The pyramid's map (B, 2C, ceil(T / temporal_scale), H / 2, W / 2)."""
        shallow, deep = self.temporal[0](self.spatial(shallow)), self.temporal[1](deep)
        informed = shallow + deep
        downward = self.top_down(informed, deep)
        start = informed if self.flow == "sequential" else shallow
        upward = self.bottom_up(start, deep + self.upward(start))
        merged: Tensor = self.merge(torch.cat([downward, upward], dim=1))
        return merged


class Tpn(Backbone):
    """Embedding (B, D): the mean over (T, H, W) of the pyramid. Features `layer1`…`layer4` and `pyramid`."""

    feature_names = (*STAGES, PYRAMID)

    def __init__(self, channels: int, parts: Parts, width: int, flow: Flow) -> None:
        super().__init__()
        self.stem = stem(channels, width, 1)
        self.stages = nn.ModuleDict()
        inside = width
        for index, (name, count, kernel) in enumerate(zip(STAGES, parts.layers, TIME_KERNELS, strict=True)):
            planes = width * 2**index
            self.stages[name] = make_stage(inside, planes, 1 if index == 0 else 2, [kernel] * count)
            inside = EXPANSION * planes
        self.neck = TemporalPyramid(inside // 2, parts.temporal_scale, flow)
        self.embedding_dim = inside

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps."""
        made: Features = {}
        x = self.stem(x)
        for name, stage in self.stages.items():
            made[name] = x = stage(x)
        made[PYRAMID] = self.neck(made["layer3"], made["layer4"])
        return made[PYRAMID].mean(dim=(2, 3, 4)), {name: value for name, value in made.items() if name in features}


@NETWORKS.register("tpn")
def build_tpn(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    variant: Variant = "f8s8_r50",
    layers: Layers | None = None,
    temporal_scale: Annotated[int, Field(ge=1)] | None = None,
    flow: Flow = "sequential",
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 64,
    weights: str | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> Network:
    """A Temporal Pyramid Network for clips (C, T, H, W) of any C, T, H, W.

    Args:
        input_shape: (C, T, H, W).
        classes: classes by head.
        variant: the published network; it decides each of the next two options that is not given.
        layers: blocks of the four stages of the ResNet.
        temporal_scale: frames that one step of the pyramid spans.
        flow: where the bottom-up path starts. "sequential", from what the top-down path made of the shallow level: so
            the published code computes, as both its lists of levels are one object, and its checkpoints are right
            only so. "parallel", from the shallow level itself, as the paper draws it: for networks trained here.
        width: channels of the stem, 64 as published; cost grows with its square.
        weights: None, or a file: a published checkpoint or one of ours, its classifier left out; the first kernels
            are adapted to the channels.
        dropout: on the embedding, while training.

    Raises:
        ModelError: inputs that are no clips (C, T, H, W), or no such weights file.
        CheckpointError: weights of another architecture.
    """
    expect_rank("tpn", input_shape, "C, T, H, W")
    given: dict[str, Any] = {"layers": layers, "temporal_scale": temporal_scale}
    parts = VARIANTS[variant]._replace(**{key: value for key, value in given.items() if value is not None})
    backbone = Tpn(input_shape[0], parts, width, flow)
    if weights is not None:
        load_backbone(backbone, weights, prefix_map({**PUBLISHED_PREFIXES, "fc.": None}), ("stem.0.weight",))
    return Network(backbone, input_shape, classes, dropout)
