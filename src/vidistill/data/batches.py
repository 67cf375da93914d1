"""From a prepared store to batches: which (clip, view) comes when, and how its tensors are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vidistill.core.interruption import Interrupted, apply_interruption
from vidistill.core.seeds import generator
from vidistill.core.types import Batch, Signal, View
from vidistill.data.joint import Joint, join
from vidistill.data.store import ClipStore
from vidistill.data.views import ClipShape, ViewPolicy

Key = tuple[int, int]
"""(clip index in the store, view number)"""
Labeller = Callable[[int, View], Mapping[str, Any]]
"""(clip index, view) -> by head a class number, or one for each time step (T,)"""


class Interruption(Protocol):
    """How views of one number are interrupted: what `batches` needs of a curriculum's."""

    def for_clip(self, length: int, seed: int, clip: str, view: int) -> Interrupted | None:
        """What happens to the `length` frames of one view of one clip."""


class Encoding(Protocol):
    """How a signal becomes a network's input: what `batches` needs of a modality."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor, without batch."""

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """The signal as seen by the view, float32 of `shape`."""


SEVERAL = "+"
"""Between the modalities of an input that is made of several."""


@dataclass(frozen=True)
class Input:
    """One network input: a name in the recipe, the modality it reads, and its encoding.

    An encoding reads a signal (`encode`), or gives rows that are stored for clips and views (`row`), or is `Joint`.
    """

    name: str
    modality: str
    encoding: Any

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modality, or all of an input that is made of several."""
        return tuple(self.modality.split(SEVERAL))


@dataclass
class Sample:
    """One clip under one view, before batching."""

    key: Key
    inputs: dict[str, torch.Tensor | None]
    labels: Mapping[str, Any]
    present: dict[str, bool]


class ViewDataset(Dataset[Sample]):
    """Random access to (clip, view number); pure, so any worker gives the same sample.

    Args:
        store: prepared clips.
        inputs: what to make tensors of.
        policy: how views are drawn.
        seed: seed of training views; None gives test views.
        presence: further inputs (name -> modality) of which only the presence is wanted, as cached teachers need.
        labeller: what a view's labels are; None: the clip's own.
        interruptions: how the frames of some view numbers are interrupted, e.g. those of a curriculum's surveys.
        without: modalities that are taken for missing in all clips.
    """

    def __init__(
        self,
        store: ClipStore,
        inputs: Sequence[Input],
        policy: ViewPolicy,
        seed: int | None,
        presence: Mapping[str, str] | None = None,
        labeller: Labeller | None = None,
        interruptions: Mapping[int, Interruption] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        self.store, self.inputs, self.policy, self.seed = store, tuple(inputs), policy, seed
        self.presence = {**(presence or {}), **{i.name: i.modality for i in inputs}}
        self._labeller = labeller or own_labels(store)
        self._interruptions = dict(interruptions or {})
        self._without = frozenset(without)

    def view(self, key: Key) -> View:
        """The view of a key."""
        index, number = key
        clip = self.store.clips[index].id
        shape = clip_shape(self.store, index)
        if self.seed is None:
            return self.policy.test(clip, number, shape)
        return self.policy.train(self.seed, clip, number, shape)

    def __getitem__(self, key: Key) -> Sample:
        index, _ = key
        view = self.view(key)
        present = {name: self.has(index, name) for name in self.presence}
        tensors = {item.name: self._tensor(item, key, view) if present[item.name] else None for item in self.inputs}
        return Sample(key, tensors, self._labeller(index, view), present)

    def has(self, index: int, name: str) -> bool:
        """Whether a clip has an input; one of several modalities (`rgb+flow`) is there where any of them is."""
        return any(self._holds(index, modality) for modality in self.presence[name].split(SEVERAL))

    def _holds(self, index: int, modality: str) -> bool:
        return modality not in self._without and self.store.has(index, modality)

    def _tensor(self, item: Input, key: Key, view: View) -> torch.Tensor:
        if isinstance(item.encoding, Joint):
            have = [part for part in item.encoding.inputs if self._holds(key[0], part.modality)]
            none = dict.fromkeys(item.encoding.shapes)
            return join(none | {part.name: self._tensor(part, key, view) for part in have}, item.encoding.shapes)
        if hasattr(item.encoding, "row"):
            present = [self._holds(key[0], modality) for modality in item.modalities]
            row: torch.Tensor = item.encoding.row(key, present, self.seed is None)
            return row
        tensor: torch.Tensor = item.encoding.encode(self.store.signal(key[0], item.modality), view)
        interruption = self._interruptions.get(key[1])
        if interruption is None or self.seed is None:
            return tensor
        # Images are (C, T, H, W), joint graphs (C, T, J), sequences (T, D); a window of steps has one axis before.
        axis = (0 if len(item.encoding.shape) - (self.policy.steps > 1) == 2 else 1) + (self.policy.steps > 1)
        interrupted = interruption.for_clip(self.policy.frames, self.seed, view.clip, view.number)
        return apply_interruption(tensor, axis, interrupted)

    def collate(self, samples: list[Sample]) -> Batch:
        """Stack samples; an absent modality is zeros with `present` False."""
        shapes = {item.name: item.encoding.shape for item in self.inputs}
        absent = {name: torch.zeros(shape) for name, shape in shapes.items()}
        inputs = {
            name: torch.stack([absent[name] if s.inputs[name] is None else s.inputs[name] for s in samples])  # type: ignore[misc]
            for name in shapes
        }
        return Batch(
            inputs=inputs,
            labels={head: torch.from_numpy(np.stack([s.labels[head] for s in samples])) for head in samples[0].labels},
            clip=torch.tensor([s.key[0] for s in samples]),
            view=torch.tensor([s.key[1] for s in samples]),
            present={name: torch.tensor([s.present[name] for s in samples]) for name in self.presence},
        )


def own_labels(store: ClipStore) -> Labeller:
    """The class numbers of trimmed clips, -1 where a clip has no label of a head."""
    labels = {head: store.labels(head) for head in store.classes}
    return lambda index, view: {head: values[index] for head, values in labels.items()}


def clip_shape(store: ClipStore, index: int) -> ClipShape:
    """Frames, rate and aspect of a clip's reference modality."""
    height, width = store.frame_size(index)
    return ClipShape(store.frames(index), store.rate(index), width / height)


def loader(dataset: ViewDataset, batches: Sequence[Sequence[Key]], workers: int = 0) -> Iterator[Batch]:
    """Iterate over given batches of keys, in their order, with any number of worker processes."""
    if not batches:
        return iter(())
    return iter(
        DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=min(workers, len(batches)),
            collate_fn=dataset.collate,
        )
    )


def epoch_batches(
    indices: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, batch_size: int
) -> list[list[Key]]:
    """The shuffled batches of an epoch, every clip under each of `views`; the order depends on (seed, epoch) alone.

    A last batch smaller than half the batch size is merged into the one before, so that no step rests on a handful of
    clips. Several processes take every n-th key of each batch.
    """
    order = generator(seed, "order", epoch).permutation(len(indices) * len(views))
    keys = [(int(indices[i % len(indices)]), views[i // len(indices)]) for i in order.tolist()]
    count = max(1, int(np.floor(len(keys) / batch_size + 0.5)))
    bounds = [min(i * batch_size, len(keys)) for i in range(count)] + [len(keys)]
    return [keys[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def view_counts(store: ClipStore, policy: ViewPolicy, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of test views (N,) of each of the clips."""
    if policy.steps == 1:
        return np.full(len(indices), policy.test_views, np.int64)
    return np.array([policy.views_of(clip_shape(store, int(i))) for i in indices], np.int64)


def fixed_batches(
    indices: NDArray[np.int64], views: int | NDArray[np.int64], batch_size: int, rank: int = 0, processes: int = 1
) -> list[list[Key]]:
    """All test views of the clips in a fixed order, cut in batches; each process takes its own clips.

    `views`: test views of every clip, or of each (N,).
    """
    counts = np.broadcast_to(views, len(indices))
    keys = [
        (int(i), v) for i, n in zip(indices[rank::processes], counts[rank::processes], strict=True) for v in range(n)
    ]
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
