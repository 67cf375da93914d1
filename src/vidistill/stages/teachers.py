"""Stages `teachers` and `audit`: train the teachers, judge them, and bind them together for the students."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidistill.core import recipe as schema
from vidistill.core.errors import RecipeError
from vidistill.core.seeds import digest
from vidistill.methods.base import Method, MethodContext, build_method
from vidistill.models import Network, load_weights, save_weights
from vidistill.stages.networks import (
    METHOD,
    OWN_EPISODES,
    claim,
    folder_of,
    is_trained,
    keep,
    load_trained,
    predict,
    train_network,
)
from vidistill.stages.run import VIEW_SEED, Run, write_json
from vidistill.tasks import Predictions
from vidistill.tasks import metrics as metric
from vidistill.tasks.base import ROW_BITS
from vidistill.teachers import audit as judge
from vidistill.teachers.cached import CachedTeacher, fill_cache
from vidistill.teachers.ensemble import combine, uniform_weights
from vidistill.teachers.group import Teacher, Teachers, Weighting
from vidistill.teachers.live import LiveTeacher

TEACHER_SEED = 0


def teacher_key(run: Run, name: str) -> dict[str, Any]:
    """What a teacher depends on."""
    section = run.recipe.teachers[name]
    key = {**run.key_of(section, run.recipe.schedule_of(section)), "seed": TEACHER_SEED, "role": "teacher"}
    if section.of:
        key["members"] = {member: teacher_key(run, member) for member in section.of}
        key["views"] = [key["views"], run.shown_views]
    if section.method:
        key["method"] = section.method.model_dump(mode="json")
    return {**key, "checkpoint": file_hash(section.checkpoint)} if section.checkpoint else key


def teacher_hash(run: Run, name: str) -> str:
    """What decides all that a trained teacher says: its weights, and those of the method it learned with."""
    folder = folder_of(run, f"teacher-{name}")
    model = file_hash(folder / "model.safetensors")
    return digest([model, file_hash(folder / METHOD)]) if run.recipe.teachers[name].method else model


def teacher_method(run: Run, name: str, network: Network) -> Method | None:
    """The method that a teacher learns with beside its labels, new; it has no teachers itself."""
    section = run.recipe.teachers[name].method
    if section is None:
        return None

    def no_part(teacher: str, part: str) -> nn.Module:
        raise RecipeError(f"a teacher's own method has no teacher {teacher!r}", where=f"teachers.{name}.method")

    context = MethodContext(
        network.embedding_dim, {}, run.task.classes, no_part, student_shapes=network.feature_shapes()
    )
    return build_method(section.name, context, section.options, where=f"teachers.{name}.method")


def frozen_method(run: Run, name: str, network: Network, *, trained: bool) -> Method:
    """The method that a teacher learned with, frozen; untrained where only its shapes are asked for.

    Raises:
        RecipeError: the teacher learned from labels only.
    """
    method = teacher_method(run, name, network)
    if method is None:
        raise RecipeError(
            f"teacher {name!r} has no method of its own to learn from",
            where=f"teachers.{name}",
            todo="Add e.g. method: {name: cvae}",
        )
    if trained:
        load_weights(method, folder_of(run, f"teacher-{name}") / METHOD)
        method.to(run.accelerator.device)
    return method.requires_grad_(False).eval()


def train_teachers(run: Run) -> None:
    """Train every teacher that is not trained yet; one with a checkpoint is loaded instead and kept the same way."""
    for name, section in run.recipe.teachers.items():
        label, key = f"teacher-{name}", teacher_key(run, name)
        if is_trained(run, label, key):
            continue
        network = run.network(section, TEACHER_SEED, label)
        method = teacher_method(run, name, network)
        if section.checkpoint is None:
            weight = section.method.label_weight if section.method else 1.0
            train_network(run, label, section, TEACHER_SEED, key, network=network, method=method, label_weight=weight)
            continue
        load_weights(network, section.checkpoint)
        if method is not None:
            load_weights(method, section.checkpoint.with_name(METHOD))
        adopt(run, label, section, key, network, method)


def adopt(
    run: Run, label: str, section: schema.Network, key: dict[str, Any], network: Network, method: Method | None = None
) -> None:
    """Keep a network that was trained elsewhere as if the run had trained it."""
    claim(run, folder_of(run, label), label, key)
    if run.main:
        if method is not None:
            save_weights(method, folder_of(run, label) / METHOD)
        keep(run, folder_of(run, label), section, network)
    run.accelerator.wait_for_everyone()


def audit_teachers(run: Run) -> dict[str, Any]:
    """Judge all teachers on the validation part and write `audit.json`.

    Raises:
        TeacherError: a teacher is no better than chance.
    """
    if not len(run.store.indices("val")):
        raise RecipeError(
            "teachers are audited on validation clips and there are none", todo="Set data.validation=0.15"
        )
    predictions = {name: validation(run, name) for name in run.recipe.teachers}
    weighting = fit_weighting(run, predictions)
    judged = {name: run.task.judged(each) for name, each in predictions.items()}
    shared = align(judged)
    trained = run.task.row_labels(run.store, run.policy, "train")
    heads = run.task.classes
    width = next(iter(judged.values())).logits
    audit: dict[str, Any] = {
        "split": "val",
        "clips": shared.units,
        "chance": {h: judge.chance(shared.labels[h], trained[h], width[h].shape[1]) for h in heads},
        "teachers": {},
        "agreement": {},
    }
    for number, (name, predicted) in enumerate(predictions.items()):
        audit["teachers"][name] = _judge(run, name, predicted, weighting, number, audit["chance"])
    for head in heads:
        answers = {"labels": shared.labels[head]}
        answers |= {n: spread(p.logits[head].argmax(1), p.rows, shared.rows) for n, p in judged.items()}
        audit["agreement"][head] = {"names": list(answers), "matrix": judge.agreement(answers)}
    metrics = point_metrics(run, combine_predictions(run, predictions, weighting))
    audit["ensemble"] = {
        "scheme": weighting.scheme,
        "gamma": weighting.gamma,
        "accuracy": {head: _triple(metrics[f"{head}/top1"]) for head in heads},
    }
    if run.main:
        write_json(run.folder / "audit.json", audit)
    judge.require_better_than_chance(audit)
    return audit


def _judge(
    run: Run, name: str, predicted: Predictions, weighting: Weighting, number: int, chance: dict[str, float]
) -> dict[str, Any]:
    metrics = point_metrics(run, predicted)
    heads = list(run.task.classes)
    if not predicted.units:
        return _unmeasured(run, name, heads)
    accuracy = {head: _triple(metrics[f"{head}/top1"]) for head in heads}
    labels = run.task.judged(predicted).labels
    good = all(judge.beats_chance(accuracy[h][0], int((labels[h] >= 0).sum()), chance[h]) for h in heads)
    return {
        "input": run.recipe.teachers[name].input,
        "clips": predicted.units,
        "accuracy": accuracy,
        "ece": {head: metrics[f"{head}/ece"].value if f"{head}/ece" in metrics else None for head in heads},
        "nll": {head: metrics[f"{head}/nll"].value for head in heads},
        "temperature": dict(weighting.temperatures.get(name, {})),
        "weight": {head: weighting.held_out[head][number] for head in heads}
        if weighting.scheme == "held_out"
        else {head: 1 / len(run.recipe.teachers) for head in heads},
        "verdict": "ok" if good else "no better than chance" if min(chance.values()) < 1 else judge.NOT_MEASURED,
    }


def _unmeasured(run: Run, name: str, heads: list[str]) -> dict[str, Any]:
    """A teacher that sees too few of the validation clips to be judged."""
    nothing = dict.fromkeys(heads)
    return {
        "input": run.recipe.teachers[name].input,
        "clips": 0,
        "accuracy": {head: [None, None, None] for head in heads},
        "ece": nothing,
        "nll": nothing,
        "temperature": {},
        "weight": {head: 1 / len(run.recipe.teachers) for head in heads},
        "verdict": judge.NOT_MEASURED,
    }


def point_metrics(run: Run, predictions: Predictions) -> dict[str, metric.Interval]:
    """The task's metrics with their intervals."""
    return metric.intervals(run.task.statistics(predictions), predictions.units)


def _triple(interval: Any) -> list[float]:
    return [interval.value, interval.low, interval.high]


def validation(run: Run, name: str) -> Predictions:
    """A teacher's predictions on the validation part."""
    section = run.recipe.teachers[name]
    return predict(run, f"teacher-{name}", load_trained(run, f"teacher-{name}", section), section.input, "val")


def validation_accuracy(run: Run) -> dict[str, float]:
    """Part of the validation rows that each teacher gets right, mean over heads."""

    def right(predicted: Predictions) -> float:
        known = {head: labels >= 0 for head, labels in predicted.labels.items()}
        hits = [predicted.logits[h].argmax(1)[k] == predicted.labels[h][k] for h, k in known.items() if k.any()]
        return float(np.mean([hit.mean() for hit in hits])) if hits else 0.0

    return {name: right(run.task.judged(validation(run, name))) for name in run.recipe.teachers}


def fit_weighting(run: Run, predictions: dict[str, Predictions]) -> Weighting:
    """Temperatures and held-out weights from validation predictions."""
    section = run.recipe.ensemble
    temperatures = {}
    if section.calibrate:
        temperatures = {name: judge.fit_temperatures(p.logits, p.labels) for name, p in predictions.items()}
    weighting = Weighting(section.weights, section.gamma, {}, temperatures)
    held_out = {}
    shared = align(predictions)
    for head in run.task.classes:
        stacked, present = stack(predictions, head, shared.rows, weighting)
        held_out[head] = judge.fit_held_out(stacked, shared.labels[head], present, section.gamma)
    return Weighting(section.weights, section.gamma, held_out, temperatures)


def align(predictions: Mapping[str, Predictions]) -> Predictions:
    """All rows that at least one network answers for, with their labels; the logits say nothing.

    Episodes that a network has for itself, since it cannot see all clips, are no rows of the others.
    """
    shared = {name: p for name, p in predictions.items() if p.clip.max(initial=0) < OWN_EPISODES}
    members = list((shared or predictions).values())
    rows, first = np.unique(np.concatenate([p.rows for p in members]), return_index=True)
    labels = {head: np.concatenate([p.labels[head] for p in members])[first] for head in members[0].labels}
    spans = None
    if members[0].spans is not None:
        spans = np.concatenate([p.spans for p in members if p.spans is not None])[first]
    truth = None
    if members[0].truth is not None:
        truth = np.unique(np.concatenate([p.truth for p in members if p.truth is not None]), axis=0)
    nothing = {head: np.zeros((len(rows), 0), np.float32) for head in labels}
    return Predictions(nothing, labels, rows >> ROW_BITS, spans, truth)


def stack(
    predictions: Mapping[str, Predictions], head: str, rows: NDArray[np.int64], weighting: Weighting
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Calibrated logits (N, M, C) of all teachers for `rows`, zeros where a teacher has none, and presence (N, M)."""
    classes = next(iter(predictions.values())).logits[head].shape[1]
    stacked = np.zeros((len(rows), len(predictions), classes), np.float32)
    present = np.zeros(stacked.shape[:2], bool)
    for number, (name, predicted) in enumerate(predictions.items()):
        known = np.isin(predicted.rows, rows)
        places = np.searchsorted(rows, predicted.rows[known])
        temperature = weighting.temperatures.get(name, {}).get(head, 1.0)
        stacked[places, number], present[places, number] = predicted.logits[head][known] / temperature, True
    return stacked, present


def combine_predictions(run: Run, predictions: Mapping[str, Predictions], weighting: Weighting) -> Predictions:
    """The ensemble's predictions for all rows that at least one teacher answers for.

    Per-sample weights need labels, which no one has at test time; the ensemble is then weighed uniformly.
    """
    shared = align(predictions)
    logits = {}
    for head in run.task.classes:
        stacked, present = stack(predictions, head, shared.rows, weighting)
        weights = uniform_weights(len(predictions))
        if weighting.scheme == "held_out":
            weights = torch.tensor(weighting.held_out[head])
        logits[head] = combine(torch.from_numpy(stacked), weights, torch.from_numpy(present)).numpy()
    return replace(shared, logits=logits)


def spread(values: NDArray[Any], rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values of `rows` in the order of `wanted`; -1 where there is none."""
    result = np.full(len(wanted), -1, dtype=np.int64)
    known = np.isin(rows, wanted)
    result[np.searchsorted(wanted, rows[known])] = values[known]
    return result


def bind_teachers(run: Run, features: Mapping[str, tuple[str, ...]]) -> tuple[Teachers, tuple[str, ...]]:
    """All teachers for the students, cached or live, and the inputs that live ones need of every batch.

    `features` names, by teacher, the features that the method asks for.
    """
    weighting = fit_weighting(run, {name: validation(run, name) for name in run.recipe.teachers})
    members: dict[str, Teacher] = {}
    live_inputs = []
    for name, section in run.recipe.teachers.items():
        network = load_trained(run, f"teacher-{name}", section).to(run.accelerator.device)
        live = LiveTeacher(name, network, section.input, features.get(name, ()))
        if run.recipe.cache.enabled:
            members[name] = cached(run, name, live)
        else:
            members[name] = live
            live_inputs.append(section.input)
    return Teachers(members, weighting, run.task), tuple(live_inputs)


def cached(run: Run, name: str, live: LiveTeacher) -> CachedTeacher:
    """The cached form of a live teacher; the cache is filled now where it is not yet, and spot-checked."""
    section = run.recipe.teachers[name]
    surveys = run.surveys
    views = run.shown_views + len(surveys)
    clips = run.store.indices("train")
    ids = run.store.ids
    key = {
        "weights": file_hash(folder_of(run, f"teacher-{name}") / "model.safetensors"),
        "input": run.describe_input(section.input),
        "store": run.store.hash,
        "clips": digest([ids[i] for i in clips]),
        "policy": run.policy.key(),
        "seed": VIEW_SEED,
        "views": views,
        "features": list(live.features),
        **({"surveys": [[each.kind, each.rate] for each in surveys]} if surveys else {}),
    }
    dataset = run.dataset([section.input], True)
    root = run.folder / "cache"
    if run.main:
        fill_cache(root, key, live, dataset, clips, views)
    run.accelerator.wait_for_everyone()
    folder = root / digest(key)
    teacher = CachedTeacher(name, section.input, folder, key, clips, lambda: live.network)
    if run.recipe.cache.spot_check > 0:
        teacher.spot_check(live, dataset, run.recipe.cache.spot_check, run.recipe.cache.tolerance)
    return teacher


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
