"""Check of one iteration of detection's generative distillation: networks, method and losses together.

The published keys are those of the component of the whole detector, which must lie beside it (`detection_e2e_*`).
Heavy: four autoencoders and two detectors of the published size, forward and backward.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fill
import numpy as np
import pytest
import torch
from components import Component, checks
from torch import Tensor, nn

from vidistill.core.types import Batch, Outputs
from vidistill.methods import build_method, generative
from vidistill.methods import cvae as cvae_method
from vidistill.methods.base import MethodContext, module_key
from vidistill.methods.generative_losses import attention_loss
from vidistill.models import Network, build_network
from vidistill.models.anchor_detector import ATTENTION, weigh
from vidistill.models.anchor_segments import pool_proposals
from vidistill.models.cvae import FeatureCVAE, cvae_prefixes
from vidistill.models.import_ import prefix_map
from vidistill.models.published_afsd import MAPS, afsd_keys
from vidistill.tasks.anchor_losses import BACKGROUND_WEIGHT, WEIGHTS, anchor_losses, background_loss, weighted_sum
from vidistill.tasks.anchor_targets import pad_segments
from vidistill.tasks.boundary_clips import boundary_triplets

TERMS = {"l": "loc", "c": "conf", "prop_l": "prop_loc", "prop_c": "prop_conf", "ct": "center"}
"""Published names of the loss terms -> ours; start and end have their own."""
HEAD, TEACHER = "action", "teacher"
LEVELS = {name: name.removeprefix("mixed_") for name in MAPS}


def generated(name: str, shape: tuple[int, ...], kind: str = "normal") -> Tensor:
    """The array `gen:NAME shape kind` of the json."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    values = draw.uniform(-1, 1, shape) if kind == "uniform" else draw.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def empty(build: Any, *args: Any, **options: Any) -> Any:
    """What `build` makes, without numbers: they would be drawn only to be replaced."""
    with torch.device("meta"):
        return build(*args, **options)


def detector(component: Component, trunk: str, shape: tuple[int, ...], parts: tuple[str, ...]) -> Network:
    """Our detector with the published weights of those parts; `:=` of the notes come after."""
    beside = sorted((component.folder / component.name).resolve().parent.glob("detection_e2e_*.json"))
    states = [json.loads(path.read_text()).get("state", {}) for path in beside]
    published = [key for state in states for key in state]
    if not published:
        pytest.skip(f"{component.name} needs the published keys of detection_e2e_*, which does not lie beside it")
    classes = next(shape[0] for state in states for key, shape in state.items() if "conf_head.conv1d.bias" in key)
    options = {"trunk": trunk, "attention": "published", "variant": "released", "frozen_bn": True}
    network: Network = empty(build_network, "anchor_detector", shape, {HEAD: classes}, options)
    keys: Any = afsd_keys(network)
    wanted = {name: value for name, value in network.state_dict().items() if name.startswith(parts)}
    state = {}
    for key in dict.fromkeys(published):
        if keys(key) in wanted:
            state[keys(key)] = torch.from_numpy(np.asarray(fill.value(key, tuple(wanted[keys(key)].shape))))
            for pattern, value in re.findall(r"([\w.*]+) := (-?[\d.]+\d)", component.meta["notes"]):
                if re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), key):
                    state[keys(key)].fill_(float(value))
    assert state.keys() == wanted.keys()
    network.load_state_dict(state, strict=False, assign=True)
    return network


def fill_cvae(cvae: nn.Module, level: str, prefix: str = "") -> None:
    """The published weights of a level's autoencoder; `prefix` belongs to the keys that they are made from."""
    names = sorted(((new, old) for old, new in cvae_prefixes(level).items() if new), key=lambda pair: -len(pair[0]))
    state = {}
    for key, value in cvae.state_dict().items():
        new, old = next(pair for pair in names if key.startswith(pair[0]))
        state[key] = torch.from_numpy(fill.value(prefix + old + key.removeprefix(new), tuple(value.shape)))
    cvae.load_state_dict(state, assign=True)


def released_method(component: Component, student: Network) -> Any:
    """The method on both maps, the deeper first, at the published epoch, with all autoencoders filled."""
    shapes = student.feature_shapes()
    names = tuple(reversed(MAPS))
    theirs = {}
    for name in names:
        channels, _, *pixels = shapes[name]
        theirs[module_key(name)] = empty(FeatureCVAE, channels, tuple(pixels))
        fill_cvae(theirs[module_key(name)], LEVELS[name], "teacher.")
    epoch, epochs, most = re.search(r"recon weight (\d+)/(\d+)\*([\d.]+)", component.text).groups()
    options = {
        "maps": names,
        "attention": tuple(ATTENTION + name for name in names),
        "attention_weight": component.number(r"beta=([\d.]+\d)"),
        "reconstruction_weight": float(most),
        "reconstruction_warmup": int(epochs),
        "variant": "released",
    }
    part = SimpleNamespace(get_submodule=lambda name: theirs)
    context = MethodContext(
        student.embedding_dim,
        {TEACHER: student.embedding_dim},
        student.classes,
        parts=lambda teacher, name: part,
        student_shapes=shapes,
        teacher_shapes={TEACHER: shapes},
    )
    method = empty(build_method, "generative", context, options)
    for name in names:
        fill_cvae(method.cvae[module_key(name)], LEVELS[name])
    method.start_epoch(int(epoch) - 1, 50)  # published epochs are counted from 1
    return method


@contextmanager
def given_noise(component: Component, turns: Sequence[tuple[str, str]]) -> Iterator[None]:
    """The published noise for draws of ours that are for (who, level) in turn."""
    stated = re.search(r"Noise (\w+?)0\.\. in call order: ([^.]*)", component.meta["notes"])
    order = re.findall(r"(student|teacher|inference) (\w\w)", stated[2])
    left = iter(turns)

    def draw(feature: Tensor) -> Tensor:
        batch, channels, steps = feature.shape[:3]
        return generated(f"{stated[1]}{order.index(next(left))}", (batch, steps, channels))

    with mock.patch.object(generative, "draw_noise", draw), mock.patch.object(cvae_method, "draw_noise", draw):
        yield
    assert next(left, None) is None


@contextmanager
def recorded(name: str) -> Iterator[list[Tensor]]:
    """The means of what a function of the method gave, in turn."""
    function, seen = getattr(generative, name), []

    def call(*args: Any) -> Tensor:
        values = function(*args)
        seen.append(values.mean())
        return values

    with mock.patch.object(generative, name, call):
        yield seen


def attentions(network: Network, clip: Tensor) -> Outputs:
    """The attention on both maps alone, without gradient."""
    backbone: Any = network.backbone
    with torch.no_grad():
        maps = backbone.trunk(clip, MAPS)[1]
        found = {ATTENTION + name: layer(maps[name]) for name, layer in zip(MAPS, backbone.attention, strict=True)}
    return Outputs({}, clip.new_zeros(len(clip), 1), found)


def compare_norms(component: Component, stage: str, find: Callable[[str], Tensor]) -> None:
    for match in component.outputs(rf"{stage}_gradnorm_(?P<key>.+)"):
        component.compare(match[0], find(match["key"]).grad.norm())


def supervised(component: Component, outputs: Outputs) -> Tensor:
    """The cost of annotations: of the attended maps and of the background."""
    weights: Mapping[str, float] = {
        **WEIGHTS,
        **dict.fromkeys(("loc", "prop_loc"), component.number(r"\blw=([\d.]+)")),
        **dict.fromkeys(("conf", "prop_conf"), component.number(r"\bcw=([\d.]+)")),
    }
    maps = torch.from_numpy(component["in_scores"])
    raw = {**outputs.features, "conf": outputs.logits[HEAD]}
    overlap = component.number(r"piou=([\d.]+\d)")
    segments = pad_segments([component["in_target"]])
    terms = anchor_losses(raw, segments, maps, frames=maps.shape[-1], overlap=overlap, variant="released")
    for published, name in {**TERMS, "start": "start", "end": "end"}.items():
        parts = [name, *(each for each in terms if each == f"{name}_prop" and name in ("start", "end"))]
        component.compare(f"out_stage2_loss_{published}_fg", weighted_sum({k: terms[k] for k in parts}, weights).mean())
    foreground = weighted_sum(terms, weights).mean()
    background = weights["conf"] * background_loss({"conf": outputs.features["background_conf"]}).mean()
    component.compare("out_stage2_loss_l_bg", 0.0)
    component.compare("out_stage2_loss_c_bg", background)
    component.compare("out_stage2_cost_fg", foreground)
    component.compare("out_stage2_cost_bg", background)
    return foreground + BACKGROUND_WEIGHT * background


@checks("generative/detection_train_step*")
def check_iteration(component: Component) -> None:
    shape, kind = re.search(r"gen:\w+ \(([\d,]+)\) (\w+)", component.meta["call"]).groups()
    sides = tuple(int(side) for side in shape.split(","))
    clips = [generated(name, sides, kind) for name in re.findall(r"clips=gen:(\w+)", component.meta["call"])]
    every = ("backbone.",)
    student = detector(component, "i3d_topheavy", sides[1:], every).train()
    teacher = detector(component, "i3d", sides[1:], ("backbone.trunk.", "backbone.attention.")).eval()
    method = released_method(component, student)
    asked = (*MAPS, *(ATTENTION + name for name in MAPS))
    outputs = student(clips[0], features=(*asked, "background"))
    cost = check_method(component, method, outputs, attentions(teacher, clips[0])) + supervised(component, outputs)
    if "in_ssl_target" in component:
        cost = cost + check_boundary_learning(
            component, method, student(clips[1], features=asked), attentions(teacher, clips[1])
        )
    component.compare("out_stage2_cost", cost)
    cost.backward()
    keys: Any = afsd_keys(student)
    compare_norms(component, "stage2", lambda key: student.get_parameter(keys(key)))


def check_method(component: Component, method: Any, outputs: Outputs, taught: Outputs) -> Tensor:
    """Compare the method's terms and what its autoencoders learn; what of the cost is the student's."""
    levels = [LEVELS[each.name] for each in method.maps]
    turns = [(who, level) for level in levels for who in ("student", "teacher")]
    again = [("inference", level) for level in levels]
    clips = torch.arange(len(outputs.embedding))
    with given_noise(component, [*turns, *again]), recorded("cvae_loss") as own:
        losses = method(outputs, {TEACHER: taught}, Batch({}, {}, clips, clips, {}))
    values = {name: loss.values.mean() for name, loss in losses.items()}
    learning = values["cvae"] + losses["generative"].weight * values["generative"]
    for stage in ("stage1", "stage2"):  # nothing is updated in between
        component.compare(f"out_{stage}_loss", learning)
        component.compare(f"out_{stage}_KD_loss_cvae", values["generative"])
        for level, value in zip(levels, own, strict=True):
            component.compare(f"out_{stage}_loss_{level}", value)
    learning.backward()
    compare_norms(component, "stage1", lambda key: autoencoder_weight(method, key))
    component.compare("out_stage2_KD_loss", values["attention"])
    component.compare("out_stage2_l_recon_intended", values["reconstruction"])
    # Published: compared with the background's features, by which the map's were overwritten.
    terms = []
    with given_noise(component, again):
        for each, level in zip(method.maps, levels, strict=True):
            attention = each.attention(outputs)
            target = weigh(each.feature(outputs), 1.0 - attention, "released")
            cvae = method.cvae[module_key(each.name)]
            terms.append(cvae_method.reconstruction_loss(cvae, target, attention, released=True).mean())
            component.compare(f"out_stage2_l_recon_{level}", terms[-1])
    component.compare("out_stage2_l_recon", sum(terms))
    return losses["reconstruction"].weight * sum(terms) + losses["attention"].weight * values["attention"]


def autoencoder_weight(method: Any, key: str) -> Tensor:
    """A weight of one of the method's autoencoders by its published name."""
    for each in method.maps:
        name = prefix_map(cvae_prefixes(LEVELS[each.name]))(key)
        if name is not None:
            return method.cvae[module_key(each.name)].get_parameter(name)
    raise AssertionError(f"no autoencoder has {key}")


def check_boundary_learning(component: Component, method: Any, outputs: Outputs, taught: Outputs) -> Tensor:
    """Compare the terms of the clip with background in an action; their part of the cost."""
    proposals = torch.from_numpy(component["in_ssl_target"])[None]
    pooled = pool_proposals(outputs.features, proposals, "released")
    triplet = (
        component.number(r"[^_]\bssl=(\.?[\d.]*\d)") * boundary_triplets(pooled, torch.tensor([True])).sum(0).mean()
    )
    component.compare("out_stage2_loss_trip", triplet)
    attention = [attention_loss(each.attention(outputs), each.attention(taught)).mean() for each in method.maps]
    component.compare("out_stage2_KD_loss_ssl", sum(attention))
    return triplet + method.attention_weight * sum(attention)
