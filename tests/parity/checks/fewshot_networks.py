"""Checks of the few-shot networks: students, single-modality teachers, fusions of modalities, the test transform.

All weights pass through the key map that `vidistill import --published fewshot` uses.
"""

from __future__ import annotations

import re
from typing import Any

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor

from vidistill.modalities.released_transforms import center_crop, scale
from vidistill.models import build_network
from vidistill.models.fusion_blocks import Joint
from vidistill.models.fusion_network import FusionNetwork, build_fusion
from vidistill.models.import_ import prefix_map, rename
from vidistill.models.published import load_published
from vidistill.models.published_fewshot import joint_prefixes

State = dict[str, Tensor]

WEAK = 5e-6
"""Tolerance of MobileNets: filled with these weights their output hardly depends on the input (the json says so)."""

MODALITIES = ("rgb", "depth", "flow", "tg", "skeleton")
"""m1…m5 of the published fusions."""

STREAM_OF = {"fc1": "distilled_frames", "trx1": "distilled_frames", "distance": "patch_frames"}
"""Our stream of a published output; all others are `frames`."""


def published_state(component: Component) -> State:
    """The published weights; sinusoidal positions are computed, not filled."""
    shapes = {key: tuple(shape) for key, shape in component.meta["state"].items() if not key.endswith("pe.pe")}
    return {key: torch.from_numpy(np.asarray(fill.value(key, shape))) for key, shape in shapes.items()}


def trunk_of(state: State) -> str:
    """torchvision's name of the trunk in a published state dict."""
    blocks = {int(found[1]) for key in state if (found := re.match(r"mobile\.0\.(\d+)\.", key))}
    if blocks:
        return "mobilenet_v3_large" if max(blocks) > 12 else "mobilenet_v3_small"
    blocks = {int(found[2]) for key in state if (found := re.match(r"\w+\.(6|layer3)\.(\d+)\.", key))}
    deep = any(".conv3." in key for key in state)
    return f"resnet{ {(False, 2): 18, (False, 6): 34, (True, 6): 50, (True, 23): 101}[deep, len(blocks)] }"


def comparison_of(component: Component) -> dict[str, Any]:
    """The head in a published state dict: TRX, its width and cardinalities; without weights, one without parameters."""
    shapes = component.meta["state"]
    found: dict[str, list[int]] = {}
    width = next((shape[-1] for key, shape in shapes.items() if re.search(r"transformers\.0\.pe\.pe$", key)), 0)
    for key, shape in shapes.items():
        if match := re.match(r"(.*)transformers\.\d+\.k_linear\.weight$", key):
            found.setdefault(match[1], []).append(shape[1] // width)
    if not found:
        return {"name": "otam", "variant": "released"} if "otam" in component.name else {"name": "prototype"}
    first, projected = (
        next(iter(found.values())),
        next(s[0] for k, s in shapes.items() if k.endswith("k_linear.weight")),
    )
    return {"name": "trx", "cardinalities": first, "projection": projected}


def embedder_options(component: Component, state: State) -> dict[str, Any]:
    """Options of our `frame_embedder` for the published network with these outputs and weights."""
    names = {match[0].removeprefix("out_") for match in component.outputs()}
    widening = [state[key].shape[0] for key in ("fc.weight", "res18_2048.weight", "fc1.weight") if key in state]
    averaged = re.search(r"average pool|avgpool", component.text) is not None
    return {
        "trunk": trunk_of(state),
        "dim": widening[0] if widening else None,
        "streams": 2 if names & {"fc1", "trx1"} else 1,
        # The published networks that keep torchvision's names keep its average pooling too.
        "pool": "mean" if "resnet.conv1.weight" in state or averaged else "max_patches",
        "enrich": "strm" if names & {"distance", "trx", "trx1"} else "none",
        "comparison": comparison_of(component),
    }


@checks("fewshot/backbone_*", "fewshot/teacher_*_extract_feature*")
def check_embedder(component: Component) -> None:
    state = published_state(component)
    frames = torch.from_numpy(component["in_frames"])  # (n, 3, H, W), a clip's frames one after another
    outputs = [match[0] for match in component.outputs()]
    length = component[outputs[0]].shape[1] if component[outputs[0]].ndim == 3 else len(frames)
    clips = frames.unflatten(0, (-1, length)).transpose(1, 2)
    options = embedder_options(component, state)
    network = build_network("frame_embedder", tuple(clips.shape[1:]), {}, options).eval()
    load_published(network, "fewshot", state)
    unused = "fc1.weight" in state and options["streams"] == 1  # layers that the published forward never runs
    if "params" in component.meta and not unused:
        assert sum(value.numel() for value in network.backbone.parameters()) == component.meta["params"]
    with torch.no_grad():
        found = network(clips).features
    strict = {"rtol": 0.0, "atol": WEAK} if options["trunk"].startswith("mobilenet") else {}
    for key in outputs:
        ours = found[STREAM_OF.get(key.removeprefix("out_"), "frames")]
        component.compare(key, ours if component[key].ndim == 3 else ours.flatten(0, 1), **strict)


@checks("fewshot/pretrain_*")
def check_pretraining(component: Component) -> None:
    state = published_state(component)
    clips = torch.from_numpy(component["in_video"]).transpose(1, 2)
    classes = {"action": state["fc.weight"].shape[0]}
    network = build_network(trunk_of(state), tuple(clips.shape[1:]), classes).eval()
    load_published(network, "fewshot", state)
    with torch.no_grad():
        component.compare("out_logits", network(clips).logits["action"])


def inputs(component: Component, side: str) -> dict[str, Tensor]:
    """`in_<side>_<modality>` by modality, m1 first; without a side `in_<modality>`."""
    keys = {name: "_".join(("in", *filter(None, (side,)), name)) for name in MODALITIES}
    return {name: torch.from_numpy(component[key]) for name, key in keys.items() if key in component}


@checks("fewshot/mfm_*_fusion*")
def check_joint(component: Component) -> None:
    """One transformer over all modalities, alone."""
    state = published_state(component)
    frames = [torch.from_numpy(value) for key, value in component.arrays.items() if key.startswith("in_")]
    length, width = state["positionEncoding1.position_embeddings.weight"].shape
    layers = 1 + max(int(found[1]) for key in state if (found := re.search(r"layers\.(\d+)\.", key)))
    heads = int(component.number(r"heads (\d+)", 0)) or None
    feedforward = state["transformer_encoder.layers.0.linear1.weight"].shape[0]
    joint = Joint(len(frames), width, state["f1.weight"].shape[0], length, layers, heads, feedforward).eval()
    joint.load_state_dict(rename(state, prefix_map(joint_prefixes("", ""))))
    legacy = "across videos" in component.text.lower()
    for match in component.outputs(r"fused(?:_first(?:_only|(?P<count>\d+))?)?"):
        first = int(match["count"] or 1) if "first" in match[0] else len(frames[0])
        with torch.no_grad():
            fused = across_videos(joint, [x[:first] for x in frames]) if legacy else joint([x[:first] for x in frames])
        component.compare(match[0], fused)


def across_videos(joint: Joint, frames: list[Tensor]) -> Tensor:
    """The published mistake of the legacy fusion: time and batch change places, modality 4 has the positions of 3."""
    positions = [*joint.positions[:3], joint.positions[2]]
    placed = torch.cat([place(x) for place, x in zip(positions, frames, strict=True)], dim=-1)
    return joint.out(joint.encoder(placed.transpose(0, 1)).transpose(0, 1))


def fusion_options(component: Component, state: State, count: int) -> dict[str, Any]:
    """Options of our MFM for a published class: which fusions it has, which modalities it moves."""
    kind = component.name
    pair = {key.split("positionEncoding")[0] for key in state if "positionEncoding" in key}
    joined = max((int(found[1]) for key in state if (found := re.search(r"positionEncoding(\d)", key))), default=0)
    layers = 1 + max(int(found[1]) for key in state if (found := re.search(r"encoder\.layers\.(\d+)\.", key)))
    still = "Shift" not in kind and "Shuffle" not in kind and "extract" not in kind and "otam" not in kind
    return {
        "bottleneck": None,
        "missing": "zeros",
        "layers": layers,
        "feedforward": next(v.shape[0] for k, v in state.items() if k.endswith("layers.0.linear1.weight")),
        "joint": 0 if joined == 2 and count > 2 else joined,
        "pairs": len(pair) > 1 or count > joined or "Shuffle" in kind,
        "shift": "none" if still else "released_extraction" if "extract" in kind else "released_training",
        "shift_by": int(component.number(r"shirt_num=(\d+)", 1)),
    }


def build(component: Component, name: str, state: State, names: list[str], options: dict[str, Any]) -> FusionNetwork:
    """Our fusion of modalities `names` with the published weights."""
    shape = next(value.shape for key, value in component.arrays.items() if key.startswith("in_") and value.ndim == 3)
    widths = dict.fromkeys(names, shape[2])
    comparison = comparison_of(component)
    network = build_fusion(name, widths, shape[1], comparison=comparison, options=options).eval()
    load_published(network, "fewshot", state)  # type: ignore[arg-type]
    return network


def by_class(component: Component) -> Tensor:
    """Order (way, shot) that puts the support clips class by class; classes ascend, as the published columns do."""
    labels = torch.from_numpy(component["in_support_labels"])
    return labels.argsort(stable=True).reshape(len(labels.unique()), -1)


def logits(network: FusionNetwork, support: Tensor, queries: Tensor) -> Tensor:
    """Logits (1, Q, way) of fused frames (way, shot, L, D) and (Q, L, D)."""
    way, shot = support.shape[:2]
    known = network.head.project(support.flatten(0, 1))
    asked = network.head.project(queries)
    return network.head.compare(
        tuple(part.unflatten(0, (1, way, shot)) for part in known), tuple(part[None] for part in asked)
    )


@checks("fewshot/mfm_*", "fewshot/score_fusion*")
def check_fusion(component: Component) -> None:
    state = published_state(component)
    support, queries = inputs(component, "support"), inputs(component, "query")
    whole = inputs(component, "")
    names = [*(support or whole)]
    if "cross" in component.name.lower():
        name, options = "cross_attention", {"heads": int(component.number(r"heads (\d+)", 2)), "missing": "zeros"}
    elif any(key.startswith("m1_branch") for key in state):
        weights = [component.number(rf"\b{letter}=([\d.]+)") for letter in "abcde"[: len(names)]]
        name, options = "score_fusion", {"weights": dict(zip(names, weights, strict=True)), "missing": "zeros"}
    else:
        name, options = "mfm", fusion_options(component, state, len(names))
    network = build(component, name, state, names, options)
    asking = network
    if "Shuffle" in component.name:  # published: only support clips are shifted
        asking = build(component, name, state, names, {**options, "shift": "none"})
    with torch.no_grad():
        if whole:
            component.compare("out_fused", network(whole).features["frames"])
            return
        known, asked = network(support).features["frames"], asking(queries).features["frames"]
        scores = logits(network, known[by_class(component)], asked)
    results = {
        "out_fused_support": known,
        "out_fused_query": asked,
        "out_logits": scores,
        "out_probs": scores[0],
    }
    for match in component.outputs():
        component.compare(match[0], results[match[0]])


@checks("fewshot/transform_test*")
def check_test_transform(component: Component) -> None:
    short, size = (int(component.number(pattern)) for pattern in (r"shorter side -> (\d+)", r"crop (\d+)"))
    resized = scale(component["in_frame"][None], short)
    cropped = np.moveaxis(center_crop(resized, size)[0], -1, 0).astype(np.float32) / 255.0
    for match in component.outputs(r"(?P<what>resized_size_wh|resized_patch|tensor_mean|tensor_rows_(?P<rows>[\d_]+))"):
        expected = component[match[0]]
        if match["rows"]:
            rows = [int(row) for row in match["rows"].split("_")]
            component.compare(match[0], cropped[:, rows], rtol=0, atol=1 / 255 + 1e-6)
        elif match["what"] == "resized_size_wh":
            component.compare(match[0], np.array(resized.shape[2:0:-1]), rtol=0, atol=0)
        elif match["what"] == "resized_patch":
            height, width = expected.shape[:2]
            component.compare(match[0], resized[0, :height, :width].astype(np.int64), rtol=0, atol=1)
        else:
            component.compare(match[0], cropped.mean((1, 2)), rtol=0, atol=1 / 255)
