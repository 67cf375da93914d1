"""Checks of targets and losses of the anchor-free detector: matching, background, boundary clips, loss terms."""

from __future__ import annotations

import random
import re

import numpy as np
import torch
from components import Component, checks
from torch import Tensor

from vidistill.tasks.anchor_losses import WEIGHTS, segment_terms, weighted_sum
from vidistill.tasks.anchor_targets import background_intervals
from vidistill.tasks.boundary_clips import boundary_clip
from vidistill.tasks.segment_losses import focal_loss, giou_loss, ioa, iou, linear_iou_loss, mean_boundary_bce

TERMS = {"l": "loc", "c": "conf", "prop_l": "prop_loc", "prop_c": "prop_conf", "ct": "center"}
"""Published names of the loss terms -> ours."""


def tensor(component: Component, key: str, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(component[key]).requires_grad_(grad)


def compare_summary(component: Component, key: str, ours: Tensor) -> None:
    """Compare with `key` as stored: whole, as statistics (mean, std, min, max, sum of sizes), at chosen places."""
    values = ours.detach().double().numpy()
    if key in component:
        component.compare(key, values)
    if f"{key}_stats" in component:
        sums = [values.mean(), values.std(), values.min(), values.max(), np.abs(values).sum()]
        component.compare(f"{key}_stats", sums)
    if f"{key}_flatindex" in component:
        component.settle(f"{key}_flatindex")
        component.compare(f"{key}_values", values.reshape(-1)[component[f"{key}_flatindex"]])


@checks("generative/background_intervals*")
def check_background(component: Component) -> None:
    for match in component.outputs(r"(?P<case>.*)"):
        rows = tensor(component, f"in_{match['case']}")
        ours = background_intervals(rows[None], variant="released")[0]
        component.compare(match[0], ours[ours[:, 2] >= 0])
        right = background_intervals(rows[None])[0]
        right = right[right[:, 2] >= 0]
        assert (right[:, 1] > right[:, 0]).all() and (right[1:, 0] >= right[:-1, 1]).all()


@checks("generative/focal_loss*")
def check_focal(component: Component) -> None:
    alpha = component.number(r"alpha\s*=\s*([\d.]+)", 0.25)
    gamma = component.number(r"gamma\s*=?\s*([\d.]+)", 2.0)
    logits = tensor(component, "in_logits", grad=True)
    factors = torch.full(logits.shape[-1:], 1.0 - alpha)
    factors[int(component.number(r"balance_index\s*=\s*(\d+)", 0))] = alpha
    values = focal_loss(logits, tensor(component, "in_target").long(), alpha=factors, gamma=gamma)
    component.compare("out_sum", values.sum())
    component.compare("out_mean", values.mean())
    component.compare("out_grad_logits", torch.autograd.grad(values.sum(), logits)[0])


@checks("generative/iou_losses*")
def check_overlaps(component: Component) -> None:
    kinds = {"giou": giou_loss, "linear_iou": linear_iou_loss, "calc_iou": iou, "ioa": ioa}
    names = "|".join(kinds)
    for match in component.outputs(rf"(?P<grad>grad_)?(?P<kind>{names})(?:_(?P<how>mean|sum|weighted))?"):
        predicted, target = tensor(component, "in_pred", grad=True), tensor(component, "in_target")
        values = kinds[match["kind"]](predicted, target)
        if match["how"] == "weighted":
            values = values * tensor(component, "in_weight")
        elif match["how"]:
            values = getattr(values, match["how"])()
        component.compare(match[0], torch.autograd.grad(values.sum(), predicted)[0] if match["grad"] else values)


@checks("generative/boundary_bce*")
def check_boundaries(component: Component) -> None:
    maps = tensor(component, "in_scores")
    step = maps.shape[-1] // component["in_start"].shape[1]
    if "out_scores_down" in component:
        component.compare("out_scores_down", maps[..., ::step])
    for number, side in enumerate(("start", "end")):
        features = tensor(component, f"in_{side}", grad=True)  # published with channels last
        values = mean_boundary_bce(features.transpose(1, 2), maps[:, number])
        component.compare(f"out_loss_{side}", values.mean())
        component.compare(f"out_grad_{side}", torch.autograd.grad(values.mean(), features)[0])


@checks("generative/multisegment_loss*")
def check_segment_terms(component: Component) -> None:
    names = ("loc", "conf", "prop_loc", "prop_conf", "center")
    options = {"frames": int(component.number(r"clip_length\s*=\s*(\d+)", 256))}
    overlap = component.number(r"overlap_thresh\s*=\s*([\d.]+)", 0.5)
    for case in sorted({match["case"] for match in component.outputs(r"(?P<case>\w+?)_loss_l")}):
        outputs = {name: tensor(component, f"in_{name}", grad=True) for name in names}
        outputs["priors"] = tensor(component, "in_priors")
        found = [re.fullmatch(rf"in_{case}_target(\d+)", key) for key in component.arrays]
        keys = sorted((match[0] for match in found if match), key=lambda key: int(key.split("target")[1]))
        segments = unchecked([component[key] for key in keys])
        terms = segment_terms(outputs, segments, overlap=overlap, variant="released", **options)
        for published, name in TERMS.items():
            component.compare(f"out_{case}_loss_{published}", terms[name].mean())
        inputs = [outputs[name] for name in names]
        gradients = torch.autograd.grad(
            weighted_sum(terms, stated_weights(component)).mean(), inputs, allow_unused=True
        )
        for name, tensor_, gradient in zip(names, inputs, gradients, strict=True):
            compare_summary(
                component, f"out_{case}_grad_{name}", torch.zeros_like(tensor_) if gradient is None else gradient
            )


def stated_weights(component: Component) -> dict[str, float]:
    """The factors of `grad of 10*l + c + …` in the notes, by our names."""
    stated = re.search(r"grad of ([^.]*)\.", component.text)
    if stated is None:
        return dict(WEIGHTS)
    parts = [part.strip().rpartition("*") for part in stated[1].split("+")]
    return {TERMS[name]: float(factor or 1) for factor, _, name in parts}


def unchecked(rows: list[np.ndarray]) -> Tensor:
    """Segments as one padded tensor, wrong ones (published background may be inverted) as they are."""
    padded = torch.full((len(rows), max(map(len, rows)), 3), -1.0)
    for number, each in enumerate(rows):
        padded[number, : len(each)] = torch.from_numpy(each)
    return padded


@checks("generative/ssl_augment*")
def check_boundary_clip(component: Component) -> None:
    for match in component.outputs(r"flag_(?P<case>\w+)_seed(?P<seed>\d+)"):
        case, seed = match["case"], int(match["seed"])
        end = f"{case}_seed{seed}"
        segments, frames = component[f"in_annos_{case}"], component[f"out_frames_{end}"]
        ours = boundary_clip(
            segments,
            random.Random(seed).randrange,
            chunk=int(component[f"in_th_{case}"]),
            frames=len(frames),
            variant="released",
        )
        component.compare(match[0], ours.found)
        component.compare(f"out_frames_{end}", ours.frames)
        # Without a move the published function gives its input back.
        component.compare(f"out_annos_{end}", np.float32(ours.proposals) if ours.found else segments)
