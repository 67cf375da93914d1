"""A survey: student and teachers look once at every clip, without learning, and say how hard it is to transfer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.types import Batch, Losses
from vidistill.tasks.base import Task
from vidistill.teachers.group import Teachers


def survey(
    module: nn.Module, teachers: Teachers, task: Task, stream: Iterator[Batch], accelerator: Accelerator
) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """What is said of the clips of `stream`; the module is left in training mode.

    Args:
        module: student, method and label loss (`loop.Step`): gives losses a row.
        teachers: who the student is taught by.
        task: says which clips rows belong to.
        stream: this process's batches.
        accelerator: gathers what other processes saw.

    Returns:
        store indices (M,), increasing; the sum (M,) of each clip's weighted distillation terms; the teachers'
        embeddings of each clip side by side (M, D), means over its rows.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]] = []
    module.eval()
    with torch.no_grad():
        for batch in stream:
            batch = batch.to(accelerator.device)
            taught = teachers(batch)
            losses, _ = module(batch, taught)
            losses, clips = task.fold(losses, batch)
            embeddings = [taught[name].embedding.float() for name in teachers.members]
            means = [each.reshape(len(clips), -1, each.shape[1]).mean(1) for each in embeddings]
            parts.append((clips.cpu().numpy(), transfer_loss(losses).cpu().numpy(), torch.cat(means, 1).cpu().numpy()))
    module.train()
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    clip, value, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(clip, kind="stable")  # the same whatever the number of processes
    return clip[order], torch.from_numpy(value[order]), torch.from_numpy(features[order])


def transfer_loss(losses: Losses) -> Tensor:
    """The weighted sum (B,) of the distillation terms that have a value of their own for each clip."""
    terms = [loss for loss in losses.values() if loss.distillation and loss.per_clip and loss.weight]
    return torch.stack([loss.weight * loss.values.float() for loss in terms]).sum(0)
