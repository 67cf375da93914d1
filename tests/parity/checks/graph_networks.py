"""Checks of the graph system's networks: encoders, detectors, the way from one to the other, one training step.

All weights pass through the key map that `vidistill import --published graph` uses.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor
from torch.nn import functional

from vidistill.models import Network, build_network, load_weights, save_weights
from vidistill.models.import_ import import_checkpoint
from vidistill.models.published import load_published, published_keys

Shapes = Mapping[str, list[int]]
HEAD = "action"


def part(component: Component, prefix: str = "") -> dict[str, list[int]]:
    """The published keys under `prefix`, without it, and their shapes."""
    state: Shapes = component.meta["state"]
    return {key.removeprefix(prefix): shape for key, shape in state.items() if key.startswith(prefix)}


def values(shapes: Shapes, prefix: str = "") -> dict[str, Tensor]:
    """The weights that the published network was filled with; `prefix` belongs to the keys they are made from."""
    return {key: torch.from_numpy(np.asarray(fill.value(prefix + key, tuple(s)))) for key, s in shapes.items()}


def layers(shapes: Shapes, recurrent: str) -> dict[str, int]:
    """`hidden` and `layers` of the GRU under `recurrent`."""
    count = sum(bool(re.fullmatch(rf"{re.escape(recurrent)}weight_hh_l\d+", key)) for key in shapes)
    return {"hidden": shapes[f"{recurrent}weight_hh_l0"][1], "layers": count}


def encoder_options(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Our network for the published encoder under `prefix`, as the detector takes it."""
    if f"{prefix}conv1.weight" in shapes:
        # The published pooling takes a window of 7 x 7, whatever the size of the last map.
        return {"network": "stacked_resnet18", "variant": "released"}
    return {"network": "gru_mean", "dropout": 0.0, **layers(shapes, f"{prefix}gru.")}


def unstacked(x: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) that stack to x (B, T x C, H, W) in the published order; 3, 2 or 1 channels a frame."""
    channels = next(count for count in (3, 2, 1) if x.shape[1] % count == 0)
    return x.unflatten(1, (-1, channels)).transpose(1, 2)


def build_encoder(component: Component, shapes: Shapes, input_shape: tuple[int, ...]) -> Network:
    options = encoder_options(shapes)
    return build_network(options.pop("network"), input_shape, {HEAD: shapes["fc.weight"][0]}, options)


def build_detector(shapes: Shapes, input_shape: tuple[int, ...], **encoder: Any) -> Network:
    """The detector of published shapes; the encoder's own classifier has no counterpart in ours."""
    options = {"encoder": {**encoder_options(shapes, "embed."), **encoder}, "dropout": 0.0, **layers(shapes, "rnn.")}
    return build_network("detector", input_shape, {HEAD: shapes["fc.weight"][0]}, options)


def windows(component: Component) -> Tensor:
    """Inputs (B, S, n, D), or (B, S, C, n, H, W) from the published order (B, S, n, C, H, W)."""
    x = torch.from_numpy(component["in_x"])
    return x.transpose(2, 3) if x.dim() == 6 else x


def compare_outputs(component: Component, network: Network, x: Tensor) -> None:
    with torch.no_grad():
        outputs = network(x)
    component.compare("out_logit", outputs.logits[HEAD])
    component.compare("out_repr", outputs.embedding)


def compare_buffers(component: Component, network: Network, shapes: Shapes) -> None:
    """Outputs named as published keys, with _ for dots: the state after the forward pass."""
    keys, state = published_keys("graph", network), network.state_dict()
    for key in shapes:
        if (name := f"out_{key.replace('.', '_')}") in component:
            component.compare(name, state[keys(key)])


@checks("graph/cnn_*", "graph/gru_*")
def check_encoder(component: Component) -> None:
    shapes, x = part(component), torch.from_numpy(component["in_x"])
    x = unstacked(x) if "conv1.weight" in shapes else x
    network = build_encoder(component, shapes, tuple(x.shape[1:]))
    load_published(network, "graph", values(shapes))
    network.train("train()" in component.text)
    compare_outputs(component, network, x)
    compare_buffers(component, network, shapes)


@checks("graph/tad_*")
def check_detector(component: Component) -> None:
    shapes, x = part(component), windows(component)
    network = build_detector(shapes, tuple(x.shape[1:]))
    load_published(network, "graph", values(shapes))
    network.train("train()" in component.text)
    compare_outputs(component, network, x)
    compare_buffers(component, network, shapes)


@checks("graph/checkpoint_transfer*")
def check_transfer(component: Component) -> None:
    """A published classification file becomes ours, and that the encoder of a detector with other classes."""
    source, shapes, x = part(component, "src."), part(component, "dst."), windows(component)
    with tempfile.TemporaryDirectory() as folder:
        published, ours = Path(folder) / "embed_200.pth", Path(folder) / "encoder.safetensors"
        torch.save({f"module.{key}": value for key, value in values(source, "src.").items()}, published)
        encoder = build_encoder(component, source, tuple(x.shape[2:]))
        encoder.load_state_dict(import_checkpoint(published, published_keys("graph", encoder)))
        save_weights(encoder, ours)
        load_weights(encoder, ours)
        network = build_detector(shapes, tuple(x.shape[1:]), weights=str(ours)).eval()
    keys = published_keys("graph", network)
    fresh = {key: value for key, value in values(shapes, "dst.").items() if not key.startswith("embed.")}
    missing = network.load_state_dict({keys(key): value for key, value in fresh.items()}, strict=False).missing_keys
    assert all(key.startswith("backbone.encoder.") for key in missing)
    compare_outputs(component, network, x)


@checks("graph/train_step_single_detection*")
def check_training_steps(component: Component) -> None:
    prefix = next(key for key in component.meta["state"] if key.endswith("rnn.weight_ih_l0"))
    prefix = prefix.removesuffix("rnn.weight_ih_l0")
    shapes, x = part(component, prefix), windows(component)
    network = build_detector(shapes, tuple(x.shape[1:])).train()
    start = values(shapes, prefix)
    load_published(network, "graph", start)
    keys = published_keys("graph", network)
    ours = {key: keys(key) for key in shapes}
    optimizers = published_optimizers(component, network)
    losses = []
    for step in range(np.size(component["out_loss"])):
        losses.append(training_step(component, network, x, optimizers))
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        for match in component.outputs(rf"grad{step}_student__(?P<key>\w+)"):
            component.compare(match[0], gradients[ours[match["key"].replace("__", ".")]], **tolerance(component, ""))
    component.compare("out_loss", np.array(losses), **tolerance(component, ""))
    state = network.state_dict()
    for match in component.outputs(r"student__(?P<key>\w+)"):
        key = match["key"].replace("__", ".")
        # The published encoder's own classifier gets no gradient: it must be what it was.
        after = start[key] if ours[key] is None else state[ours[key]]
        component.compare(match[0], after, **tolerance(component, "SGD" if key.startswith("embed.") else "Adam"))


def published_optimizers(component: Component, network: Network) -> list[torch.optim.Optimizer]:
    """SGD over the encoder, Adam over the rest."""
    encoder = [p for name, p in network.named_parameters() if name.startswith("backbone.encoder.")]
    rest = [p for name, p in network.named_parameters() if not name.startswith("backbone.encoder.")]
    number = r"([\d.]+(?:e-?\d+)?)"
    decayed = torch.optim.SGD(
        encoder,
        lr=component.number(rf"SGD \(lr {number}", 1e-3),
        momentum=component.number(rf"momentum {number}", 0.9),
        weight_decay=component.number(rf"wd {number}", 5e-4),
    )
    return [decayed, torch.optim.Adam(rest, lr=component.number(rf"Adam \(lr {number}", 1e-3))]


def training_step(component: Component, network: Network, x: Tensor, optimizers: list[torch.optim.Optimizer]) -> float:
    """One step on weighted cross-entropy over the flattened steps; gradients are left clipped. Returns the loss."""
    weights = re.search(r"weights \[([\d., ]+)\]", component.text)
    assert weights is not None
    importance = torch.tensor([float(value) for value in weights[1].split(",")])
    labels = torch.from_numpy(component["in_label"]).long().flatten()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = functional.cross_entropy(network(x).logits[HEAD].flatten(0, 1), labels, importance)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), component.number(r"gradient clip (?:norm )?([\d.]+\d|\d)", 5))
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def tolerance(component: Component, optimizer: str) -> dict[str, float]:
    """What the json allows for losses and gradients (""), or for entries that an optimizer updated."""
    clauses = component.meta["tolerance"].split(";")
    clause = next((text for text in clauses if optimizer in text), clauses[0])
    found = {kind: float(value) for kind, value in re.findall(r"\b([ar]tol) ([\d.]+(?:e-?\d+)?)", clause)}
    return {"rtol": found.get("rtol", 0.0), "atol": found.get("atol", 0.0)}
