"""From an anchor-free detector's raw answers to scored segments of clips.

Lin et al.: AFSD, CVPR 2021, section 3.5, as Generative Model-based Feature Knowledge Distillation (AAAI 2024, arXiv
2312.08644) tests:

    distances   d = loc + (l + r) / 2 * prop_loc,    loc = (l, r)
    segment     [T c - d_l, T c + d_r], within the window of T frames around which c, a part of it, is the anchor
    score       (softmax conf + softmax prop_conf) / 2 * sigmoid center

Two streams (RGB and flow) are fused by the mean of their raw answers. What scores above a threshold in a class is a
candidate of it; candidates of all windows of a clip are suppressed together, class by class (`soft_nms`).

Deviation: a refinement may put a segment's end before its start, or both on the window's border. Such a candidate is
left out; `variant: released` keeps it, as the published code does, and lets it take part in the suppression.

Shapes: B windows, A anchors, K classes with background (class 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vidistill.core.errors import DataError
from vidistill.tasks import anchor_answers
from vidistill.tasks.segments import Detections
from vidistill.tasks.soft_nms import soft_nms

Floats = NDArray[np.floating[Any]]
Released = Literal["default", "released"]
BOTH_ENDS = 2


@dataclass(frozen=True, eq=False)
class RawAnswers:
    """What a detector says of windows.

    Attributes:
        loc: distances (B, A, 2) to start and end, in frames.
        conf: logits (B, A, K).
        prop_loc: growth (B, A, 2) of the distances, in half widths.
        prop_conf: logits (B, A, K) of the refined segments.
        center: logits (B, A).
        priors: centres (A,) of the anchors as parts of the window.

    Raises:
        DataError: shapes that do not fit each other.
    """

    loc: Floats
    conf: Floats
    prop_loc: Floats
    prop_conf: Floats
    center: Floats
    priors: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", self.center.reshape(self.conf.shape[:2]))
        object.__setattr__(self, "priors", self.priors.reshape(-1))
        anchors = self.conf.shape[:2]
        pairs, logits = (*anchors, BOTH_ENDS), self.conf.shape
        expected = {"loc": pairs, "prop_loc": pairs, "prop_conf": logits, "priors": anchors[1:]}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"{name} {getattr(self, name).shape} does not fit conf {logits}: expected {shape}")

    @classmethod
    def of(cls, conf: Tensor, features: Mapping[str, Tensor]) -> RawAnswers:
        """Of an `anchor_detector`'s logits (B, A, K) and features."""
        parts = {name: features[name] for name in ("loc", "prop_loc", "prop_conf", "center")}
        arrays = {name: value.detach().float().cpu().numpy() for name, value in {"conf": conf, **parts}.items()}
        return cls(**arrays, priors=features["priors"][0].detach().float().cpu().numpy())


def fuse_answers(streams: Sequence[RawAnswers]) -> RawAnswers:
    """The mean of what several detectors say of the same windows.

    Raises:
        DataError: no detector, or detectors of different windows, anchors or classes.
    """
    if not streams or any(each.conf.shape != streams[0].conf.shape for each in streams):
        shapes = ", ".join(str(each.conf.shape) for each in streams) or "none"
        raise DataError(f"streams with conf {shapes} cannot be fused", todo="Run them on the same windows.")
    if any(not np.array_equal(each.priors, streams[0].priors) for each in streams):
        raise DataError("streams with other anchors cannot be fused", todo="Use networks of the same levels.")
    names = ("loc", "conf", "prop_loc", "prop_conf", "center")
    means = {name: np.mean([getattr(each, name) for each in streams], axis=0) for name in names}
    return RawAnswers(**means, priors=streams[0].priors)


def refined_bounds(raw: RawAnswers, frames: int) -> Floats:
    """Start and end (B, A, 2) of refined segments, in frames, within the window of `frames` frames."""
    loc, prop_loc, priors = _tensors(raw.loc, raw.prop_loc, raw.priors)
    return np.asarray(anchor_answers.refined_segments(loc, prop_loc, priors, frames))


def anchor_scores(raw: RawAnswers) -> Floats:
    """Scores (B, A, K) of every anchor's segment in every class, in [0, 1]."""
    conf, prop_conf, center = _tensors(raw.conf, raw.prop_conf, raw.center)
    return np.asarray(anchor_answers.anchor_scores(conf, prop_conf, center))


def _tensors(*arrays: Floats) -> list[Tensor]:
    return [torch.tensor(each) for each in arrays]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates (N,) of clips and classes, class by class.

    Attributes:
        clip: which clip, as a number or a name.
        label: class number, 1..K-1.
        bounds: start and end (N, 2), in seconds of the clip.
        score: in (0, 1].
    """

    clip: NDArray[Any]
    label: NDArray[np.int64]
    bounds: NDArray[np.float64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)

    def detections(self) -> Detections:
        """The same as detections.

        Raises:
            DataError: a candidate that ends before it starts, which only `variant: released` keeps.
        """
        return Detections(self.clip, self.bounds[:, 0], self.bounds[:, 1], self.label, self.score)


def candidates(
    bounds: Floats,
    scores: Floats,
    *,
    clip: NDArray[Any],
    offset: NDArray[Any],
    rate: Annotated[float, Field(gt=0)],
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.01,
    variant: Released = "default",
) -> Candidates:
    """Every (anchor, class) whose score is above the threshold; background is none.

    Args:
        bounds: (B, A, 2), in frames of their window.
        scores: (B, A, K).
        clip: which clip each window is of (B,), numbers or names.
        offset: the window's first frame in the clip (B,).
        rate: frames a second.
        threshold: of the score.
        variant: see the file's head.

    Raises:
        DataError: arrays that do not fit each other.
    """
    if not len(bounds) == len(scores) == len(clip) == len(offset) or bounds.shape[:2] != scores.shape[:2]:
        raise DataError(f"bounds {bounds.shape}, scores {scores.shape} and {len(clip)} windows do not fit each other")
    likely = np.moveaxis(scores, -1, 0)[1:] > threshold
    if variant == "default":
        likely = likely & (bounds[..., 1] > bounds[..., 0])
    label, window, anchor = np.nonzero(likely)
    frames = bounds[window, anchor].astype(np.float64) + np.asarray(offset)[window][:, None]
    score = scores[window, anchor, label + 1].astype(np.float64)
    return Candidates(np.asarray(clip)[window], label + 1, frames / rate, score)


def suppressed(
    found: Candidates,
    *,
    sigma: Annotated[float, Field(gt=0)] = 0.5,
    floor: Annotated[float, Field(gt=0)] = 1e-3,
    top_k: Annotated[int, Field(ge=1)] = 5000,
    variant: Released = "default",
) -> Candidates:
    """`soft_nms` of the candidates of every clip and class: clip by clip, class by class, the surest first.

    Args:
        found: candidates of any clips.
        sigma: the larger, the gentler; published 0.1 for RGB, 0.5 for flow.
        floor: what falls below is dropped.
        top_k: at most this many are kept of a clip and class.
        variant: of `soft_nms`; "released" keeps the order of the candidates within a class.
    """
    clip = np.unique(found.clip, return_inverse=True)[1]
    classes, label = np.unique(found.label, return_inverse=True)
    groups = clip * max(len(classes), 1) + label
    kept, scores = soft_nms(found.bounds, found.score, groups, sigma=sigma, floor=floor, top_k=top_k, variant=variant)
    order = np.argsort(groups[kept], kind="stable")
    rows = kept[order]
    return Candidates(found.clip[rows], found.label[rows], found.bounds[rows], scores[order])
