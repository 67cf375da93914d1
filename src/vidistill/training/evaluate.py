"""Run a network over all test views of some clips, on any number of processes, every clip counted once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from vidistill.core.progress import Counter
from vidistill.data.batches import ViewDataset, fixed_batches, loader


@dataclass(frozen=True)
class Predictions:
    """Logits by head, averaged over a clip's test views (N, C); labels by head (N,); store indices (N,)."""

    logits: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.int64]]
    clip: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write as .npz, beside and renamed."""
        beside = path.with_suffix(".tmp.npz")
        arrays = {f"logits:{h}": v for h, v in self.logits.items()} | {f"label:{h}": v for h, v in self.labels.items()}
        np.savez(beside, clip=self.clip, **arrays)  # type: ignore[arg-type]
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            part = {p: {k.split(":", 1)[1]: file[k] for k in file if k.startswith(p)} for p in ("logits:", "label:")}
            return cls(part["logits:"], part["label:"], file["clip"])


def evaluate(
    network: nn.Module,
    dataset: ViewDataset,
    indices: NDArray[np.int64],
    input_name: str,
    accelerator: Accelerator,
    *,
    batch_size: int = 32,
    workers: int = 0,
    counter: Counter | None = None,
) -> Predictions:
    """Predictions for the clips `indices` that have the network's input; the network is left in its former mode.

    Clips without the input are left out: their absence shows in `clip`.
    """
    modality = dataset.presence[input_name]
    have = np.array([i for i in indices if dataset.store.has(int(i), modality)], dtype=np.int64)
    batches = fixed_batches(
        have, dataset.policy.test_views, batch_size, accelerator.process_index, accelerator.num_processes
    )
    was_training = network.training
    network.eval()
    rows: list[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]] = []
    with torch.inference_mode():
        for batch in loader(dataset, batches, workers):
            logits = network(batch.inputs[input_name].to(accelerator.device)).logits
            rows.append(
                (
                    batch.clip.numpy(),
                    {head: value.float().cpu().numpy() for head, value in logits.items()},
                    {head: value.numpy() for head, value in batch.labels.items()},
                )
            )
            if counter:
                counter.advance(len(batch))
    network.train(was_training)
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    return _mean_over_views(rows, dataset.policy.test_views)


def _mean_over_views(
    rows: list[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]], views: int
) -> Predictions:
    clip = np.concatenate([row[0] for row in rows])
    order = np.argsort(clip, kind="stable")
    logits, labels = {}, {}
    for head in rows[0][1]:
        values = np.concatenate([row[1][head] for row in rows])[order]
        logits[head] = values.reshape(-1, views, values.shape[1]).mean(1)
        labels[head] = np.concatenate([row[2][head] for row in rows])[order][::views]
    return Predictions(logits, labels, clip[order][::views])
