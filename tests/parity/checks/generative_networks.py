"""Checks of the generative system's backbones: SAME padding, I3D, Top-heavy I3D; and its late fusion.

All weights pass through the key map that `vidistill import --published generative` uses.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import fill
import numpy as np
import torch
from components import Component, checks
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.models import build_network
from vidistill.models.inception3d import window_means
from vidistill.models.published import load_published
from vidistill.models.same_padding import SameConv1d, SameConv3d, SameMaxPool3d
from vidistill.tasks.late_fusion import fused_probabilities
from vidistill.tasks.metrics import in_top

Shapes = Mapping[str, list[int]]
HEAD = "action"
STEM = "Conv3d_1a_7x7.conv3d.weight"
CLASSIFIER = "logits.conv3d.weight"
TRIPLE = r"(\d+), ?(\d+), ?(\d+)"
KINDS = {"unit3d": "Unit3D", "unit1d": "Unit1D", "tconv1d": "TransposedConv1d"}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """The weights that the published code was filled with."""
    return {key: torch.from_numpy(np.asarray(fill.value(key, tuple(shape)))) for key, shape in shapes.items()}


def generated(name: str, shape: str, kind: str) -> NDArray[np.float32]:
    """An input that the json names and does not store."""
    random, size = np.random.default_rng(zlib.crc32(name.encode())), tuple(int(n) for n in shape.split(",") if n)
    drawn = random.standard_normal(size) if kind == "normal" else random.uniform(-1, 1, size)
    return drawn.astype(np.float32)


@checks("generative/same_pad_ops*")
def check_same_padding(component: Component) -> None:
    call = component.meta["call"]
    state: Shapes = component.meta["state"]
    pools = [[int(n) for n in found] for found in re.findall(rf"\({TRIPLE}\)/\({TRIPLE}\)", call)]
    for match in component.outputs(r"maxpool(?P<case>\d+)"):
        numbers = pools[int(match["case"])]
        pool = SameMaxPool3d(tuple(numbers[:3]), tuple(numbers[3:]), "released")
        component.compare(match[0], pool(torch.from_numpy(component[f"in_{match[0].removeprefix('out_')}"])))
    seen: dict[str, int] = {}
    for name in dict.fromkeys(key.split(".")[0] for key in state):
        kind = next(kind for kind in KINDS if name.startswith(kind))
        # The operations of a kind are told in the order of their weights.
        texts = re.findall(rf"{KINDS[kind]}\([^)]*\)[^;]*", call)
        text = texts[min(seen.get(kind, 0), len(texts) - 1)]
        seen[kind] = seen.get(kind, 0) + 1
        own = {key.removeprefix(f"{name}."): shape for key, shape in state.items() if key.startswith(f"{name}.")}
        for match in component.outputs(rf"{re.escape(name)}(?:_t\d+)?"):
            x = torch.from_numpy(component[f"in_{match[0].removeprefix('out_')}"])
            with torch.no_grad():
                component.compare(match[0], operation(kind, text, own)(x))


def operation(kind: str, text: str, shapes: Shapes) -> nn.Module:
    """Ours for a published operation, with its weights; `Unit3D(6,4,[3,2,2],spatial_valid,bias,no act)`."""
    weights = filled(shapes)
    kernel = next(value for key, value in weights.items() if value.dim() > 1)
    bias = next((value for key, value in weights.items() if key.endswith("d.bias")), None)
    found = re.search(r"stride \(?([\d,]+)|\bs(\d+)\b", text)
    numbers = [int(n) for n in (found[1] or found[2]).split(",") if n] if found else [1]
    stride = tuple(numbers * (kernel.dim() - 2 if len(numbers) == 1 else 1))
    layer: Any
    if kind == "unit1d":
        layer = SameConv1d(kernel.shape[1], kernel.shape[0], kernel.shape[2], stride, bias=bias is not None)
    elif kind == "unit3d":
        padded = "time" if "spatial_valid" in text else "all"
        layer = SameConv3d(
            kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]), stride, bias is not None, padded=padded
        )
    else:  # torch's own; no network has one
        padding, more = (int(n) for n in re.search(r"p(\d+) op(\d+)", text).groups())  # type: ignore[union-attr]
        layer = nn.ConvTranspose1d(kernel.shape[0], kernel.shape[1], kernel.shape[2], stride, padding, more)
    layer.load_state_dict({"weight": kernel, **({} if bias is None else {"bias": bias})})
    layers = nn.Sequential(layer)
    if norm := {key.split("bn.")[1]: value for key, value in weights.items() if "bn." in key}:
        layers.append(nn.BatchNorm3d(kernel.shape[0], eps=1e-3) if kernel.dim() == 5 else nn.BatchNorm1d(len(kernel)))
        layers[-1].load_state_dict(norm)
    if "no act" not in text:
        layers.append(nn.ReLU())
    return layers.eval()


@checks("generative/i3d_teacher_*", "generative/topi3d_student_*")
def check_inception(component: Component) -> None:
    """Maps of all end points; the logits by time where the published network has its classifier."""
    shapes: Shapes = component.meta["state"]
    x = torch.from_numpy(component["in_x"])
    name = "i3d_topheavy" if shapes[STEM][2] == 1 else "i3d"
    classes = shapes.get(CLASSIFIER, [1])[0]
    network = build_network(name, tuple(x.shape[1:]), {HEAD: classes}).eval()
    weights = filled(shapes)
    if CLASSIFIER not in shapes:
        ends = {CLASSIFIER: [1, network.embedding_dim, 1, 1, 1], CLASSIFIER.replace("weight", "bias"): [1]}
        weights |= filled(ends)
    load_published(network, "generative", weights)
    learned = network if CLASSIFIER in shapes else network.backbone
    ours = sum(value.numel() for value in learned.parameters())
    assert ours == component.number(r"parameters ?= ?(\d+)", ours)
    with torch.no_grad():
        maps = network(x, features=tuple(network.feature_shapes())).features
        if CLASSIFIER in shapes:
            maps["logits"] = network.head(window_means(maps["mixed_5c"]).transpose(1, 2))[HEAD].transpose(1, 2)
    compare_maps(component, maps)


def compare_maps(component: Component, maps: Mapping[str, Tensor]) -> None:
    """Each stored map of a stage: whole, as some of its values, or as statistics."""
    for key, stored in component.arrays.items():
        if key.startswith("shape_"):
            assert tuple(maps[key.removeprefix("shape_").lower()].shape) == tuple(stored), key
    for match in component.outputs(r"(?P<stage>\w+?)(?:_(?P<form>stats|flatindex|values))?"):
        ours = maps[match["stage"].lower()].numpy()
        stage = f"out_{match['stage']}"
        if match["form"] == "stats":
            wide = ours.astype(np.float64)
            component.compare(match[0], [wide.mean(), wide.std(), wide.min(), wide.max(), np.abs(wide).sum()])
        elif match["form"] == "values":
            component.compare(match[0], ours.ravel()[component[f"{stage}_flatindex"]])
        elif match["form"] == "flatindex":
            component.settle(match[0])  # where the values lie
        else:
            component.compare(match[0], ours)


@checks("generative/recognition_fusion*")
def check_late_fusion(component: Component) -> None:
    found = re.findall(r"gen:(\w+) \(([\d, ]+)\) (normal|uniform)", component.meta["call"])
    streams = [generated(*given) for given in found]
    assert len(streams) > 1
    fused = fused_probabilities(streams, "released")
    component.compare("out_prob", fused)
    for match in component.outputs(r"prec(?P<k>\d+)"):
        component.compare(match[0], 100 * in_top(fused, component["in_target"], int(match["k"])).mean())
