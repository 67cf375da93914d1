"""Recognition: one class a clip for each head, e.g. `action`, or `verb` and `noun`.

Loss of clip b: mean over heads of  w_h * CE(z_h[b], y_h[b]), one term a head. Metrics are fractions in [0, 1] (NLL in
nats) with 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.data.batches import Key, epoch_batches
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks import metrics as measure
from vidistill.tasks.base import TASKS, Look, Predictions
from vidistill.tasks.metrics import Interval


@TASKS.register("recognition")
class Recognition:
    """Trimmed clips, one label a head.

    Args:
        classes: number of classes by head.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        head_weights: factor of each head's loss; heads not named weigh 1. The loss is averaged over heads that weigh
            more than 0.

    Raises:
        RecipeError: a weight for a head that does not exist, a value out of range.
    """

    unit = rows_a_unit = 1
    features: tuple[str, ...] = ()
    name = "recognition"
    primary = "top1"

    def __init__(
        self,
        classes: dict[str, int],
        label_smoothing: float = 0.0,
        head_weights: dict[str, float] | None = None,
    ) -> None:
        weights = head_weights or {}
        for head in weights:
            if head not in classes:
                raise RecipeError(f"head_weights: no head {head!r}", todo=nearest(head, classes))
        if not 0.0 <= label_smoothing < 1.0:
            raise RecipeError(f"label_smoothing must be in [0, 1) (got {label_smoothing})")
        if any(not weight >= 0.0 for weight in weights.values()):
            raise RecipeError(f"head_weights must be 0 or more (got {weights})")
        self.classes = dict(classes)
        self.label_smoothing = label_smoothing
        self.head_weights = {head: float(weights.get(head, 1.0)) for head in classes}

    def described(self) -> dict[str, Any]:
        """Nothing but the name: the likeliest class is the answer."""
        return {"name": "recognition"}

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """The data's class names of the task's heads."""
        return {head: tuple(classes[head]) for head in self.classes}

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> None:
        """The clips' own labels."""

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """Every clip once under each view number, in random order."""
        return epoch_batches(clips, epoch, views, seed, size)

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """A clip is a row."""
        return outputs

    def row_batch(self, batch: Batch) -> Batch:
        """A clip is a row."""
        return batch

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """A row is a clip."""
        return losses, batch.clip

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """Every clip is looked at once."""
        return {}

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """The labels of a split's clips."""
        indices = store.indices(split)
        return {head: store.labels(head)[indices] for head in self.classes}

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> None:
        """Clips are tested one by one."""

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """As they are."""
        return predictions

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """Cross-entropy as the terms "label_<head>", one value a clip (B,); 0 where the label is -1 (absent)."""
        heads = [head for head, weight in self.head_weights.items() if weight > 0]
        losses: Losses = {}
        for head in heads:
            logits = outputs.logits[head]
            logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            values = functional.cross_entropy(
                logits, batch.labels[head], reduction="none", ignore_index=-1, label_smoothing=self.label_smoothing
            )
            losses[f"label_{head}"] = Loss(values, self.head_weights[head] / len(heads), distillation=False)
        return losses

    def decode(self, logits: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
        """Predictions by head: "probabilities" (N, C) and "top5" (N, min(5, C)) class indices, the likeliest first."""
        result: dict[str, dict[str, NDArray[Any]]] = {}
        for head, values in logits.items():
            order = np.argsort(-values, axis=1, kind="stable")[:, :5]
            result[head] = {"probabilities": measure.probabilities(values), "top5": order}
        return result

    def metrics(
        self,
        logits: Mapping[str, NDArray[Any]],
        labels: Mapping[str, NDArray[Any]],
        *,
        bootstrap: int = 1000,
        seed: int = 0,
        subset: NDArray[np.bool_] | None = None,
    ) -> dict[str, Interval]:
        """All metrics by flat names.

        "<head>/top1", "/top5", "/mean_class", "/ece", "/adaptive_ece", "/nll", "/brier", and "all/top1".

        Args:
            logits: (N, C) by head, averaged over a clip's views.
            labels: (N,) by head, -1 where absent; such clips do not count for that head.
            bootstrap: resamples for the intervals; 0 leaves them at width zero.
            seed: of the resamples.
            subset: (N,) bool: count these clips only, e.g. those of tail classes.

        Returns:
            fractions in [0, 1], NLL in nats, Brier in [0, 2]; NaN where no clip counts. "all/top1" (every head
            right, over clips with every label) is there with several heads only.

        Raises:
            DataError: logits and labels do not fit each other.
        """
        clips = len(next(iter(labels.values())))
        return measure.intervals(self.statistics_of(logits, labels, subset=subset), clips, bootstrap, seed)

    def judged(self, predictions: Predictions) -> Predictions:
        """All of them."""
        return predictions

    def statistics(self, predictions: Predictions) -> dict[str, measure.Statistic]:
        """The metrics of `metrics` as functions of how often each of the N clips is drawn."""
        return self.statistics_of(predictions.logits, predictions.labels)

    def statistics_of(
        self,
        logits: Mapping[str, NDArray[Any]],
        labels: Mapping[str, NDArray[Any]],
        *,
        subset: NDArray[np.bool_] | None = None,
    ) -> dict[str, measure.Statistic]:
        """The metrics as functions of how often each of the N clips is drawn; for intervals of any kind.

        Arguments, names and errors as `metrics`.
        """
        result: dict[str, measure.Statistic] = {}
        correct: list[NDArray[np.bool_]] = []
        counted: list[NDArray[np.bool_]] = []
        for head in self.classes:
            known, right = self._counted(head, logits[head], labels[head], subset)
            found = self._head_statistics(logits[head][known], labels[head][known])
            result.update({f"{head}/{name}": measure.restricted(value, known) for name, value in found.items()})
            correct.append(right)
            counted.append(known)
        if len(self.classes) > 1:
            every = np.logical_and.reduce(counted)
            right = np.logical_and.reduce(correct)[every]
            result["all/top1"] = measure.restricted(measure.mean_statistic(right), every)
        return result

    def _counted(
        self, head: str, logits: NDArray[Any], labels: NDArray[Any], subset: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which clips (N,) count for a head and which are right."""
        if logits.shape != (len(labels), self.classes[head]):
            expected = (len(labels), self.classes[head])
            raise DataError(f"logits of head {head!r} have shape {logits.shape}, labels and classes ask for {expected}")
        if len(labels) and labels.max() >= self.classes[head]:
            raise DataError(f"label {labels.max()} of head {head!r} is not below its {self.classes[head]} classes")
        known = labels >= 0 if subset is None else (labels >= 0) & subset
        return known, measure.in_top(logits, np.maximum(labels, 0), 1) & known

    @staticmethod
    def _head_statistics(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, measure.Statistic]:
        """The metrics of one head on clips that all have a label."""
        truth = labels.astype(np.int64)
        top1, confidence = measure.in_top(logits, truth, 1), measure.probabilities(logits).max(1, initial=0.0)
        return {
            "top1": measure.mean_statistic(top1),
            "top5": measure.mean_statistic(measure.in_top(logits, truth, 5)),
            "mean_class": measure.mean_class_statistic(top1, truth),
            "ece": measure.calibration_statistic(confidence, top1),
            "adaptive_ece": measure.calibration_statistic(confidence, top1, adaptive=True),
            "nll": measure.mean_statistic(measure.negative_log_likelihoods(logits, truth)),
            "brier": measure.mean_statistic(measure.brier_scores(logits, truth)),
        }
