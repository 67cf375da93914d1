"""What the curriculum of a run chose, for its page: `selection.json`, from the surveys of one distilled student."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidistill.stages.distil import ways
from vidistill.stages.networks import folder_of
from vidistill.stages.run import Run, write_json

QUANTILES = {"10 %": 0.1, "median": 0.5, "90 %": 0.9}
BINS = 24
EXAMPLES = 6
HEIGHT = 84
"""Pixels of an example's picture."""


def describe_selection(run: Run) -> None:
    """Write what the first student with surveys learned in them; nothing where no curriculum makes any."""
    for role, way in ways(run).items() if run.recipe.teachers else ():
        name = f"{role}-seed{way.recipe.seeds[0]}"
        files = sorted((folder_of(run, name) / "surveys").glob("*.npz"), key=lambda path: int(path.stem))
        if files:
            if run.main:
                write_json(run.folder / "selection.json", _described(way, name, files))
            return


def _described(run: Run, name: str, files: list[Path]) -> dict[str, Any]:
    rounds = [_read(path) for path in files]
    clips = rounds[0]["clips"]
    head = next(iter(run.store.classes))
    labels = run.store.labels(head)[clips]
    last = rounds[-1]
    order = np.argsort(last["difficulty"], kind="stable")
    times = np.sum([each["chosen"] for each in rounds], 0)
    interval = int(run.recipe.curriculum.options.get("interval", 5))
    examples = {"Easiest to transfer at the last survey": order[:EXAMPLES], "Hardest": order[::-1][:EXAMPLES]}
    return {
        "name": name,
        "clips": len(clips),
        "classes": list(run.store.classes[head]),
        "surveys": [
            {"epoch": interval * number, **_round(each, labels, len(run.store.classes[head]))}
            for number, each in enumerate(rounds)
        ],
        "examples": [
            [title, [_example(run, int(clips[row]), last["difficulty"][row], times[row]) for row in rows]]
            for title, rows in examples.items()
        ],
    }


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def _round(each: dict[str, NDArray[Any]], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """One survey: quantiles of strength, part chosen by class, difficulty of clips the student has right and wrong."""
    known = labels >= 0
    count = np.bincount(labels[known], minlength=classes)
    chosen = np.bincount(labels[known], weights=each["chosen"][known], minlength=classes)
    difficulty, right = each["difficulty"], each["right"]
    edges = np.histogram_bin_edges(difficulty, BINS)
    return {
        "strength": {name: float(np.quantile(each["strength"], q)) for name, q in QUANTILES.items()},
        "chosen": np.divide(chosen, count, out=np.full(classes, np.nan), where=count > 0).tolist(),
        "difficulty": {
            "edges": edges.tolist(),
            "right": np.histogram(difficulty[right >= 0.5], edges)[0].tolist(),
            "wrong": np.histogram(difficulty[right < 0.5], edges)[0].tolist(),
        },
    }


def _example(run: Run, clip: int, difficulty: float, times: int) -> dict[str, Any]:
    row = run.store.clips[clip]
    label = next(iter(row.labels.values()), "")
    return {
        "clip": row.id,
        "label": label,
        "difficulty": float(difficulty),
        "times": int(times),
        "picture": _picture(run, clip),
    }


def _picture(run: Run, clip: int) -> str | None:
    """The middle frame as a data URI; None where the clip's video was not stored."""
    if "rgb" not in run.store.modalities or not run.store.present("rgb")[clip]:
        return None
    frames = run.store.signal(clip, "rgb").values
    image = Image.fromarray(np.ascontiguousarray(frames[len(frames) // 2]))
    image = image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
