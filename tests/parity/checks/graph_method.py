"""Checks of graph distillation: distances, prior, kernel, and optimisation steps of the whole method."""

from __future__ import annotations

import re
from functools import partial

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn

from vidistill.core.recipe import Schedule
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods import MethodContext, build_method
from vidistill.methods.distances import row_distance
from vidistill.methods.graph import Graph
from vidistill.methods.graph_kernel import Kernel, Node, graph_terms, present_softmax, softmax_prior
from vidistill.models.import_ import prefix_map, rename
from vidistill.tasks import Recognition
from vidistill.training.schedule import rate_factor

KERNEL_KEYS = {"W_logit.": "from_logits.", "W_repr.": "from_embedding.shared.", "W_edge.": "edge."}
"""Prefixes of the published kernel's keys -> ours. It is discarded after training: no published checkpoint has one."""
HEAD = "action"


def option(component: Component, name: str, default: str | None = None) -> str:
    """`name=value`, `name value` or `name all value` in the json's call, brackets and all."""
    found = re.search(rf"\b{name}(?:\s*=\s*|\s+)((?:all\s+)?(?:\[[^\]]*\]|[\w./,-]+))", component.meta["call"])
    if found is None and default is None:
        raise AssertionError(f"{component.name}: the json's call does not say {name!r}")
    return found[1].rstrip(",.") if found else str(default)


def numbers(text: str) -> list[float]:
    return [float(part) for part in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def ratio(text: str) -> float:
    """A number or a fraction, e.g. "1/8"."""
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


def filled_kernel(shapes: dict[str, list[int]], senders: list[str], prefix: str = "") -> Kernel:
    """Our kernel with the published weights, through the key map."""
    published = {key: torch.from_numpy(fill.value(prefix + key, tuple(shape))) for key, shape in shapes.items()}
    size, classes = shapes["W_logit.weight"]
    kernel = Kernel(classes, dict.fromkeys(["student", *senders], shapes["W_repr.weight"][1]), size)
    kernel.load_state_dict(rename(published, prefix_map(KERNEL_KEYS)))
    return kernel


def our_parameter(kernel: Kernel, published: str) -> Tensor:
    """A parameter by its published name, e.g. "W_edge.weight"."""
    name = prefix_map(KERNEL_KEYS)(published)
    assert name is not None
    return kernel.get_parameter(name)


@checks("graph/distance_metric*")
def check_distances(component: Component) -> None:
    teacher = torch.from_numpy(component["in_teacher"]).requires_grad_()
    for match in component.outputs(r"(?P<grad>grad_)?(?P<metric>cosine|l1|l2|kl)(?P<weighted>_weighted)?"):
        student = torch.from_numpy(component["in_student"]).requires_grad_()
        temperature = component.number(r"temperature (\d+)", 8)
        values = row_distance(student, teacher, match["metric"], temperature=temperature, element_mean=True)
        weights = torch.from_numpy(component["in_weights"]) if match["weighted"] else torch.ones(len(values))
        loss = (weights * values).mean()
        if not match["grad"]:
            component.compare(match[0], loss)
            continue
        gradient = torch.autograd.grad(loss, student)[0].numpy()
        # The published cosine gradient of a zero vector is 1/eps or so and no number to compare with; ours is 0.
        blank = (component["in_student"] == 0).all(1) & (match["metric"] == "cosine")
        assert (gradient[blank] == 0).all()
        component.compare(match[0], np.where(blank[:, None], component[match[0]], gradient))
    assert teacher.grad is None


@checks("graph/softmax_prior*")
def check_prior(component: Component) -> None:
    for match in component.outputs(r"prior(?P<case>\w*)"):
        weights = torch.from_numpy(component[f"in_w{match['case']}"])
        component.compare(match[0], softmax_prior(weights, torch.ones(len(weights), 1, dtype=torch.bool))[:, 0])
    for match in component.outputs(r"rows(?P<case>\w*)"):
        scores = torch.from_numpy(component[f"in_rows{match['case']}"]).T
        component.compare(match[0], present_softmax(scores, torch.ones_like(scores, dtype=torch.bool)).T)


@checks("graph/kernel_*")
def check_kernel(component: Component) -> None:
    logits = torch.from_numpy(component["in_logits"]).requires_grad_()
    embeddings = torch.from_numpy(component["in_reprs"]).requires_grad_()
    to = int(option(component, "to_idx"))
    sources = [int(index) for index in numbers(option(component, "from_idx"))]
    nodes = [Node(f"m{m}", (logits[m],), embeddings[m]) for m in range(len(logits))]
    kernel = filled_kernel(component.meta["state"], [nodes[m].name for m in sources])
    weights = torch.tensor(numbers(option(component, "w_modalities")))[sources]
    terms = graph_terms(
        kernel,
        nodes[to],
        [nodes[m] for m in sources],
        torch.ones(len(sources), logits.shape[1], dtype=torch.bool),
        weights,
        partial(row_distance, metric=option(component, "metric", "cosine"), element_mean=True),
        alpha=ratio(option(component, "alpha", "1/8")),
        detach=False,
    )
    component.compare("out_edges", terms.edges)
    component.compare("out_prior", terms.prior[:, 0])
    assert (terms.prior == terms.prior[:, :1]).all()
    by_logits, by_embedding = numbers(option(component, "w_losses"))
    reg = float(option(component, "gd_reg"))
    losses = {"reg": reg * terms.regulariser, "logit": by_logits * terms.logits.mean()}
    losses["repr"] = by_embedding * terms.embeddings.mean()
    for name, loss in losses.items():
        component.compare(f"out_loss_{name}", loss)
    torch.stack(list(losses.values())).sum().backward()
    component.compare("out_grad_logits", logits.grad)
    component.compare("out_grad_reprs", embeddings.grad)
    for match in component.outputs(r"grad_(?P<layer>W_\w+)_(?P<kind>weight|bias)"):
        # The receiver's half of the edge map cancels in the softmax: its gradient is rounding of much larger terms.
        rounding = max(component.tolerance[1], 2e-6 * float(np.abs(component[match[0]]).max()))
        component.compare(match[0], our_parameter(kernel, f"{match['layer']}.{match['kind']}").grad, atol=rounding)


@checks("graph/schedule*")
def check_schedule(component: Component) -> None:
    epochs = int(component.number(r"(\d+) epochs"))
    said = re.search(r"decay at ([\d, and]+)", component.text)
    assert said is not None
    decays = [int(number) for number in re.findall(r"\d+", said[1])]
    # A boundary half an epoch early is the same boundary, whatever d / epochs * epochs rounds to.
    schedule = Schedule(decay="step", milestones=tuple((d - 0.5) / epochs for d in decays), gamma=0.1, warmup=0.0)
    rates = np.array([rate_factor(schedule, epoch, epochs) for epoch in range(epochs)])
    np.testing.assert_allclose(np.unique(rates)[::-1], [0.1**number for number in range(len(decays) + 1)])
    component.compare("out_decay_epochs", np.flatnonzero(rates[1:] < rates[:-1]) + 1)  # counted from 1
    # What the loop measures and keeps every so often: after every n-th epoch and the last (training/loop.py).
    every = int(component.number(r"saved \(every (\d+)"))
    due = [epoch for epoch in range(1, epochs + 1) if epoch % every == 0 or epoch == epochs]
    component.compare("out_save_epochs", due)
    steps = int(component.number(r"print_steps are multiples of (\d+)"))
    component.compare("out_print_steps", steps * np.arange(1, len(component["out_print_steps"]) + 1))


class MeanGRU(nn.Module):
    """The published skeleton encoder, several samples of a clip averaged: (B, S, T, D) -> logits and embedding."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        layers = sum(key.startswith("gru.weight_ih_l") for key in shapes)
        _, size = shapes["gru.weight_ih_l0"]
        classes, hidden = shapes["fc.weight"]
        self.gru = nn.GRU(size, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Outputs:
        embedding = self.gru(x.flatten(0, 1))[0].mean(1)
        logits = self.fc(embedding)
        samples = x.shape[:2]
        return Outputs({HEAD: logits.unflatten(0, samples).mean(1)}, embedding.unflatten(0, samples).mean(1))


def part_of(shapes: dict[str, list[int]], prefix: str) -> dict[str, list[int]]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def filled(network: nn.Module, shapes: dict[str, list[int]], prefix: str) -> nn.Module:
    network.load_state_dict({key: torch.from_numpy(fill.value(prefix + key, tuple(s))) for key, s in shapes.items()})
    return network


def released_method(component: Component, teachers: list[str], order: list[str]) -> Graph:
    shapes = part_of(component.meta["state"], "kernel.")
    said = option(component, "w_modalities")
    weights = numbers(said) * (len(order) if said.startswith("all") else 1)
    by_logits, by_embedding = numbers(option(component, "w_losses"))
    metric = re.search(r"\b(cosine|l1|l2|kl)\b", component.meta["call"])
    dim = shapes["W_repr.weight"][1]
    classes = {HEAD: shapes["W_logit.weight"][1]}
    options = {
        "kernel_size": shapes["W_logit.weight"][0],
        "regulariser": float(option(component, "gd_reg")),
        "logits": by_logits,
        "embeddings": by_embedding,
        "metric": metric[1] if metric else "cosine",
        "prior": {name: weights[order.index(name)] for name in teachers},
        "variant": "released",
    }
    method = build_method("graph", MethodContext(dim, dict.fromkeys(teachers, dim), classes, None), options)
    kernel = filled_kernel(shapes, teachers, "kernel.")
    method.receivers["of_student"].kernel.load_state_dict(kernel.state_dict())
    return method


def weighted(losses: Losses) -> dict[str, Tensor]:
    def value(loss: Loss) -> Tensor:
        return loss.weight * loss.values.mean()

    return {name: value(loss) for name, loss in losses.items()}


@checks("graph/train_step_classification*")
def check_steps(component: Component) -> None:
    order = option(component, "modalities").split(",")
    student_name = option(component, "xfer_to")
    teachers = [name for name in order if name != student_name]
    networks = {}
    for number, name in enumerate(order):
        shapes = part_of(component.meta["state"], f"embed{number}.")
        networks[name] = filled(MeanGRU(shapes), shapes, f"embed{number}.")
    student = networks[student_name]
    method = released_method(component, teachers, order)
    task = Recognition(method.context.classes)
    optimizer = torch.optim.SGD(
        [*student.parameters(), *method.parameters()],
        lr=float(option(component, "lr")),
        momentum=float(option(component, "momentum")),
        weight_decay=float(option(component, "wd")),
    )
    clip = component.number(r"clipped to total L2 norm ([\d.]*\d)", float("inf"))
    steps = sorted({int(match[1]) for key in component.arrays if (match := re.match(r"in_step(\d+)_", key))})
    for step in steps:
        outputs = {n: networks[n](torch.from_numpy(component[f"in_step{step}_m{m}"])) for m, n in enumerate(order)}
        labels = torch.from_numpy(component[f"in_step{step}_label"]).long()
        for match in component.outputs(rf"step{step}_acc_(?P<name>\w+)"):
            component.compare(match[0], (outputs[match["name"]].logits[HEAD].argmax(1) == labels).float().mean())
        batch = Batch({}, {HEAD: labels}, torch.arange(len(labels)), torch.zeros(len(labels)), {})
        losses = weighted(method(outputs[student_name], {name: outputs[name] for name in teachers}, batch))
        losses |= weighted(task.loss(outputs[student_name], batch))
        for ours, published in (
            (f"label_{HEAD}", "cls"),
            ("graph_regulariser", "reg"),
            ("graph_logits", "logit"),
            ("graph_embeddings", "repr"),
        ):
            component.compare(f"out_step{step}_loss_{published}", losses[ours])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), clip)
        for match in component.outputs(rf"grad{step}_student__(?P<key>\w+)"):
            component.compare(match[0], student.get_parameter(match["key"].replace("__", ".")).grad)
        optimizer.step()
        assert all(p.grad is None for name in teachers for p in networks[name].parameters())
    for match in component.outputs(r"student__(?P<key>\w+)"):
        component.compare(match[0], student.get_parameter(match["key"].replace("__", ".")))
    kernel = method.receivers["of_student"].kernel
    for match in component.outputs(r"kernel__(?P<key>\w+)"):
        component.compare(match[0], our_parameter(kernel, match["key"].replace("__", ".")))
