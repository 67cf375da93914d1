"""Checks of generative feature distillation: attention, CVAE, losses, and one iteration of both training phases.

All weights pass through the key maps beside the architectures. A component without shapes (`recognition_train_step*`)
has those of the published recognition networks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.types import Batch, Loss, Outputs
from vidistill.methods import cvae as cvae_method
from vidistill.methods import generative
from vidistill.methods.base import MethodContext, build_method, module_key
from vidistill.methods.generative_losses import attention_loss, cvae_loss, double_softmax_loss, summed_probabilities
from vidistill.models import Network, build_network
from vidistill.models.attended import ATTENTION, attend, weigh
from vidistill.models.attention import PublishedAttention, attention_prefixes
from vidistill.models.cvae import FeatureCVAE, cvae_prefixes
from vidistill.models.import_ import prefix_map, rename
from vidistill.models.inception3d import PUBLISHED_PREFIXES

Shapes = Mapping[str, list[int]]
LEVELS = {"5c": "deconv1.", "4f": "deconv2."}
HEAD, MAP, TEACHER = "action", "mixed_5c", "teacher"
CLASSIFIER = "backbone._model.logits.conv3d."
INSIDE = "backbone._model."


def inputs_of(component: Component) -> list[Tensor]:
    """The generated inputs `gen:NAME shape kind` of the call, in its order; `|gen:…|` is the absolute value."""
    pattern = r"(?P<bar>\|?)gen:(?P<name>\w+) \((?P<shape>[\d,\s]+)\)(?: (?P<kind>normal|uniform))?"
    found = list(re.finditer(pattern, component.meta["call"]))
    tensors = []
    for stated in found:
        shape = tuple(int(side) for side in stated["shape"].split(","))
        draw = np.random.default_rng(zlib.crc32(stated["name"].encode()))
        # A kind that stands once, at the end, is that of all.
        uniform = (stated["kind"] or found[-1]["kind"]) == "uniform"
        values = draw.uniform(-1, 1, shape) if uniform else draw.standard_normal(shape)
        tensor = torch.from_numpy(values.astype(np.float32))
        tensors.append(tensor.abs() if stated["bar"] else tensor)
    return tensors


def filled(module: nn.Module, shapes: Shapes, prefixes: Mapping[str, str | None], prefix: str = "") -> nn.Module:
    """The module with the published weights; `prefix` belongs to the keys that they are made from."""
    keys = prefix_map(prefixes)
    kept = {key: shape for key, shape in shapes.items() if keys(key) in module.state_dict()}
    state = {key: torch.from_numpy(np.asarray(fill.value(prefix + key, tuple(shape)))) for key, shape in kept.items()}
    module.load_state_dict(rename(state, keys))
    return module


def published_attention(component: Component, level: str) -> PublishedAttention:
    """Our head of a level, of the sizes of the published one."""
    shapes: Shapes = component.meta["state"]
    hidden, channels, _, height, width = shapes[f"{LEVELS[level]}0.weight"]
    steps = shapes[f"Att_Head_{level}.3.weight"][0]
    head = PublishedAttention(channels, steps, (height, width), hidden)
    filled(head, shapes, attention_prefixes(level))
    return head


def compare_any(component: Component, name: str, ours: Tensor) -> None:
    """Compare with an output as stored: whole, or as statistics and some values."""
    values = ours.detach().numpy()
    if f"shape_{name}" in component:
        assert values.shape == tuple(component[f"shape_{name}"])
    if f"out_{name}" in component:
        component.compare(f"out_{name}", values)
    if f"out_{name}_stats" in component:
        wide = values.astype(np.float64)
        sums = [wide.mean(), wide.std(), wide.min(), wide.max(), np.abs(wide).sum()]
        component.compare(f"out_{name}_stats", np.array(sums))
        component.settle(f"out_{name}_flatindex")
        component.compare(f"out_{name}_values", values.ravel()[component[f"out_{name}_flatindex"]])


@checks("generative/recognition_head*")
def check_recognition_head(component: Component) -> None:
    (feature,) = inputs_of(component)
    shapes: Shapes = component.meta["state"]
    with torch.no_grad():
        attention = published_attention(component, "5c").eval()(feature)
        attended = attend(feature, attention, "released")
    compare_any(component, "att", attention)
    compare_any(component, "fg", attended)
    window = re.search(r"avgpool3d\(\[([\d,]+)\]", component.meta["call"])
    assert window is not None
    size = [int(side) for side in window[1].split(",")]
    weight, bias = (
        torch.from_numpy(fill.value(CLASSIFIER + name, tuple(shapes[CLASSIFIER + name]))) for name in ("weight", "bias")
    )
    for name, values in (("fg", attended), ("raw", feature)):
        logits = functional.conv3d(functional.avg_pool3d(values, size, 1), weight, bias).flatten(2)
        compare_any(component, f"logits_{name}", logits)
        if name == "fg":
            compare_any(component, "prob_sum", summed_probabilities(logits))
            component.compare("out_ce", double_softmax_loss(logits, torch.from_numpy(component["in_target"])).mean())
    component.compare("out_kd_att_mse_with_half", attention_loss(attention, 0.5 * attention).mean())


@checks("generative/detection_attention*")
def check_detection_attention(component: Component) -> None:
    shapes: Shapes = component.meta["state"]
    by_channels = {feature.shape[1]: feature for feature in inputs_of(component)}
    for level in [level for level, conv in LEVELS.items() if f"{conv}0.weight" in shapes]:
        feature = by_channels[shapes[f"{LEVELS[level]}0.weight"][1]]
        with torch.no_grad():
            attention = published_attention(component, level).eval()(feature)
        compare_any(component, f"att{level}", attention)
        compare_any(component, f"att{level}_sum", attention.sum())
        compare_any(component, f"fg{level}", weigh(feature, attention, "released"))
        compare_any(component, f"bg{level}", weigh(feature, 1.0 - attention, "released"))


@checks("generative/cvae_*")
def check_cvae(component: Component) -> None:
    shapes: Shapes = component.meta["state"]
    features = {feature.shape[1]: feature for feature in inputs_of(component)}
    for match in component.outputs(r"mean(?P<case>\w*)"):
        case = match["case"]
        level = "4f" if case.endswith("4f") else "5c"
        con = {"5c": "cencoder.con1.0.weight", "4f": "cencoder_832.con2.0.weight"}[level]
        channels, pixels = shapes[con][0], shapes[con][3:]
        cvae = filled(FeatureCVAE(channels, (pixels[0], pixels[1])), shapes, cvae_prefixes(level))
        given = {name: torch.from_numpy(component[f"in_{name}{case}"]) for name in ("att", "eps", "eps_inf")}
        feature = torch.from_numpy(component[f"in_x{case}"]) if f"in_x{case}" in component else features[channels]
        with torch.no_grad():
            made, mean, log_variance = cvae(feature, given["att"], given["eps"])
            prior = cvae.inference(given["att"], given["eps_inf"])
        compare_any(component, f"mean{case}", mean)
        compare_any(component, f"logvar{case}", log_variance)
        compare_any(component, f"recon{case}", made)
        compare_any(component, f"inference{case}", prior)
        component.compare(f"out_loss{case}", cvae_loss(made, feature, mean, log_variance, given["att"]).mean())


@checks("generative/loss_cvae*")
def check_cvae_loss(component: Component) -> None:
    names = ("recon", "x", "mean", "log_var", "attention")
    given = {name: torch.from_numpy(component[f"in_{name}"]).requires_grad_() for name in names}
    weight = component.number(r"mse \+ ([\d.]+) \* KL", 0.1)
    loss = cvae_loss(*given.values(), weight).mean()
    component.compare("out_loss", loss)
    loss.backward()
    for name, leaf in given.items():
        if f"out_grad_{name}" in component:
            component.compare(f"out_grad_{name}", leaf.grad)


def network_prefixes() -> dict[str, str | None]:
    """Published prefixes of a recognition network with attention -> ours."""
    trunk = {old: f"backbone.trunk.{new.removeprefix('backbone.')}" for old, new in PUBLISHED_PREFIXES.items() if new}
    return {**trunk, CLASSIFIER: f"head.{HEAD}.", **attention_prefixes("5c", "backbone.attention.")}


def as_published(ours: str, prefixes: Mapping[str, str | None]) -> str:
    """The published name of our key; where two lead to it, that of the distilled networks."""
    fitting = [(new, old) for old, new in prefixes.items() if new and ours.startswith(new)]
    longest = max(len(new) for new, _ in fitting)
    new, old = max((pair for pair in fitting if len(pair[0]) == longest), key=lambda pair: len(pair[1]))
    return old + ours.removeprefix(new)


def self_filled(module: nn.Module, prefixes: Mapping[str, str | None], prefix: str = "") -> nn.Module:
    """The module with weights of the published names of its own keys."""
    shapes = {as_published(key, prefixes): list(value.shape) for key, value in module.state_dict().items()}
    # The published classifier is a convolution: the same numbers in another shape.
    return filled(module, shapes, prefixes, prefix)


def recognition_network(trunk: str, shape: tuple[int, ...], classes: int) -> Network:
    options = {"trunk": trunk, "attention": "published", "variant": "released", "trunk_options": {"dropout": 0.0}}
    network = build_network("attended", shape, {HEAD: classes}, options)
    self_filled(network, network_prefixes())
    return network


class Noise:
    """The published draws of a pass, in turn."""

    def __init__(self, component: Component) -> None:
        stated = re.search(r"Noise (\w+?)0\b.*?shape \(([\d,\s]+)\)", component.meta["notes"])
        assert stated is not None
        self.name, self.shape = stated[1], tuple(int(side) for side in stated[2].split(","))
        self.number = 0

    def __call__(self, feature: Tensor) -> Tensor:
        draw = np.random.default_rng(zlib.crc32(f"{self.name}{self.number}".encode()))
        self.number += 1
        return torch.from_numpy(draw.standard_normal(self.shape).astype(np.float32))


def mean_of(loss: Loss) -> Tensor:
    return loss.values.mean()


@contextmanager
def given_noise(component: Component) -> Iterator[None]:
    """The method draws the published noise."""
    noise = Noise(component)
    with mock.patch.object(generative, "draw_noise", noise), mock.patch.object(cvae_method, "draw_noise", noise):
        yield


def compare_norms(component: Component, stage: str, module: nn.Module, prefixes: Mapping[str, str | None]) -> None:
    keys = prefix_map(prefixes)
    for match in component.outputs(rf"{stage}_gradnorm_(?P<key>.+)"):
        name = keys(match["key"])
        assert name is not None
        component.compare(match[0], module.get_parameter(name).grad.norm())


@checks("generative/recognition_train_step*")
def check_train_step(component: Component) -> None:
    (clip,) = inputs_of(component)
    classes = int(component.number(r"(\d+) classes"))
    shape = tuple(clip.shape[1:])
    teacher = recognition_network("i3d", shape, classes).eval()
    with torch.no_grad():
        taught = {TEACHER: teacher(clip, features=(ATTENTION,))}
    student = recognition_network("i3d_topheavy", shape, classes).train()
    method = released_method(component, student, teacher)
    labels = torch.tensor([int(component.number(r"target (\d+)"))])
    batch = Batch({}, {HEAD: labels}, torch.arange(1), torch.zeros(1, dtype=torch.long), {})
    asked = (MAP, ATTENTION)

    method.start_phase("representation")
    with torch.no_grad():
        seen = student(clip, features=asked)
    with given_noise(component):
        losses = method(seen, taught, batch)
    component.compare("out_stage1_loss_5c", mean_of(losses["cvae"]))
    component.compare("out_stage1_KD_loss_cvae", mean_of(losses["generative"]))
    total = sum(loss.weight * mean_of(loss) for loss in losses.values())
    component.compare("out_stage1_loss", total)
    total.backward()
    compare_norms(component, "stage1", method, cvae_prefixes("5c", f"cvae.{module_key(MAP)}."))

    method.start_phase("")
    outputs = student(clip, features=asked)
    with given_noise(component):
        losses = method(outputs, taught, batch)
    names = {"loss_5c": "cvae", "KD_loss_cvae": "generative", "l_recon": "reconstruction", "KD_loss": "attention"}
    for published, name in names.items():
        component.compare(f"out_stage2_{published}", mean_of(losses[name]))
    label = double_softmax_loss(logits_by_time(student, outputs), labels).mean()
    component.compare("out_stage2_ce_derived", label)
    cost = label + sum(losses[name].weight * mean_of(losses[name]) for name in ("attention", "reconstruction"))
    component.compare("out_stage2_cost", cost)
    component.compare("out_stage2_loss_fg", cost)  # published: added to in place
    method.zero_grad()
    cost.backward()
    compare_norms(component, "stage2", student, network_prefixes())
    assert all(parameter.grad is None for parameter in (*teacher.parameters(), *method.parameters()))
    name = re.search(r"out_bn_running_\* = ([\w.]+)", component.meta["notes"])
    assert name is not None
    normalisation = student.get_submodule(f"backbone.trunk.stages.{name[1].lower()}")
    component.compare("out_bn_running_mean_after", normalisation.running_mean)
    component.compare("out_bn_running_var_after", normalisation.running_var)


def released_method(component: Component, student: Network, teacher: Network) -> Any:
    """The method between both, at the published epoch, with both CVAEs filled."""
    shapes = student.feature_shapes()
    channels, _, height, width = shapes[MAP]
    prefixes = cvae_prefixes("5c")
    theirs = self_filled(FeatureCVAE(channels, (height, width)), prefixes, "teacher.").requires_grad_(False)
    part = SimpleNamespace(get_submodule=lambda name: {module_key(MAP): theirs})
    context = MethodContext(
        student.embedding_dim,
        {TEACHER: teacher.embedding_dim},
        student.classes,
        parts=lambda name, part_name: part,
        student_shapes=shapes,
        teacher_shapes={TEACHER: teacher.feature_shapes()},
    )
    ratio = re.search(r"recon weight (\d+)/(\d+)\*([\d.]+)", component.text)
    assert ratio is not None
    options = {
        "attention_weight": component.number(r"beta ([\d.]+\d)"),
        "reconstruction_weight": float(ratio[3]),
        "reconstruction_warmup": int(ratio[2]),
        "phases": "alternating",
        "variant": "released",
    }
    method: Any = build_method("generative", context, options)
    method.start_epoch(int(ratio[1]) - 1, 200)  # published epochs are counted from 1
    self_filled(method.cvae[module_key(MAP)], prefixes)
    return method


def logits_by_time(network: Network, outputs: Outputs) -> Tensor:
    """Published: a score for each class (B, K, T - 1) in windows of two steps of the attended map."""
    attended = attend(outputs.features[MAP], outputs.features[ATTENTION], "released")
    windows = functional.avg_pool3d(attended, (2, *attended.shape[3:]), 1).flatten(2)
    logits: dict[str, Tensor] = network.head(windows.transpose(1, 2))
    return logits[HEAD].transpose(1, 2)
