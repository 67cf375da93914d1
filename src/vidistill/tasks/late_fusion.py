"""Late fusion: probabilities of clips from several streams, e.g. networks of RGB and of flow (two-stream).

Each stream gives logits (N, C), or one row a time step (N, C, T).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.metrics import Floats, probabilities

Variant = Literal["default", "released"]


def fused_probabilities(streams: Sequence[NDArray[Any]], variant: Variant = "default") -> Floats:
    """Probabilities (N, C) of the streams together; each row sums to one.

    Args:
        streams: logits of the same clips and classes, (N, C) or (N, C, T).
        variant: "default": the mean over streams of each stream's probabilities, and over time before it. "released":
            the logits of all streams are added, softmax over classes, sum over time, and softmax again, as in
            generative feature distillation (AAAI 2024). Its last softmax keeps the order of classes and makes all
            probabilities nearly equal: 1 / C +- some percent.

    Raises:
        DataError: no streams, streams of other clips or classes, or for "released" of other numbers of time steps.
    """
    if not streams:
        raise DataError("no streams to fuse")
    rows = [logits[..., None] if logits.ndim == 2 else logits for logits in streams]
    compared = 2 if variant == "default" else 3
    if any(logits.ndim != 3 or logits.shape[:compared] != rows[0].shape[:compared] for logits in rows):
        shapes = ", ".join(str(tuple(logits.shape)) for logits in streams)
        raise DataError(
            f"streams of shapes {shapes} cannot be fused", todo="Give logits of the same clips and classes."
        )
    if variant == "released":
        summed = np.sum([logits.astype(np.float64) for logits in rows], axis=0)
        return probabilities(_by_time(summed).sum(2))
    return np.asarray(np.mean([_by_time(logits).mean(2) for logits in rows], axis=0))


def _by_time(logits: NDArray[Any]) -> Floats:
    """Softmax over C of (N, C, T)."""
    return np.moveaxis(probabilities(np.moveaxis(logits, 1, 2)), 2, 1)
