"""`slowfast`: a slow path that sees few frames with many channels, and a fast path that sees many with few.

Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019, in the seven published variants that sample-
level adaptive distillation uses (ACM MM 2025). After the stem and after each stage but the last, a strided convolution
over time brings the fast path's maps to the slow path, where they are concatenated.

A published name such as 8x8 counts raw frames: 8 slow frames, 8 raw frames apart. The published networks are fed every
second raw frame and their fast path sees all of what it is fed: clips of 32 frames of a view with half the frame rate.
`fast_stride: 2` subsamples inside the network instead, for clips of all 64 raw frames.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError
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

Variant = Literal["4x16_r50", "8x8_r50", "16x8_r50", "4x16_r101", "8x8_r101", "16x8_r101", "16x8_r101_50_50"]

STAGES = ("res2", "res3", "res4", "res5")
LATERALS = ("stem", *STAGES[:-1])
"""After which part of the fast path a lateral connection leaves; it ends before the stage of the same place."""

LATERAL_RATIO = 2
"""Channels of a lateral connection, by those of the fast path it leaves."""

FIRST = ("slow.stem.0.weight", "fast.stem.0.weight")

PUBLISHED_PREFIXES: dict[str, str | None] = {
    "slow_conv1.": "backbone.slow.stem.0.",
    "slow_bn1.": "backbone.slow.stem.1.",
    "slow_res": "backbone.slow.stages.res",
    "fast_conv1.": "backbone.fast.stem.0.",
    "fast_bn1.": "backbone.fast.stem.1.",
    "fast_res": "backbone.fast.stages.res",
    "lateral_p1.": "backbone.laterals.stem.",
    "lateral_res": "backbone.laterals.res",
}
"""Published prefix -> ours, without the classifier."""


class Parts(NamedTuple):
    """What distinguishes the published variants."""

    layers: Layers
    alpha: int
    fusion_kernel: int
    time_blocks: int | None = None


VARIANTS: dict[Variant, Parts] = {
    "4x16_r50": Parts(R50, 8, 5),
    "8x8_r50": Parts(R50, 4, 7),
    "16x8_r50": Parts(R50, 4, 7),
    "4x16_r101": Parts(R101, 8, 5),
    "8x8_r101": Parts(R101, 4, 5),
    "16x8_r101": Parts(R101, 4, 5),
    "16x8_r101_50_50": Parts(R101, 4, 5, time_blocks=6),
}
"""16x8 is the network of 8x8, fed with twice the frames; the published 4x16 `custom` is 4x16_r50."""


class Pathway(nn.Module):
    """One ResNet over its frames; `extra` channels by stage come to it from elsewhere.

    Args:
        channels: of the input.
        width: channels of the stem.
        stem_kernel: extent over time of the stem.
        time_kernels: by stage, of each block.
        extra: channels concatenated to the input of each stage.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stem_kernel: int,
        time_kernels: list[list[int]],
        extra: tuple[int, ...] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.stem = stem(channels, width, stem_kernel)
        self.stages = nn.ModuleDict()
        inside = width
        for index, (name, kernels) in enumerate(zip(STAGES, time_kernels, strict=True)):
            planes = width * 2**index
            self.stages[name] = make_stage(inside + extra[index], planes, 1 if index == 0 else 2, kernels)
            inside = EXPANSION * planes


class SlowFast(Backbone):
    """Embedding (B, D): the mean over (T, H, W) of the slow path's last map, then that of the fast path's.

    Features `slow_res2`…`slow_res5` and `fast_res2`…`fast_res5`, the paths' own maps without lateral channels.
    """

    feature_names = tuple(f"{path}_{stage}" for stage in STAGES for path in ("slow", "fast"))

    def __init__(self, channels: int, parts: Parts, fast_stride: int, width: int, beta_inv: int) -> None:
        super().__init__()
        self.fast_stride = fast_stride
        # Any other stride of the slow path would leave maps of other lengths than the lateral connections'.
        self.slow_stride = parts.alpha * fast_stride
        narrow = width // beta_inv
        before = (narrow, *(EXPANSION * narrow * 2**index for index in range(len(STAGES) - 1)))
        extra = tuple(LATERAL_RATIO * count for count in before)
        self.slow = Pathway(channels, width, 1, _time_kernels(parts, (1, 1, 3, 3)), extra)
        self.fast = Pathway(channels, narrow, 5, _time_kernels(parts, (3, 3, 3, 3)))
        kernel, stride = (parts.fusion_kernel, 1, 1), (parts.alpha, 1, 1)
        self.laterals = nn.ModuleDict(
            {
                name: activated(convolution(inside, outside, kernel, stride))
                for name, inside, outside in zip(LATERALS, before, extra, strict=True)
            }
        )
        self.embedding_dim = EXPANSION * (width + narrow) * 2 ** (len(STAGES) - 1)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps."""
        maps: Features = {}
        slow = self.slow.stem(x[:, :, :: self.slow_stride])
        fast = self.fast.stem(x[:, :, :: self.fast_stride])
        for stage, lateral in zip(STAGES, self.laterals.values(), strict=True):
            slow = self.slow.stages[stage](torch.cat([slow, lateral(fast)], dim=1))
            fast = self.fast.stages[stage](fast)
            made = {f"slow_{stage}": slow, f"fast_{stage}": fast}
            maps |= {name: value for name, value in made.items() if name in features}
        return torch.cat([slow.mean(dim=(2, 3, 4)), fast.mean(dim=(2, 3, 4))], dim=1), maps


def _time_kernels(parts: Parts, by_stage: tuple[int, ...]) -> list[list[int]]:
    """Extent over time of every block; past the first `time_blocks` of the long stage res4 it is 1."""
    kernels = [[kernel] * count for kernel, count in zip(by_stage, parts.layers, strict=True)]
    if parts.time_blocks is not None:
        long = kernels[STAGES.index("res4")]
        long[parts.time_blocks :] = [1] * len(long[parts.time_blocks :])
    return kernels


@NETWORKS.register("slowfast")
def build_slowfast(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    variant: Variant = "8x8_r50",
    layers: Layers | None = None,
    alpha: Annotated[int, Field(ge=1)] | None = None,
    fusion_kernel: Annotated[int, Field(ge=1)] | None = None,
    time_blocks: Annotated[int, Field(ge=0)] | None = None,
    fast_stride: Annotated[int, Field(ge=1)] = 1,
    width: Annotated[int, Field(ge=1)] = 64,
    beta_inv: Annotated[int, Field(ge=1)] = 8,
    weights: str | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> Network:
    """SlowFast for clips (C, T, H, W) of any C, H, W and of T >= alpha x fast_stride, which need not divide T.

    Args:
        input_shape: (C, T, H, W).
        classes: classes by head.
        variant: the published network; it decides each of the next four options that is not given.
        layers: blocks of the four stages, of both paths.
        alpha: fast frames a slow frame. The slow path sees every (alpha x fast_stride)-th frame of the clip.
        fusion_kernel: extent over time of the lateral connections, in fast frames; odd.
        time_blocks: how many blocks of stage res4 convolve over time: 6 in 16x8_r101_50_50, all in the others.
        fast_stride: the fast path sees every so manieth frame. 1 as in the published code.
        width: channels of the slow stem, 64 as published; cost grows with its square.
        beta_inv: slow channels a fast channel; divides `width`.
        weights: None, or a file: a published checkpoint or one of ours, its classifier left out; the first kernels
            are adapted to the channels.
        dropout: on the embedding, while training.

    Raises:
        ModelError: fewer frames than the slow path's stride, an even fusion kernel, a width that `beta_inv` does not
            divide, or no such weights file.
        CheckpointError: weights of another architecture.
    """
    expect_rank("slowfast", input_shape, "C, T, H, W")
    given: dict[str, Any] = {
        "layers": layers,
        "alpha": alpha,
        "fusion_kernel": fusion_kernel,
        "time_blocks": time_blocks,
    }
    parts = VARIANTS[variant]._replace(**{key: value for key, value in given.items() if value is not None})
    _check(parts, input_shape[1], fast_stride, width, beta_inv)
    backbone = SlowFast(input_shape[0], parts, fast_stride, width, beta_inv)
    if weights is not None:
        load_backbone(backbone, weights, prefix_map({**PUBLISHED_PREFIXES, "fc.": None}), FIRST)
    return Network(backbone, input_shape, classes, dropout)


def _check(parts: Parts, frames: int, fast_stride: int, width: int, beta_inv: int) -> None:
    stride = parts.alpha * fast_stride
    if frames < stride:
        raise ModelError(
            f"network 'slowfast' with a slow path of every {stride}th frame cannot take clips of {frames} frames",
            todo="Give it more frames, or a smaller alpha or fast_stride.",
        )
    if parts.fusion_kernel % 2 == 0:
        raise ModelError(f"network 'slowfast' needs an odd fusion_kernel, not {parts.fusion_kernel}")
    if width % beta_inv:
        raise ModelError(f"network 'slowfast' needs a width that beta_inv = {beta_inv} divides, not {width}")
