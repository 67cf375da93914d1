"""How the answers of several teachers become one: weights, and the weighted sum of logits.

Radevski, Grujicic, Blaschko, Moens, Tuytelaars: Multimodal Distillation for Egocentric Action Recognition, ICCV 2023,
arXiv 2307.07483, section 3.

    z[b] = sum_m w[m] * z_m[b]            logits are summed, not probabilities
    w    = 1 / M                          uniform
    w    = softmin_m( mean_b CE_m / g )   held_out: over clips the teachers were not trained on
    w[b] = softmin_m( CE_m[b] / g )       per_sample: by each clip's own label

    symbol   here      meaning
    M        M         number of teachers
    z_m      logits    teacher m's logits, stacked as (B, M, C)
    CE_m     losses    cross-entropy of teacher m
    g        gamma     temperature of the weights: small trusts the best teacher alone, large trusts all alike

A teacher that could not see a clip gets weight zero there, and the others' weights are scaled to sum to one again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import RecipeError


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, M) of each teacher on each clip, in nats; 0 where the label is -1 (absent).

    Args:
        logits: (B, M, C).
        labels: class index (B,), -1 where absent.
    """
    log_probabilities = functional.log_softmax(logits.float(), dim=2)
    index = labels.clamp(min=0)[:, None, None].expand(-1, logits.shape[1], 1)  # (B, M, 1)
    losses = -log_probabilities.gather(2, index).squeeze(2)  # (B, M)
    return torch.where((labels >= 0)[:, None], losses, torch.zeros_like(losses))


def softmin_weights(losses: Tensor, gamma: float) -> Tensor:
    """Weights (..., M) that sum to one over the last axis, larger where the loss is smaller.

    Args:
        losses: (..., M).
        gamma: temperature, above 0.

    Raises:
        RecipeError: gamma is not above 0.
    """
    if not gamma > 0:
        raise RecipeError(f"gamma of the teacher weights must be above 0 (got {gamma})")
    return torch.softmax(-losses / gamma, dim=-1)


def uniform_weights(count: int) -> Tensor:
    """The same weight 1/M for each of `count` teachers: (M,)."""
    return torch.full((count,), 1.0 / count)


def held_out_weights(logits: Tensor, labels: Tensor, gamma: float, present: Tensor | None = None) -> Tensor:
    """Weights (M,) by each teacher's mean loss over held-out clips.

    Args:
        logits: (N, M, C) on clips that no teacher was trained on.
        labels: (N,), -1 where absent; such clips do not count.
        gamma: temperature, above 0.
        present: (N, M) bool: what each teacher could see; None means everything. A teacher that saw no labelled clip
            gets the mean loss of the others.
    """
    counts = (labels >= 0)[:, None].expand(-1, logits.shape[1])  # (N, M)
    if present is not None:
        counts = counts & present
    seen = counts.sum(0)  # (M,)
    total = torch.where(counts, cross_entropies(logits, labels), 0.0).sum(0)
    losses = total / seen.clamp(min=1)
    others = losses[seen > 0].mean() if bool((seen > 0).any()) else losses.new_zeros(())
    return softmin_weights(torch.where(seen > 0, losses, others), gamma)


def per_sample_weights(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Weights (B, M) by each clip's own label; uniform where the label is absent (-1). Shapes as `cross_entropies`."""
    return softmin_weights(cross_entropies(logits, labels), gamma)


def present_weights(weights: Tensor, present: Tensor) -> Tensor:
    """Weights (B, M) with zero where a teacher saw nothing and the rest scaled to sum to one.

    Where all teachers that are present have weight zero they share equally; where none is present all are zero.

    Args:
        weights: (M,) or (B, M), 0 or more.
        present: (B, M) bool.
    """
    kept = weights.expand(present.shape) * present
    kept = torch.where(kept.sum(1, keepdim=True) > 0, kept, present.to(kept.dtype))
    return kept / kept.sum(1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)


def combine(logits: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
    """The ensemble's logits (B, C).

    Args:
        logits: (B, M, C).
        weights: (M,) for all clips or (B, M).
        present: (B, M) bool: what each teacher could see; None means everything and leaves the weights as given.

    Returns:
        (B, C); a row of zeros where no teacher saw the clip (`any_present` says which these are).
    """
    weights = weights.to(device=logits.device)
    if present is None:
        return (logits * weights.expand(logits.shape[:2])[:, :, None]).sum(1)
    # Absent teachers answered for zeros; whatever they said (even NaN) must not leak through a weight of zero.
    heard = torch.where(present[:, :, None], logits, torch.zeros_like(logits))
    return (heard * present_weights(weights, present)[:, :, None]).sum(1)


def any_present(present: Tensor) -> Tensor:
    """Which clips (B,) at least one teacher could see. `present`: (B, M) bool."""
    return present.any(1)
