"""Train one network of a run, or find it trained: teachers, students alone and students distilled alike."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vidistill.core import recipe as schema
from vidistill.core.errors import CheckpointError
from vidistill.core.progress import progress
from vidistill.core.seeds import digest
from vidistill.curricula import build_curriculum
from vidistill.methods.base import Method, module_key
from vidistill.models import Network, load_weights, save_weights
from vidistill.stages.run import Run, read_json, write_json
from vidistill.tasks import AnchorDetection, Predictions
from vidistill.tasks import metrics as metric
from vidistill.tasks.fewshot import EPISODE
from vidistill.teachers.group import Teachers
from vidistill.training.evaluate import evaluate
from vidistill.training.evaluate_episodes import encode_clips, evaluate_episodes
from vidistill.training.loop import train
from vidistill.training.step import Training

OWN_EPISODES = 1 << 30
"""Episodes of a network that cannot see all clips are others than everyone's; their numbers begin here."""
METHOD = "method.safetensors"
"""What the method owns that a teacher learned beside its labels; in the teacher's folder."""
PEERS = "peers"
"""Folder, in a student's, of the networks that learned along with it."""


def folder_of(run: Run, name: str) -> Path:
    """The folder of a trained network: `teacher-<name>`, `alone-seed<k>` or `distilled-seed<k>`."""
    return run.folder / "models" / name


def is_trained(run: Run, name: str, key: dict[str, Any]) -> bool:
    """Whether the network `name` was trained to the end under this key."""
    folder = folder_of(run, name)
    job = read_json(folder / "job.json")
    return job is not None and job["key"] == digest(key) and (folder / "model.safetensors").is_file()


def train_network(
    run: Run,
    name: str,
    section: schema.Network,
    seed: int,
    key: dict[str, Any],
    *,
    network: Network | None = None,
    method: Method | None = None,
    label_weight: float = 1.0,
    teachers: Teachers | None = None,
    live_inputs: tuple[str, ...] = (),
) -> Network:
    """The network `name` of the run, trained under `key`; trained now unless it was already.

    An interrupted training under the same key goes on; one under another key (the recipe changed) starts anew.
    """
    network = network or run.network(section, seed, name)
    folder = folder_of(run, name)
    if is_trained(run, name, key):
        load_weights(network, folder / "model.safetensors")
        return network.eval()
    claim(run, folder, name, key)
    schedule = run.recipe.schedule_of(section)
    presence = [t.input for t in run.recipe.teachers.values()] if teachers else []
    peers = method.peer_inputs.values() if method else ()
    dataset = run.dataset([section.input, *live_inputs, *peers], True, presence)
    clips = _clips_with(run, section.input, "train")
    options = run.recipe.curriculum.options if teachers else {}
    name_of = run.recipe.curriculum.name if teachers else "all"
    curriculum = build_curriculum(name_of, clips, seed, schedule.epochs, options)
    if run.recipe.track:
        run.accelerator.init_trackers(f"{run.recipe.name}-{name}")
    passes = schedule.views_per_epoch * schedule.epochs * max(1, len(method.phases) if method else 1)
    with progress(name, curriculum.size * passes) as counter:
        kept = train(
            Training(
                folder=folder,
                network=network,
                input_name=section.input,
                dataset=dataset,
                curriculum=curriculum,
                task=run.task,
                schedule=schedule,
                seed=seed,
                accelerator=run.accelerator,
                method=method,
                teachers=teachers,
                label_weight=label_weight,
                validate=lambda n: measure(run, n, section.input, "val"),
                survey_views=run.shown_views,
                counter=counter,
            )
        )
    for tracker in run.accelerator.trackers:
        tracker.finish()
    network.load_state_dict(kept.state_dict())
    if run.main:
        for peer in method.peer_inputs if method else ():
            learned: Any = method.peers[module_key(peer)]  # type: ignore[union-attr]
            keep(run, folder / PEERS / peer, run.recipe.teachers[peer], learned)
        if method is not None and not teachers:
            save_weights(method, folder / METHOD)
        keep(run, folder, section, network)
    run.accelerator.wait_for_everyone()
    return network.eval()


def claim(run: Run, folder: Path, name: str, key: dict[str, Any]) -> None:
    """Make the folder ours: a training under another key is removed."""
    job = read_json(folder / "job.json")
    if run.main:
        if job is not None and job["key"] != digest(key):
            run.say(f"{name}: recipe or data changed, training anew")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", {"key": digest(key), "depends_on": key})
    run.accelerator.wait_for_everyone()


def keep(run: Run, folder: Path, section: schema.Network, network: Network) -> None:
    """Write what is kept of a finished training; the weights come last, as the mark that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "network.json",
        {
            "name": section.network,
            "options": network.options,
            "input_name": section.input,
            "input": run.describe_input(section.input),
            "input_shape": network.input_shape,
            "classes": run.classes,
            "views": run.policy.key(),
        },
    )
    save_weights(network, folder / "model.safetensors")
    (folder / "state.pt").unlink(missing_ok=True)


def seen(run: Run, input_name: str) -> NDArray[np.bool_]:
    """Which clips (N,) a network over an input can see."""
    dataset = run.dataset([input_name], False)
    return np.array([dataset.has(index, input_name) for index in range(len(run.store))], np.bool_)


def _clips_with(run: Run, input_name: str, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    dataset = run.dataset([input_name], False)
    return np.array([i for i in run.store.indices(split) if dataset.has(int(i), input_name)], dtype=np.int64)


def predict(
    run: Run, name: str, network: nn.Module, input_name: str, split: str, without: str | None = None
) -> Predictions:
    """Predictions of a trained network on a split; read from its folder where they were made before.

    `without`: a modality that is taken for missing in all clips.
    """
    parts = ["predictions", *([split] if split != "test" else []), *([f"without-{without}"] if without else [])]
    path = folder_of(run, name) / ("-".join(parts) + ".npz")
    if path.is_file():
        return Predictions.load(path)
    predictions = predict_now(run, network, input_name, split, without)
    if run.main:
        predictions.save(path)
    run.accelerator.wait_for_everyone()
    return predictions


def predict_now(run: Run, network: nn.Module, input_name: str, split: str, without: str | None = None) -> Predictions:
    """Run a network over all test views of a split; see `predict`."""
    network.to(run.accelerator.device)
    indices = run.store.indices(split)
    dataset, have = run.dataset([input_name], False, without=[without] if without else []), seen(run, input_name)
    episodes = run.task.episodes(run.store, split, have)
    if episodes is not None:
        if not len(episodes):
            way = episodes.support.shape[1]
            return Predictions(
                {EPISODE: np.zeros((0, way), np.float32)}, {EPISODE: np.zeros(0, np.int64)}, np.zeros(0, np.int64)
            )
        clips = np.unique(np.concatenate([episodes.support.ravel(), episodes.queries.ravel()]))
        frames = encode_clips(network, dataset, clips, input_name, run.accelerator)
        own = 0 if have[indices].all() else OWN_EPISODES
        found = evaluate_episodes(network, frames, clips, episodes, run.accelerator)
        return replace(found, clip=found.clip + own)
    windows = run.task if isinstance(run.task, AnchorDetection) else None
    predictions = evaluate(network, dataset, indices, input_name, run.accelerator, windows=windows)
    return run.task.tested(predictions, run.store)


def measure(run: Run, network: nn.Module, input_name: str, split: str) -> dict[str, float]:
    """Point metrics on a split, for a training's history; empty where the split is."""
    if not len(_clips_with(run, input_name, split)):
        return {}
    predictions = predict_now(run, network, input_name, split)
    metrics = metric.intervals(run.task.statistics(predictions), predictions.units, 0)
    return {name: interval.value for name, interval in metrics.items()}


def load_trained(run: Run, name: str, section: schema.Network) -> Network:
    """A network that must have been trained."""
    network = run.network(section, 0, name)
    path = folder_of(run, name) / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{name} is not trained yet", where=str(path), todo="Run the earlier stages first")
    load_weights(network, path)
    return network.eval()
