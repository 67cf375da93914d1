"""The audit: is each teacher any good here, how sure may it be, and do teachers agree? Asked before anything is taught.

All of it rests on the validation part, which no teacher was trained on and which the result table never uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import TeacherError
from vidistill.teachers.calibration import fit_temperature
from vidistill.teachers.ensemble import held_out_weights

NOT_MEASURED = "not measured"
"""Verdict of a teacher that sees too few validation clips to be judged (episodes it has too few classes for)."""
Logits = Mapping[str, NDArray[np.float32]]


def chance(labels: NDArray[np.int64], train_labels: NDArray[np.int64], classes: int) -> float:
    """Accuracy of always answering the commonest class of train, or of guessing: whichever is more."""
    known, counted = labels[labels >= 0], train_labels[train_labels >= 0]
    if not len(known) or not len(counted):
        return 1.0 / classes
    return max(1.0 / classes, float((known == np.bincount(counted).argmax()).mean()))


def beats_chance(accuracy: float, clips: int, chance: float, level: float = 0.05) -> bool:
    """Whether guessing at `chance` would be this right or better with a probability below `level` (exact, binomial)."""
    if not 0 < chance < 1:
        return False
    right = round(accuracy * clips)
    # Logarithms: the coefficients of a thousand clips are larger than any float.
    wins = np.arange(right, clips + 1)
    lgamma = np.vectorize(math.lgamma, otypes=[np.float64])
    ways = math.lgamma(clips + 1) - lgamma(wins + 1) - lgamma(clips - wins + 1)
    return bool(np.exp(ways + wins * math.log(chance) + (clips - wins) * math.log1p(-chance)).sum() < level)


def fit_temperatures(logits: Logits, labels: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    """One temperature a head, fitted on held-out clips; 1 where no clip has the label."""
    result = {}
    for head, values in logits.items():
        known = labels[head] >= 0
        result[head] = fit_temperature(values[known], labels[head][known]) if known.any() else 1.0
    return result


def agreement(answers: Mapping[str, NDArray[np.int64]]) -> list[list[float]]:
    """Part of clips on which two columns of class indices (N,) are equal; -1 marks absent; NaN where none is shared."""
    columns = list(answers.values())

    def share(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        both = (a >= 0) & (b >= 0)
        return float((a[both] == b[both]).mean()) if both.any() else float("nan")

    return [[share(a, b) for b in columns] for a in columns]


def fit_held_out(
    stacked: NDArray[np.float32], labels: NDArray[np.int64], present: NDArray[np.bool_], gamma: float
) -> tuple[float, ...]:
    """Weights (M,) from held-out logits (N, M, C); see `held_out_weights`."""
    weights = held_out_weights(torch.from_numpy(stacked), torch.from_numpy(labels), gamma, torch.from_numpy(present))
    return tuple(float(w) for w in weights)


def require_better_than_chance(audit: Mapping[str, Any]) -> None:
    """Stop where some teacher's accuracy cannot be told from chance in some head.

    Raises:
        TeacherError: names the teacher, its accuracy, chance, and what to do.
    """
    for name, entry in audit["teachers"].items():
        if entry["verdict"] not in ("ok", NOT_MEASURED):
            shown = ", ".join(
                f"{head} {value:.1%} ({low:.1%} to {high:.1%}; chance {audit['chance'][head]:.1%})"
                for head, (value, low, high) in entry["accuracy"].items()
            )
            raise TeacherError(
                f"{name!r} is no better than chance on the {entry['clips']} validation clips: {shown}",
                where="audit",
                todo=f"Train it longer (teachers.{name}.schedule), change its input, or remove it from the recipe",
            )
