"""The one training loop: teachers, students alone and students distilled all come through here.

Everything a step depends on is either in the checkpoint (weights, optimizer, averaged weights, curriculum memory, sums
of the running epoch) or a pure function of (seed, epoch, step): batch order, views, dropout, learning rate. So a run
that was killed and started again ends in the same weights as one that was not.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.recipe import Schedule
from vidistill.core.seeds import integer_seed
from vidistill.core.types import Batch, Losses
from vidistill.curricula import Curriculum
from vidistill.data.batches import Key, loader
from vidistill.training.schedule import rate_factor, set_rate
from vidistill.training.state import State, batch_sums
from vidistill.training.step import Training
from vidistill.training.survey import survey, write_survey


def train(training: Training) -> nn.Module:
    """Train to the end, resuming from the folder's checkpoint where there is one; returns the network to keep.

    Raises:
        VidistillError: the loss is not finite.
        KeyboardInterrupt: after the running step was finished and saved.
    """
    _check(training)
    schedule, curriculum = training.schedule, training.curriculum
    state = State(training)
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


def _check(training: Training) -> None:
    """Raises a RecipeError where batches or phases cannot be shared by the processes there are."""
    processes, unit = training.accelerator.num_processes, training.task.unit
    least = 2 if unit == 1 else unit if processes > 1 else 1
    if training.schedule.batch_size < least * processes:
        raise RecipeError(
            f"batch_size {training.schedule.batch_size} is too small for {processes} processes", where="schedule"
        )
    if len(_phases(training)) > 1 and processes > 1:
        raise RecipeError("phases are trained in one process", where="method", todo="Set phases: merged, or use one.")


def _train_step(
    training: Training, state: State, group: list[list[tuple[int, int]]], stream: Iterator[Batch], rate: float
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
        state.sums.add(batch_sums(losses, right, taught, training.teachers), len(folded))
    if training.schedule.clip_norm is not None:
        accelerator.clip_grad_norm_(state.parameters, training.schedule.clip_norm)
    set_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.average is not None:
        state.average.update_parameters(training.network)


def _survey(training: Training, state: State, number: int) -> None:
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


def view_numbers(schedule: Schedule, epoch: int) -> list[int]:
    """Numbers of the training views of an epoch; with `schedule.views` they come round again."""
    numbers = range(epoch * schedule.views_per_epoch, (epoch + 1) * schedule.views_per_epoch)
    return [number % schedule.views if schedule.views else number for number in numbers]


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
