"""Checks of the adaptive system's base losses and distillers, and of the ensemble system's criterion."""

from __future__ import annotations

import re

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.types import ENSEMBLE, Batch, Losses, Outputs
from vidistill.methods import MethodContext, build_method
from vidistill.methods.crosskd import align
from vidistill.methods.dkd import dkd_losses
from vidistill.methods.kd import kd_loss
from vidistill.tasks import Recognition


def case_input(component: Component, kind: str, case: str) -> Tensor:
    """`in_<kind>_<case>`, or `in_<kind>` where the case has none of its own."""
    key = f"in_{kind}_{case}"
    return torch.from_numpy(component[key if key in component else f"in_{kind}"])


def compare_loss(component: Component, key: str, loss: Tensor, inputs: Tensor) -> None:
    """Compare a loss, or its gradient where the key says so; where the published value is not finite ours must be."""
    if key.endswith("_grad"):
        component.compare(key, torch.autograd.grad(loss, inputs)[0])
    elif np.isfinite(component[key]).all():
        component.compare(key, loss)
    else:
        component.settle(key)
        assert torch.isfinite(loss).all(), key


@checks("adaptive/loss_kd*")
def check_kd(component: Component) -> None:
    usual = component.number(r"\bT ?= ?([\d.]+\d|\d)", 4)
    for match in component.outputs(r"kd(?:_?T(?P<T>[\d.]+))?(?:_(?P<case>(?!grad)[a-z]\w*?))?(?P<grad>_grad)?"):
        case = match["case"] or ""
        student = case_input(component, "student", case).requires_grad_()
        teacher = student.detach() if case == "same" else case_input(component, "teacher", case)
        loss = kd_loss(student, teacher, float(match["T"] or usual)).mean()
        compare_loss(component, match[0], loss, student)
    for match in component.outputs(r"ce(?P<grad>_grad)?"):
        student = torch.from_numpy(component["in_student"]).requires_grad_()
        loss = functional.cross_entropy(student, torch.from_numpy(component["in_target"]).long())
        compare_loss(component, match[0], loss, student)


@checks("adaptive/loss_dkd*")
def check_dkd(component: Component) -> None:
    usual = component.number(r"\bT ?= ?([\d.]+\d|\d)", 4)
    factors = component.number(r"alpha ?=? ?([\d.]+\d|\d)", 0.1), component.number(r"beta ?=? ?([\d.]+\d|\d)", 1.0)
    named = {"tckd": (1.0, 0.0), "nckd": (0.0, 1.0), "dkd": factors}
    pattern = r"(?P<kind>tckd|nckd|dkd)(?:_only)?(?:_a(?P<a>[\d.]+)_b(?P<b>[\d.]+))?(?:_?T(?P<T>[\d.]+))?"
    for match in component.outputs(pattern + r"(?:_(?P<case>(?!grad)[a-z]\w*?))?(?P<grad>_grad)?"):
        case = match["case"] or ""
        student = case_input(component, "student", case).requires_grad_()
        teacher = student.detach() if case == "same" else case_input(component, "teacher", case)
        labels = case_input(component, "target", case).long()
        alpha, beta = (float(match["a"]), float(match["b"])) if match["a"] else named[match["kind"]]
        target, other = dkd_losses(student, teacher, labels, float(match["T"] or usual))
        compare_loss(component, match[0], (alpha * target + beta * other).mean(), student)


class Tiny(nn.Module):
    """The distillers' networks: linear layers with tanh between them; the last one is the head."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        names = dict.fromkeys(key.rsplit(".", 1)[0] for key in shapes)
        self.order = [name for name in ("body", "mid", "fc") if name in names]
        assert set(self.order) == set(names), f"layers of another network: {sorted(names)}"
        for name in self.order:
            rows, columns = shapes[f"{name}.weight"]
            self.add_module(name, nn.Linear(columns, rows))
        fill.fill_torch(self)

    def forward(self, x: Tensor) -> Outputs:
        embedding = x.flatten(1)
        for name in self.order[:-1]:
            embedding = torch.tanh(self.get_submodule(name)(embedding))
        return Outputs({"action": self.get_submodule("fc")(embedding)}, embedding)


def total(losses: Losses) -> Tensor:
    """The weighted sum of all terms' means."""
    return torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()


@checks("adaptive/distiller_kd*", "adaptive/distiller_dkd*", "adaptive/distiller_crosskd*")
def check_distiller(component: Component) -> None:
    kind = re.match(r"adaptive/distiller_(dkd|crosskd|kd)", component.name)[1]
    student_net, teacher_net = (Tiny(component.meta["state"][who]) for who in ("student", "teacher"))
    inputs = torch.from_numpy(component["in_x"])
    labels = torch.from_numpy(component["in_target"]).long()
    student, teacher = student_net(inputs), teacher_net(inputs).detach()
    classes = {"action": student.logits["action"].shape[1]}
    count = len(labels)
    batch = Batch({}, {"action": labels}, torch.arange(count), torch.zeros(count), {})
    context = MethodContext(
        student.embedding.shape[1], {"teacher": teacher.embedding.shape[1]}, classes, lambda _, __: teacher_net.fc
    )
    options = {"temperature": component.number(r"\bT ?= ?([\d.]+\d|\d)", 4), "teacher": "teacher"}
    if kind == "dkd":
        alpha, beta = (component.number(rf"{name} ?=? ?(\d*\.?\d+)", v) for name, v in (("alpha", 0.1), ("beta", 1)))
        options |= {"weight": 1.0, "alpha": alpha, "beta": beta}
    else:
        options |= {"weight": component.number(r"KD weight ([\d.]+\d)", 0.9)}
    if kind == "crosskd":
        options |= {"variant": "released"}
    method = build_method(kind, context, options)
    taught = total(method(student, {"teacher": teacher}, batch))
    labelled = total(Recognition(classes).loss(student, batch)) * component.number(r"CE weight ([\d.]+\d)", 0.1)

    ours = {
        "student_logits": student.logits["action"],
        "teacher_feat": teacher.embedding,
        "teacher_logits": teacher.logits["action"],
        "ce_weighted": labelled,
        "kd_weighted": taught,
        "kd_requires_grad": np.float32(taught.requires_grad),
    }
    if "in_align_student" in component:
        features = [torch.from_numpy(component[f"in_align_{who}"]) for who in ("student", "teacher")]
        ours["align"] = align(*features, torch.ones(len(features[0]), dtype=torch.bool))
        ours["crosskd_logits"] = teacher_net.fc(ours["align"])
    for name, value in ours.items():
        if f"out_{name}" in component:
            component.compare(f"out_{name}", value)
    for name, loss in (("ce", labelled), ("kd", taught)):
        if f"out_{name}_grad_body_w" in component:
            gradient = torch.autograd.grad(loss, student_net.body.weight, retain_graph=True)[0]
            component.compare(f"out_{name}_grad_body_w", gradient)
    if kind == "crosskd":
        intended = build_method(kind, context, options | {"variant": "default"})
        value = total(intended(student, {"teacher": teacher}, batch))
        component.compare("out_kd_weighted", value)  # the same number, with a gradient
        assert torch.autograd.grad(value, student_net.body.weight)[0].abs().sum() > 0


@checks("ensemble/distillation_criterion*")
def check_criterion(component: Component) -> None:
    heads = list(dict.fromkeys(re.findall(r"ACTION_WEIGHTS\.([A-Z]+)", component.meta["call"])))
    for number in [match[1] for match in component.outputs(r"loss_(\d+)")]:
        temperature, distillation, truth, *weights = (float(value) for value in component[f"in_case_{number}"])
        used = {head: weight for head, weight in zip(heads, weights, strict=True) if weight > 0}
        tensors = {
            (kind, head): torch.from_numpy(component[f"in_{kind}_{head}"])
            for kind in ("student", "teacher", "label")
            for head in used
        }
        logits = {head: tensors["student", head].clone().requires_grad_() for head in used}
        labels = {head: tensors["label", head].long() for head in used}
        count = len(next(iter(labels.values())))
        batch = Batch({}, labels, torch.arange(count), torch.zeros(count), {})
        student = Outputs(logits, torch.zeros(count, 1))
        teacher = Outputs({head: tensors["teacher", head] for head in used}, torch.zeros(count, 1))
        classes = {head: logits[head].shape[1] for head in used}
        method = build_method("kd", MethodContext(1, {"t": 1}, classes, None), {"temperature": temperature})
        divergence = total(method(student, {ENSEMBLE: teacher}, batch))
        labelled = total(Recognition(classes, head_weights=used).loss(student, batch))
        loss = distillation * divergence + truth * labelled
        component.compare(f"out_kl_{number}", divergence)
        component.compare(f"out_loss_{number}", loss)
        for head, gradient in zip(used, torch.autograd.grad(loss, list(logits.values())), strict=True):
            key = f"out_grad_{head}_{number}"
            # "rtol 1e-5" is of the gradient's size: entries are differences of probabilities and cancel.
            component.compare(key, gradient, atol=1e-6 * float(np.abs(component[key]).max()))
