"""Episodes of few-shot recognition: `way` classes, `shot` support clips and some queries of each.

Vinyals et al.: Matching Networks for One Shot Learning, NeurIPS 2016, arXiv 1606.04080, section 4.1. An episode is a
pure function of (seed, number), so all models are tested on the same episodes and workers need no state. Clips always
stand under their class: row w of the support holds clips of class w, and a clip is found by its store index, never by
its place in a folder. Shapes: E episodes, Q = way * queries.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.seeds import generator

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        support: store indices (way, shot); row w holds clips of `classes[w]`.
        queries: store indices (Q,), class by class.
        query_labels: (Q,), in 0..way-1: the row of the support that a query belongs with.
        classes: class numbers (way,), all different.
    """

    support: Integers
    queries: Integers
    query_labels: Integers
    classes: Integers


@dataclass(frozen=True)
class Episodes:
    """E episodes of one way, shot and number of queries: the arrays of `Episode` with a leading axis E."""

    support: Integers
    queries: Integers
    query_labels: Integers
    classes: Integers

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, index: int) -> Episode:
        return Episode(self.support[index], self.queries[index], self.query_labels[index], self.classes[index])

    def take(self, chosen: NDArray[Any]) -> Episodes:
        """Some of the episodes: by number, or by a mask (E,)."""
        return Episodes(self.support[chosen], self.queries[chosen], self.query_labels[chosen], self.classes[chosen])

    @classmethod
    def stack(cls, episodes: Sequence[Episode]) -> Episodes:
        """Episodes of equal shapes as one.

        Raises:
            DataError: there are none.
        """
        if not episodes:
            raise DataError("there are no episodes to stack")
        names = ("support", "queries", "query_labels", "classes")
        return cls(*(np.stack([getattr(episode, name) for episode in episodes]) for name in names))


@dataclass(frozen=True)
class ShuffledEpisode:
    """An episode as the published code gives it: support and queries each in random order, with labels beside them."""

    support: list[int]
    support_labels: list[int]
    queries: list[int]
    query_labels: list[int]
    classes: list[int]

    def grouped(self) -> Episode:
        """The same clips under their classes."""
        labels = np.array(self.support_labels, np.int64)
        support = np.array(self.support, np.int64)[np.argsort(labels, kind="stable")]
        query_labels = np.array(self.query_labels, np.int64)
        order = np.argsort(query_labels, kind="stable")
        return Episode(
            support.reshape(len(self.classes), -1),
            np.array(self.queries, np.int64)[order],
            query_labels[order],
            np.array(self.classes, np.int64),
        )


class EpisodeSampler:
    """Episodes drawn from labelled clips.

    Args:
        labels: class number of each clip (N,); clips labelled -1 are never drawn.
        clips: store index of each clip (N,); the order of the clips does not change the episodes.
        way: classes an episode, 2 or more.
        shot: support clips a class, 1 or more.
        queries: queries a class, 1 or more.
        seed: any integer.
        names: class names by class number, for messages.
        variant: "default" draws episode `number` from (seed, number) alone. "released" repeats the published sampler:
            one stream of Python's `random`, so episode 100 costs the drawing of the 100 before it.

    Raises:
        RecipeError: a number that is too small.
        DataError: fewer classes than `way`, or a class with fewer clips than `shot + queries`.
    """

    def __init__(
        self,
        labels: NDArray[Any],
        clips: NDArray[Any],
        way: int,
        shot: int,
        queries: int,
        seed: int,
        *,
        names: Sequence[str] = (),
        variant: Literal["default", "released"] = "default",
    ) -> None:
        for name, value, least in (("way", way, 2), ("shot", shot, 1), ("queries", queries, 1)):
            if value < least:
                raise RecipeError(f"{name} of an episode must be {least} or more (got {value})")
        known = np.asarray(labels) >= 0
        label, clip = np.asarray(labels)[known].astype(np.int64), np.asarray(clips)[known].astype(np.int64)
        order = np.lexsort((clip, label))
        self._clips = clip[order]
        self.classes, self._starts, self._counts = np.unique(label[order], return_index=True, return_counts=True)
        self.way, self.shot, self.queries, self.seed, self.variant = way, shot, queries, seed, variant
        self._check(names)
        self._stream: random.Random | None = None
        self._drawn: list[ShuffledEpisode] = []

    def _check(self, names: Sequence[str]) -> None:
        if len(self.classes) < self.way:
            raise DataError(
                f"{self.way}-way episodes need {self.way} classes and there are {len(self.classes)}",
                todo="Lower 'way' or give this split more classes",
            )
        need = self.shot + self.queries
        short = [
            f"{names[number] if number < len(names) else number!s} ({count})"
            for number, count in zip(self.classes.tolist(), self._counts.tolist(), strict=True)
            if count < need
        ]
        if short:
            more = f" and {len(short) - 3} more" if len(short) > 3 else ""
            raise DataError(
                f"an episode takes {self.shot} + {self.queries} clips of a class; too few are in {', '.join(short[:3])}"
                + more,
                todo="Lower 'shot' or 'queries', or leave these classes out",
            )

    def episode(self, number: int) -> Episode:
        """Episode `number`, 0 or more: always the same."""
        return self.batch(np.array([number]))[0]

    def batch(self, numbers: NDArray[Any]) -> Episodes:
        """Episodes `numbers` (E,), each as `episode` gives it."""
        if self.variant == "released":
            return Episodes.stack([self.released(int(number)).grouped() for number in numbers])
        taken = self.shot + self.queries
        uniform = np.empty((len(numbers), self.way * (1 + taken)))
        for row, number in zip(uniform, numbers, strict=True):  # 24 us each: seeding is what costs
            generator(self.seed, "episode", int(number)).random(out=row)
        total = np.full(len(numbers), len(self.classes))
        chosen = without_replacement(uniform[:, : self.way], total)  # (E, way) places in self.classes
        rows = chosen.reshape(-1)
        places = without_replacement(uniform[:, self.way :].reshape(-1, taken), self._counts[rows])
        clips = self._clips[self._starts[rows][:, None] + places].reshape(len(numbers), self.way, taken)
        queries = clips[:, :, self.shot :].reshape(len(numbers), -1)
        labels = np.repeat(np.arange(self.way), self.queries)
        return Episodes(
            np.ascontiguousarray(clips[:, :, : self.shot]),
            queries,
            np.tile(labels, (len(numbers), 1)),
            self.classes[chosen],
        )

    def released(self, number: int) -> ShuffledEpisode:
        """Episode `number` of the published stream, in its shuffled order. All before it are drawn and kept."""
        if self._stream is None:
            self._stream = random.Random(self.seed)
        while len(self._drawn) <= number:
            self._drawn.append(self._draw_released(self._stream))
        return self._drawn[number]

    def _draw_released(self, stream: random.Random) -> ShuffledEpisode:
        """The published order of random calls: classes; clips class by class; the support's order; the queries'."""
        places = stream.sample(range(len(self.classes)), self.way)
        support: list[tuple[int, int]] = []
        queries: list[tuple[int, int]] = []
        for label, place in enumerate(places):
            taken = stream.sample(range(int(self._counts[place])), self.shot + self.queries)
            clips = self._clips[self._starts[place] + np.array(taken)].tolist()
            support += [(clip, label) for clip in clips[: self.shot]]
            queries += [(clip, label) for clip in clips[self.shot :]]
        stream.shuffle(support)
        stream.shuffle(queries)
        return ShuffledEpisode(
            [clip for clip, _ in support],
            [label for _, label in support],
            [clip for clip, _ in queries],
            [label for _, label in queries],
            self.classes[places].tolist(),
        )


def without_replacement(uniform: NDArray[np.float64], sizes: Integers) -> Integers:
    """Ordered samples without replacement, one a row; all orders are equally likely.

    Args:
        uniform: numbers in [0, 1) (R, k).
        sizes: how many there are to choose from (R,), each k or more.

    Returns:
        (R, k), row r in [0, sizes[r]) and all different.
    """
    chosen = np.empty(uniform.shape, np.int64)
    for step in range(uniform.shape[1]):
        drawn = (uniform[:, step] * (sizes - step)).astype(np.int64)  # a rank among those that are left
        for earlier in np.sort(chosen[:, :step], axis=1).T:
            drawn += drawn >= earlier
        chosen[:, step] = drawn
    return chosen
