"""Distances between a student's and a teacher's rows, one value a row, as imitation losses weigh them.

Luo, Hsieh, Jiang, Niebles, Fei-Fei: Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018,
arXiv 1712.00108 (the metrics that its released code offers).

    cosine   1 - cos(s, t)
    l1       sum_c |s[c] - t[c]|
    l2       sum_c (s[c] - t[c])^2
    kl       T^2 * sum_c p_t[c] * (log p_t[c] - log p_s[c]),      p = softmax(z / T)

Deviations: a row without direction (all zero) has cosine distance 1 and no gradient; the released code gives it a
gradient of about 1/eps = 1e8, beside which every other row of the batch vanishes. The released `kl` is a mean over
rows and classes that takes no weights, so it cannot be used inside the published loss; the sum over classes is a
value a row. `element_mean=True` divides it by the number of classes: its mean over rows is the released number.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.methods.base import frozen, precise
from vidistill.methods.kd import kd_loss

Metric = Literal["cosine", "l1", "l2", "kl"]
EPSILON = 1e-8
"""Length below which a row has no direction."""


def row_distance(
    student: Tensor, teacher: Tensor, metric: Metric, *, temperature: float = 8.0, element_mean: bool = False
) -> Tensor:
    """Distance of each row; the teacher gets no gradient.

    Args:
        student: (B, C).
        teacher: (B, C).
        metric: see the module.
        temperature: of "kl", above 0.
        element_mean: "kl" as a mean over classes instead of a sum.

    Returns:
        (B,), 0 at equality (cosine: of rows with a direction), at least float32.
    """
    ours, theirs = precise(student), frozen(teacher)
    if metric == "cosine":
        return _cosine_distance(ours, theirs)
    if metric == "l1":
        return (ours - theirs).abs().sum(1)
    if metric == "l2":
        return (ours - theirs).square().sum(1)
    divergence = kd_loss(ours, theirs, temperature)
    return divergence / ours.shape[1] if element_mean else divergence


def _cosine_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    directed = (ours.detach().norm(dim=1) > EPSILON) & (theirs.norm(dim=1) > EPSILON)
    # Rows without direction are replaced before the division, so that their gradient is zero and not 0 * infinity.
    safe = [torch.where(directed[:, None], values, torch.ones_like(values)) for values in (ours, theirs)]
    cosine = functional.cosine_similarity(safe[0], safe[1], dim=1, eps=EPSILON)
    return 1.0 - torch.where(directed, cosine, torch.zeros_like(cosine))
