"""Losses of generative feature distillation: values a clip, from maps, latents and attentions.

Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644; `generative.py` has the equations.
Means over all elements of a clip: their mean over the batch is the published mean over all elements.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.methods.base import frozen, precise

LATENT_WEIGHT = 0.1


def mean_squares(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference (B,) of two tensors (B, ...) of one shape, with gradient into both."""
    return (precise(one) - precise(other)).square().flatten(1).mean(1)


def latent_divergence(mean: Tensor, log_variance: Tensor, attention: Tensor) -> Tensor:
    """KL( N(mean, variance) || N(A, 1) ), averaged over steps and channels.

    Args:
        mean: (B, T, C).
        log_variance: (B, T, C).
        attention: A (B, C, T), the mean of the prior.

    Returns:
        (B,), 0 or more.
    """
    mean, log_variance = precise(mean), precise(log_variance)
    distance = (mean - precise(attention).transpose(1, 2)).square()
    return (0.5 * (distance + log_variance.exp() - 1.0 - log_variance)).flatten(1).mean(1)


def cvae_loss(
    reconstruction: Tensor,
    feature: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    attention: Tensor,
    latent_weight: float = LATENT_WEIGHT,
) -> Tensor:
    """What a CVAE learns from: mean squares of the reconstruction and the divergence from the prior.

    Args:
        reconstruction: (B, C, T, H, W).
        feature: (B, C, T, H, W).
        mean: of the latent (B, T, C).
        log_variance: of the latent (B, T, C).
        attention: A (B, C, T).
        latent_weight: factor of the divergence.

    Returns:
        (B,), 0 or more.
    """
    return mean_squares(reconstruction, feature) + latent_weight * latent_divergence(mean, log_variance, attention)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference (B,) of attentions (B, C, T), in [0, 1]; none of the gradient goes to the teacher.

    A teacher of another number of steps is averaged, or interpolated, to the student's.
    """
    target, steps = frozen(teacher), student.shape[2]
    if target.shape[2] > steps:
        target = functional.interpolate(target, size=steps, mode="area")
    elif target.shape[2] < steps:
        target = functional.interpolate(target, size=steps, mode="linear", align_corners=False)
    return mean_squares(student, target)


def summed_probabilities(logits: Tensor) -> Tensor:
    """Probabilities of classes, added up over time: (B, K, T) -> (B, K); T in all."""
    return torch.softmax(precise(logits), dim=1).sum(2)


def double_softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The released label loss of recognition, for parity: summed probabilities taken for logits of a cross-entropy.

    Being a softmax of numbers in [0, T], it is bounded away from zero, and a clip that is surely right still teaches.

    Args:
        logits: (B, K, T), a score for each class at each time.
        labels: (B,).

    Returns:
        (B,).
    """
    return functional.cross_entropy(summed_probabilities(logits), labels, reduction="none")
