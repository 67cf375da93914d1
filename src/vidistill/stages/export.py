"""Stage `export`: the student that ships, as ONNX and int8, and what each form costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.types import Batch
from vidistill.data.batches import fixed_batches, loader, view_counts
from vidistill.data.manifest import resolve
from vidistill.deploy.detect import BOUNDS, Proposals
from vidistill.deploy.episode_accuracy import episode_top1
from vidistill.deploy.episode_export import export_episode_onnx
from vidistill.deploy.export import export_onnx
from vidistill.deploy.measure import decode_latency, gmacs, latency, parameters
from vidistill.deploy.quantise import quantise_int8
from vidistill.deploy.session import predict_logits, read_metadata
from vidistill.modalities import MODALITIES
from vidistill.models import Network
from vidistill.models.episode_network import EpisodeNetwork
from vidistill.stages.episodes import students_episodes
from vidistill.stages.evaluate import read_history
from vidistill.stages.networks import folder_of, load_trained, seen
from vidistill.stages.run import Run, write_json
from vidistill.tasks import AnchorDetection, MultiLabel

BATCH = 16


def shipped(run: Run) -> str:
    """The student to ship: of the best seed by validation accuracy; distilled where there are teachers."""
    role = "distilled" if run.recipe.teachers else "alone"
    head = next(iter(run.task.classes))

    def score(seed: int) -> float:
        measured = [r["val"] for r in read_history(run, f"{role}-seed{seed}") if r["val"]]
        return float(measured[-1][f"{head}/{run.task.primary}"]) if measured else 0.0

    return f"{role}-seed{max(run.recipe.seeds, key=score)}"


def export_run(run: Run) -> dict[str, Any]:
    """Write `export/student.onnx`, `student.int8.onnx` and `export.json`."""
    section, student = run.recipe.export, run.recipe.student
    name = shipped(run)
    network = load_trained(run, name, student)
    folder = run.folder / "export"
    folder.mkdir(parents=True, exist_ok=True)
    onnx = folder / "student.onnx"
    result: dict[str, Any] = {"student": name, "parameters": parameters(network)}
    result["gmacs"] = gmacs(network, network.input_shape)
    result["onnx"] = _write_onnx(run, network, metadata(run, name), onnx)
    int8 = None
    if section.int8:
        int8 = folder / "student.int8.onnx"
        shown = list(encoded(run, run.store.indices("train")[:: _stride(run)]))
        result["int8"] = quantise_int8(onnx, shown, int8)
        result["int8"] |= _accuracy_cost(run, network, onnx, int8)
    if section.latency:
        result["latency"] = latency(folder_of(run, name), onnx, int8, seconds=1.0)
        video = _a_video(run)
        if video is not None:
            result["decode_ms"] = decode_latency(video, read_metadata(onnx))["median_ms"]
    write_json(folder / "export.json", result)
    return result


def _write_onnx(run: Run, network: Network, known: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(network, EpisodeNetwork):
        return export_episode_onnx(network, network.input_shape, known, path)
    classes = {head: list(names) for head, names in run.classes.items()}
    if isinstance(run.task, AnchorDetection):
        whole = Proposals(network, run.task)
        return export_onnx(whole, network.input_shape, {**classes, BOUNDS: ["start", "end"]}, known, path)
    return export_onnx(network, network.input_shape, classes, known, path)


def metadata(run: Run, name: str) -> dict[str, Any]:
    """What the exported file must know to predict from a video."""
    sources = {}
    for modality in dict.fromkeys((*run.input(run.recipe.student.input).modalities, "rgb")):
        sources[modality] = asdict(run.source_options(modality)[0])
    train = run.store.indices("train")
    return {
        "input": run.describe_input(run.recipe.student.input),
        "view": run.policy.key(),
        "sources": json.loads(json.dumps(sources)),
        "duration": float(np.median([run.store.duration(int(i)) for i in train[:200]])),
        "model": f"{run.recipe.name}/{name}",
        "task": run.task.described(),
    }


def encoded(run: Run, clips: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The student's input for the first test view of some clips, batch by batch."""
    name = run.recipe.student.input
    for batch in batches(run, clips[seen(run, name)[clips]]):
        yield batch.inputs[name].numpy()


def batches(run: Run, clips: NDArray[np.int64]) -> Iterator[Batch]:
    """The first test view of some clips, or all windows of untrimmed ones."""
    counts = view_counts(run.store, run.policy, clips) if run.policy.steps > 1 else 1
    size = max(1, BATCH // run.policy.steps)
    return loader(run.dataset([run.recipe.student.input], False), fixed_batches(clips, counts, size))


def _stride(run: Run) -> int:
    return max(1, len(run.store.indices("train")) // run.recipe.export.calibration_clips)


def _accuracy_cost(run: Run, network: Network, onnx: Path, int8: Path) -> dict[str, float]:
    """Top-1 of both files in the first head: of the first test view of every test clip, or of all rows of windows.

    Of a few-shot student, of all test episodes of such views; what is kept of them is compared by the network's head.
    """
    if isinstance(network, EpisodeNetwork):
        return _costs(*_episode_top1(run, network, onnx, int8))
    head = next(iter(run.task.classes))
    name = run.recipe.student.input
    clips = run.store.indices("test")
    clips = clips[seen(run, name)[clips]]
    labels = np.concatenate([run.task.row_batch(batch).labels[head].numpy() for batch in batches(run, clips)])
    right = []
    for path in (onnx, int8):
        logits = predict_logits(path, encoded(run, clips))[head]
        answers = logits > 0 if isinstance(run.task, MultiLabel) else logits.argmax(-1)
        right.append(float((answers.ravel() == labels)[labels >= 0].mean()))
    return _costs(*right)


def _episode_top1(run: Run, network: EpisodeNetwork, *paths: Path) -> list[float]:
    """Top-1 of forms of the clip part over the test episodes."""
    episodes = students_episodes(run)
    clips = np.unique(np.concatenate([episodes.support.ravel(), episodes.queries.ravel()]))
    if not len(clips):
        return [float("nan") for _ in paths]
    return [episode_top1(network, predict_logits(path, encoded(run, clips)), clips, episodes) for path in paths]


def _costs(fp32: float, int8: float) -> dict[str, float]:
    return {"top1_fp32": fp32, "top1_int8": int8, "drop": fp32 - int8}


def _a_video(run: Run) -> Any:
    """A video file of the set that holds the student's modality, or RGB to derive it from; None where there is none."""
    modalities = run.input(run.recipe.student.input).modalities
    for index in run.store.indices("test")[:1]:
        clip = run.store.clips[int(index)]
        derived = any(MODALITIES.get(each).derivable for each in modalities)
        source = clip.sources.get("rgb" if len(modalities) > 1 else modalities[0])
        source = source or (clip.sources.get("rgb") if derived else None)
        if source is not None:
            path, key = resolve(run.manifest.root, source)
            return path if key is None and path.is_file() else None
    return None
