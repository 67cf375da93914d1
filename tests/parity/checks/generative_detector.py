"""Checks of the anchor-free detector: boundary pooling, pyramid and heads, and the whole network up to its segments.

Shapes and options of ours are read from the published shapes and the json; all weights pass through the key map that
`vidistill import --published afsd` uses.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor
from torch.nn import functional

from vidistill.models import build_network
from vidistill.models.anchor_detector import ATTENTION, AnchorDetector
from vidistill.models.anchor_heads import AnchorAnswers, AnchorHeads
from vidistill.models.anchor_segments import pool_proposals
from vidistill.models.boundary_pooling import Variant, boundary_max_pool
from vidistill.models.import_ import rename
from vidistill.models.published import load_published
from vidistill.models.published_afsd import PYRAMID, head_keys, head_prefixes
from vidistill.tasks.anchor_decoding import RawAnswers, anchor_scores, candidates, refined_bounds, suppressed

State = dict[str, Tensor]
VARIANTS: dict[str, Variant] = {"correct": "default", "refbug": "released", "reference_bug": "released"}
OUTLIERS = 0.01
"""Share of values that may differ: segments are rounded, and a sum in another order may fall on the other side."""
FRAMES_A_STEP = 4
"""Of the longest published map."""
BY_ANCHOR = ("loc", "conf", "prop_loc", "prop_conf", "center")


def generated(component: Component, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """`gen:NAME`: the shape and the kind stand in the call, `|gen:…|` is its absolute value."""
    stated = re.search(rf"(\|?)gen:{name} \(([\d,\s]+)\) (normal|uniform)", component.meta["call"])
    if stated:
        shape = tuple(int(side) for side in stated[2].split(","))
    assert shape is not None
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    uniform = stated is not None and stated[3] == "uniform"
    values = draw.uniform(-1, 1, shape) if uniform else draw.standard_normal(shape)
    tensor = torch.from_numpy(values.astype(np.float32))
    return tensor.abs() if stated and stated[1] else tensor


def published_state(component: Component, shapes: Mapping[str, list[int]]) -> State:
    """The published weights, with what the notes set after filling."""
    state = {key: torch.from_numpy(np.asarray(fill.value(key, tuple(shape)))) for key, shape in shapes.items()}
    for pattern, value in re.findall(r"([\w.*]+) := (-?[\d.]+\d)", component.meta["notes"]):
        matcher = re.escape(pattern).replace(r"\*", r"[^.]+")
        for key in state:
            if re.fullmatch(matcher, key):
                state[key].fill_(float(value))
    return state


def compare_summary(component: Component, name: str, ours: Tensor, outliers: float = 0.0) -> None:
    """An output stored whole, or as statistics (mean, std, min, max, sum of absolutes) and some of its values."""
    found = ours.detach().double().numpy()
    if f"shape_{name}" in component:
        assert found.shape == tuple(component[f"shape_{name}"])
    if f"out_{name}" in component:
        compare_most(component, f"out_{name}", found, outliers)
    if f"out_{name}_flatindex" in component:
        component.settle(f"out_{name}_flatindex")
        compare_most(component, f"out_{name}_values", found.ravel()[component[f"out_{name}_flatindex"]], outliers)
    if f"out_{name}_stats" in component:
        sums = [found.mean(), found.std(), found.min(), found.max(), np.abs(found).sum()]
        component.compare(f"out_{name}_stats", np.array(sums))


def compare_most(component: Component, key: str, ours: Any, outliers: float = OUTLIERS) -> None:
    """Compare, but for a share of the values."""
    component.settle(key)
    ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours)
    rtol, atol = component.tolerance
    assert ours.shape == component[key].shape, f"{component.name}: {key}"
    near = np.isclose(ours, component[key], rtol=rtol, atol=atol)
    assert 1 - near.mean() <= outliers, f"{component.name}: {key}: {1 - near.mean():.2%} differ"


@checks("generative/boundary_max_pooling*")
def check_boundary_pooling(component: Component) -> None:
    cases = [found[1] for key in component.arrays if (found := re.fullmatch(r"in(\d*)_x", key))]
    for case in cases:
        # In float64: the published sums are exact to the last bit, whatever the order of their terms.
        segments, grad = (torch.from_numpy(component[f"in{case}_{name}"]).double() for name in ("segments", "grad_out"))
        for kind, variant in VARIANTS.items():
            key = f"out{case}_grad_x_{kind}"
            if key not in component:
                continue
            x = torch.from_numpy(component[f"in{case}_x"]).double().requires_grad_()
            pooled = boundary_max_pool(x, segments, variant)
            component.compare(f"out{case}_y", pooled.float())
            pooled.backward(grad)
            component.compare(key, x.grad.float())


def head_shapes(component: Component) -> dict[str, list[int]]:
    """The published shapes of the heads: the component's own, or those of the component that it shares weights with."""
    shapes: dict[str, list[int]] = component.meta.get("state", {})
    if not shapes:
        beside = re.search(r"same weights as (\w+)", component.meta["notes"])
        assert beside, f"{component.name}: no shapes"
        shapes = json.loads((component.folder / component.name).with_name(f"{beside[1]}.json").read_text())["state"]
    return shapes


def published_heads(component: Component, maps: list[Tensor], variant: Variant = "default") -> AnchorHeads:
    """Our heads with the published weights, for windows four times as long as the longest map."""
    shapes = {key: shape for key, shape in head_shapes(component).items() if key.startswith(PYRAMID)}
    levels = len({key.split(".")[2] for key in shapes if key.startswith(f"{PYRAMID}pyramids.")})
    classes, width, _ = shapes[f"{PYRAMID}conf_head.conv1d.weight"]
    sizes = [tuple(each.shape[1:]) for each in maps]
    heads = AnchorHeads(sizes, classes, width, levels, FRAMES_A_STEP * sizes[0][1], variant)
    keys = head_keys(head_prefixes(levels, len(maps), ours=""))
    heads.load_state_dict(rename(published_state(component, shapes), keys))
    return heads.eval()


def feature_maps(component: Component) -> list[Tensor]:
    """The generated maps of the call, the longest first."""
    names = re.findall(r"gen:(\w+) \(\d+,\s*\d+,\s*\d+,\s*\d+,\s*\d+\)", component.meta["call"])
    return sorted((generated(component, name) for name in names), key=lambda x: -x.shape[2])


def compare_answers(component: Component, answers: AnchorAnswers, prefix: str = "") -> None:
    for name in BY_ANCHOR:
        refined = name not in ("loc", "conf")
        compare_most(component, f"out_{prefix}{name}", getattr(answers, name), OUTLIERS if refined else 0.0)


@checks("generative/afsd_heads*")
def check_heads(component: Component) -> None:
    maps = feature_maps(component)
    heads = published_heads(component, maps)
    with torch.no_grad():
        answers = heads(maps)
    compare_answers(component, answers)
    component.compare("out_priors", answers.priors[:, None])
    for name in (name for name in vars(answers) if name.startswith(("start", "end"))):
        compare_summary(component, name, getattr(answers, name).transpose(1, 2))  # published with channels last
    for kind in sorted({found["kind"] for found in component.outputs(r"grad\w+?_(?P<kind>[a-z]+)_stats")}):
        heads.zero_grad()
        for branch in (heads.loc_branch, heads.conf_branch):
            branch.variant = VARIANTS[kind]
        check_gradients(component, kind, heads, maps)


def check_gradients(component: Component, kind: str, heads: AnchorHeads, maps: list[Tensor]) -> None:
    leaves = [each.clone().requires_grad_() for each in maps]
    answers = heads(leaves)
    names = re.search(r"over k in ([\w,]+)", component.meta["call"])[1].split(",")
    weights = {name: generated(component, f"hg_{name}", tuple(component[f"out_{name}"].shape)) for name in names}
    sum((getattr(answers, name) * weight).sum() for name, weight in weights.items()).backward()
    for leaf, found in zip(leaves, component.outputs(rf"grad(?P<map>\w+?)_{kind}_stats"), strict=True):
        compare_summary(component, f"grad{found['map']}_{kind}", leaf.grad, OUTLIERS)
    ours = dict(heads.named_parameters())
    names_of = head_keys(head_prefixes(len(heads.scales), len(maps), published="", ours=""))
    for found in component.outputs(rf"gradnorm_{kind}_(?P<key>[\w.]+)"):
        component.compare(found[0], ours[names_of(found["key"])].grad.norm())


@checks("generative/boundary_contrastive*")
def check_pooled_proposals(component: Component) -> None:
    maps = feature_maps(component)
    with torch.no_grad():
        answers = published_heads(component, maps)(maps)
    pooled = pool_proposals(vars(answers), torch.from_numpy(component["in_proposals"])[None])
    weights = [float(value) for value in re.search(r"weights ([\d.,]+)", component.meta["what"])[1].split(",")]
    terms = []
    for number, (vectors, weight) in enumerate(zip(pooled, weights, strict=True)):
        start, end = vectors.chunk(2, dim=1)
        anchor, positive, negative = end[:, :, 0], start[:, :, 1], start[:, :, 2]
        component.compare(f"out_anchor{number}", anchor)
        component.compare(f"out_positive{number}", positive)
        component.compare(f"out_negative{number}", negative)
        terms.append(weight * functional.triplet_margin_loss(anchor, positive, negative))
    component.compare("out_triplet_terms", torch.stack(terms))
    component.compare("out_triplet", sum(terms))


@checks("generative/detection_e2e*")
def check_detector(component: Component) -> None:
    """The whole network, from frames to suppressed segments, with attention and on raw maps."""
    state = published_state(component, component.meta["state"])
    windows = generated(component, re.search(r"gen:(\w+)", component.meta["call"])[1])
    network = detector_of(state, tuple(windows.shape[1:])).eval()
    load_published(network, "afsd", state)
    maps = network.backbone.maps
    attention = [ATTENTION + name for name in maps] if network.backbone.attention else []
    with torch.no_grad():
        outputs = network(windows, features=(*maps, *attention))
        raw = network.backbone.heads([outputs.features[name] for name in maps])
    (conf,) = outputs.logits.values()
    for name in maps:
        compare_summary(component, name.capitalize(), outputs.features[name])
    for name in attention:
        compare_summary(component, f"att{name.removeprefix(f'{ATTENTION}mixed_')}", outputs.features[name])
    streams = {"att": {**outputs.features, "conf": conf}, "raw": {**vars(raw), "priors": raw.priors[None]}}
    for kind in {match["kind"] for match in component.outputs(r"(?P<kind>\w+)_final")}:
        check_decoding(component, kind, streams[kind], windows.shape[2])


def detector_of(state: State, input_shape: tuple[int, ...]) -> AnchorDetector:
    """Our detector for the published weights."""
    levels = len({key.split(".")[2] for key in state if key.startswith(f"{PYRAMID}pyramids.")})
    classes, width, _ = state[f"{PYRAMID}conf_head.conv1d.weight"].shape
    flat = state["backbone._model.Conv3d_1a_7x7.conv3d.weight"].shape[2] == 1
    options = {
        "trunk": "i3d_topheavy" if flat else "i3d",
        "width": width,
        "levels": levels,
        "attention": "published" if any(key.startswith("Att_Head") for key in state) else "none",
        "variant": "released",
    }
    network = build_network("anchor_detector", input_shape, {"action": classes}, options)
    assert isinstance(network, AnchorDetector)
    return network


def check_decoding(component: Component, kind: str, answers: Mapping[str, Tensor], frames: int) -> None:
    for name in BY_ANCHOR:
        # Rounded segments differ by a step where the trunk's sums are in another order.
        compare_most(component, f"out_{kind}_{name}", answers[name], OUTLIERS if name in BY_ANCHOR[2:] else 0.0)
    raw = RawAnswers.of(answers["conf"], answers)
    compare_most(component, f"out_{kind}_segments", refined_bounds(raw, frames)[0])
    compare_most(component, f"out_{kind}_scores", anchor_scores(raw)[0].T)
    # Candidates come and go where a score sits at a threshold: the last part starts from the stored ones.
    bounds, scores = component[f"out_{kind}_segments"][None], component[f"out_{kind}_scores"].T[None]
    call = {
        name: component.number(rf"{name} ([\d.]+)")
        for name in ("sigma", "conf_thresh", "sample_fps", "offset", "top_k")
    }
    found = candidates(
        bounds,
        scores,
        clip=np.zeros(1, np.int64),
        offset=np.array([call["offset"]]),
        rate=call["sample_fps"],
        threshold=call["conf_thresh"],
        variant="released",
    )
    kept = suppressed(found, sigma=call["sigma"], top_k=int(call["top_k"]), variant="released")
    component.compare(f"out_{kind}_final", np.column_stack([kept.label, kept.bounds, kept.score]))
