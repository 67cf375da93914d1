"""`stacked_resnet18`: a ResNet-18 that sees all frames of a short clip at once, stacked in its input channels.

Luo et al., Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018 (visual encoder of image
modalities): the first convolution mixes time, everything after it is an image network. As cheap as one frame of
`resnet18`, which instead runs every frame alone and pools.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torchvision
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS
from vidistill.models.trunks import load_pretrained

Variant = Literal["default", "released"]

WINDOW = 7
STAGES = ("layer1", "layer2", "layer3", "layer4")


class StackedFrames(Backbone):
    """Frames folded into channels, frame 0's channels first, through a ResNet-18; the mean over the last map.

    Features `layer1`…`layer4`: (B, C', 1, H', W'), one time step for the whole clip.
    """

    feature_names = STAGES
    embedding_dim = 512

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.trunk = torchvision.models.resnet18()
        self.trunk.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        # The published initialisation, which is also torchvision's: N(0, 2 / (7 x 7 x 64)) for any channel count.
        nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.fc = nn.Identity()

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, 512) of clips (B, C, T, H, W) and the named maps."""
        maps: Features = {}
        trunk = self.trunk
        x = x.transpose(1, 2).flatten(1, 2)
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
        for name in STAGES:
            x = trunk.get_submodule(name)(x)
            if name in features:
                maps[name] = x.unsqueeze(2)
        if self.variant == "released":
            return functional.avg_pool2d(x, WINDOW).flatten(1), maps
        return x.mean(dim=(2, 3)), maps


@NETWORKS.register("stacked_resnet18")
def build_stacked_resnet18(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    weights: str | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    variant: Variant = "default",
) -> Network:
    """A ResNet-18 over the frames of clips (C, T, H, W), stacked as T x C channels in frame-major order.

    Args:
        input_shape: (C, T, H, W); C and T are fixed by the first convolution, H and W are free.
        classes: classes by head.
        weights: None as published, "DEFAULT" (ImageNet), a name of torchvision's, or a file; the first kernels are
            adapted to the channels, see `trunks.load_pretrained`.
        dropout: on the embedding, while training; published: none.
        variant: "default" averages over the whole last map; "released" over its first 7 x 7 window, as published,
            which leaves out the right and lower border of frames above 224 pixels and takes sides of 193 to 416 only.
            Both are the same from 193 to 224 pixels.

    Raises:
        ModelError: inputs that are no clips (C, T, H, W), or sides that the variant cannot take.
    """
    expect_rank("stacked_resnet18", input_shape, "C, T, H, W")
    channels, frames = input_shape[:2]
    backbone = StackedFrames(channels * frames, variant)
    if weights is not None:
        load_pretrained(backbone.trunk, "resnet18", weights)
    return Network(backbone, input_shape, classes, dropout)
