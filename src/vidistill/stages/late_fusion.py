"""Late fusion of finished runs over the same data: `fused.json` and `fused.md`, with intervals and paired gains.

For every student that all runs have (alone, distilled, variants) and every seed that all have it under, the test
predictions are fused (`tasks/late_fusion.py`) and judged by the first run's task. Clips are matched by their ids. No
network runs, and the data itself is not read, only the list of what was prepared of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.report.fusion_page import fused_page
from vidistill.stages.evaluate import Statistics, over_seeds
from vidistill.stages.finished import Stream, differs, open_streams
from vidistill.stages.run import Run, write_json, write_text
from vidistill.tasks import AnchorDetection, Predictions
from vidistill.tasks import metrics as measure
from vidistill.tasks.anchor_detection import windows_of
from vidistill.tasks.late_fusion import fused_predictions, renumbered, shapes_of, stream_weights

FUSED = "fused"
SPAN_TOLERANCE = 1e-6
"""Seconds within which two time steps are the same."""


def fuse_runs(
    folders: Sequence[Path], weights: Sequence[float] | None = None, output: Path | None = None
) -> tuple[dict[str, Any], Path]:
    """Fuse the students of finished runs; writes `fused.json` and `fused.md`.

    Args:
        folders: two run folders or more, of the same data, task and test clips.
        weights: factor of each run, above 0; None: all alike.
        output: the folder to write; None: `<run>+<run>` beside the first run.

    Returns:
        what `fused.json` holds, and the folder.

    Raises:
        DataError: too few runs, one twice, runs that are not finished, or that differ in what is judged.
        StoreError: predictions or prepared clips are not there.
    """
    stream_weights(len(folders), weights)
    streams = open_streams(folders)
    results = fused_results(streams, weights)
    target = output or streams[0].run.folder.parent / "+".join(stream.run.folder.name for stream in streams)
    write_json(target / "fused.json", results)
    write_text(target / "fused.md", fused_page(results))
    return results, target


def shared_students(streams: Sequence[Stream]) -> tuple[dict[str, list[int]], list[str]]:
    """Seeds that all streams have, by role that all have; and sentences on what is left out.

    Raises:
        DataError: nothing is shared.
    """
    shared: dict[str, list[int]] = {}
    notes = []
    for role in dict.fromkeys(role for stream in streams for role in stream.students):
        own = [stream.students.get(role, []) for stream in streams]
        seeds = [seed for seed in own[0] if all(seed in each for each in own)]
        has = "; ".join(f"{stream.name} has {_listed(each)}" for stream, each in zip(streams, own, strict=True))
        if not seeds:
            notes.append(f"{role}: left out, no seed is shared ({has}).")
            continue
        if any(set(each) != set(seeds) for each in own):
            notes.append(f"{role}: only the shared seeds are used, {_listed(seeds)} ({has}).")
        shared[role] = seeds
    if not shared:
        raise DataError(f"the runs share no student: {' '.join(notes)}", todo="Run them with the same seeds.")
    return shared, notes


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def fused_results(streams: Sequence[Stream], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """What `fused.json` holds: rows of single streams and of all together, and gains over the better stream.

    Raises:
        DataError: no student is shared, or the streams were tested on other clips, labels or times.
        StoreError: predictions are absent or damaged.
    """
    shared, notes = shared_students(streams)
    factors = stream_weights(len(streams), weights)
    run = streams[0].run
    ids = streams[0].clip_ids(streams[0].predictions(*next((role, seeds[0]) for role, seeds in shared.items())))
    rows: list[dict[str, Any]] = []
    gains: dict[str, Any] = {}
    for role, seeds in shared.items():
        judged = judged_streams(streams, [same_rows(streams, role, seed, ids) for seed in seeds], factors.tolist())
        found: list[dict[str, Any]] = [
            {
                "role": streams[0].kinds[role],
                "name": role,
                "stream": name,
                "seeds": seeds,
                "clips": len(ids),
                "metrics": over_seeds(each, len(ids)),
            }
            for name, each in judged.items()
        ]
        rows += found
        gains[role] = gain_over_better(found, list(judged.values()), primary(run, found[0]["metrics"]), len(ids))
    return {
        "task": run.task.name,
        "primary": run.task.primary,
        "test_split": "test",
        "clips": len(ids),
        "runs": [
            {"name": stream.name, "input": stream.run.recipe.student.input, "weight": weight}
            for stream, weight in zip(streams, factors.tolist(), strict=True)
        ],
        "rows": rows,
        "gains": gains,
        "notes": notes,
    }


def same_rows(streams: Sequence[Stream], role: str, seed: int, ids: Sequence[str]) -> list[Predictions]:
    """The predictions of one student by every stream: the same rows in the same order."""
    found = [aligned(stream, stream.predictions(role, seed), ids) for stream in streams]
    for stream, each in zip(streams[1:], found[1:], strict=True):
        check_rows(streams[0], found[0], stream, each, ids)
    return found


def judged_streams(
    streams: Sequence[Stream], predictions: Sequence[Sequence[Predictions]], weights: Sequence[float]
) -> dict[str, list[Statistics]]:
    """Statistics, one a seed, by stream, each judged by its own run's task; fused is judged by the first's.

    Args:
        streams: K of them.
        predictions: for every seed those of the K streams.
        weights: K factors.
    """
    task = streams[0].run.task
    judged = {
        stream.name: [stream.run.task.statistics(each[place]) for each in predictions]
        for place, stream in enumerate(streams)
    }
    proposals = isinstance(task, AnchorDetection)
    together = [fused_predictions(each, weights=weights, proposals=proposals) for each in predictions]
    return {**judged, FUSED: [task.statistics(each) for each in together]}


def aligned(stream: Stream, predictions: Predictions, ids: Sequence[str]) -> Predictions:
    """Predictions whose clip k is the one with the k-th of these ids.

    Raises:
        DataError: they are of other clips.
    """
    own = stream.clip_ids(predictions)
    where = str(stream.run.folder)
    for given, wanted, words in (
        (ids, own, "lacks {} of the others' test clips"),
        (own, ids, "has {} more test clips"),
    ):
        apart = sorted(set(given) - set(wanted))
        if apart:
            what = words.format(len(apart))
            raise DataError(
                f"{what}, e.g. {apart[0]!r}", where=where, todo="Fuse runs that are tested on the same clips."
            )
    number = {clip: place for place, clip in enumerate(ids)}
    return renumbered(predictions, np.array([number[clip] for clip in own], np.int64))


def check_rows(first: Stream, reference: Predictions, other: Stream, given: Predictions, ids: Sequence[str]) -> None:
    """Refuse predictions whose rows, labels, times or annotated segments are not those of the first stream.

    Raises:
        DataError: names what differs.
    """
    counts, own = (np.bincount(each.clip, minlength=len(ids)) for each in (reference, given))
    if (counts != own).any():
        clip = int(np.flatnonzero(counts != own)[0])
        raise differs(first, other, f"clip {ids[clip]!r} has {own[clip]} rows, not {counts[clip]}: use the same views")
    if shapes_of(given) != shapes_of(reference):
        raise differs(first, other, f"its logits are {shapes_of(given)}, not {shapes_of(reference)}")
    for head, expected in reference.labels.items():
        if (expected != given.labels[head]).any():
            row = int(np.flatnonzero(expected != given.labels[head])[0])
            label, wanted = (_label(first, head, int(each[row])) for each in (given.labels[head], expected))
            clip = int(reference.clip[row])
            raise differs(first, other, f"clip {ids[clip]!r} is labelled {label} in head {head!r}, not {wanted}")
    if not _same(reference.truth, given.truth):
        raise differs(first, other, "the annotated segments differ")
    if isinstance(first.run.task, AnchorDetection):
        for name in ids:
            if not _same(*(_windows(stream, name) for stream in (first, other))):
                raise differs(first, other, f"clip {name!r} is seen in other windows: use the same views")
    elif not _same(reference.spans, given.spans):
        raise differs(first, other, "the time steps differ: use the same views")


def _label(stream: Stream, head: str, number: int) -> str:
    return repr(stream.run.classes[head][number]) if number >= 0 else "nothing"


def _same(first: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> bool:
    """Whether two arrays of times are the same, up to rounding."""
    if first is None or other is None:
        return first is other
    return first.shape == other.shape and bool(np.allclose(first, other, rtol=0, atol=SPAN_TOLERANCE))


def _windows(stream: Stream, clip: str) -> NDArray[np.float64]:
    """Starts and length of a clip's test windows in seconds."""
    store, policy = stream.run.store, stream.run.policy
    index = store.ids.index(clip)
    length = policy.steps * policy.step_frames / store.rate(index)
    return np.array([*(view.times[0] for view in windows_of(store, policy, index)), length], np.float64)


def primary(run: Run, metrics: dict[str, Any]) -> str:
    """The metric that says which stream is better: joint over several heads, else the first head's."""
    joint = f"all/{run.task.primary}"
    return joint if joint in metrics else f"{next(iter(run.task.classes))}/{run.task.primary}"


def gain_over_better(
    rows: Sequence[dict[str, Any]], judged: Sequence[Sequence[Statistics]], metric: str, clips: int
) -> dict[str, Any]:
    """Fused minus the stream with the best value of `metric`, paired by seed and clip.

    Args:
        rows: of the streams, then of all together.
        judged: their statistics, a seed each.
        metric: by name.
        clips: number of clips.
    """
    values = [row["metrics"][metric]["value"] for row in rows[:-1]]
    best = int(np.argmax(values))
    pairs = [_difference(fused, single) for fused, single in zip(judged[-1], judged[best], strict=True)]
    return {"over": rows[best]["stream"], "metric": metric, "metrics": over_seeds(pairs, clips)}


def _difference(first: Statistics, second: Statistics) -> Statistics:
    return {name: measure.difference(first[name], second[name]) for name in first}
