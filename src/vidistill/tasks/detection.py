"""Temporal detection in untrimmed clips: which class, from when to when.

A window of T time steps is a view; every step is classified as background (class 0) or one of the labels. Rows are
steps: whatever compares student and teachers does so step by step. At test time the steps of a clip are classified
in overlapping windows and joined to segments, which are judged by average precision over temporal IoU.

    L_b = sum_t w(y_bt) * CE(z_bt, y_bt) / sum_t w(y_bt),    w = background_weight for background, else 1

Luo et al.: Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018, section 3.3. Deviation: the
weighted mean is taken over each clip's own steps, not over the batch, so that a clip's loss does not depend on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs, View
from vidistill.data.batches import Key, Labeller, clip_shape, epoch_batches
from vidistill.data.steps import BACKGROUND, step_labels, step_spans
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks import metrics as measure
from vidistill.tasks.base import TASKS, Look, Predictions
from vidistill.tasks.detection_statistics import detection_statistics
from vidistill.tasks.metrics import Statistic
from vidistill.tasks.recognition import Recognition
from vidistill.tasks.segments import Detections, Segments, detect_segments

Share = Annotated[float, Field(gt=0, lt=1)]


@TASKS.register("detection")
class Detection:
    """Untrimmed clips with segments of one head.

    Args:
        classes: number of classes by head, without background.
        background_weight: weight of background steps in the label loss.
        covered: a step shows a class where more than this part of it lies within a segment.
        threshold: a step is active where 1 - P(background) reaches it.
        tious: temporal IoUs at which average precision is measured.
        variant: "released" joins neighbouring actions of different classes into one segment with one label, as the
            published code does; by default a segment ends where the likeliest class changes.
    """

    unit = rows_a_unit = 1
    features: tuple[str, ...] = ()
    name = "detection"
    primary = "map"

    def __init__(
        self,
        classes: dict[str, int],
        *,
        background_weight: Annotated[float, Field(gt=0)] = 0.5,
        covered: Share = 0.5,
        threshold: Share = 0.4,
        tious: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7),
        variant: Literal["default", "released"] = "default",
    ) -> None:
        if len(classes) > 1:
            raise RecipeError(f"detection has one head, the data has {', '.join(classes)}", todo="Choose: task.heads")
        if not tious:
            raise RecipeError("no temporal IoU to measure at", where="task.tious")
        self.classes = {head: count + 1 for head, count in classes.items()}
        self.head = next(iter(classes), "")
        self.background_weight = background_weight
        self.covered, self.threshold, self.tious = covered, threshold, tious
        self.variant: Literal["default", "released"] = variant

    def described(self) -> dict[str, Any]:
        """The name, and how steps become segments."""
        return {"name": "detection", "head": self.head, "threshold": self.threshold, "variant": self.variant}

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Background, then the data's class names."""
        return {head: (BACKGROUND, *classes[head]) for head in self.classes}

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> Labeller:
        """The class (T,) of every step of a window, -1 past the clip's end."""
        if policy.steps < 2:
            raise RecipeError("detection looks at windows of several steps", where="views", todo="Set views.steps=10")
        numbers = {name: number for number, name in enumerate(store.classes[self.head], start=1)}
        clips = store.clips
        shapes = [clip_shape(store, index) for index in range(len(store))]

        def label(index: int, view: View) -> dict[str, NDArray[np.int64]]:
            spans = step_spans(view, policy, shapes[index])
            return {self.head: step_labels(spans, clips[index].segments.get(self.head, ()), numbers, self.covered)}

        return label

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """Every clip once under each view number, in random order."""
        return epoch_batches(clips, epoch, views, seed, size)

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """Every step a row: logits (B * T, C), embedding (B * T, D). Features stay a window each."""
        logits = {name: value.flatten(0, 1) for name, value in outputs.logits.items()}
        return Outputs(logits, outputs.embedding.flatten(0, 1), outputs.features)

    def row_batch(self, batch: Batch) -> Batch:
        """Labels (B * T,), and each clip's number, view and presence once a step."""
        return window_rows(batch, self.head, batch.labels[self.head])

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """Means over each clip's steps."""
        return window_means(losses, len(batch)), batch.clip

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """The term "label_<head>" of every step (B * T,), scaled so that a clip's mean is its weighted mean."""
        labels = batch.labels[self.head]
        logits = outputs.logits[self.head].float()
        weights = torch.where(labels == 0, self.background_weight, 1.0) * (labels >= 0)
        values = functional.cross_entropy(logits, labels, reduction="none", ignore_index=-1) * weights
        # Rows of one clip follow each other and have its number and view.
        first = torch.ones_like(labels, dtype=torch.bool)
        first[1:] = (batch.clip[1:] != batch.clip[:-1]) | (batch.view[1:] != batch.view[:-1])
        window = first.cumsum(0) - 1
        sums = torch.zeros_like(weights).index_add(0, window, weights)
        counts = torch.zeros_like(weights).index_add(0, window, torch.ones_like(weights))
        scale = counts / sums.clamp(min=1e-12)
        return {f"label_{self.head}": Loss(values * scale[window], distillation=False)}

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """Every clip is looked at once."""
        return {}

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """Labels of all steps of a split's clips, in order."""
        label = self.labeller(store, policy)
        found = [np.zeros(0, np.int64)]
        for index in store.indices(split).tolist():
            shape = clip_shape(store, index)
            views = [policy.test(store.clips[index].id, number, shape) for number in range(policy.views_of(shape))]
            labels = np.concatenate([label(index, view)[self.head] for view in views])
            found.append(labels[: policy.steps_of(shape)])
        return {self.head: np.concatenate(found)}

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> None:
        """Clips are tested one by one."""

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """With the annotated segments of the clips."""
        return replace(predictions, truth=segment_truth(store, np.unique(predictions.clip), self.head))

    def detect(self, predictions: Predictions) -> Detections:
        """Scored segments of all clips, from the probabilities of their steps."""
        if predictions.spans is None:
            raise DataError("predictions have no times", where="detection", todo="Evaluate the network again.")
        scores = measure.probabilities(predictions.logits[self.head])
        return detect_segments(
            scores, predictions.spans, clip=predictions.clip, threshold=self.threshold, variant=self.variant
        )

    def judged(self, predictions: Predictions) -> Predictions:
        """All of them."""
        return predictions

    def statistics(self, predictions: Predictions) -> dict[str, Statistic]:
        """Average precisions of segments, and accuracy and calibration of the steps they were made of.

        Under the head's name: "map", "map@<tIoU>" and the PKU-MMD protocol's "pku_map_action", "pku_map_video" (see
        `detection_statistics`); "top1", "ece", "nll", … of steps, background included.
        """
        return segment_statistics(predictions, self.detect(predictions), self.classes, self.head, self.tious)


def window_rows(batch: Batch, head: str, labels: Tensor) -> Batch:
    """A batch of windows with a row for each of their labels (B, R): the window's number, view and presence R times."""

    def repeated(values: Tensor) -> Tensor:
        return values.repeat_interleave(labels.shape[1])

    return replace(
        batch,
        labels={head: labels.flatten()},
        clip=repeated(batch.clip),
        view=repeated(batch.view),
        present={name: repeated(values) for name, values in batch.present.items()},
    )


def window_means(losses: Losses, windows: int) -> Losses:
    """Means over each window's rows; a loss that has one value a window stays as it is."""
    return {name: replace(loss, values=loss.values.reshape(windows, -1).mean(1)) for name, loss in losses.items()}


def segment_truth(store: ClipStore, clips: NDArray[np.int64], head: str) -> NDArray[np.float64]:
    """The annotated segments (M, 4) of clips: clip, start, end, class number from 1."""
    numbers = {name: number for number, name in enumerate(store.classes[head], start=1)}
    rows = [
        (clip, segment.start, segment.end, numbers[segment.label])
        for clip in clips.tolist()
        for segment in store.clips[clip].segments.get(head, ())
    ]
    return np.array(rows, np.float64).reshape(-1, 4)


def segment_statistics(
    predictions: Predictions, found: Detections, classes: dict[str, int], head: str, tious: Sequence[float]
) -> dict[str, Statistic]:
    """Metrics of detected segments, and of the rows they were made of, as functions of how often each clip counts.

    Args:
        predictions: rows with their labels, and the annotated segments.
        found: detected segments, of the clips' store indices.
        classes: number of classes by head, background included.
        head: the one head.
        tious: temporal IoUs.

    Raises:
        DataError: predictions without annotated segments.
    """
    if predictions.truth is None:
        raise DataError("predictions have no annotated segments", where="detection")
    clips, unit = np.unique(predictions.clip, return_inverse=True)
    clip, start, end, label = predictions.truth.T
    truth = Segments(clip.astype(np.int64), start, end, label.astype(np.int64))
    by_name = detection_statistics(truth, found, clips, tious, classes=np.arange(1, classes[head]))
    rows = Recognition(classes).statistics_of(predictions.logits, predictions.labels)
    return {f"{head}/{name}": value for name, value in by_name.items()} | {
        name: spread_to_clips(value, unit) for name, value in rows.items()
    }


def spread_to_clips(statistic: Statistic, unit: NDArray[np.int64]) -> Statistic:
    """A statistic of rows as one of the clips (index `unit` a row) they belong to."""
    return lambda counts: statistic(counts[:, unit])
