"""A survey: student and teachers look once at every clip, without learning, and say how hard it is to transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Losses
from vidistill.tasks.base import Task
from vidistill.teachers.group import Teachers


@dataclass(frozen=True)
class Seen:
    """A survey's findings.

    Attributes:
        clips: store indices (M,), increasing.
        losses: the sum (M,) of each clip's weighted distillation terms.
        features: the teachers' embeddings of each clip side by side (M, D), means over its rows.
        right: part (M,) of each clip's rows that the student gets right.
    """

    clips: NDArray[np.int64]
    losses: Tensor
    features: Tensor
    right: NDArray[np.float32]


def survey(
    module: nn.Module, teachers: Teachers, task: Task, stream: Iterator[Batch], accelerator: Accelerator
) -> Seen:
    """What is said of the clips of `stream`; the module is left in training mode.

    Args:
        module: student, method and label loss (`step.Step`): gives losses a row.
        teachers: who the student is taught by.
        task: says which clips rows belong to.
        stream: this process's batches.
        accelerator: gathers what other processes saw.

    """
    parts: list[tuple[NDArray[Any], ...]] = []
    module.eval()
    with torch.no_grad():
        for batch in stream:
            batch = batch.to(accelerator.device)
            taught = teachers(batch)
            losses, right = module(batch, taught)
            losses, clips = task.fold(losses, batch)
            embeddings = [taught[name].embedding.float() for name in teachers.members]
            means = [each.reshape(len(clips), -1, each.shape[1]).mean(1) for each in embeddings]
            known = torch.stack([rows.float().reshape(len(clips), -1).mean(1) for rows in right.values()]).mean(0)
            columns = (clips, transfer_loss(losses), torch.cat(means, 1), known)
            parts.append(tuple(column.cpu().numpy() for column in columns))
    module.train()
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    clip, value, features, rights = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(clip, kind="stable")  # the same whatever the number of processes
    return Seen(clip[order], torch.from_numpy(value[order]), torch.from_numpy(features[order]), rights[order])


def write_survey(path: Path, seen: Seen, clips: NDArray[np.int64], learned: Mapping[str, NDArray[np.generic]]) -> None:
    """Keep a survey for the report as .npz, beside and renamed.

    Args:
        path: the file.
        seen: of `survey`.
        clips: store indices (N,) of the curriculum.
        learned: what it learned of them (`Curriculum.learned_of`), in their order.
    """
    rows = np.searchsorted(clips, seen.clips)
    count = np.bincount(rows, minlength=len(clips))
    total = np.bincount(rows, weights=seen.right, minlength=len(clips))
    right = np.divide(total, count, out=np.full(len(clips), np.nan), where=count > 0)
    beside = path.with_suffix(".tmp.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(beside, clips=clips, right=right, **learned)  # type: ignore[arg-type]
    beside.replace(path)


def transfer_loss(losses: Losses) -> Tensor:
    """The weighted sum (B,) of the distillation terms that have a value of their own for each clip.

    Raises:
        RecipeError: there is none.
    """
    terms = [loss for loss in losses.values() if loss.distillation and loss.per_clip and loss.weight]
    if not terms:
        raise RecipeError(
            "the curriculum asks how hard clips are to transfer and the method has no distillation term a clip",
            where="curriculum",
            todo="Choose a method with a weight above 0, e.g. kd.",
        )
    return torch.stack([loss.weight * loss.values.float() for loss in terms]).sum(0)
