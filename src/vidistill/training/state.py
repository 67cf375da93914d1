"""Everything that changes while training: weights, optimizer, sums of the running epoch, history; saved and resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidistill.core.errors import VidistillError
from vidistill.core.types import Losses, Outputs
from vidistill.teachers.group import Teachers
from vidistill.training.checkpoint import load_state, save_state
from vidistill.training.schedule import build_optimizer
from vidistill.training.step import Step, Training

EDGE = "edge/"
"""Terms that only record how much a teacher teaches: they go to a column of their own in the history."""


@dataclass
class EpochSums:
    """Sums over an epoch, kept on the device until its end, so that no step waits for the host."""

    clips: int = 0
    seconds: float = 0.0
    terms: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, Tensor], clips: int) -> None:
        """Add a batch's sums; a term of one phase only is a mean over that phase's clips."""
        self.clips += clips
        for name, value in values.items():
            self.counts[name] = self.counts.get(name, 0) + clips
            self.terms[name] = self.terms.get(name, torch.zeros((), device=value.device)) + value.detach()

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all clips of all processes."""
        names = sorted(self.terms)
        sums = torch.stack([self.terms[name].float() for name in names])
        count = torch.tensor([float(self.counts[name]) for name in names], device=sums.device)
        if accelerator.num_processes > 1:
            sums, count = accelerator.reduce(sums, "sum"), accelerator.reduce(count, "sum")
        return dict(zip(names, (sums / count).tolist(), strict=True))


def batch_sums(
    losses: Losses, right: dict[str, Tensor], taught: dict[str, Outputs] | None, teachers: Teachers | None
) -> dict[str, Tensor]:
    """What `EpochSums` adds up of a batch: every term, the whole loss, what is right and how teachers weighed."""
    clips = len(next(iter(losses.values())).values)
    sums = {f"term:{name}": loss.values.detach().sum() for name, loss in losses.items()}
    sums["loss"] = torch.stack([loss.weight * loss.values.detach().float().sum() for loss in losses.values()]).sum()
    for head, rows in right.items():
        sums[f"right:{head}"] = rows.float().mean() * clips
    if teachers is not None and taught is not None:
        for name, weight in teachers.weights(taught).items():
            sums[f"weight:{name}"] = weight.mean() * clips
    return sums


class State:
    """Everything that changes while training."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.path = training.folder / "state.pt"
        self.history: list[dict[str, Any]] = []
        self.epoch = self.step = self.position = 0
        self.sums = EpochSums()
        accelerator, schedule = training.accelerator, training.schedule
        training.network.to(accelerator.device)
        decay = schedule.ema
        self.average = None
        if decay is not None:
            averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(training.network, multi_avg_fn=averaging, use_buffers=True)
        step = Step(training).train()
        self.optimizer = build_optimizer(schedule, training.network, training.method)
        self.parameters = [p for p in step.parameters() if p.requires_grad]
        self.module = accelerator.prepare_model(step)

    def resume(self) -> None:
        """Take up the folder's checkpoint."""
        state = load_state(self.path)
        if state is None:
            return
        self.training.network.load_state_dict(state["network"])
        if self.training.method is not None:
            self.training.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.training.curriculum.load_state_dict(state["curriculum"])
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self.history = state["history"]
        device = self.training.accelerator.device
        terms = {name: value.to(device) for name, value in state["sums"]["terms"].items()}
        self.sums = EpochSums(state["sums"]["clips"], state["sums"]["seconds"], terms, state["sums"]["counts"])
        if self.training.counter:
            self.training.counter.skip(sum(r["clips"] for r in self.history) + self.sums.clips)

    def save(self) -> None:
        """Write the checkpoint (main process)."""
        if not self.training.accelerator.is_main_process:
            return
        save_state(
            self.path,
            {
                "network": self.training.network.state_dict(),
                "method": self.training.method.state_dict() if self.training.method is not None else {},
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average is not None else {},
                "curriculum": self.training.curriculum.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "position": self.position,
                "history": self.history,
                "sums": {f.name: getattr(self.sums, f.name) for f in fields(EpochSums)},
            },
        )

    def finish_epoch(self, epoch: int, rate: float) -> None:
        """Record the epoch, measure now and then, save."""
        training = self.training
        means = self.sums.means(training.accelerator)
        if not np.isfinite(means["loss"]):
            raise VidistillError(
                f"the loss is not finite in epoch {epoch + 1}",
                where=str(training.folder),
                todo="Lower schedule.learning_rate or set schedule.clip_norm",
            )
        due = (epoch + 1) % training.schedule.evaluate_every == 0 or epoch + 1 == training.schedule.epochs
        val = training.validate(self.kept()) if due and training.validate else None

        def part(prefix: str) -> dict[str, float]:
            return {k.removeprefix(prefix): v for k, v in means.items() if k.startswith(prefix)}

        self.history.append(
            {
                "kind": "epoch",
                "epoch": epoch + 1,
                "loss": means["loss"],
                "terms": {name: value for name, value in part("term:").items() if not name.startswith(EDGE)},
                "edges": part(f"term:{EDGE}") or None,
                "accuracy": part("right:"),
                "val": val,
                "seconds": self.sums.seconds,
                "clips": self.sums.clips,
                "clips_per_second": self.sums.clips / max(self.sums.seconds, 1e-9),
                "lr": rate,
                "teacher_weights": part("weight:") or None,
            }
        )
        if training.accelerator.is_main_process:
            write_history(training.folder / "history.jsonl", self.history)
        training.accelerator.log({"loss": means["loss"], **part("term:"), **(val or {})}, step=epoch + 1)
        self.epoch, self.position, self.sums = epoch + 1, 0, EpochSums()
        self.save()

    def kept(self) -> nn.Module:
        """The network whose weights are kept: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.training.network

    def finish(self) -> nn.Module:
        """The network to keep, in eval mode."""
        return self.kept().eval()


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, beside and renamed."""
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")
    beside.replace(path)
