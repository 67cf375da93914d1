"""The one training loop: teachers, students alone and students distilled all come through here.

Everything a step depends on is either in the checkpoint (weights, optimizer, averaged weights, curriculum memory, sums
of the running epoch) or a pure function of (seed, epoch, step): batch order, views, dropout, learning rate. So a run
that was killed and started again ends in the same weights as one that was not.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidistill.core.errors import RecipeError, VidistillError
from vidistill.core.progress import Counter
from vidistill.core.recipe import Schedule
from vidistill.core.seeds import integer_seed
from vidistill.core.types import Batch, Losses, Outputs
from vidistill.curricula import Curriculum
from vidistill.data.batches import Key, ViewDataset, loader
from vidistill.methods.base import Method, module_key
from vidistill.tasks.base import Task
from vidistill.teachers.group import Teachers
from vidistill.training.checkpoint import load_state, save_state
from vidistill.training.schedule import build_optimizer, rate_factor, set_rate
from vidistill.training.survey import survey, write_survey

EDGE = "edge/"
"""Terms that only record how much a teacher teaches: they go to a column of their own in the history."""


@dataclass
class Training:
    """What is trained, on what, by whom, and where its files go.

    `method` and `teachers` are None for a network that learns from labels alone. `validate` measures the network (given
    in eval mode by the caller's choice) and returns metrics for the history. `survey_views` is the view number of the
    curriculum's first survey.
    """

    folder: Path
    network: nn.Module
    input_name: str
    dataset: ViewDataset
    curriculum: Curriculum
    task: Task
    schedule: Schedule
    seed: int
    accelerator: Accelerator
    method: Method | None = None
    teachers: Teachers | None = None
    label_weight: float = 1.0
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    survey_views: int = 0
    counter: Counter | None = None


class Step(nn.Module):
    """Student, method and label loss as one module, so that data-parallel training sees every parameter once."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        network = training.network
        self.network = torch.compile(network) if training.schedule.compile else network
        # Of the plain network: a compiled one hides its parts, and a second name would register them twice.
        self.head: Callable[[], nn.Module] = partial(getattr, network, "head")
        self.learning: Callable[[bool], nn.Module] = network.train
        self.method = training.method
        self.task = training.task
        known = getattr(getattr(network, "backbone", None), "feature_names", ())
        self.wanted = tuple(name for name in training.task.features if name in known)
        self.input_name, self.label_weight = training.input_name, training.label_weight

    def forward(self, batch: Batch, taught: dict[str, Outputs] | None) -> tuple[Losses, dict[str, Tensor]]:
        """Losses a row, and by head which rows (R,) are right."""
        learns = self.method is None or self.method.student_learns
        features = dict.fromkeys((*(self.method.student_features if self.method is not None else ()), *self.wanted))
        self.learning(learns and self.training)
        x = batch.inputs[self.input_name]
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            outputs = self.network(x, features=tuple(features))
            outputs = self.task.rows(outputs, batch, self.head())
        rows = self.task.row_batch(batch)
        losses = self.task.loss(outputs, rows, taught is not None) if learns else {}
        if learns and self.training:
            losses |= self.task.again(partial(self.network, features=self.wanted), x, batch)
        for loss in losses.values():
            loss.weight *= self.label_weight
        if self.method is not None:
            losses |= self.method(outputs, {**(taught or {}), **self._peers(self.method, batch)}, rows)
        right = {head: outputs.logits[head].detach().argmax(1) == labels for head, labels in rows.labels.items()}
        return losses, right

    def _peers(self, method: Method, batch: Batch) -> dict[str, Outputs]:
        """What the networks say that learn along with the student; to mask clips without input is the method's part."""
        answers = {}
        for name, input_name in method.peer_inputs.items():
            peer: Any = method.peers[module_key(name)]
            answers[name] = self.task.rows(peer(batch.inputs[input_name]), batch, peer.head)
        return answers


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


def train(training: Training) -> nn.Module:
    """Train to the end, resuming from the folder's checkpoint where there is one; returns the network to keep.

    Raises:
        VidistillError: the loss is not finite.
        KeyboardInterrupt: after the running step was finished and saved.
    """
    schedule, accelerator, curriculum = training.schedule, training.accelerator, training.curriculum
    least = 2 if training.task.unit == 1 else training.task.unit if accelerator.num_processes > 1 else 1
    if schedule.batch_size < least * accelerator.num_processes:
        raise RecipeError(
            f"batch_size {schedule.batch_size} is too small for {accelerator.num_processes} processes", where="schedule"
        )
    if len(_phases(training)) > 1 and accelerator.num_processes > 1:
        raise RecipeError("phases are trained in one process", where="method", todo="Set phases: merged, or use one.")
    state = _State(training)
    state.resume()
    steps_an_epoch = _steps_an_epoch(training)
    total = steps_an_epoch * schedule.epochs
    with _interrupts() as interrupted:
        for epoch in range(state.epoch, schedule.epochs):
            if training.method is not None:
                training.method.start_epoch(epoch, schedule.epochs)
            views = view_numbers(schedule, epoch)
            due = curriculum.survey(epoch) if state.position == 0 else None
            if due is not None:
                _survey(training, state, due)
            clips = curriculum.select(epoch)
            batches = training.task.plan(
                training.dataset.store, clips, epoch, views, training.seed, schedule.batch_size
            )
            groups = [batches[i : i + schedule.accumulate] for i in range(0, len(batches), schedule.accumulate)]
            work = [(phase, group) for phase in _phases(training) for group in groups][state.position :]
            stream = _stream(training, [group for _, group in work])
            running = None
            for phase, group in work:
                if training.method is not None and phase and phase != running:
                    training.method.start_phase(phase)
                    running = phase
                started = time.perf_counter()
                rate = schedule.learning_rate * rate_factor(schedule, state.step, total)
                _train_step(training, state, group, stream, rate)
                state.step, state.position = state.step + 1, state.position + 1
                state.sums.seconds += time.perf_counter() - started
                if training.counter:
                    training.counter.advance(sum(map(len, group)), f"epoch {epoch + 1}/{schedule.epochs}")
                if interrupted():
                    state.save()
                    raise KeyboardInterrupt
                if state.step % schedule.checkpoint_steps == 0:
                    state.save()
            state.finish_epoch(epoch, rate)
    return state.finish()


def _train_step(
    training: Training, state: _State, group: list[list[tuple[int, int]]], stream: Iterator[Batch], rate: float
) -> None:
    """One optimizer step over the batches of a group, each clip of the group weighing the same."""
    accelerator = training.accelerator
    torch.manual_seed(integer_seed(training.seed, "step", state.step, accelerator.process_index))
    task = training.task
    rows = sum(map(len, group)) // task.unit * task.rows_a_unit
    for number in range(len(group)):
        batch = next(stream).to(accelerator.device)
        last = number == len(group) - 1
        with _precision(training), _synchronise(state.module, last):
            taught = training.teachers(batch) if training.teachers else None
            losses, right = state.module(batch, taught)
            losses, folded = task.fold(losses, batch)
            loss = _total(losses, folded, training.curriculum) * (accelerator.num_processes / rows)
            accelerator.backward(loss)
        if training.method is None or training.method.student_learns:
            training.curriculum.update(folded, losses)
        state.sums.add(_batch_sums(losses, right, taught, training.teachers), len(folded))
    if training.schedule.clip_norm is not None:
        accelerator.clip_grad_norm_(state.parameters, training.schedule.clip_norm)
    set_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.average is not None:
        state.average.update_parameters(training.network)


def _survey(training: Training, state: _State, number: int) -> None:
    """Show the curriculum all clips once, as student and teachers see them now."""
    started = time.perf_counter()
    store, schedule, curriculum = training.dataset.store, training.schedule, training.curriculum
    views = [training.survey_views + number]
    seed = integer_seed(training.seed, "survey")
    # What a method draws while it looks must not depend on what was drawn before: a resumed run looks again.
    torch.manual_seed(integer_seed(training.seed, "survey step", number, training.accelerator.process_index))
    if training.method is not None and training.method.phases:
        training.method.start_phase(training.method.phases[-1])
    plan = training.task.plan(store, curriculum.clips, number, views, seed, schedule.batch_size)
    assert training.teachers is not None
    with _precision(training):
        seen = survey(state.module, training.teachers, training.task, _stream(training, [plan]), training.accelerator)
    curriculum.learn(number, seen.clips, seen.losses, seen.features)
    learned = curriculum.learned_of()
    if training.accelerator.is_main_process and learned:
        write_survey(training.folder / "surveys" / f"{number}.npz", seen, curriculum.clips, learned)
    state.sums.seconds += time.perf_counter() - started


def _precision(training: Training) -> torch.autocast:
    """Half precision for the forward pass where the schedule asks for it; bf16 needs no loss scaling."""
    half = training.schedule.precision == "bf16"
    return torch.autocast(training.accelerator.device.type, torch.bfloat16, enabled=half)


@contextmanager
def _synchronise(module: nn.Module, now: bool) -> Iterator[None]:
    """Exchange gradients between processes only for the last batch of a step."""
    if now or not hasattr(module, "no_sync"):
        yield
    else:
        with module.no_sync():  # type: ignore[operator]
            yield


def _total(losses: Losses, clips: Tensor, curriculum: Curriculum) -> Tensor:
    """Sum over clips of all weighted terms; the curriculum's factors act on per-clip terms."""
    factors = curriculum.weights(clips)
    total: Tensor | float = 0.0
    for loss in losses.values():
        if not loss.weight:
            continue  # only recorded
        values = loss.values.float()
        if factors is not None and loss.per_clip:
            values = values * factors[1 if loss.distillation else 0]
        total = total + loss.weight * values.sum()
    assert isinstance(total, Tensor)
    return total


def _batch_sums(
    losses: Losses, right: dict[str, Tensor], taught: dict[str, Outputs] | None, teachers: Teachers | None
) -> dict[str, Tensor]:
    clips = len(next(iter(losses.values())).values)
    sums = {f"term:{name}": loss.values.detach().sum() for name, loss in losses.items()}
    sums["loss"] = torch.stack([loss.weight * loss.values.detach().float().sum() for loss in losses.values()]).sum()
    for head, rows in right.items():
        sums[f"right:{head}"] = rows.float().mean() * clips
    if teachers is not None and taught is not None:
        for name, weight in teachers.weights(taught).items():
            sums[f"weight:{name}"] = weight.mean() * clips
    return sums


class _State:
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


def view_numbers(schedule: Schedule, epoch: int) -> list[int]:
    """Numbers of the training views of an epoch; with `schedule.views` they come round again."""
    numbers = range(epoch * schedule.views_per_epoch, (epoch + 1) * schedule.views_per_epoch)
    return [number % schedule.views if schedule.views else number for number in numbers]


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, beside and renamed."""
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")
    beside.replace(path)


def _stream(training: Training, groups: list[list[list[tuple[int, int]]]]) -> Iterator[Batch]:
    """This process's part of every batch."""
    rank, processes = training.accelerator.process_index, training.accelerator.num_processes
    unit = training.task.unit
    mine = [part_of(batch, unit, rank, processes) for group in groups for batch in group]
    return loader(training.dataset, mine, training.schedule.workers)


def part_of(batch: list[Key], unit: int, rank: int, processes: int) -> list[Key]:
    """A process's part of a batch: every n-th unit of clips that belong together."""
    units = [batch[i : i + unit] for i in range(0, len(batch), unit)]
    return [key for each in units[rank::processes] for key in each]


def _steps_an_epoch(training: Training) -> int:
    schedule, clips = training.schedule, training.curriculum.clips[: training.curriculum.size]
    views = view_numbers(schedule, 0)
    plan = training.task.plan(training.dataset.store, clips, 0, views, training.seed, schedule.batch_size)
    return -(-len(plan) // schedule.accumulate) * len(_phases(training))


def _phases(training: Training) -> tuple[str, ...]:
    """The phases of an epoch, in turn; one without a name where the method has none."""
    return (training.method.phases if training.method is not None else ()) or ("",)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that a step is never left half done; the second one stops at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: Ctrl-C is not ours to handle
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
