"""Late fusion: what several streams say of the same clips together, e.g. networks of RGB and of flow (two-stream).

    clips, time steps    p = sum_k w_k p_k / sum_k w_k
    anchors              log p = sum_k w_k log p_k / sum_k w_k,    [s, e] = sum_k w_k [s, e]_k / sum_k w_k

Simonyan and Zisserman: Two-Stream Convolutional Networks, NeurIPS 2014, section 5 (mean of probabilities). Anchor-free
detectors are fused as the published one is, by means of logarithms and of bounds (AFSD, CVPR 2021); there before
decoding, here after it (see `anchor_detection.py`). All w_k are 1 where none are given.

Each stream gives logits (N, C), or one row a time step (N, C, T), or `Predictions` of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.base import Predictions
from vidistill.tasks.metrics import Floats, probabilities

Variant = Literal["default", "released"]
TINY = 1e-12
"""Least probability whose logarithm is taken."""


def fused_probabilities(
    streams: Sequence[NDArray[Any]], variant: Variant = "default", *, weights: Sequence[float] | None = None
) -> Floats:
    """Probabilities (N, C) of the streams together; each row sums to one.

    Args:
        streams: logits of the same clips and classes, (N, C) or (N, C, T).
        variant: "default": the mean over streams of each stream's probabilities, and over time before it. "released":
            the logits of all streams are added, softmax over classes, sum over time, and softmax again, as in
            generative feature distillation (AAAI 2024). Its last softmax keeps the order of classes and makes all
            probabilities nearly equal: 1 / C +- some percent.
        weights: factor of each stream, above 0: of its probabilities in the mean, or with "released" of its logits.

    Raises:
        DataError: no streams, streams of other clips or classes, or for "released" of other numbers of time steps;
            weights that do not fit.
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
    factors = stream_weights(len(streams), weights)
    if variant == "released":
        summed = sum(factor * logits.astype(np.float64) for factor, logits in zip(factors, rows, strict=True))
        return probabilities(_by_time(np.asarray(summed)).sum(2))
    return _mean([_by_time(logits).mean(2) for logits in rows], factors)


def stream_weights(count: int, weights: Sequence[float] | None) -> Floats:
    """The weights (K,) of `count` streams; ones where none are given.

    Raises:
        DataError: not one weight a stream, or one that is not a number above 0.
    """
    factors = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (count,):
        raise DataError(f"{factors.size} weights for {count} streams", todo="Give one weight a stream.")
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise DataError(f"weights {factors.tolist()} are not all above 0", todo="Leave out what is not to count.")
    return factors


def fused_predictions(
    streams: Sequence[Predictions], *, weights: Sequence[float] | None = None, proposals: bool = False
) -> Predictions:
    """Predictions of the streams together; logits are logarithms of probabilities. Labels are the first stream's.

    Args:
        streams: predictions of the same rows in the same order (see `renumbered`).
        weights: factor of each stream, above 0.
        proposals: rows are anchors, each stream with spans of its own: spans and logarithms of probabilities are
            averaged. Otherwise spans are the first stream's and probabilities are averaged.

    Raises:
        DataError: no streams, streams of other rows or classes, anchors without spans, weights that do not fit.
    """
    if not streams:
        raise DataError("no streams to fuse")
    first, factors = streams[0], stream_weights(len(streams), weights)
    for other in streams[1:]:
        if not np.array_equal(other.clip, first.clip) or shapes_of(other) != shapes_of(first):
            shapes = f"{shapes_of(first)} and {shapes_of(other)}"
            raise DataError(
                f"streams of other rows cannot be fused: {shapes}", todo="Give predictions of the same clips."
            )
    if not proposals:
        means = {h: fused_probabilities([each.logits[h] for each in streams], weights=weights) for h in first.logits}
        return replace(first, logits={head: _logarithms(values) for head, values in means.items()})
    spans = [each.spans for each in streams if each.spans is not None]
    if len(spans) < len(streams):
        raise DataError("predictions have no segments", where="late fusion", todo="Evaluate the networks again.")
    logits = {
        head: _mean([_logarithms(probabilities(each.logits[head])) for each in streams], factors).astype(np.float32)
        for head in first.logits
    }
    return replace(first, logits=logits, spans=_mean(spans, factors))


def shapes_of(predictions: Predictions) -> dict[str, tuple[int, ...]]:
    """Shape (N, C) of the logits by head."""
    return {head: values.shape for head, values in predictions.logits.items()}


def renumbered(predictions: Predictions, clips: NDArray[np.int64]) -> Predictions:
    """The same predictions with other numbers of the clips, rows and segments in the order of those.

    Args:
        predictions: of U clips.
        clips: the new number (U,) of each clip, in the order of the old numbers; no number twice.
    """
    old = np.unique(predictions.clip)

    def moved(numbers: NDArray[Any]) -> NDArray[np.int64]:
        return clips[np.searchsorted(old, numbers.astype(np.int64))]

    rows = np.argsort(moved(predictions.clip), kind="stable")
    truth = predictions.truth
    if truth is not None:
        truth = np.concatenate([moved(truth[:, 0])[:, None].astype(np.float64), truth[:, 1:]], axis=1)
        truth = truth[np.argsort(truth[:, 0], kind="stable")]
    return Predictions(
        {head: values[rows] for head, values in predictions.logits.items()},
        {head: values[rows] for head, values in predictions.labels.items()},
        moved(predictions.clip)[rows],
        None if predictions.spans is None else predictions.spans[rows],
        truth,
    )


def _mean(values: Sequence[NDArray[Any]], factors: Floats) -> Floats:
    """The weighted mean over streams."""
    return np.asarray(np.average(np.stack(values).astype(np.float64), axis=0, weights=factors))


def _logarithms(values: Floats) -> NDArray[np.float32]:
    return np.log(np.maximum(values, TINY)).astype(np.float32)


def _by_time(logits: NDArray[Any]) -> Floats:
    """Softmax over C of (N, C, T)."""
    return np.moveaxis(probabilities(np.moveaxis(logits, 1, 2)), 2, 1)
