"""Losses on segments that are given by their distances (left, right) from a point, and the focal loss.

Lin et al.: AFSD, Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section
3.4; Rezatofighi et al.: Generalized Intersection over Union, CVPR 2019; Lin et al.: Focal Loss, ICCV 2017.

    I = min(l, l*) + min(r, r*)        U = (l + r) + (l* + r*) - I        H = max(l, l*) + max(r, r*)
    IoU = I / U        GIoU = IoU - (H - U) / H

Both segments hold the point where all distances are 0 or more; H = U then, and GIoU = IoU. A distance below 0 puts the
point outside: I may fall below 0. Denominators are at least `EPSILON`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.methods.base import precise

EPSILON = torch.finfo(torch.float32).eps
"""Least length, in the unit of the distances, that anything is divided by."""
SMOOTHING = 1e-6
"""Added to the probability in the focal loss, so that its logarithm is finite."""


def shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths I and U (see the file's head) of segments (..., 2) around the same points: (...) each, signed."""
    shared = torch.minimum(first, second).sum(-1)
    return shared, first.sum(-1) + second.sum(-1) - shared


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Temporal IoU of segments around the same point, differentiable in both.

    Args:
        predicted: distances left and right (..., 2), any unit.
        target: the same.

    Returns:
        (...), at most 1; below 0 where negative distances keep the segments apart; 0 where both have length 0.
    """
    shared, union = shared_and_union(precise(predicted), precise(target))
    return shared / union.clamp(min=EPSILON)


def ioa(predicted: Tensor, target: Tensor) -> Tensor:
    """The share (...) of the predicted segment that the target covers. Arguments as `iou`."""
    shared, _ = shared_and_union(precise(predicted), precise(target))
    return shared / precise(predicted).sum(-1).clamp(min=EPSILON)


def linear_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU (...), 0 at equality. Arguments as `iou`."""
    return 1.0 - iou(predicted, target)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (...), 0 at equality. Arguments as `iou`."""
    predicted, target = precise(predicted), precise(target)
    shared, union = shared_and_union(predicted, target)
    hull = torch.maximum(predicted, target).sum(-1)
    return 1.0 - (shared / union.clamp(min=EPSILON) - (hull - union) / hull.clamp(min=EPSILON))


def focal_loss(logits: Tensor, label: Tensor, *, alpha: Tensor | float = 0.25, gamma: float = 2.0) -> Tensor:
    """-alpha_y (1 - p)^gamma log p of the labelled class, p = softmax + 1e-6.

    Args:
        logits: (..., K), finite.
        label: class numbers (...) in [0, K).
        alpha: factor of each class (K,); a number is the factor of class 0, the background, and the others have
            1 - alpha.
        gamma: how little the surer ones count, 0 or more; an even number keeps p above 1 harmless.

    Returns:
        (...), 0 or more up to rounding.
    """
    likely = precise(logits).softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1) + SMOOTHING
    factor = alpha[label] if isinstance(alpha, Tensor) else torch.where(label == 0, alpha, 1.0 - alpha)
    return -factor * (1.0 - likely) ** gamma * likely.log()


def mean_boundary_bce(features: Tensor, boundaries: Tensor) -> Tensor:
    """Binary cross-entropy of the mean over channels of tanh(feature) with a 0/1 map, mean over time.

    Args:
        features: (B, C, T), 0 or more as rectified features are (a mean below 0 counts as 0).
        boundaries: (B, S*T) with S = 1, 2, …; every S-th value is taken, from the first on.

    Returns:
        (B,), at most 100.
    """
    step = boundaries.shape[-1] // features.shape[-1]
    likely = precise(features).tanh().mean(1).clamp(0.0, 1.0)
    # Autocast forbids this function on probabilities; they are float32 here.
    with torch.autocast(likely.device.type, enabled=False):
        return functional.binary_cross_entropy(likely, boundaries[..., ::step].to(likely.dtype), reduction="none").mean(
            -1
        )
