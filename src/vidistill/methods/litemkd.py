"""Lite-MKD: distil a few-shot recogniser from multi-modal features, at the level of queries and of the support.

Liu et al.: Lite-MKD: A Multi-modal Knowledge Distillation Framework for Lightweight Few-shot Action Recognition,
ACM Multimedia 2023, DOI 10.1145/3581783.3612279, and its code (no arXiv version; the code's 24 losses are
`litemkd_recipes.py`). The focal weight is of Zhou et al.: Rethinking Soft Labels, ICLR 2021, arXiv 2102.00650, eq. 8.

    query    = T^2 KL( softmax(q_t / T) || softmax(q_s / T) )          or  1 - corr( softmax q_s, softmax q_t )
    D_ij     = - || P_i - P_j ||_F^2 / L,  j != i                      how far the support's classes lie apart
    support  = mean_i  1 - corr( softmax_j D_s[i], softmax_j D_t[i] )  or  T^2 KL of them
    L_q      = query_weight * query[q] + support_weight * support[episode of q]

    symbol     here                  meaning
    q_s, q_t   EpisodeRows.*         logits of a query (Q, way): its likeness to each class of the support
    P_i        class_distances       class i of the support, mean over shots of its frames (L, D)
    D          EpisodeRows.support   (E, way, way - 1)
    w          focal_weights         1 - exp(- CE(one) / CE(other)), without gradient

A student has one stream of frame vectors or two: `episode` is taught by labels, `episode_distilled` by the teacher
(both are one where there is one); the teacher has one. Rows are the Q queries of E episodes, episode after episode, as
many each; an episode's support term is the same for each of its queries, so the mean over rows is the mean over
episodes. Label losses are the task's.

Deviations: support clips stand under their classes (the published sampler shuffles them, then takes each consecutive
`shot` for a class, which are no classes); all terms are means over queries (the published code divides label losses by
16 and not the others); a row of equal probabilities in both networks counts 0 in the correlation, not 1; w is of each
query, not of the mean over queries (`variant: released`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, frozen, masked, precise
from vidistill.methods.kd import kd_loss

EPISODE, DISTILLED, PATCHES = "episode", "episode_distilled", "episode_patches"
"""Heads: the stream that labels teach, the one the teacher teaches, and STRM's patch-level classifier."""
SUPPORT, SUPPORT_DISTILLED, SIMILARITIES, QUERIES = "support", "support_distilled", "similarities", "queries"
"""Features: frames of the support (E, way, shot, L, D) by stream, cosines between a query's prototypes (Q, way, way),
frames of the queries (Q, L, D)."""
EPSILON = 1e-8

Stream = Literal["labelled", "distilled"]


def pearson_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - Pearson correlation of softmax probabilities over the last axis.

    Args:
        student: logits (..., C).
        teacher: logits (..., C).

    Returns:
        (...), in [0, 2]; 0 where both have equal probabilities for all classes.

    Raises:
        RecipeError: C is below 3; the correlation of two numbers is 1 or -1 whatever they are, and teaches nothing.
    """
    if student.shape[-1] < 3:
        raise RecipeError(
            f"a correlation over {student.shape[-1]} entries teaches nothing",
            todo="'pearson' needs 3 ways for queries and 4 for the support; use 'kd'.",
        )
    ours, theirs = (_standardise(torch.softmax(values, -1)) for values in (precise(student), frozen(teacher)))
    return (ours - theirs).square().sum(-1) / 2.0


def _standardise(values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().sum(-1, keepdim=True) + EPSILON**2).sqrt()


def class_distances(support: Tensor) -> Tensor:
    """How far each class of the support lies from each other one: D of the file's head.

    Args:
        support: frames (E, way, shot, L, D), class by class.

    Returns:
        (E, way, way - 1), 0 or less; the others in ascending order.
    """
    episodes, way, _, length, _ = support.shape
    means = precise(support).mean(2).flatten(2)  # (E, way, L * D)
    distances = -(means[:, :, None] - means[:, None, :]).square().sum(-1) / length
    # Dropping the first entry puts the diagonal last in rows of way + 1: it falls away with the last column.
    return distances.flatten(1)[:, 1:].reshape(episodes, way - 1, way + 1)[:, :, :-1].reshape(episodes, way, way - 1)


def focal_weights(one: Tensor, other: Tensor, labels: Tensor, shared: bool = False) -> Tensor:
    """1 - exp(-CE(one) / CE(other)) for each query (Q,), in [0, 1], without gradient.

    Args:
        one: logits (Q, way); the larger its loss, the larger the weight.
        other: logits (Q, way).
        labels: (Q,).
        shared: use the mean losses of all queries instead of each query's.
    """
    losses = [functional.cross_entropy(precise(values.detach()), labels, reduction="none") for values in (one, other)]
    if shared:
        losses = [values.mean().expand_as(values) for values in losses]
    return -torch.expm1(-losses[0] / (losses[1] + EPSILON))


@dataclass(frozen=True)
class EpisodeRows:
    """What a network says of E episodes with Q queries in all; None for what it does not give.

    Attributes:
        labelled: logits (Q, way) of the stream that labels teach.
        distilled: logits (Q, way) of the stream that the teacher teaches; the same where there is one stream.
        support: class distances (E, way, way - 1) by stream.
        patches: logits (Q, way) of patch-level classifiers.
        similarities: cosines (Q, way, way) between the prototypes that each query makes of the classes.
        frames: vectors of the support's and of the queries' frames (E, ..., D) and (Q, ..., D).
    """

    labelled: Tensor
    distilled: Tensor
    support: dict[str, Tensor]
    patches: Tensor | None = None
    similarities: Tensor | None = None
    frames: tuple[Tensor, Tensor] | None = None

    def stream(self, name: Stream) -> Tensor:
        """The logits of a stream."""
        return self.labelled if name == "labelled" else self.distilled


@METHODS.register("litemkd")
class LiteMKD(Method):
    """Queries and class distances of the support, from one teacher. The default is the paper's loss.

    Args:
        context: the networks.
        weight: factor of all terms.
        teacher: one teacher's name; may be left out where there is one. The ensemble has no support to learn from, so
            it is allowed where no term needs the teacher's features.
        query: what queries learn from: "kd" softened probabilities, "pearson" their correlation.
        query_stream: the student's stream that does.
        query_weight: factor of the term.
        temperature: softening in every "kd".
        support: what the support learns from: "pearson" or "kd" of class distances, "similarities" for "kd" of the
            cosines between each query's prototypes.
        support_streams: the student's streams that do.
        support_weight: factor of the term.
        patch_weight: factor of "kd" of the patch-level classifier (STRM) towards the teacher's logits; 0 leaves it out.
        feature_weight: factor of the mean squared difference of frame vectors; 0 leaves it out.
        focal: "wsl" weighs the query term by w(student, teacher). "balance" weighs it by focal_base + w and the support
            and label terms by focal_base + 1 - w, where w is of the labelled stream against the distilled one.
        focal_base: see `focal`.
        label_weight: with "balance" only: the factor of the task's label loss, whose share the method adds as the term
            "label_focal" = label_weight * (focal_base - w) * CE, so that both together have the factor above.
        variant: "released" weighs all queries of a batch (there one episode) by one w, of the mean losses.

    Raises:
        RecipeError: no such teacher, several and none named, or the ensemble where features are needed.
            When called: too few ways for "pearson".
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        teacher: str | None = None,
        query: Literal["kd", "pearson", "none"] = "kd",
        query_stream: Stream = "distilled",
        query_weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        support: Literal["pearson", "kd", "similarities", "none"] = "pearson",
        support_streams: tuple[Stream, ...] = ("labelled",),
        support_weight: Weight = 0.5,
        patch_weight: Weight = 0.0,
        feature_weight: Weight = 0.0,
        focal: Literal["none", "wsl", "balance"] = "none",
        focal_base: Weight = 1.0,
        label_weight: Weight = 1.0,
        variant: Literal["default", "released"] = "default",
    ) -> None:
        super().__init__(context)
        if teacher is None and len(context.teacher_dims) != 1:
            raise RecipeError(
                f"litemkd learns from one teacher and there are {len(context.teacher_dims)}",
                todo=f"Set 'teacher' to one of: {', '.join(context.teacher_dims) or 'none'}.",
            )
        features = support != "none" or feature_weight > 0
        self.teacher = self.check_teacher(teacher or next(iter(context.teacher_dims)), ensemble=not features)
        self.weight, self.query_weight, self.support_weight = weight, query_weight, support_weight
        self.query, self.query_stream, self.temperature = query, query_stream, temperature
        self.support, self.support_streams = support, support_streams
        self.patch_weight, self.feature_weight = patch_weight, feature_weight
        self.focal, self.focal_base, self.label_weight, self.variant = focal, focal_base, label_weight, variant

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "query", "support", "patches", "features" and "label_focal", as far as the options ask for them.

        Raises:
            RecipeError: logits or features that a term needs are not there.
        """
        theirs = self._rows(teachers[self.teacher], f"teacher {self.teacher!r}", one_stream=True)
        terms = self.compare(self._rows(student, "the student"), theirs, batch.labels[EPISODE])
        mask = self.teacher_mask(self.teacher, batch)
        for loss in terms.values():
            loss.values = masked(loss.values, mask)
        return terms

    def compare(self, student: EpisodeRows, teacher: EpisodeRows, labels: Tensor) -> Losses:
        """The terms from what both networks say; `labels` (Q,) in 0..way-1."""
        w = self._focal(student, teacher, labels)
        terms: Losses = {}
        if self.query != "none":
            values = self._query(student.stream(self.query_stream), teacher.labelled)
            factor = w if self.focal == "wsl" else w + self.focal_base if self.focal == "balance" else 1.0
            terms["query"] = Loss(values * factor, self.weight * self.query_weight)
        rest = self.focal_base + 1.0 - w if self.focal == "balance" else 1.0
        if self.support != "none":
            terms["support"] = Loss(self._support(student, teacher) * rest, self.weight * self.support_weight)
        if self.patch_weight > 0 and student.patches is not None:
            values = kd_loss(student.patches, teacher.labelled, self.temperature)
            terms["patches"] = Loss(values, self.weight * self.patch_weight)
        if self.feature_weight > 0 and student.frames is not None and teacher.frames is not None:
            values = frame_loss(student.frames, teacher.frames)
            terms["features"] = Loss(values, self.weight * self.feature_weight)
        if self.focal == "balance" and self.label_weight > 0:
            values = functional.cross_entropy(precise(student.labelled), labels, reduction="none")
            # Not times `weight`: the task's own term is not either.
            terms["label_focal"] = Loss(values * (self.focal_base - w), self.label_weight, distillation=False)
        return terms

    def _focal(self, student: EpisodeRows, teacher: EpisodeRows, labels: Tensor) -> Tensor:
        """The weights w (Q,); zero where `focal` is "none"."""
        if self.focal == "none":
            return torch.zeros_like(labels, dtype=precise(student.labelled).dtype)
        shared = self.variant == "released"
        if self.focal == "wsl":
            return focal_weights(student.stream(self.query_stream), teacher.labelled, labels, shared)
        return focal_weights(student.labelled, student.distilled, labels, shared)

    def _query(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(Q,)."""
        return kd_loss(student, teacher, self.temperature) if self.query == "kd" else pearson_loss(student, teacher)

    def _support(self, student: EpisodeRows, teacher: EpisodeRows) -> Tensor:
        """(Q,): the sum over streams; the same for all queries of an episode, but for "similarities"."""
        if self.support == "similarities" and student.similarities is not None and teacher.similarities is not None:
            return kd_loss(student.similarities.flatten(1), teacher.similarities.flatten(1), self.temperature)
        target = teacher.support["labelled"]
        episodes, way = target.shape[:2]
        total = target.new_zeros(episodes)
        for stream in self.support_streams:
            ours = student.support[stream]
            if self.support == "pearson":
                values = pearson_loss(ours, target)
            else:
                values = kd_loss(ours.flatten(0, 1), target.flatten(0, 1), self.temperature).view(episodes, way)
            total = total + values.mean(1)
        return total.repeat_interleave(len(student.labelled) // episodes)

    def _rows(self, outputs: Outputs, owner: str, one_stream: bool = False) -> EpisodeRows:
        """Of a network's outputs, what the options need.

        Raises:
            RecipeError: something of it is missing.
        """
        labelled = _need(outputs.logits, EPISODE, "logits", owner)
        support: dict[str, Tensor] = {}
        if self.support in ("pearson", "kd"):
            for stream in ("labelled",) if one_stream else self.support_streams:
                second = stream == "distilled" and SUPPORT_DISTILLED in outputs.features
                frames = _need(outputs.features, SUPPORT_DISTILLED if second else SUPPORT, "feature", owner)
                support[stream] = class_distances(frames if frames.ndim == 5 else frames[None])
        patches = _need(outputs.logits, PATCHES, "logits", owner) if self.patch_weight and not one_stream else None
        similar = _need(outputs.features, SIMILARITIES, "feature", owner) if self.support == "similarities" else None
        frames_of = None
        if self.feature_weight > 0:
            first, second_ = (_need(outputs.features, name, "feature", owner) for name in (SUPPORT, QUERIES))
            frames_of = (first if first.ndim == 5 else first[None], second_)
        return EpisodeRows(labelled, outputs.logits.get(DISTILLED, labelled), support, patches, similar, frames_of)


def _need(there: dict[str, Tensor], name: str, what: str, owner: str) -> Tensor:
    if name not in there:
        raise RecipeError(
            f"litemkd needs the {what} {name!r} and {owner} gives {', '.join(sorted(there)) or 'none'}",
            todo="It is for the task 'fewshot'; choose another distiller, or a network and comparison that give it.",
        )
    return there[name]


def frame_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of frame vectors, for each query (Q,).

    The support (E, ..., D) counts in an episode by its number of values against that of the queries (Q, ..., D), so
    the mean over an episode's queries is the mean over all its frames.
    """
    support, queries = ((precise(s) - frozen(t)).square() for s, t in zip(student, teacher, strict=True))
    each = len(queries) // len(support)
    share = support[0].numel() / (support[0].numel() + each * queries[0].numel())
    return (1.0 - share) * queries.flatten(1).mean(1) + share * support.flatten(1).mean(1).repeat_interleave(each)
