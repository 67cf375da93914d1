"""Temporal detection without time steps: a network says of every anchor which segment it lies in (AFSD).

A view is a window of an untrimmed clip, `views.steps` steps that are seen as one stretch of frames. Rows are anchors,
the centres of a pyramid of T, T/2, ... positions over the window: a method compares student and teachers anchor by
anchor. At test time windows lie half a window apart; what all of them propose for a clip is suppressed together.

    p_c = s (softmax conf + softmax prop_conf)_c / 2,    s = sigmoid center,    c = 1..C;    p_0 = 1 - sum_c p_c

Rows of predictions have log p as logits and the refined segment as span: probabilities are scores.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021; Generative
Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644 (losses: `anchor_losses.py`, decoding:
`anchor_decoding.py`). Deviations: losses are of each clip (see `anchor_losses.py`); streams that are fused average
their rows after decoding, the published code before (`anchor_decoding.fuse_answers`).
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

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs, Segment, View
from vidistill.data.batches import Key, Labeller, clip_shape, epoch_batches
from vidistill.data.steps import BACKGROUND
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks import metrics as measure
from vidistill.tasks.anchor_answers import anchor_log_probabilities, refined_segments
from vidistill.tasks.anchor_losses import BACKGROUND_WEIGHT, WEIGHTS, anchor_losses, background_loss
from vidistill.tasks.anchor_targets import PADDING, match_anchors, pad_segments
from vidistill.tasks.base import TASKS, Look, Predictions
from vidistill.tasks.boundary_consistency import ORDER, consistency, moved_labels
from vidistill.tasks.detection import Share, segment_statistics, segment_truth, window_means, window_rows
from vidistill.tasks.metrics import Statistic
from vidistill.tasks.segments import Detections, window_starts
from vidistill.tasks.soft_nms import soft_nms

SEGMENTS = "segments"
"""Feature of rows: the annotated segments (B, M, 3) of their windows."""
IMPOSSIBLE = -1e4
"""Logit of a class that is not asked about; finite, since answers that are not finite count as wrong."""
INSIDE = 0.5
"""A segment belongs to a window that shows at least this part of it."""


@TASKS.register("anchor_detection")
class AnchorDetection:
    """Untrimmed clips with segments of one head, for network `anchor_detector`.

    Args:
        classes: number of classes by head, without background.
        anchors: positions of each level of the network's pyramid, the finest first.
        tious: temporal IoUs at which average precision is measured.
        threshold: least score of a proposal.
        sigma: of soft suppression; the larger, the gentler. Published: 0.1 for RGB, 0.5 for flow.
        overlap: least coarse IoU of an anchor that learns to be refined.
        location_weight: factor of the terms of places, published 10.
        background_weight: factor of the term of background maps, for networks with attention.
        consistency_weight: factor of the boundary consistency of a second look at windows with a moved part
            (`boundary_consistency.py`), published 0.1; 0: no second look, which costs as much as the first.
    """

    unit = rows_a_unit = 1
    name = "anchor_detection"
    primary = "map"

    def __init__(
        self,
        classes: dict[str, int],
        *,
        anchors: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 32, 16, 8, 4, 2),
        tious: tuple[Share, ...] = (0.3, 0.4, 0.5, 0.6, 0.7),
        threshold: Share = 0.01,
        sigma: Annotated[float, Field(gt=0)] = 0.5,
        overlap: Share = 0.5,
        location_weight: Annotated[float, Field(ge=0)] = WEIGHTS["loc"],
        background_weight: Annotated[float, Field(ge=0)] = BACKGROUND_WEIGHT,
        consistency_weight: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        if len(classes) > 1:
            raise RecipeError(f"detection has one head, the data has {', '.join(classes)}", todo="Choose: task.heads")
        if not tious:
            raise RecipeError("no temporal IoU to measure at", where="task.tious")
        self.classes = {head: count + 1 for head, count in classes.items()}
        self.head = next(iter(classes), "")
        self.anchors, self.tious = anchors, tious
        self.threshold, self.sigma, self.overlap = threshold, sigma, overlap
        self.weights = {**WEIGHTS, "loc": location_weight, "prop_loc": location_weight}
        self.background_weight, self.consistency_weight = background_weight, consistency_weight
        self.features: tuple[str, ...] = ("background",) if background_weight else ()

    def described(self) -> dict[str, Any]:
        """The name, and how anchors become segments."""
        return {"name": self.name, "head": self.head, "threshold": self.threshold, "sigma": self.sigma}

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Background, then the data's class names."""
        return {head: (BACKGROUND, *classes[head]) for head in self.classes}

    def priors(self, device: torch.device | None = None) -> Tensor:
        """Centres (A,) of the anchors as parts of the window, level by level."""
        return torch.cat([(torch.arange(count, device=device) + 0.5) / count for count in self.anchors])

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> Labeller:
        """A window's segments (M, 3): start and end as parts of it, class from 1; rows of class -1 fill up.

        With a consistency weight, training windows also say how a second look moves their frames.
        """
        if policy.steps < 2:
            raise RecipeError("windows of steps are looked at", where="views", todo="Set views.steps=2")
        numbers = {name: number for number, name in enumerate(store.classes[self.head], start=1)}
        clips = store.clips
        rates = [store.rate(index) for index in range(len(store))]
        most = max((len(clip.segments.get(self.head, ())) for clip in clips), default=0)

        def label(index: int, view: View) -> dict[str, NDArray[Any]]:
            start = float(view.times[0])
            seconds = window_seconds(policy, rates[index])
            found = window_segments(clips[index].segments.get(self.head, ()), start, seconds, numbers)
            rows = np.full((most + 1, 3), (0, 0, PADDING), np.float32)
            rows[: len(found)] = found
            again = self.consistency_weight > 0 and view.seed is not None
            return {self.head: rows, **(moved_labels(found, view, policy.steps * policy.frames) if again else {})}

        return label

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """Every clip once under each view number, in random order."""
        return epoch_batches(clips, epoch, views, seed, size)

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """Every anchor a row: coarse logits (B * A, C), embedding (B * A, D). Features stay a window each."""
        logits = outputs.logits[self.head]
        count = sum(self.anchors)
        if logits.ndim != 3 or logits.shape[1] != count:
            raise RecipeError(
                f"the task has {count} anchors a window and the network answers of shape {tuple(logits.shape)}",
                where="task.anchors",
                todo="Use network anchor_detector, and give the positions of its levels, e.g. [64, 32, 16, 8, 4, 2].",
            )
        features = {**outputs.features, SEGMENTS: batch.labels[self.head]}
        return Outputs({self.head: logits.flatten(0, 1)}, outputs.embedding.flatten(0, 1), features)

    def row_batch(self, batch: Batch) -> Batch:
        """Labels (B * A,): the class of the shortest segment that holds an anchor, 0 where none does."""
        segments = batch.labels[self.head]
        return window_rows(batch, self.head, match_anchors(self.priors(segments.device), segments, frames=1).label)

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """Means over each window's anchors; the task's own terms have one value a window already."""
        return window_means(losses, len(batch)), batch.clip

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """The terms of `anchor_losses` as "label_<term>", and "label_background" where the network has attention."""
        features = outputs.features
        segments, frames = features[SEGMENTS], features["start"].shape[-1]
        logits = outputs.logits[self.head]
        raw = {**features, "conf": logits.reshape(len(segments), -1, logits.shape[1])}
        terms = anchor_losses(raw, segments, frames=frames, overlap=self.overlap)
        losses = {f"label_{name}": Loss(terms[name], self.weights[name], distillation=False) for name in terms}
        if "background_conf" in features:
            values = background_loss({"conf": features["background_conf"]})
            losses["label_background"] = Loss(values, self.background_weight, distillation=False)
        return losses

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """Boundary consistency as "label_consistency", where it has a weight."""
        if ORDER not in batch.labels:
            return {}
        values = consistency(look, x, batch.labels)
        return {"label_consistency": Loss(values, self.consistency_weight, distillation=False)}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, A, C) and refined segments (B, A, 2) as parts of the window, of a network's outputs."""
        features = outputs.features
        frames = features["start"].shape[-1]
        bounds = refined_segments(features["loc"], features["prop_loc"], features["priors"], frames) / frames
        conf = outputs.logits[self.head]
        return anchor_log_probabilities(conf, features["prop_conf"], features["center"]), bounds

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """Labels of all anchors of a split's test windows, in order; -1 where an anchor lies in no segment."""
        found = [self.window_labels(store, policy, index) for index in store.indices(split).tolist()]
        labels = np.concatenate([np.zeros(0, np.int64), *found])
        return {self.head: np.where(labels > 0, labels, -1)}

    def window_labels(self, store: ClipStore, policy: ViewPolicy, index: int) -> NDArray[np.int64]:
        """Labels of all anchors of one clip's test windows, in order; 0 where an anchor lies in no segment."""
        numbers = {name: number for number, name in enumerate(store.classes[self.head], start=1)}
        segments = store.clips[index].segments.get(self.head, ())
        seconds = window_seconds(policy, store.rate(index))
        starts = [float(view.times[0]) for view in windows_of(store, policy, index)]
        windows = [window_segments(segments, start, seconds, numbers) for start in starts]
        labels: NDArray[np.int64] = (
            match_anchors(self.priors(), pad_segments(windows), frames=1).label.flatten().numpy()
        )
        return labels

    def judged(self, predictions: Predictions) -> Predictions:
        """Anchors that lie in a segment, among actions.

        Whether there is an action at all is what average precision judges: an anchor's score is a rank, and the
        likeliest class of nearly every anchor is background. Accuracy is of telling actions apart.
        """
        labels, logits = predictions.labels[self.head], predictions.logits[self.head].copy()
        logits[:, 0] = IMPOSSIBLE
        return replace(predictions, logits={self.head: logits}, labels={self.head: np.where(labels > 0, labels, -1)})

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> None:
        """Clips are tested one by one."""

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """With the annotated segments of the clips."""
        return replace(predictions, truth=segment_truth(store, np.unique(predictions.clip), self.head))

    def detect(self, predictions: Predictions) -> Detections:
        """Scored segments of all clips, after suppression of each class's proposals."""
        if predictions.spans is None:
            raise DataError("predictions have no segments", where="detection", todo="Evaluate the network again.")
        scores = measure.probabilities(predictions.logits[self.head])
        return proposals(scores, predictions.spans, predictions.clip, self.threshold, self.sigma)

    def statistics(self, predictions: Predictions) -> dict[str, Statistic]:
        """Average precisions of segments; accuracy and calibration, among actions, of anchors that lie in one.

        Names as those of task `detection`.
        """
        found = self.detect(predictions)
        return segment_statistics(self.judged(predictions), found, self.classes, self.head, self.tious)


def window_seconds(policy: ViewPolicy, rate: float) -> float:
    """Length of a window of a clip with `rate` frames a second."""
    return policy.steps * policy.step_frames / rate


def window_segments(
    segments: Sequence[Segment], start: float, seconds: float, numbers: Mapping[str, int]
) -> NDArray[np.float32]:
    """The segments (M, 3) that a window shows at least half of, cut to it: start, end as parts of it, class number."""
    if not segments:
        return np.zeros((0, 3), np.float32)
    rows = np.array([(each.start, each.end, numbers[each.label]) for each in segments], np.float64)
    bounds = (rows[:, :2] - start) / seconds
    cut = bounds.clip(0.0, 1.0)
    kept = (cut[:, 1] - cut[:, 0]) >= INSIDE * (bounds[:, 1] - bounds[:, 0])
    found: NDArray[np.float32] = np.concatenate([cut, rows[:, 2:]], 1)[kept].astype(np.float32)
    return found


def windows_of(store: ClipStore, policy: ViewPolicy, index: int) -> list[View]:
    """The windows that a clip is tested by: half a window apart, from its start to its last step."""
    shape = clip_shape(store, index)
    rate, width = shape.rate, policy.step_frames
    starts = window_starts(policy.steps_of(shape), policy.steps)
    frames = policy.stride * np.arange(policy.steps * policy.frames)
    times = [np.minimum(start * width + frames, shape.frames - 1) / rate for start in starts.tolist()]
    return [View(store.clips[index].id, number, each) for number, each in enumerate(times)]


def proposals(
    scores: NDArray[Any], spans: NDArray[np.float64], clip: NDArray[np.int64], threshold: float, sigma: float
) -> Detections:
    """Segments of clips after soft suppression, those of each clip and class apart.

    Args:
        scores: of rows (N, C), class 0 is background.
        spans: start and end (N, 2) in seconds; a row that ends before it starts proposes nothing.
        clip: what rows belong to (N,).
        threshold: least score of a proposal.
        sigma: see `soft_nms`.
    """
    row, label = np.nonzero((scores[:, 1:] > threshold) & (spans[:, 1] > spans[:, 0])[:, None])
    label = label + 1
    groups = clip[row] * scores.shape[1] + label
    kept, score = soft_nms(spans[row], scores[row, label].astype(np.float64), groups, sigma=sigma)
    start, end = spans[row[kept]].T
    return Detections(clip[row[kept]], start, end, label[kept], score)
