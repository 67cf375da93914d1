"""Untrimmed streams out of trimmed clips: clips of one split and group, one after the other, with exact boundaries.

A stream is no copy: it reads the prepared clips of a `Store` and offers the same interface, so that everything that
takes untrimmed recordings takes streams. Time runs on without gaps: a part begins where the part before ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.seeds import digest, generator
from vidistill.core.types import Clip, Segment, Signal
from vidistill.data.manifest import Problem
from vidistill.data.store import Store

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class StreamPlan:
    """How clips become streams.

    Attributes:
        clips: clips a stream, about; the rest of a group is dealt to its streams.
        rounds: how often each training clip is dealt, each time in another order; other splits are dealt once.
        seed: of the orders.
        background: labels of the head that count as background: such clips are there, unlabelled.
        left_out: labels of the head whose clips are in no stream.
        head: the label that becomes the segments'; None: the only one.
    """

    clips: int = 10
    rounds: int = 1
    seed: int = 0
    background: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    head: str | None = None

    def __post_init__(self) -> None:
        if self.clips < 1 or self.rounds < 1:
            raise RecipeError("clips and rounds are at least 1", where="data.streams")


@dataclass(frozen=True)
class _Stream:
    """The store's numbers of a stream's parts, in order."""

    split: str
    group: str | None
    parts: tuple[int, ...]
    number: int


class Streams:
    """The streams of a store, with the store's interface.

    Args:
        store: prepared trimmed clips.
        plan: how they are put together.

    Raises:
        RecipeError: a head or background label that the clips do not have.
        DataError: nothing is left to detect.
    """

    def __init__(self, store: Store, plan: StreamPlan) -> None:
        self.store, self.plan = store, plan
        self.head = plan.head or next(iter(store.classes))
        if self.head not in store.classes:
            hint = nearest(self.head, store.classes)
            raise RecipeError(f"the clips have no label {self.head!r}", where="data.streams.head", todo=hint)
        known = store.classes[self.head]
        for key in ("background", "left_out"):
            for label in getattr(plan, key):
                if label not in known:
                    hint = nearest(label, known)
                    raise RecipeError(f"no clip is labelled {label!r}", where=f"data.streams.{key}", todo=hint)
        if set(plan.background) | set(plan.left_out) == set(known):
            raise DataError("every class is background", where="data.streams.background", todo="Leave some to detect")
        self._streams = _deal(store, plan, self.head)
        self._starts = [
            np.concatenate([[0.0], np.cumsum([store.duration(part) for part in stream.parts])])
            for stream in self._streams
        ]

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def folder(self) -> Path:
        """The store's folder."""
        return self.store.folder

    @property
    def hash(self) -> str:
        """Hash of the store and of how its clips are put together."""
        plan = self.plan
        left_out = [plan.left_out] if plan.left_out else []
        parts = [self.store.hash, plan.clips, plan.rounds, plan.seed, plan.background, self.head, *left_out]
        return digest("streams", *parts)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The store's modalities."""
        return self.store.modalities

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """The store's."""
        return self.store.provenance

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The store's."""
        return self.store.problems

    @property
    def manifest_summary(self) -> dict[str, Any]:
        """The store's, and how many streams it became."""
        return {**self.store.manifest_summary, "streams": len(self)}

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The labels to detect, without background."""
        others = {*self.plan.background, *self.plan.left_out}
        return {self.head: tuple(name for name in self.store.classes[self.head] if name not in others)}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Stream ids."""
        return tuple(clip.id for clip in self.clips)

    @cached_property
    def clips(self) -> tuple[Clip, ...]:
        """The streams as untrimmed clips."""
        return tuple(self._clip(number) for number in range(len(self)))

    def _clip(self, number: int) -> Clip:
        stream, starts = self._streams[number], self._starts[number]
        names = self.store.classes[self.head]
        labels = self.store.labels(self.head)
        segments = tuple(
            Segment(float(start), float(end), names[labels[part]])
            for part, start, end in zip(stream.parts, starts[:-1], starts[1:], strict=True)
            if labels[part] >= 0 and names[labels[part]] not in self.plan.background
        )
        name = "-".join(filter(None, (stream.split, stream.group, f"{stream.number:03d}")))
        return Clip(name, stream.split, {}, {}, group=stream.group, segments={self.head: segments})

    def labels(self, head: str) -> Integers:
        """Untrimmed clips have no label of their own: -1 (N,)."""
        return np.full(len(self), -1, np.int64)

    def indices(self, split: str) -> Integers:
        """The numbers of the streams of a split."""
        return np.array([i for i, stream in enumerate(self._streams) if stream.split == split], np.int64)

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Which streams have the modality in all their parts, (N,)."""
        have = self.store.present(modality)
        return np.array([bool(have[list(stream.parts)].all()) for stream in self._streams], np.bool_)

    def has(self, index: int, modality: str) -> bool:
        """Whether all parts of a stream have the modality."""
        return all(self.store.has(part, modality) for part in self._streams[index].parts)

    def signal(self, index: int, modality: str) -> Signal:
        """One modality of one stream, its parts copied together.

        Raises:
            StoreError: a part lacks the modality.
            DataError: parts whose samples differ in shape.
        """
        parts = [self.store.signal(part, modality) for part in self._streams[index].parts]
        if len({part.values.shape[1:] for part in parts}) > 1:
            raise DataError(
                f"parts of stream {self.ids[index]!r} have {modality} of different sizes",
                todo=f"Give prepare.sources.{modality} one size, or leave the modality out.",
            )
        starts = self._starts[index]
        times = [
            offset + (part.start + np.arange(len(part)) / part.rate if part.times is None else part.times)
            for part, offset in zip(parts, starts, strict=False)
        ]
        # A sensor may overrun the frames of its clip by a sample; the next part's samples then come later.
        line = np.maximum.accumulate(np.concatenate(times))
        return Signal(np.concatenate([part.values for part in parts]), parts[0].rate, float(line[0]), line)

    def duration(self, index: int) -> float:
        """Seconds."""
        return float(self._starts[index][-1])

    def frames(self, index: int) -> int:
        """Frames of the reference modality at its rate: the stream's seconds times the rate."""
        return max(1, round(self.duration(index) * self.rate(index)))

    def rate(self, index: int) -> float:
        """Frames a second of the first part's reference modality."""
        return self.store.rate(self._streams[index].parts[0])

    def frame_size(self, index: int) -> tuple[int, int]:
        """(H, W) of the first part."""
        return self.store.frame_size(self._streams[index].parts[0])


def _deal(store: Store, plan: StreamPlan, head: str) -> list[_Stream]:
    """The parts of every stream: clips of one split and group, shuffled and cut into about equal streams."""
    shared = _shared(store)
    groups: Mapping[tuple[str, str | None], list[int]] = defaultdict(list)
    for number, clip in enumerate(store.clips):
        if clip.labels.get(head) in plan.left_out:
            continue
        groups[clip.split, clip.group if shared else None].append(number)
    streams = []
    for (split, group), members in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        count = max(1, round(len(members) / plan.clips))
        for again in range(plan.rounds if split == "train" else 1):
            order = generator(plan.seed, "streams", split, group, again).permutation(members)
            for place, part in enumerate(np.array_split(order, count)):
                streams.append(_Stream(split, group, tuple(int(i) for i in part), again * count + place))
    return streams


def _shared(store: Store) -> bool:
    """Whether groups are large enough to be streams of their own (subjects are, single recordings are not)."""
    groups = {clip.group for clip in store.clips}
    return len(store) >= 4 * len(groups)
