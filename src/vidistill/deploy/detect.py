"""Segments of a long video with one exported temporal detector, in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidistill.core.errors import DataError
from vidistill.core.types import Outputs
from vidistill.data.steps import sliding_windows
from vidistill.data.views import ClipShape
from vidistill.deploy.inputs import Extent, InputPipeline
from vidistill.deploy.session import run_session, written_beside
from vidistill.tasks.anchor_detection import AnchorDetection, proposals
from vidistill.tasks.detections_file import write_detections, write_subtitles
from vidistill.tasks.segments import Detections, average_windows, detect_segments, window_starts

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


BOUNDS = "bounds"
"""Second output of an exported anchor detector: start and end (B, A, 2) of each proposal as parts of the window."""


class Proposals(nn.Module):
    """An anchor detector as it is exported: its logits are log-probabilities of proposals, and their bounds."""

    def __init__(self, network: nn.Module, task: AnchorDetection) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, x: torch.Tensor) -> Outputs:
        """Logits (B, A, C) of the task's head and "bounds" (B, A, 2) of windows x."""
        outputs = self.network(x)
        logits, bounds = self.task.decode(outputs)
        return Outputs({self.task.head: logits, BOUNDS: bounds}, outputs.embedding)


def proposed_segments(
    session: InferenceSession,
    pipeline: InputPipeline,
    path: Path,
    key: str | None,
    extent: Extent,
    task: dict[str, Any],
    names: list[str],
) -> tuple[int, list[dict[str, Any]]]:
    """How many half-overlapping windows an anchor detector looked at, and what it found, as `segments` says."""
    policy = pipeline.policy
    size = policy.steps
    length = policy.steps_of(ClipShape(extent.frames, extent.rate))
    starts = window_starts(length, size)
    seconds = policy.step_frames / extent.rate
    rows, spans = [], []
    windows = sliding_windows(pipeline.steps(path, key, extent), starts.tolist(), size)
    for start, window in zip(starts.tolist(), windows, strict=True):
        answer = run_session(session, window[None])
        rows.append(answer[task["head"]][0])
        spans.append((start + size * answer[BOUNDS][0].astype(np.float64)) * seconds)
    bounds = np.minimum(np.concatenate(spans), extent.frames / extent.rate)
    logits = np.concatenate(rows).astype(np.float64)
    if not (np.isfinite(logits).all() and np.isfinite(bounds).all()):
        raise DataError("the model gives no finite answer for it", where=str(path), todo="Check its values.")
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    found = proposals(scores, bounds, np.zeros(len(scores), np.int64), task["threshold"], task["sigma"])
    return len(starts), _listed(found.take(np.argsort(found.start, kind="stable")), names)


def step_logits(
    session: InferenceSession, pipeline: InputPipeline, path: Path, key: str | None, extent: Extent, head: str
) -> NDArray[np.float64]:
    """Logits (L, classes) of a file's time steps, averaged over half-overlapping windows as in evaluation.

    A file shorter than a window is seen as one window whose last step is repeated.
    """
    size = pipeline.policy.steps
    length = pipeline.policy.steps_of(ClipShape(extent.frames, extent.rate))
    starts = window_starts(length, size)
    rows = [
        run_session(session, window[None])[head][0]
        for window in sliding_windows(pipeline.steps(path, key, extent), starts.tolist(), size)
    ]
    return np.asarray(average_windows(np.stack(rows), starts, max(length, size))[:length], np.float64)


def write_files(result: dict[str, Any], path: Path) -> list[Path]:
    """Write a detector's answer as JSON, CSV and subtitles (SubRip) beside each other; returns the files.

    Args:
        result: of `Predictor.predict`.
        path: the JSON file; the others have its name with `.csv` and `.srt`.
    """
    found = result["segments"]
    detections = Detections(
        np.array([Path(result["file"]).stem] * len(found), np.str_),
        np.array([each["segment"][0] for each in found]),
        np.array([each["segment"][1] for each in found]),
        np.array([each["label"] for each in found], np.str_),
        np.array([each["score"] for each in found]),
    )
    files = [path.with_suffix(suffix) for suffix in (".json", ".csv", ".srt")]
    with written_beside(files[0]) as beside:
        beside.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    write_detections(detections, files[1])
    write_subtitles(detections, files[2])
    return files


def segments(
    logits: NDArray[np.float64], extent: Extent, pipeline: InputPipeline, task: dict[str, Any], names: list[str]
) -> list[dict[str, Any]]:
    """Segments in order of time: label, score in [0, 1], segment [start, end] in seconds."""
    width = pipeline.policy.step_frames
    bounds = np.minimum(np.arange(len(logits) + 1) * width, extent.frames) / extent.rate
    bounds[-1] = max(bounds[-1], extent.frames / extent.rate)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found = detect_segments(
        powers / powers.sum(1, keepdims=True),
        np.stack([bounds[:-1], bounds[1:]], 1),
        threshold=task["threshold"],
        variant=task["variant"],
    )
    return _listed(found, names)


def _listed(found: Detections, names: list[str]) -> list[dict[str, Any]]:
    return [
        {"label": names[label], "score": float(score), "segment": [round(float(start), 3), round(float(end), 3)]}
        for label, score, start, end in zip(found.label, found.score, found.start, found.end, strict=True)
    ]
