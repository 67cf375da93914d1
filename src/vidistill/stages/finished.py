"""Finished runs, opened again for what they said of the test clips, and checked to be about the same thing.

Runs of other modalities have other prepared clips under other numbers. The clips that a run was tested on are found
beside it by the hash that its networks were trained under: the data itself is not read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidistill.core.errors import DataError, StoreError, VidistillError
from vidistill.core.recipe import Recipe, load_recipe
from vidistill.core.registry import check_options
from vidistill.data.store import ClipStore, Store
from vidistill.data.streams import StreamPlan, Streams
from vidistill.report import tables
from vidistill.report.compare import labels
from vidistill.report.folder import RunFolder, read_run
from vidistill.stages.run import Run, read_json
from vidistill.tasks import Predictions

TASKS = ("recognition", "detection", "anchor_detection")
STUDENTS = ("alone", "distilled", "variant")
AGAIN = "Finish it with: vidistill run RECIPE"


@dataclass(frozen=True)
class Stream:
    """A finished run as one stream.

    Attributes:
        name: what tables call it.
        run: bound to its folder, with the store that its predictions were made on.
        students: seeds by role, e.g. `alone`, in the order of the run's table.
        kinds: `alone`, `distilled` or `variant`, by role.
    """

    name: str
    run: Run
    students: dict[str, list[int]]
    kinds: dict[str, str]

    def predictions(self, role: str, seed: int) -> Predictions:
        """The test predictions of a student.

        Raises:
            StoreError: they are absent or damaged.
        """
        path = self.run.folder / "models" / f"{role}-seed{seed}" / "predictions.npz"
        try:
            return Predictions.load(path)
        except FileNotFoundError:
            raise StoreError("this student has not been tested", where=str(path), todo=AGAIN) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"unreadable predictions ({error})", where=str(path), todo="Delete it. " + AGAIN) from None

    def clip_ids(self, predictions: Predictions) -> list[str]:
        """Ids of the clips of predictions, in their order."""
        ids = self.run.store.ids
        return [ids[clip] for clip in np.unique(predictions.clip).tolist()]


def open_streams(folders: Sequence[Path]) -> list[Stream]:
    """Finished runs as streams that agree in task, classes and measures."""
    if len(folders) < 2:
        raise DataError("late fusion needs two runs or more", todo="Give the folders of finished runs.")
    found = [read_run(folder) for folder in folders]
    for place, each in enumerate(found):
        if each.path in [other.path for other in found[:place]]:
            raise DataError("the same run twice", where=str(each.path), todo="Give different runs.")
    streams = [open_stream(each, name) for each, name in zip(found, labels(found), strict=True)]
    first = streams[0]
    for other in streams[1:]:
        check_classes(first, other)
    return streams


def open_stream(found: RunFolder, name: str) -> Stream:
    """One finished run as a stream."""
    results = found.document("results")
    rows = [row for row in tables.rows(results) if row.get("role") in STUDENTS]
    if not rows:
        raise DataError("there are no results", where=str(found.path / "results.json"), todo=AGAIN)
    if results.get("task") not in TASKS:
        raise DataError(
            f"runs of task {results.get('task')!r} cannot be fused",
            where=str(found.path),
            todo=f"One of: {', '.join(TASKS)}",
        )
    recipe = load_recipe(found.path / "recipe.yaml").model_copy(
        update={"runs": found.path.parent, "name": found.path.name, "track": ()}
    )
    run = Run(recipe)
    run.store = prepared_clips(run.folder, recipe, f"{rows[0]['name']}-seed{rows[0]['seeds'][0]}")
    return Stream(
        name,
        run,
        {row["name"]: list(row["seeds"]) for row in rows},
        {row["name"]: row["role"] for row in rows},
    )


def prepared_clips(folder: Path, recipe: Recipe, student: str) -> ClipStore:
    """The prepared clips that a student of a run was trained and tested on, known by their hash.

    Raises:
        StoreError: they are not beside the run any more.
    """
    job = read_json(folder / "models" / student / "job.json")
    if job is None:
        raise StoreError("this student is not trained", where=str(folder / "models" / student), todo=AGAIN)
    root = folder.parent / "prepared"
    for path in sorted(root.glob(f"{recipe.data.format}-*")):
        try:
            store: ClipStore = Store.open(path)
            if recipe.data.streams is not None:
                plan = StreamPlan(**check_options(StreamPlan, recipe.data.streams, "data.streams"))
                store = Streams(Store.open(path), plan)
        except VidistillError:  # another set's, or one that was never finished
            continue
        if store.hash == job["depends_on"]["store"]:
            return store
    raise StoreError(
        f"the prepared clips of run {folder.name!r} are not there",
        where=str(root),
        todo="Run `vidistill prepare` again.",
    )


def check_classes(first: Stream, other: Stream) -> None:
    """Refuse a stream of another task, other classes or other measures than the first.

    Raises:
        DataError: names what differs.
    """
    task, wanted = other.run.task, first.run.task
    if task.name != wanted.name:
        raise differs(first, other, f"its task is {task.name}, not {wanted.name}")
    if list(other.run.classes) != list(first.run.classes):
        raise differs(first, other, f"its heads are {', '.join(other.run.classes)}, not {', '.join(first.run.classes)}")
    for head, names in first.run.classes.items():
        own = other.run.classes[head]
        if own == names:
            continue
        apart = sorted(set(own) ^ set(names))
        what = f"e.g. {apart[0]!r} is not in both" if apart else "in another order"
        raise differs(first, other, f"the classes of head {head!r} differ, {what}")
    for option in ("tious", "anchors"):
        set_here, expected = getattr(task, option, None), getattr(wanted, option, None)
        if set_here != expected:
            raise differs(first, other, f"its task.{option} are {set_here}, not {expected}")


def differs(first: Stream, other: Stream, what: str) -> DataError:
    """The error that says in what a stream is not like the first."""
    return DataError(f"cannot be fused with {first.name}: {what}", where=str(other.run.folder))
