"""The loss of anchor-free temporal detection, from a detector's raw outputs and annotated segments.

Lin et al.: AFSD, CVPR 2021, section 3.4; as used by Generative Model-based Feature Knowledge Distillation, AAAI 2024,
arXiv 2312.08644, whose weights are `WEIGHTS` and whose background term is `background_loss`.

    term                     sum over                  of                                                 divided by
    loc                      positive anchors          1 - GIoU(loc, target)                              N
    conf                     all anchors               focal(conf, label)                                 N
    prop_loc                 refined positives         |prop_loc - (target - loc) / (w/2)|, both sides    N_r
    prop_conf                all anchors               focal(prop_conf, refined label)                    N_r
    center                   positive anchors          BCE(center, IoU(loc + w/2 prop_loc, target))       N
    start, end               frames                    BCE(mean tanh(feature), map), a mean               frames
    start_prop, end_prop     every fourth frame        the same of both proposal features, added          frames

w = l + r is the coarse length; a positive is refined where its coarse IoU is at least `overlap`; N and N_r count
positives and refined ones, at least 1. Raw outputs, A anchors, K + 1 classes, T frames:

    loc (B, A, 2)                 distances in frames of the window, 0 or more
    prop_loc (B, A, 2)            correction of the distances, in units of w/2
    conf, prop_conf (B, A, K+1)   logits, class 0 is background
    center (B, A), (B, A, 1)      logits
    priors (A,), (A, 1), (B, A)   centres, fractions of the window; the same for every clip
    start, end (B, C, T)          rectified features
    start_loc_prop, end_loc_prop, start_conf_prop, end_conf_prop (B, C, T/4), the same

By default N are a clip's own and the IoU that `center` is to predict is a constant. `variant: released` reproduces the
published code. There N are the whole batch's, so that a clip's loss depends on its neighbours (each clip gets its
sum * B / N: the mean over the batch is the published number). And the IoU is differentiated as a target: where the
logit is below 0 that teaches the segment to fit worse.

No Python loop over clips or anchors, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.methods.base import precise
from vidistill.tasks.anchor_targets import Matches, boundary_maps, match_anchors, match_refined
from vidistill.tasks.segment_losses import focal_loss, giou_loss, iou, mean_boundary_bce

Variant = Literal["default", "released"]

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "loc": 10.0,
        "conf": 1.0,
        "prop_loc": 10.0,
        "prop_conf": 1.0,
        "center": 1.0,
        "start": 1.0,
        "end": 1.0,
        "start_prop": 0.1,
        "end_prop": 0.1,
    }
)
"""Published factors of the terms."""
BACKGROUND_WEIGHT = 35.0
"""Published factor of `background_loss`."""


def anchor_losses(
    outputs: Mapping[str, Tensor],
    segments: Tensor,
    maps: Tensor | None = None,
    *,
    frames: int,
    overlap: float = 0.5,
    alpha: Tensor | float = 0.25,
    variant: Variant = "default",
) -> dict[str, Tensor]:
    """All terms of the table at the file's head.

    Args:
        outputs: the detector's raw outputs.
        segments: (B, M, 3): start and end as fractions of the window, class; class -1 is padding.
        maps: starts and ends (B, 2, T); None: made from the segments.
        frames: length of the window.
        overlap: least coarse IoU of a refined positive.
        alpha: focal factors, see `focal_loss`.
        variant: see the file's head.

    Returns:
        The terms by name, not weighted, (B,) each.
    """
    maps = boundary_maps(segments, frames=frames) if maps is None else maps
    of_segments = segment_terms(outputs, segments, frames=frames, overlap=overlap, alpha=alpha, variant=variant)
    return of_segments | boundary_terms(outputs, maps)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float] = WEIGHTS) -> Tensor:
    """The terms (B,) that occur, each times its weight, added (B,)."""
    return torch.stack([weights[name] * values for name, values in terms.items()]).sum(0)


def segment_terms(
    outputs: Mapping[str, Tensor],
    segments: Tensor,
    *,
    frames: int,
    overlap: float = 0.5,
    alpha: Tensor | float = 0.25,
    variant: Variant = "default",
) -> dict[str, Tensor]:
    """The terms loc, conf, prop_loc, prop_conf and center, (B,) each; arguments as `anchor_losses`.

    Segments of class 0 say the same as none: no anchor is positive.
    """
    coarse, correction = precise(outputs["loc"]), precise(outputs["prop_loc"])
    priors = outputs["priors"].reshape(-1)[: coarse.shape[1]]
    matches = match_anchors(priors, segments, frames=frames)
    refined = match_refined(coarse, matches, overlap=overlap)
    positive, sure = matches.positive, refined.positive
    missing = (correction - refined.distances).abs().sum(-1)
    centers = _center_bce(outputs["center"], coarse, correction, matches, detach=variant == "default")
    sums = {
        "loc": (_masked(giou_loss(_safe(coarse, positive), matches.distances), positive), positive),
        "conf": (focal_loss(outputs["conf"], matches.label, alpha=alpha), positive),
        "prop_loc": (_masked(missing, sure), sure),
        "prop_conf": (focal_loss(outputs["prop_conf"], refined.label, alpha=alpha), sure),
        "center": (_masked(centers, positive), positive),
    }
    return {name: _per_positive(values.sum(1), mask, variant) for name, (values, mask) in sums.items()}


def boundary_terms(outputs: Mapping[str, Tensor], maps: Tensor) -> dict[str, Tensor]:
    """The terms start, end, start_prop and end_prop, (B,) each, from features (B, C, T) and maps (B, 2, T)."""
    terms = {}
    for number, side in enumerate(("start", "end")):
        boundary = maps[:, number]
        terms[side] = mean_boundary_bce(outputs[side], boundary)
        branches = (outputs[f"{side}_loc_prop"], outputs[f"{side}_conf_prop"])
        terms[f"{side}_prop"] = torch.stack([mean_boundary_bce(each, boundary) for each in branches]).sum(0)
    return terms


def background_loss(outputs: Mapping[str, Tensor], *, alpha: Tensor | float = 0.25) -> Tensor:
    """The focal loss (B,) of calling every anchor background, summed: what the head should say of background features.

    It is the loss against `background_intervals`, all of class 0: no anchor is positive, so nothing but `conf` is left
    and N is 1.
    """
    conf = outputs["conf"]
    label = torch.zeros(conf.shape[:-1], dtype=torch.int64, device=conf.device)
    return focal_loss(conf, label, alpha=alpha).sum(1)


def _center_bce(center: Tensor, coarse: Tensor, correction: Tensor, matches: Matches, *, detach: bool) -> Tensor:
    """BCE (B, A) of the centre logits with the IoU of the refined segments; without meaning where not positive."""
    half = 0.5 * coarse.sum(-1, keepdim=True)
    # A wild refinement has an IoU below 0.
    fit = iou(_safe(coarse + half * correction, matches.positive), matches.distances).clamp(min=0.0)
    logits = precise(center).reshape(fit.shape)
    return functional.binary_cross_entropy_with_logits(logits, fit.detach() if detach else fit, reduction="none")


def _safe(distances: Tensor, mask: Tensor) -> Tensor:
    """Distances (B, A, 2) with ones where the mask is False: no infinite gradient meets a zero there."""
    return torch.where(mask.unsqueeze(-1), distances, 1.0)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0)


def _per_positive(sums: Tensor, positive: Tensor, variant: Variant) -> Tensor:
    """Sums (B,) divided by the number of positives among (B, A), at least 1: a clip's own, or the batch's over B."""
    if variant == "released":
        return sums * len(sums) / positive.sum().clamp(min=1)
    return sums / positive.sum(1).clamp(min=1)
