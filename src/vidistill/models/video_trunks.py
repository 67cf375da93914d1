"""torchvision's video networks: `r3d_18`, `mc3_18`, `r2plus1d_18`, `s3d`, `swin3d_t`, `swin3d_s`, `swin3d_b`.

They take clips (C, T, H, W) of any C and of any T, H, W that their strides leave something of (S3D: T >= 8, H and
W >= 17). Feature maps are (B, C, T, H, W): the ResNets' `layer1`…`layer4`; S3D's `stage1`…`stage5`, the last map
before each halving of the frame; Swin's `stage1`…`stage4`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torchvision
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d
from torchvision.ops import StochasticDepth

from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS
from vidistill.models.trunks import load_pretrained, set_channels, set_momentum

Steps = tuple[tuple[str, str | None], ...]
Variant = Literal["default", "released"]

RESNET_STEPS: Steps = (("stem", None), *((f"layer{number}", f"layer{number}") for number in (1, 2, 3, 4)))
S3D_STAGES = {0: "stage1", 3: "stage2", 6: "stage3", 12: "stage4", 15: "stage5"}
S3D_STEPS: Steps = tuple((f"features.{index}", S3D_STAGES.get(index)) for index in range(16))
SWIN_STEPS: Steps = (
    ("patch_embed", None),
    ("pos_drop", None),
    *((f"features.{index}", None if index % 2 else f"stage{index // 2 + 1}") for index in range(7)),
    ("norm", None),
)


class VideoTrunk(Backbone):
    """`trunk` run step by step, then the mean over (T, H, W)."""

    def __init__(self, trunk: nn.Module, steps: Steps, channels_last: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.channels_last = channels_last
        self.feature_names = tuple(name for _, name in steps if name)
        self.embedding_dim = self._behead(trunk)
        self.trunk = trunk

    @staticmethod
    def _behead(trunk: nn.Module) -> int:
        key = next(key for key in ("fc", "head", "classifier") if hasattr(trunk, key))
        widths = [
            layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            for layer in trunk.get_submodule(key).modules()
            if isinstance(layer, (nn.Linear, nn.Conv3d))
        ]
        setattr(trunk, key, nn.Identity())
        return widths[-1]

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps."""
        maps: Features = {}
        for path, name in self.steps:
            x = self.trunk.get_submodule(path)(x)
            if name in features:
                maps[name] = x.permute(0, 4, 1, 2, 3) if self.channels_last else x
        return x.mean(dim=(1, 2, 3) if self.channels_last else (2, 3, 4)), maps


class PlacedAttention(ShiftedWindowAttention3d):  # type: ignore[misc]
    """Window attention whose position bias is right for windows that a short or small map has clipped.

    Liu et al. 2022 and torchvision give N tokens of a clipped window the first N rows and columns of the full window's
    index: another token's offsets, unless only time is clipped.
    """

    def get_relative_position_bias(self, window_size: list[int]) -> Tensor:
        """Bias (1, heads, N, N) of a window of `window_size` tokens (T, H, W), N in all."""
        time, height, width = window_size
        full = self.relative_position_index.unflatten(1, self.window_size).unflatten(0, self.window_size)
        index = full[:time, :height, :width, :time, :height, :width].reshape(-1)
        tokens = time * height * width
        bias: Tensor = self.relative_position_bias_table[index].view(1, tokens, tokens, -1).permute(0, 3, 1, 2)
        return bias


def build_convolutional(
    trunk: str,
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    weights: str | None = None,
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> Network:
    """The 3-D convolutional network `trunk` of torchvision for clips (C, T, H, W).

    Args:
        trunk: torchvision's name.
        input_shape: (C, T, H, W), any C.
        classes: classes by head.
        weights: None, "DEFAULT" (Kinetics-400), a name of torchvision's, or a file; see `trunks.load_pretrained`.
        batch_norm_momentum: of all batch normalisations. S3D's own 0.001 needs a long schedule.
        dropout: on the embedding, while training.

    S3D's embedding is the plain mean over (T, H, W). torchvision averages over windows of 2 x 7 x 7 first, which
    counts the first and the last time step half; for two time steps and frames of 224 pixels both are the same.

    Raises:
        ModelError: weights that cannot be had.
    """
    expect_rank(trunk, input_shape, "C, T, H, W")
    module: nn.Module = torchvision.models.get_model(trunk)
    backbone = VideoTrunk(module, S3D_STEPS if trunk == "s3d" else RESNET_STEPS)
    set_channels(module, input_shape[0])
    set_momentum(module, batch_norm_momentum)
    if weights is not None:
        load_pretrained(module, trunk, weights)
    return Network(backbone, input_shape, classes, dropout)


def build_swin(
    trunk: str,
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    weights: str | None = None,
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    variant: Variant = "default",
) -> Network:
    """Video Swin (Liu et al. 2022) for clips (C, T, H, W); patches of 2 x 4 x 4, shorter sides are padded.

    Args:
        trunk: torchvision's name.
        input_shape: (C, T, H, W), any C.
        classes: classes by head.
        weights: None, "DEFAULT" (Kinetics-400), a name of torchvision's, or a file; see `trunks.load_pretrained`.
        stochastic_depth: chance of skipping the last residual branch while training; it grows linearly from 0.
        dropout: on the embedding, while training.
        variant: "released" keeps the published position bias of windows that the map clips in height or width, as it
            does up to 192 pixels; see `PlacedAttention`. From 193 pixels on both are the same.

    Raises:
        ModelError: weights that cannot be had.
    """
    expect_rank(trunk, input_shape, "C, T, H, W")
    module: nn.Module = torchvision.models.get_model(trunk)
    backbone = VideoTrunk(module, SWIN_STEPS, channels_last=True)
    if variant == "default":
        for layer in module.modules():
            if isinstance(layer, ShiftedWindowAttention3d):
                layer.__class__ = PlacedAttention
    set_channels(module, input_shape[0])
    branches = [layer for layer in module.modules() if isinstance(layer, StochasticDepth)]
    for index, layer in enumerate(branches):
        layer.p = stochastic_depth * index / (len(branches) - 1)
    if weights is not None:
        load_pretrained(module, trunk, weights)
    return Network(backbone, input_shape, classes, dropout)


for _name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d"):
    NETWORKS.register(_name)(partial(build_convolutional, _name))
for _name in ("swin3d_t", "swin3d_s", "swin3d_b"):
    NETWORKS.register(_name)(partial(build_swin, _name))
