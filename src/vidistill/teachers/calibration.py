"""Temperature scaling: one number a teacher that makes its confidence honest.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, section 4.2.

    T* = argmin_T  - mean_i log softmax(z_i / T)[y_i]

The loss is convex in 1/T, so it has one minimum over log T and a golden-section search finds it without gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures searched; a set that a teacher knows by heart would otherwise ask for zero."""


def negative_log_likelihood(
    logits: NDArray[Any] | Tensor, labels: NDArray[Any] | Tensor, temperature: float, smoothing: float = 0.0
) -> float:
    """Mean cross-entropy of softmax(logits / temperature) in nats.

    Args:
        logits: (N, C).
        labels: (N,) in [0, C), N >= 1.
        temperature: above 0.
        smoothing: share of each target that is spread evenly over all classes.
    """
    scaled = torch.as_tensor(logits).detach().cpu().double().numpy() / temperature
    scaled = scaled - scaled.max(1, keepdims=True)
    own = scaled[np.arange(len(scaled)), torch.as_tensor(labels).cpu().numpy()]
    target = (1 - smoothing) * own + smoothing * scaled.mean(1)
    return float(np.mean(np.log(np.exp(scaled).sum(1)) - target))


def fit_temperature(
    logits: NDArray[Any] | Tensor, labels: NDArray[Any] | Tensor, smoothing: float | None = None
) -> float:
    """The temperature in [0.05, 20] that minimises the negative log-likelihood; above 1: the logits are overconfident.

    Args:
        logits: (N, C), on clips the network was not trained on.
        labels: (N,), -1 where absent; such clips do not count. 1.0 is returned where none is labelled.
        smoothing: of the targets; None takes 1 / (N + 2) after Platt (1999, section 2.2). Without any, clips that are
            all right would ask for a temperature of zero, as if a few dozen clips could prove certainty.

    Raises:
        DataError: a logit is not finite.
    """
    answers = torch.as_tensor(logits).detach().cpu()
    truth = torch.as_tensor(labels).cpu().long()
    answers, truth = answers[truth >= 0], truth[truth >= 0]
    if len(truth) == 0:
        return 1.0
    if not bool(torch.isfinite(answers).all()):
        raise DataError("cannot calibrate: the logits hold NaN or infinity", todo="Look at the network's training.")
    share = 1.0 / (len(truth) + 2) if smoothing is None else smoothing

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(answers, truth, math.exp(logarithm), share)

    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left = loss(left)
    at_right = loss(right)
    while high - low > 1e-5:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2.0)
