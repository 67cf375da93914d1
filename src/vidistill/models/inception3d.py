"""`i3d`: Inception-v1 inflated over time; `i3d_topheavy`: the same with flat kernels below and 3-D ones above.

Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017; the top-heavy student is that of generative feature
distillation (Wang et al., AAAI 2024): up to `mixed_4c` its kernels see one frame. Its stem still steps over every
second frame, so that it sees the frames of even index only; its pools still see time.

Every convolution is followed by batch normalisation and a ReLU; padding is TensorFlow's (`same_padding`).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.import_ import prefix_map
from vidistill.models.inflation import Taps, inherit_file
from vidistill.models.networks import NETWORKS
from vidistill.models.same_padding import SameConv3d, SameMaxPool3d, Size

Variant = Literal["default", "released"]
Branches = tuple[int, int, int, int, int, int]
"""Channels of an inception block's convolutions b0, b1a, b1b, b2a, b2b, b3b."""

UNITS: dict[str, tuple[int, int, int]] = {
    "conv3d_1a_7x7": (64, 7, 2),
    "conv3d_2b_1x1": (64, 1, 1),
    "conv3d_2c_3x3": (192, 3, 1),
}
"""Channels, kernel and stride over T, H and W."""

POOLS: dict[str, tuple[Size, Size]] = {
    "maxpool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "maxpool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "maxpool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "maxpool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}

BLOCKS: dict[str, Branches] = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}

END_POINTS = (
    *("conv3d_1a_7x7", "maxpool3d_2a_3x3", "conv3d_2b_1x1", "conv3d_2c_3x3", "maxpool3d_3a_3x3"),
    *("mixed_3b", "mixed_3c", "maxpool3d_4a_3x3", "mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f"),
    *("maxpool3d_5a_2x2", "mixed_5b", "mixed_5c"),
)
"""The stages in order of depth; their maps are the features."""

TOP_HEAVY = "i3d_topheavy"
FIRST_DEEP = "mixed_4d"
"""The top-heavy network's first stage with 3-D kernels."""

MULTIPLE = 8
"""Scaled numbers of channels are multiples of it, as the published ones are."""

EPSILON = 1e-3
WINDOW = 2
"""Time steps of the last map that one window of the published classifier spans."""

INSIDE = "backbone."
FIRST = ("stages.conv3d_1a_7x7.conv3d.weight",)
ROOTS = ("", "backbone._model.")
"""Before the published keys: Kinetics files have nothing, those of the distilled networks `backbone._model.`."""

PUBLISHED_PREFIXES: dict[str, str | None] = {
    f"{root}{name.capitalize()}.": f"{INSIDE}stages.{name}." for root in ROOTS for name in (*UNITS, *BLOCKS)
}
"""Published prefix -> ours, without the classifier."""
AROUND: dict[str, str | None] = {"backbone.trunk.": INSIDE, "backbone.attention.": None, "backbone.heads.": None}
"""Prefixes of our networks that have this one as their trunk -> its own."""


class Unit3d(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; keys `conv3d` and `bn`, as published."""

    def __init__(self, inside: int, outside: int, kernel: Size, stride: Size, momentum: float) -> None:
        super().__init__()
        self.conv3d = SameConv3d(inside, outside, kernel, stride)
        self.bn = nn.BatchNorm3d(outside, eps=EPSILON, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, T, H, W) -> (B, outside, ceil(T / stride), …)."""
        return functional.relu(self.bn(self.conv3d(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Four branches side by side: 1; 1 then k; 1 then k; the maximum over k then 1.

    Args:
        inside: channels of the input.
        branches: channels.
        time_kernel: k is time_kernel x 3 x 3, the other kernels are 1 x 1 x 1.
        momentum: of batch normalisation.
    """

    def __init__(self, inside: int, branches: Branches, time_kernel: int, momentum: float) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = branches
        one: Size = (1, 1, 1)
        kernel: Size = (time_kernel, 3, 3)
        self.b0 = Unit3d(inside, b0, one, one, momentum)
        self.b1a = Unit3d(inside, b1a, one, one, momentum)
        self.b1b = Unit3d(b1a, b1b, kernel, one, momentum)
        self.b2a = Unit3d(inside, b2a, one, one, momentum)
        self.b2b = Unit3d(b2a, b2b, kernel, one, momentum)
        self.b3a = SameMaxPool3d(kernel, one)
        self.b3b = Unit3d(inside, b3b, one, one, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, T, H, W) -> (B, b0 + b1b + b2b + b3b, T, H, W)."""
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class Inception3d(Backbone):
    """Embedding (B, D): the mean of the last map; features: the map of every stage, `END_POINTS`.

    Args:
        channels: of the input.
        top_heavy: kernels see one frame up to `mixed_4c`.
        width: factor of all numbers of channels.
        momentum: of batch normalisation.
        frozen_bn: batch normalisation stays in eval mode while training.
        variant: "released": the embedding is the mean over the published classifier's windows; see `window_means`.
    """

    feature_names = END_POINTS

    def __init__(
        self,
        channels: int,
        top_heavy: bool,
        width: float = 1.0,
        momentum: float = 0.01,
        frozen_bn: bool = False,
        variant: Variant = "default",
    ) -> None:
        super().__init__()
        self.frozen_bn, self.variant = frozen_bn, variant
        self.stages = nn.ModuleDict()
        first_deep = END_POINTS.index(FIRST_DEEP) if top_heavy else 0
        inside = channels
        for index, name in enumerate(END_POINTS):
            flat = index < first_deep
            if name in POOLS:
                self.stages[name] = SameMaxPool3d(*POOLS[name])
            elif name in UNITS:
                count, side, step = UNITS[name]
                kernel = (1 if flat else side, side, side)
                outside = scaled(count, width)
                self.stages[name] = Unit3d(inside, outside, kernel, (step, step, step), momentum)
                inside = outside
            else:
                b0, b1a, b1b, b2a, b2b, b3b = (scaled(count, width) for count in BLOCKS[name])
                self.stages[name] = InceptionBlock(inside, (b0, b1a, b1b, b2a, b2b, b3b), 1 if flat else 3, momentum)
                inside = b0 + b1b + b2b + b3b
        self.embedding_dim = inside

    def train(self, mode: bool = True) -> Inception3d:
        """Training or eval mode; frozen batch normalisation stays in eval mode."""
        super().train(mode)
        if self.frozen_bn:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps."""
        maps: Features = {}
        for name, stage in self.stages.items():
            x = stage(x)
            if name in features:
                maps[name] = x
        embedding = window_means(x).mean(2) if self.variant == "released" else x.mean(dim=(2, 3, 4))
        return embedding, maps


def scaled(count: int, width: float) -> int:
    """`count` x `width` channels, to the nearest multiple of 8, at least 8."""
    return max(MULTIPLE, MULTIPLE * round(count * width / MULTIPLE))


def window_means(last: Tensor) -> Tensor:
    """Means over windows of two time steps and the whole frame: (B, D, T', H', W') -> (B, D, T' - 1).

    What the published classifier sees (its windows of 2 x 7 x 7 are whole frames for clips of 224 pixels): logits by
    time (B, T' - 1, classes) are `network.head(window_means(maps["mixed_5c"]).transpose(1, 2))`.
    """
    return functional.avg_pool3d(last, (WINDOW, *last.shape[3:]), stride=1).flatten(2)


def build_inception3d(
    name: str,
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    width: Annotated[float, Field(gt=0, le=8)] = 1.0,
    weights: str | None = None,
    taps: Taps = "centre",
    frozen_bn: bool = False,
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    variant: Variant = "default",
) -> Network:
    """I3D or Top-heavy I3D for clips (C, T, H, W) of any C, T, H, W; the last map is their 1/8, 1/32, 1/32, rounded up.

    Args:
        name: "i3d" or "i3d_topheavy"; the second takes 59 % fewer multiplications.
        input_shape: (C, T, H, W); 3 channels for RGB, 2 for flow.
        classes: classes by head.
        width: factor of all numbers of channels, which stay multiples of 8; cost grows with its square.
        weights: None, or a file: a published checkpoint, or one of ours, of either network or of one that has it as
            its trunk (`attended`, `anchor_detector`). Flat kernels are inflated
            for `i3d`, 3-D ones cut for `i3d_topheavy`: a student starts from its teacher. Classifiers are left out;
            the first kernels are adapted to the channels.
        taps: what `i3d_topheavy` keeps of a cut kernel: "centre", its middle frame; or "sum", the sum over its frames,
            with which clips that stand still give the teacher's responses (but for the borders in time).
        frozen_bn: batch normalisation keeps the statistics of `weights`: it stays in eval mode while training.
        batch_norm_momentum: 0.01 as published, which needs some hundred steps; short schedules want 0.1.
        dropout: on the embedding, while training.
        variant: "default": the embedding is the plain mean over the last map. "released": the mean over windows of
            two time steps, as the published classifier pools (`window_means`), which counts the first and the last
            step half. Both are the same for clips of 16 frames; "released" needs more than 8.

    Raises:
        ModelError: inputs that are no clips (C, T, H, W), too few frames for "released", or no such weights file.
        CheckpointError: weights of another architecture or width.
    """
    expect_rank(name, input_shape, "C, T, H, W")
    backbone = Inception3d(input_shape[0], name == TOP_HEAVY, width, batch_norm_momentum, frozen_bn, variant)
    if weights is not None:
        classifiers = {f"{root}logits.": None for root in ROOTS}
        keys = prefix_map({**PUBLISHED_PREFIXES, **classifiers, **AROUND})
        inherit_file(backbone, weights, keys, INSIDE, taps, FIRST)
    return Network(backbone, input_shape, classes, dropout)


for _name in ("i3d", TOP_HEAVY):
    NETWORKS.register(_name)(partial(build_inception3d, _name))
