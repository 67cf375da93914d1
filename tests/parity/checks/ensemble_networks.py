"""Checks of the ensemble system's networks: 3-D ResNets, the parts of Video Swin and its inflation from images.

Depths, widths, windows and heads are read from the published shapes and the json's call; all weights pass through the
key maps that `vidistill import --published resnet3d` (`video_swin`) uses. Whole Video Swins: `adaptive_networks.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor
from torchvision.models.video import swin_transformer as published_swin

from vidistill.models import build_network
from vidistill.models.published import load_published, published_keys
from vidistill.models.resnet3d import BASIC, BOTTLENECK
from vidistill.models.swin_inflation import inflate_swin
from vidistill.models.trunks import set_channels
from vidistill.models.video_trunks import VideoTrunk

Shapes = Mapping[str, list[int]]
INDEX = "relative_position_index"
TABLE = "relative_position_bias_table"


def published(shapes: Shapes) -> dict[str, Tensor]:
    """The weights that the published network was filled with; integer index buffers are computed, not filled."""
    filled = {key: tuple(shape) for key, shape in shapes.items() if not key.endswith(INDEX)}
    return {key: torch.from_numpy(np.asarray(fill.value(key, shape))) for key, shape in filled.items()}


def heads_of(shapes: Shapes) -> dict[str, int]:
    """Classes by our name of each published classifier."""
    found = ((re.fullmatch(r"classifiers\.(\w+)\.weight", key), shape) for key, shape in shapes.items())
    return {match[1].lower(): shape[0] for match, shape in found if match}


def depth_of(component: Component) -> int:
    """Layers of the published 3-D ResNet: as its shapes say, which the json's DEPTH may not contradict."""
    shapes: Shapes = component.meta["state"]
    blocks = tuple(
        len({match[1] for key in shapes if (match := re.match(rf"resnet\.{stage}\.(\d+)\.", key))})
        for stage in (4, 5, 6, 7)
    )
    known = BOTTLENECK if "resnet.4.0.conv3.weight" in shapes else BASIC
    depth = next(depth for depth, layers in known.items() if layers == blocks)
    assert component.number(r"DEPTH\W*(\d+)", depth) == depth
    return depth


@checks("ensemble/r3d*")
def check_resnet3d(component: Component) -> None:
    """The published classifier takes (B, views, T, 3, H, W) in [0, 1] and normalises inside; ours is given the rest."""
    shapes: Shapes = component.meta["state"]
    x = torch.from_numpy(next(value for key, value in component.arrays.items() if key.startswith("in_")))
    clips = (x.flatten(0, 1).transpose(1, 2) - 0.5) / 0.5
    projected = shapes["projector.0.weight"][0] if "projector.0.weight" in shapes else 0
    options = {
        "depth": depth_of(component),
        "width": shapes["resnet.0.weight"][0],
        "projected": projected,
        "variant": "released",
    }
    network = build_network("resnet3d", tuple(clips.shape[1:]), heads_of(shapes), options).eval()
    load_published(network, "resnet3d", published(shapes))
    stated = re.search(r"[Pp]arameters (\d+)|(\d+) parameters", component.text)
    count = sum(value.numel() for value in network.parameters())
    assert stated is None or count == int(stated[1] or stated[2])
    stages = ("layer1", "layer2", "layer3", "layer4")
    with torch.no_grad():
        outputs = network(clips, features=stages)
    pooled = outputs.features["layer4"].mean(dim=(2, 3, 4))
    found = {"features": pooled, "pooled": pooled, "projected": outputs.embedding, "embedding": outputs.embedding}
    found |= {head.upper(): logits for head, logits in outputs.logits.items()}
    found |= outputs.features | {f"{name}_mean_hw": value.mean(dim=(3, 4)) for name, value in outputs.features.items()}
    for match in component.outputs():
        if (name := match[0].removeprefix("out_")) in found:
            component.compare(match[0], found[name])


def numbers(component: Component, word: str) -> list[int]:
    """The whole numbers in brackets after `word` in the json's words: "window (2,3,3)"."""
    found = re.search(rf"{word}\s*=?\s*[(\[]([\d,\s]+)[)\]]", component.text)
    assert found is not None, f"{component.name}: the json does not say its {word}"
    return [int(part) for part in found[1].split(",")]


def small_trunk(component: Component) -> VideoTrunk:
    """torchvision's Video Swin, as our trunks are, of the size of the published shapes; its maps are `mapN`."""
    shapes: Shapes = component.meta["state"]
    embed, channels, *patch = shapes["patch_embed.proj.weight"]
    tables = {
        (int(match[1]), int(match[2])): shape[1]
        for key, shape in shapes.items()
        if (match := re.fullmatch(rf"layers\.(\d+)\.blocks\.(\d+)\.attn\.{TABLE}", key))
    }
    stages = sorted({stage for stage, _ in tables})
    module = published_swin.SwinTransformer3d(
        patch_size=patch,
        embed_dim=embed,
        depths=[sum(stage == own for own, _ in tables) for stage in stages],
        num_heads=[tables[stage, 0] for stage in stages],
        window_size=numbers(component, "window"),
    )
    set_channels(module, channels)
    parts = [*(f"features.{index}" for index in range(2 * len(stages) - 1)), "norm"]
    steps = (("patch_embed", None), ("pos_drop", None), *((part, part) for part in parts))
    return VideoTrunk(module, steps, channels_last=True).eval()


def load_trunk(trunk: VideoTrunk, shapes: Shapes) -> None:
    """The published weights by the key map of `swin3d_t`, which serves stages of any width; our index buffers."""
    with torch.device("meta"):
        keys = published_keys("video_swin", build_network("swin3d_t", (3, 2, 32, 32), {"action": 2}))
    state = {keys(key).removeprefix("backbone."): value for key, value in published(shapes).items()}
    own = trunk.state_dict()
    trunk.load_state_dict({key: own[key] for key in own if key.endswith(INDEX)} | state)


@checks("ensemble/swin_backbone*")
def check_backbone(component: Component) -> None:
    trunk = small_trunk(component)
    load_trunk(trunk, component.meta["state"])
    inputs = [key for key in component.arrays if key.startswith("in_")]
    outputs = [match[0] for match in component.outputs()]
    assert len(inputs) == len(outputs)
    for key, expected in zip(inputs, outputs, strict=True):  # in_x gives out_y, in_x_short out_y_short
        with torch.no_grad():
            _, maps = trunk(torch.from_numpy(component[key]), trunk.feature_names)
        component.compare(expected, maps["norm"])


def partitioned(volume: Tensor, window: list[int]) -> Tensor:
    """(B, D, H, W, C) cut into windows: (B * windows, tokens, C)."""
    clips, *size, channels = volume.shape
    count = [side // own for side, own in zip(size, window, strict=True)]
    cut = volume.view(clips, *(n for pair in zip(count, window, strict=True) for n in pair), channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, math.prod(window), channels)


def joined(windows: Tensor, size: list[int], window: list[int]) -> Tensor:
    """The inverse of `partitioned` for volumes of `size` (D, H, W)."""
    count = [side // own for side, own in zip(size, window, strict=True)]
    cut = windows.view(-1, *count, *window, windows.shape[-1])
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *size, windows.shape[-1])


@checks("ensemble/swin_window_attention*")
def check_window_attention(component: Component) -> None:
    """The published function takes windows and masks; ours takes the volume that its roll cuts into these windows."""
    shapes: Shapes = component.meta["state"]
    dims = [int(value) for value in component["in_mask_dims"]]
    size, window, shift = dims[:3], dims[3:6], dims[6:]
    whole = (torch.zeros(()), tuple(size), tuple(window), tuple(shift))
    masks = published_swin._compute_attention_mask_3d(*whole)
    component.compare("out_mask", masks[: len(component["out_mask"])])

    heads, width = shapes[TABLE][1], shapes["proj.weight"][0]
    layer = published_swin.ShiftedWindowAttention3d(width, window, shift, heads, "qkv.bias" in shapes).eval()
    layer.load_state_dict(published(shapes) | {INDEX: layer.relative_position_index})
    component.compare("out_rel_index", layer.relative_position_index)

    x = torch.from_numpy(component["in_x"])
    given = min(len(masks), len(component["out_mask"]))  # window b is masked by b % given
    volumes = torch.zeros(-(-len(x) // given), len(masks), *x.shape[1:])
    for start, volume in zip(range(0, len(x), given), volumes, strict=True):
        rows = x[start : start + given]
        volume[: len(rows)] = rows
    axes = (1, 2, 3)
    volume = joined(volumes.flatten(0, 1), size, window).roll(shift, axes)
    with torch.no_grad():
        answer = layer(volume).roll([-step for step in shift], axes)
    ours = partitioned(answer, window).unflatten(0, (len(volumes), len(masks)))[:, :given].flatten(0, 1)
    component.compare("out_attn", ours[: len(x)])


@checks("ensemble/swin_inflate_2d*")
def check_inflation(component: Component) -> None:
    state = {
        key.removeprefix("in_"): torch.from_numpy(value)
        for key, value in component.arrays.items()
        if key.startswith("in_")
    }
    kernels = [component[match[0]] for match in component.outputs(r".*patch_embed\.proj\.weight")]
    inflated = inflate_swin(state, numbers(component, "window"), kernels[0].shape[2] if kernels else 2)
    for match in component.outputs():
        if (name := match[0].removeprefix("out_")) in inflated:
            component.compare(match[0], inflated[name])
