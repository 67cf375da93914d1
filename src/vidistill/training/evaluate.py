"""Run a network over all test views of some clips, on any number of processes, every clip counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.progress import Counter
from vidistill.core.types import Batch, Outputs
from vidistill.data.batches import ViewDataset, clip_shape, fixed_batches, loader, view_counts
from vidistill.data.steps import sliding_windows
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks.base import Predictions
from vidistill.tasks.segments import average_windows, window_starts

Arrays = dict[str, NDArray[Any]]
WINDOWS = 8
"""Windows that a network sees at once."""


class StepNetwork(Protocol):
    """A temporal detector: steps are encoded one by one, and windows of them put in context."""

    def encode(self, steps: Tensor) -> Tensor:
        """Embeddings (N, E) of steps (N, *shape of one step)."""

    def contextualise(self, embeddings: Tensor) -> Outputs:
        """Logits (B, S, classes) of windows of embeddings (B, S, E)."""


class WindowTask(Protocol):
    """A task whose rows are what a network proposes for a whole window."""

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Logits (B, A, classes) and bounds (B, A, 2) as parts of the window."""

    def window_labels(self, store: ClipStore, policy: ViewPolicy, index: int) -> NDArray[np.int64]:
        """Labels of all rows of a clip's windows, in order."""


@dataclass(frozen=True)
class _Part:
    """What one clip gave: its store index, arrays by head, spans of its rows."""

    clip: int
    logits: Arrays
    labels: Arrays
    spans: NDArray[np.float64] | None = None


def evaluate(
    network: nn.Module,
    dataset: ViewDataset,
    indices: NDArray[np.int64],
    input_name: str,
    accelerator: Accelerator,
    *,
    windows: WindowTask | None = None,
    batch_size: int = 32,
    workers: int = 0,
    counter: Counter | None = None,
) -> Predictions:
    """Predictions for the clips `indices` that have the network's input; the network is left in its former mode.

    Trimmed clips: logits averaged over test views. Untrimmed ones: a row a time step; each step is encoded once, and
    logits are averaged over the overlapping windows that show it; or, with a task of `windows`, a row for everything
    that half-overlapping windows propose. Clips without the input are left out: their absence shows in `clip`.
    """
    policy = dataset.policy
    have = np.array([i for i in indices if dataset.has(int(i), input_name)], dtype=np.int64)
    counts = view_counts(dataset.store, policy, have)
    size = max(1, batch_size // policy.steps)
    batches = fixed_batches(have, counts, size, accelerator.process_index, accelerator.num_processes)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        stream = _counted(loader(dataset, batches, workers), counter)
        work = _views if policy.steps == 1 else _steps if windows is None else partial(_windows, windows)
        parts = list(work(network, stream, dataset, input_name, accelerator))
    network.train(was_training)
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    return _joined(parts)


def _counted(stream: Iterator[Batch], counter: Counter | None) -> Iterator[Batch]:
    for batch in stream:
        yield batch
        if counter:
            counter.advance(len(batch))


def _by_clip(rows: Iterator[tuple[Batch, Arrays]]) -> Iterator[tuple[int, Arrays, Arrays]]:
    """Arrays and labels of each clip's views, stacked; views of one clip follow each other."""
    clip = -1
    values: list[Arrays] = []
    labels: list[Arrays] = []

    def stacked(rows: list[Arrays]) -> Arrays:
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    for batch, arrays in rows:
        for place, number in enumerate(batch.clip.tolist()):
            if number != clip and values:
                yield clip, stacked(values), stacked(labels)
                values, labels = [], []
            clip = number
            values.append({name: array[place] for name, array in arrays.items()})
            labels.append({head: label[place].numpy() for head, label in batch.labels.items()})
    if values:
        yield clip, stacked(values), stacked(labels)


def _views(
    network: nn.Module, stream: Iterator[Batch], dataset: ViewDataset, input_name: str, accelerator: Accelerator
) -> Iterator[_Part]:
    """Trimmed clips: one row each, the mean of its views."""

    def rows() -> Iterator[tuple[Batch, Arrays]]:
        for batch in stream:
            logits = network(batch.inputs[input_name].to(accelerator.device)).logits
            yield batch, {head: value.float().cpu().numpy() for head, value in logits.items()}

    for clip, logits, labels in _by_clip(rows()):
        means = {head: value.mean(0, keepdims=True) for head, value in logits.items()}
        yield _Part(clip, means, {head: value[:1] for head, value in labels.items()})


def _steps(
    network: Any, stream: Iterator[Batch], dataset: ViewDataset, input_name: str, accelerator: Accelerator
) -> Iterator[_Part]:
    """Untrimmed clips: one row a step."""
    policy = dataset.policy

    def rows() -> Iterator[tuple[Batch, Arrays]]:
        for batch in stream:
            windows = batch.inputs[input_name].to(accelerator.device)
            embeddings = network.encode(windows.flatten(0, 1)).float()
            yield batch, {"": embeddings.unflatten(0, windows.shape[:2]).cpu().numpy()}

    for clip, arrays, labels in _by_clip(rows()):
        shape = clip_shape(dataset.store, clip)
        count = policy.steps_of(shape)
        embeddings = torch.from_numpy(np.concatenate(list(arrays[""]))[:count]).to(accelerator.device)
        logits = in_context(network, embeddings, policy.steps)
        bounds = np.minimum(np.arange(count + 1) * policy.step_frames, shape.frames) / shape.rate
        bounds[-1] = max(bounds[-1], shape.frames / shape.rate)
        rows_of = {head: np.concatenate(list(value))[:count] for head, value in labels.items()}
        yield _Part(clip, logits, rows_of, np.stack([bounds[:-1], bounds[1:]], 1))


def _windows(
    task: Any,
    network: Any,
    stream: Iterator[Batch],
    dataset: ViewDataset,
    input_name: str,
    accelerator: Accelerator,
) -> Iterator[_Part]:
    """Untrimmed clips: the rows of windows that lie half a window apart; a few windows are held at a time."""
    policy = dataset.policy

    def steps() -> Iterator[tuple[int, Tensor]]:
        for batch in stream:
            for clip, window in zip(batch.clip.tolist(), batch.inputs[input_name], strict=True):
                yield from ((clip, step) for step in window)

    for clip, group in groupby(steps(), key=itemgetter(0)):
        shape = clip_shape(dataset.store, clip)
        count, size = policy.steps_of(shape), policy.steps
        starts = window_starts(count, size)
        seconds = policy.step_frames / shape.rate
        logits, spans = [], []
        windows = sliding_windows((step for _, step in islice(group, count)), starts.tolist(), size)
        for first in range(0, len(starts), WINDOWS):
            begins = starts[first : first + WINDOWS]
            inputs = torch.from_numpy(np.stack(list(islice(windows, len(begins))))).to(accelerator.device)
            values, bounds = task.decode(network(inputs))
            logits.append(values.float().cpu().numpy())
            spans.append((begins[:, None, None] + size * bounds.double().cpu().numpy()) * seconds)
        rows = np.concatenate(logits)
        head = next(iter(network.classes))
        labels = {head: task.window_labels(dataset.store, policy, clip)}
        until = np.minimum(np.concatenate(spans).reshape(-1, 2), shape.frames / shape.rate)
        yield _Part(clip, {head: rows.reshape(-1, rows.shape[-1])}, labels, until)


def in_context(network: StepNetwork, embeddings: Tensor, steps: int) -> Arrays:
    """Logits by head (L, classes) of an untrimmed clip's step embeddings (L, E), averaged over overlapping windows.

    A clip shorter than a window is one shorter window.
    """
    length = len(embeddings)
    size = min(steps, length)
    starts = window_starts(length, size)
    windows = embeddings[torch.from_numpy(starts[:, None] + np.arange(size)).to(embeddings.device)]
    outputs = network.contextualise(windows)
    return {
        head: average_windows(value.float().cpu().numpy(), starts, length).astype(np.float32)
        for head, value in outputs.logits.items()
    }


def _joined(parts: list[_Part]) -> Predictions:
    """All clips' rows, in order of the store."""
    parts = sorted(parts, key=lambda part: part.clip)
    first = parts[0]

    def joined(kind: str) -> Arrays:
        return {head: np.concatenate([getattr(part, kind)[head] for part in parts]) for head in getattr(first, kind)}

    counts = [len(next(iter(part.logits.values()))) for part in parts]
    clip = np.repeat(np.array([part.clip for part in parts], np.int64), counts)
    spans = None if first.spans is None else np.concatenate([part.spans for part in parts if part.spans is not None])
    return Predictions(joined("logits"), joined("labels"), clip, spans)
