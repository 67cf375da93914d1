"""`resnet3d`: residual networks whose every kernel sees time, of 10 to 200 layers (Hara, Kataoka & Satoh, CVPR 2018).

As the ensemble system has them (Radevski et al., ICCV 2023, teachers of RGB and flow): the stem is 7 x 7 x 7 with
stride 2 over the frame and a maximum over 3 x 3 x 3; stages double the channels and, but for the first, halve T, H and
W; a shortcut whose shape changes is a 1 x 1 x 1 convolution. Networks of basic blocks (depth below 50) send their 512
channels through a projector, so that all depths have embeddings of one width.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.import_ import prefix_map
from vidistill.models.inflated_resnet import BACKBONE, EXPANSION, activated, convolution, load_backbone
from vidistill.models.networks import NETWORKS

Depth = Literal[10, 18, 34, 50, 101, 152, 200]
Variant = Literal["default", "released"]

BASIC: dict[int, tuple[int, ...]] = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""Blocks of the four stages by depth."""

STAGES = ("layer1", "layer2", "layer3", "layer4")
SIDE = 112
"""Pixels to which the released classifier shrinks larger frames."""

PROJECTOR = "projector."
PUBLISHED_PREFIXES: dict[str, str] = {
    **{f"{key}.": f"{BACKBONE}stem.{index}." for index, key in enumerate(("conv1", "bn1"))},
    **{f"{stage}.": f"{BACKBONE}stages.{stage}." for stage in STAGES},
    **{f"resnet.{index}.": f"{BACKBONE}stem.{index}." for index in (0, 1)},
    **{f"resnet.{index}.": f"{BACKBONE}stages.{stage}." for index, stage in enumerate(STAGES, start=4)},
    PROJECTOR: f"{BACKBONE}{PROJECTOR}",
}
"""Published prefix -> ours: of pretrained 3-D ResNets, and of the ensemble's classifiers, which number the parts."""

FILE_PREFIXES: dict[str, str | None] = {**PUBLISHED_PREFIXES, "fc.": None, "classifiers.": None}
"""The same for a file that only starts a backbone: classifiers are dropped."""


class Block3d(nn.Module):
    """Two 3 x 3 x 3 convolutions, or (`deep`) 1 x 1 x 1, 3 x 3 x 3, 1 x 1 x 1, around a shortcut.

    Args:
        inside: channels of the input.
        planes: channels of the inner convolution; the output has `planes`, or four times as many if `deep`.
        stride: over T, H and W, of the first 3 x 3 x 3 convolution.
        deep: a bottleneck.
    """

    def __init__(self, inside: int, planes: int, stride: int, deep: bool) -> None:
        super().__init__()
        outside = EXPANSION * planes if deep else planes
        steps, one, three = (stride,) * 3, (1, 1, 1), (3, 3, 3)
        if deep:
            layers = [
                convolution(inside, planes, one),
                convolution(planes, planes, three, steps),
                convolution(planes, outside, one),
            ]
        else:
            layers = [convolution(inside, planes, three, steps), convolution(planes, planes, three)]
        self.count = len(layers)
        for number, layer in enumerate(layers, start=1):
            self.add_module(f"conv{number}", layer)
            self.add_module(f"bn{number}", nn.BatchNorm3d(layer.out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(convolution(inside, outside, one, steps), nn.BatchNorm3d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, T, H, W) -> (B, outside, T / stride, H / stride, W / stride)."""
        y = x
        for number in range(1, self.count + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            if number < self.count:
                y = self.relu(y)
        merged: Tensor = self.relu(y + self.downsample(x))
        return merged


def make_stage(inside: int, planes: int, blocks: int, stride: int, deep: bool) -> nn.Sequential:
    """`blocks` blocks, of which the first has the stride."""
    outside = EXPANSION * planes if deep else planes
    rest = (Block3d(outside, planes, 1, deep) for _ in range(blocks - 1))
    return nn.Sequential(Block3d(inside, planes, stride, deep), *rest)


class Resnet3d(Backbone):
    """Embedding (B, D): the mean over (T, H, W) of `layer4`, projected where there is a projector.

    Args:
        channels: of the input.
        depth: layers.
        width: channels of the stem.
        projected: D of networks of basic blocks; 0: the mean itself.
        freeze: batch normalisation stays in eval mode while training, and its scale and shift are not learned.
        side: frames whose shorter side is larger are shrunk to it; None: none are.
    """

    feature_names = STAGES

    def __init__(self, channels: int, depth: int, width: int, projected: int, freeze: bool, side: int | None) -> None:
        super().__init__()
        deep = depth in BOTTLENECK
        first = activated(convolution(channels, width, (7, 7, 7), (1, 2, 2)))
        self.stem = first.append(nn.MaxPool3d(3, 2, 1))
        self.stages = nn.ModuleDict()
        inside = width
        for index, (name, blocks) in enumerate(zip(STAGES, (BASIC | BOTTLENECK)[depth], strict=True)):
            planes = width * 2**index
            self.stages[name] = make_stage(inside, planes, blocks, 1 if index == 0 else 2, deep)
            inside = EXPANSION * planes if deep else planes
        project = projected > 0 and not deep
        self.projector = nn.Sequential(nn.Linear(inside, projected), nn.ReLU()) if project else nn.Sequential()
        self.embedding_dim = projected if project else inside
        self.side = side
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.frozen = tuple(m for m in self.modules() if isinstance(m, nn.BatchNorm3d)) if freeze else ()
        for layer in self.frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Resnet3d:
        """Frozen batch normalisation stays in eval mode."""
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps."""
        maps: Features = {}
        x = self.stem(x if self.side is None else shrink(x, self.side))
        for name, stage in self.stages.items():
            x = stage(x)
            if name in features:
                maps[name] = x
        return self.projector(x.mean(dim=(2, 3, 4))), maps


def shrink(clips: Tensor, side: int) -> Tensor:
    """Clips (B, C, T, H, W) whose shorter side is at most `side` pixels: bilinear, antialiased; smaller ones as is."""
    height, width = clips.shape[3:]
    short = min(height, width)
    if short <= side:
        return clips
    size = (side * height // short, side * width // short)
    frames = clips.transpose(1, 2).flatten(0, 1)
    small = functional.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
    return small.reshape(clips.shape[0], clips.shape[2], clips.shape[1], *size).transpose(1, 2)


@NETWORKS.register("resnet3d")
def build_resnet3d(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    depth: Depth = 18,
    width: Annotated[int, Field(ge=1)] = 64,
    projected: Annotated[int, Field(ge=0)] = 2048,
    freeze_batch_norm: bool = False,
    weights: str | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    variant: Variant = "default",
) -> Network:
    """A 3-D ResNet for clips (C, T, H, W) of any C, T, H, W; published weights want values of [0, 1] as (x - .5) / .5.

    Args:
        input_shape: (C, T, H, W).
        classes: classes by head.
        depth: layers: 10, 18, 34 of basic blocks; 50, 101, 152, 200 of bottlenecks.
        width: channels of the stem, 64 as published; cost grows with its square.
        projected: width of the embedding of depths below 50, behind a linear layer and a ReLU; 0: the mean of the
            last map, without either.
        freeze_batch_norm: batch normalisation keeps its averages, scale and shift, as in the released code wherever
            it starts from pretrained weights.
        weights: None, or a file: of a pretrained 3-D ResNet, a classifier of the ensemble, or one of ours. Classifiers
            are left out, a projector that the file lacks stays as drawn, and the first kernels are adapted to the
            channels.
        dropout: on the embedding, while training.
        variant: "released" shrinks larger frames to 112 pixels within the network, as the released classifier does
            with frames of 224: the decoder, the store and the crop have then paid for pixels that nothing sees, so
            the default leaves the size to the modality.

    Raises:
        ModelError: inputs that are no clips (C, T, H, W), or no such weights file.
        CheckpointError: weights of another architecture.
    """
    expect_rank("resnet3d", input_shape, "C, T, H, W")
    side = SIDE if variant == "released" else None
    backbone = Resnet3d(input_shape[0], depth, width, projected, freeze_batch_norm, side)
    if weights is not None:
        load_backbone(backbone, weights, prefix_map(FILE_PREFIXES), ("stem.0.weight",), fresh=(PROJECTOR,))
    return Network(backbone, input_shape, classes, dropout)
