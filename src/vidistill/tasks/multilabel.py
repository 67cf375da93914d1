"""Multi-label recognition: which of the classes a clip shows, any number of them (Charades).

A row is a pair of clip and class, a question with two answers: with z the network's logit of the class,

    logits of the pair  (0, z)          softmax of them is sigmoid(z)
    loss of clip b      mean over classes of  w * CE((0, z), y),   w = positive_weight where y = 1, else 1

so that methods, ensembles and temperatures see rows as everywhere: distillation of a pair is that of sigmoid(z).
A clip shows a class where one of its segments has it, or where it is the clip's own label.

Metrics: mAP over the classes that occur; top-1 and top-5: whether the likeliest class, or one of the five likeliest, is
shown, over clips that show any; calibration of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.data.batches import Key, Labeller, epoch_batches
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks.average_precision import mean_of_present
from vidistill.tasks.base import TASKS, Look, Predictions
from vidistill.tasks.detection import spread_to_clips, window_means, window_rows
from vidistill.tasks.detection_statistics import average_precisions
from vidistill.tasks.metrics import Statistic
from vidistill.tasks.recognition import Recognition

CALIBRATION = ("ece", "adaptive_ece", "nll", "brier")


@TASKS.register("multilabel")
class MultiLabel:
    """Clips with any number of labels of one head.

    Args:
        classes: number of classes by head.
        positive_weight: factor of the loss of classes that a clip shows; they are rare.

    Raises:
        RecipeError: several heads.
    """

    unit = rows_a_unit = 1
    features: tuple[str, ...] = ()
    name = "multilabel"
    primary = "map"

    def __init__(self, classes: dict[str, int], positive_weight: Annotated[float, Field(gt=0)] = 1.0) -> None:
        if len(classes) > 1:
            raise RecipeError(f"multilabel has one head, the data has {', '.join(classes)}", todo="Choose: task.heads")
        self.classes = dict(classes)
        self.head = next(iter(classes), "")
        self.count = classes.get(self.head, 0)
        self.positive_weight = positive_weight

    def described(self) -> dict[str, Any]:
        """The name: whoever decodes asks for every class by itself."""
        return {"name": self.name, "head": self.head}

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """The data's class names of the head."""
        return {head: tuple(classes[head]) for head in self.classes}

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> Labeller:
        """Which classes a clip shows (K,), 0 or 1, under all its views."""
        if policy.steps > 1:
            raise RecipeError("whole clips are labelled, not windows", where="views.steps", todo="Leave it out.")
        shown = self.shown(store)
        return lambda index, view: {self.head: shown[index]}

    def shown(self, store: ClipStore) -> NDArray[np.int64]:
        """Which classes every clip shows (N, K), 0 or 1."""
        numbers = {name: number for number, name in enumerate(store.classes[self.head])}
        found = np.zeros((len(store), self.count), np.int64)
        for index, clip in enumerate(store.clips):
            named = [segment.label for segment in clip.segments.get(self.head, ())]
            named += [clip.labels[self.head]] if clip.labels.get(self.head) in numbers else []
            found[index, [numbers[name] for name in named]] = 1
        return found

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """Every clip once under each view number, in random order."""
        return epoch_batches(clips, epoch, views, seed, size)

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """Every class of every clip a row: logits (B * K, 2), the clip's embedding (B * K, D) for each."""
        pairs = as_pairs(outputs.logits[self.head])
        return Outputs({self.head: pairs}, outputs.embedding.repeat_interleave(self.count, 0), outputs.features)

    def row_batch(self, batch: Batch) -> Batch:
        """Labels (B * K,): 1 where the clip shows the class, else 0."""
        return window_rows(batch, self.head, batch.labels[self.head])

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """Means over each clip's classes."""
        return window_means(losses, len(batch)), batch.clip

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """The term "label_<head>" of every row (B * K,)."""
        labels = batch.labels[self.head]
        values = functional.cross_entropy(outputs.logits[self.head].float(), labels, reduction="none")
        values = values * torch.where(labels == 1, self.positive_weight, 1.0)
        return {f"label_{self.head}": Loss(values, distillation=False)}

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """Every clip is looked at once."""
        return {}

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """All classes that a split's clips show, one after another."""
        return {self.head: np.nonzero(self.shown(store)[store.indices(split)])[1]}

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> None:
        """Clips are tested one by one."""

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """Answers for clips, (N, K) logits and labels, as rows (N * K, 2) and (N * K,)."""
        logits = as_pairs(torch.from_numpy(predictions.logits[self.head])).numpy()
        labels = predictions.labels[self.head].reshape(-1)
        return replace(
            predictions,
            logits={self.head: logits},
            labels={self.head: labels},
            clip=np.repeat(predictions.clip, self.count),
        )

    def judged(self, predictions: Predictions) -> Predictions:
        """Clips that show something, each with the likeliest of the classes it shows as its label."""
        scores, shown = self._by_clip(predictions)
        some = shown.any(1)
        best = np.where(shown, scores, -np.inf).argmax(1)
        clip = predictions.clip[:: self.count]
        return Predictions({self.head: scores[some]}, {self.head: best[some]}, clip[some])

    def statistics(self, predictions: Predictions) -> dict[str, Statistic]:
        """By names "<head>/map", "/top1", "/top5", "/ece", "/adaptive_ece", "/nll", "/brier"."""
        scores, shown = self._by_clip(predictions)
        unit = np.repeat(np.arange(len(scores)), self.count)
        pairs = Recognition({self.head: 2}).statistics(predictions)
        judged = self.judged(predictions)
        # Accuracy counts the clips that show something; draws are of all clips.
        some = np.flatnonzero(shown.any(1))
        hits = Recognition(self.classes).statistics(judged)

        def average_precision(counts: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(mean_of_present(average_precisions(scores, shown, counts)))

        return {
            f"{self.head}/map": average_precision,
            **{f"{self.head}/{name}": spread_to_clips(hits[f"{self.head}/{name}"], some) for name in ("top1", "top5")},
            **{f"{self.head}/{name}": spread_to_clips(pairs[f"{self.head}/{name}"], unit) for name in CALIBRATION},
        }

    def _by_clip(self, predictions: Predictions) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Logits z (N, K) and which classes are shown (N, K), of rows."""
        logits = predictions.logits[self.head]
        shape = (-1, self.count)
        return (logits[:, 1] - logits[:, 0]).reshape(shape), (predictions.labels[self.head] == 1).reshape(shape)


def as_pairs(logits: Tensor) -> Tensor:
    """Logits z (B, K) as the two answers (0, z) to each question: (B * K, 2)."""
    return torch.stack([torch.zeros_like(logits), logits], -1).flatten(0, 1)
