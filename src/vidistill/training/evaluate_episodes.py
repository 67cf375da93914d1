"""Test a few-shot network: every clip is encoded and projected once, then thousands of episodes are compared.

Encoding each episode anew would take `way * (shot + queries)` network passes an episode; here there is one a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from vidistill.core.progress import Counter
from vidistill.data.batches import ViewDataset, fixed_batches, loader, view_counts
from vidistill.data.episodes import Episodes
from vidistill.models.episode_heads import EpisodeHead, Projected
from vidistill.tasks.base import Predictions
from vidistill.tasks.fewshot import EPISODE

CLIPS = 256
EPISODES = 500
"""How many are compared between two looks at the progress; heads cut further to fit the memory."""


def encode_clips(
    network: Any,
    dataset: ViewDataset,
    clips: NDArray[np.int64],
    input_name: str,
    accelerator: Accelerator,
    *,
    batch_size: int = 32,
    counter: Counter | None = None,
) -> dict[str, Tensor]:
    """Vectors of frames (N, L, D) by stream of the clips (N,), averaged over test views, on the CPU."""
    counts = view_counts(dataset.store, dataset.policy, clips)
    rank, processes = accelerator.process_index, accelerator.num_processes
    batches = fixed_batches(clips, counts, batch_size, rank, processes)
    parts: list[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]] = []
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for batch in loader(dataset, batches):
            found = network(batch.inputs[input_name].to(accelerator.device)).features
            parts.append((batch.clip.numpy(), {s: found[s].float().cpu().numpy() for s in network.streams}))
            if counter:
                counter.advance(len(batch))
    network.train(was_training)
    if processes > 1:
        parts = gather_object(parts)
    clip = np.concatenate([part[0] for part in parts])
    order = np.argsort(clip, kind="stable")
    frames = {}
    for stream in network.streams:
        values = np.concatenate([part[1][stream] for part in parts])[order]
        frames[stream] = torch.from_numpy(values.reshape(len(clips), -1, *values.shape[1:]).mean(1))
    return frames


def evaluate_episodes(
    network: Any, frames: dict[str, Tensor], clips: NDArray[np.int64], episodes: Episodes, accelerator: Accelerator
) -> Predictions:
    """Logits of all queries, summed over the network's streams.

    Args:
        network: its `head` compares, its `streams` are summed.
        frames: of `encode_clips`.
        clips: store indices (N,) of the frames, increasing.
        episodes: what is drawn of them.

    Returns:
        Predictions with a row a query; `clip` is the episode's number.
    """
    device, head = accelerator.device, network.head
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        projected = []
        for stream in network.streams:
            parts = [head.project(part.to(device)) for part in torch.split(frames[stream], CLIPS)]
            projected.append(tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True)))
        logits = compare_projected(head, projected, clips, episodes)
    network.train(was_training)
    number = np.repeat(np.arange(len(episodes)), episodes.queries.shape[1])
    return Predictions({EPISODE: logits.flatten(0, 1).numpy()}, {EPISODE: episodes.query_labels.reshape(-1)}, number)


def compare_projected(
    head: EpisodeHead, projected: Sequence[Projected], clips: NDArray[np.int64], episodes: Episodes
) -> Tensor:
    """Logits (E, Q, way), on the CPU, of episodes of clips that are projected.

    Args:
        head: what projected them.
        projected: a stream each, of N clips.
        clips: their store indices (N,), increasing.
        episodes: what is drawn of them.
    """
    device = projected[0][0].device
    support = torch.from_numpy(np.searchsorted(clips, episodes.support))
    queries = torch.from_numpy(np.searchsorted(clips, episodes.queries))
    rows = []
    for known, asked in zip(torch.split(support, EPISODES), torch.split(queries, EPISODES), strict=True):
        known, asked = known.to(device), asked.to(device)
        summed = torch.stack([head.episodes(each, known, asked) for each in projected]).sum(0)
        rows.append(summed.float().cpu())
    return torch.cat(rows)


def save_frames(path: Path, frames: dict[str, Tensor], clips: NDArray[np.int64]) -> None:
    """Keep encoded clips as .npz, beside and renamed."""
    beside = path.with_suffix(".tmp.npz")
    np.savez(beside, clips=clips, **{name: values.numpy() for name, values in frames.items()})  # type: ignore[arg-type]
    beside.replace(path)
