"""torchvision's image networks over frames: every frame alone through the trunk, then pooling over time.

Registered by name: `resnet18`, `resnet34`, `resnet50`, `mobilenet_v3_small`, `mobilenet_v3_large`; any other as
`torchvision:<name>`, save googlenet and inception_v3, whose weights expect frames normalised in a way of their own.
Feature maps are (B, C, T, H, W). ResNets have `layer1`…`layer4`; networks built as one chain of layers have
`stage1`…, the last map before each halving of the frame; networks that are no chain (ViT, MaxViT) have none.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Annotated, Any

import torch
import torchvision
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS, TORCHVISION
from vidistill.models.pooling import Temporal, temporal_pooling
from vidistill.models.trunks import first_convolution, load_pretrained, set_channels, set_momentum

Steps = tuple[tuple[str, str | None], ...]
"""Paths of the modules to run, in order, each with the name of the map it makes or None."""

EXCLUDED = ("googlenet", "inception_v3")
CHAINS = ("features", "layers")
LAST = ("avgpool", "classifier", "fc", "head", "flatten")


@cache
def available() -> tuple[str, ...]:
    """Names of torchvision's image networks that can be trunks."""
    return tuple(name for name in torchvision.models.list_models(module=torchvision.models) if name not in EXCLUDED)


def checked_name(name: str, where: str | None = None) -> str:
    """`torchvision:<name>` without its prefix.

    Raises:
        RecipeError: torchvision has no such image network.
    """
    trunk = name.removeprefix(TORCHVISION)
    if trunk not in available():
        raise RecipeError(f"torchvision has no image trunk {trunk!r}", where=where, todo=nearest(trunk, available()))
    return trunk


def make_trunk(name: str, input_shape: tuple[int, ...]) -> nn.Module:
    """The network `name` of torchvision with random weights, built for frames of `input_shape` where that matters."""
    _, _, height, width = input_shape
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = height
    if name.startswith("maxvit"):
        options["input_size"] = (height, width)
    try:
        trunk: nn.Module = torchvision.models.get_model(name, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"{name!r} cannot take frames of {height} x {width} pixels ({error})") from None
    if name.startswith("densenet"):
        # Its forward applies this ReLU between the chain and the pooling.
        trunk.get_submodule("features").add_module("relu5", nn.ReLU())
    return trunk


def plan(trunk: nn.Module) -> tuple[Steps, int]:
    """How to run `trunk` up to its last map, and that map's channels; no steps where it is no chain of modules."""
    steps: Steps = ()
    chain = next((key for key in CHAINS if isinstance(getattr(trunk, key, None), nn.Sequential)), None)
    kind = type(trunk).__name__
    if chain:
        paths = [f"{chain}.{key}" for key, _ in trunk.get_submodule(chain).named_children()]
        after = [(key, None) for key in ("norm", "permute") if hasattr(trunk, key)]
        steps = (*_by_resolution(paths, trace(trunk, paths), 1 if after else 2), *after)
    elif kind == "RegNet":
        blocks = trunk.get_submodule("trunk_output").named_children()
        steps = (("stem", None), *((f"trunk_output.{key}", key) for key, _ in blocks))
    elif kind in ("ResNet", "ShuffleNetV2"):
        children = [key for key, _ in trunk.named_children() if key not in LAST]
        steps = tuple((key, key if key.startswith(("layer", "stage")) else None) for key in children)
    return steps, trace(trunk, [path for path, _ in steps])[-1][1] if steps else 0


def trace(trunk: nn.Module, paths: list[str]) -> list[torch.Size]:
    """Shapes of the maps along a chain for a frame of 224 pixels; found without arithmetic, on meta tensors."""
    shapes = []
    x = torch.empty(1, first_convolution(trunk)[1].in_channels, 224, 224, device="meta")
    mode = trunk.training
    trunk.eval()
    for path in paths:
        module = trunk.get_submodule(path)
        own = {key: value.detach().to("meta") for key, value in (*module.named_parameters(), *module.named_buffers())}
        with torch.no_grad():
            x = torch.func.functional_call(module, own, (x,))
        shapes.append(x.shape)
    trunk.train(mode)
    return shapes


def _by_resolution(paths: list[str], shapes: list[torch.Size], axis: int) -> Steps:
    """Names the last map of each resolution `stage1`…; always those of 224 pixels, so that names hold for all sizes."""
    sizes = [shape[axis] for shape in shapes]
    ends = [index for index in range(len(sizes)) if sizes[index + 1 : index + 2] != [sizes[index]]]
    names = {index: f"stage{number}" for number, index in enumerate(ends, 1)}
    return tuple((path, names.get(index)) for index, path in enumerate(paths))


class FrameTrunk(Backbone):
    """Frames folded into the batch, through `trunk`, averaged over the frame, pooled over time."""

    def __init__(self, trunk: nn.Module, temporal: Temporal) -> None:
        super().__init__()
        self.steps, width = plan(trunk)
        self.feature_names = tuple(name for _, name in self.steps if name)
        self.channels_last = hasattr(trunk, "permute")
        self.normalise = type(trunk).__name__ == "ConvNeXt"
        self.trunk = trunk
        width = self._behead(width)
        self.pooling, self.embedding_dim = temporal_pooling(temporal, width)

    def _behead(self, width: int) -> int:
        """Takes the trunk's classifier away; returns the width of a frame's vector."""
        if not self.steps:
            path, last = [(p, m) for p, m in self.trunk.named_modules() if isinstance(m, nn.Linear)][-1]
            parent, _, child = path.rpartition(".")
            setattr(self.trunk.get_submodule(parent), child, nn.Identity())
            return last.in_features
        for key in ("fc", "head", "classifier"):
            if hasattr(self.trunk, key):
                # ConvNeXt's classifier begins with the normalisation of the pooled map, which belongs to the trunk.
                keep = self.trunk.get_submodule(key)[:1] if self.normalise else nn.Identity()  # type: ignore[index]
                setattr(self.trunk, key, keep)
        return width

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, T, H, W) and the named maps, each (B, C', T, H', W')."""
        batch, _, frames = x.shape[:3]
        maps: Features = {}
        x = x.transpose(1, 2).flatten(0, 1)
        if not self.steps:
            return self.pooling(self.trunk(x).reshape(batch, frames, -1)), maps
        for path, name in self.steps:
            x = self.trunk.get_submodule(path)(x)
            if name in features:
                channels_first = x.permute(0, 3, 1, 2) if self.channels_last else x
                maps[name] = channels_first.reshape(batch, frames, *channels_first.shape[1:]).transpose(1, 2)
        x = x.mean(dim=(2, 3), keepdim=True)
        if self.normalise:
            x = self.trunk.get_submodule("classifier")(x)
        return self.pooling(x.reshape(batch, frames, -1)), maps


def build_trunk(
    trunk: str,
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    temporal: Temporal = "mean",
    weights: str | None = None,
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> Network:
    """The image network `trunk` of torchvision over the frames of clips (C, T, H, W).

    Args:
        trunk: torchvision's name.
        input_shape: (C, T, H, W), any C; an audio spectrogram is one frame, T = 1.
        classes: classes by head.
        temporal: pooling over time; `mean` and `max` cannot tell a clip from its reverse, `conv` and `gru` can.
        weights: None, "DEFAULT", a name of torchvision's, or a file; see `trunks.load_pretrained`.
        batch_norm_momentum: of all batch normalisations. MobileNetV3's own 0.01 leaves short schedules at chance.
        dropout: on the embedding, while training.

    Raises:
        ModelError: frames the trunk cannot take, or weights that cannot be had.
    """
    expect_rank(trunk, input_shape, "C, T, H, W")
    module = make_trunk(trunk, input_shape)
    backbone = FrameTrunk(module, temporal)
    set_channels(module, input_shape[0])
    set_momentum(backbone, batch_norm_momentum)
    if weights is not None:
        load_pretrained(module, trunk, weights)
    return Network(backbone, input_shape, classes, dropout)


for _name in ("resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large"):
    NETWORKS.register(_name)(partial(build_trunk, _name))
