"""ResNet bottlenecks inflated over time, of which `slowfast` and `tpn` are made, and how such backbones load weights.

Inflation (Carreira & Zisserman 2017) is factorised: the 3 x 3 convolution of a block stays within the frame, its first
1 x 1 convolution may become 3 x 1 x 1 and see time. No convolution has a bias; batch normalisation follows each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models.base import Backbone
from vidistill.models.import_ import KeyMap, import_checkpoint, rename
from vidistill.models.trunks import adapt_channels
from vidistill.models.weights import misfit

Size = tuple[int, int, int]
"""Extent over (T, H, W)."""

Layers = tuple[
    Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
"""Blocks of the four stages."""

R50: Layers = (3, 4, 6, 3)
R101: Layers = (3, 4, 23, 3)

EXPANSION = 4
"""Channels a block gives, by those of its inner convolution."""

BACKBONE, HEAD = "backbone.", "head."
"""First parts of the keys of a `Network`."""


def convolution(inside: int, outside: int, kernel: Size, stride: Size = (1, 1, 1), groups: int = 1) -> nn.Conv3d:
    """A convolution without bias, padded so that stride 1 keeps the size; odd kernels only."""
    padding = tuple(side // 2 for side in kernel)
    return nn.Conv3d(inside, outside, kernel, stride, padding, groups=groups, bias=False)  # type: ignore[arg-type]


def activated(layer: nn.Conv3d) -> nn.Sequential:
    """The convolution, its batch normalisation, a ReLU: keys `0.` and `1.`."""
    return nn.Sequential(layer, nn.BatchNorm3d(layer.out_channels), nn.ReLU(inplace=True))


def stem(channels: int, width: int, time_kernel: int) -> nn.Sequential:
    """time_kernel x 7 x 7 and a maximum over 3 x 3: T is kept, H and W become quarters."""
    first = activated(convolution(channels, width, (time_kernel, 7, 7), (1, 2, 2)))
    return first.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))


class Bottleneck3d(nn.Module):
    """1 or 3 x 1 x 1, then 1 x 3 x 3 with the stride over the frame, then 1 x 1 x 1, around a shortcut.

    Args:
        inside: channels of the input.
        planes: channels of the inner convolution; the output has four times as many.
        stride: over H and W; T is kept.
        time_kernel: 1, or 3 to see the frames before and after.
        project: the shortcut is a 1 x 1 x 1 convolution with batch normalisation, not the input itself.
    """

    def __init__(self, inside: int, planes: int, stride: int = 1, time_kernel: int = 1, project: bool = False) -> None:
        super().__init__()
        outside = EXPANSION * planes
        self.conv1 = convolution(inside, planes, (time_kernel, 1, 1))
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = convolution(planes, planes, (1, 3, 3), (1, stride, stride))
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = convolution(planes, outside, (1, 1, 1))
        self.bn3 = nn.BatchNorm3d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if project:
            shortcut = convolution(inside, outside, (1, 1, 1), (1, stride, stride))
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, T, H, W) -> (B, 4 x planes, T, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        merged: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return merged


def make_stage(inside: int, planes: int, stride: int, time_kernels: Sequence[int]) -> nn.Sequential:
    """A bottleneck an entry of `time_kernels`; the first has the stride and a projected shortcut."""
    first = Bottleneck3d(inside, planes, stride, time_kernels[0], project=True)
    rest = (Bottleneck3d(EXPANSION * planes, planes, 1, kernel) for kernel in time_kernels[1:])
    return nn.Sequential(first, *rest)


def load_backbone(
    backbone: Backbone, path: str, keys: KeyMap, first: tuple[str, ...], fresh: tuple[str, ...] = ()
) -> None:
    """Starts a backbone from a file: a published checkpoint, or one of `save_weights`. Classifiers are left out.

    Args:
        backbone: receives every one of its tensors, but for `fresh`.
        path: .pth, .pt or .safetensors.
        keys: key map from the published checkpoint to a `Network` over this backbone.
        first: keys within the backbone of the kernels that see the input; they are adapted to its channels.
        fresh: prefixes of keys within the backbone that stay as drawn where the file has none of them.

    Raises:
        ModelError: no such file.
        CheckpointError: an unreadable file, or weights of another architecture; the first keys are named.
    """
    if not Path(path).is_file():
        raise ModelError(f"there is no weights file {path!r}", todo="Give a checkpoint's path, or null to start fresh.")
    state = import_checkpoint(path)
    if not any(key.startswith(BACKBONE) for key in state):
        state = rename(state, keys, path)
    state = {key.removeprefix(BACKBONE): value for key, value in state.items() if not key.startswith(HEAD)}
    own = backbone.state_dict()
    for prefix in fresh:
        if not any(key.startswith(prefix) for key in state):
            state |= {key: value for key, value in own.items() if key.startswith(prefix)}
    for key in first:
        if key in state and state[key].shape[2:] == own[key].shape[2:]:
            state[key] = adapt_channels(state[key], own[key].shape[1])
    problem = misfit(own, state)
    if problem:
        raise CheckpointError(f"the weights do not fit {type(backbone).__name__}: {problem}", where=path)
    with torch.no_grad():
        backbone.load_state_dict(state)
