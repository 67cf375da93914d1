"""The lists of EPIC-KITCHENS: actions, classes, and the subsets that results are told for. Pickles are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.formats.base import table, text_lines, whole

Version = Literal[100, 55]
Names = Literal["name", "number"]

VIDEO = re.compile(r"(P\d\d)_(\d{2,3})", re.ASCII)
STAMP = re.compile(r"(\d\d):([0-5]\d):([0-5]\d(?:\.\d+)?)", re.ASCII)
ID = {100: "narration_id", 55: "uid"}
COLUMNS = (
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "verb_class",
    "noun_class",
)
CLASS_FILES: dict[int, dict[str, tuple[str, str, str]]] = {
    100: {head: (f"EPIC_100_{head}_classes.csv", "id", "key") for head in ("verb", "noun")},
    55: {head: (f"EPIC_{head}_classes.csv", f"{head}_id", "class_key") for head in ("verb", "noun")},
}
"""File of the class names, its columns of numbers and of names, by version and head."""
UNSEEN = "EPIC_100_unseen_participant_ids_validation.csv"


class EpicRow(NamedTuple):
    """One action: seconds of its video, and its frames, from 1, the last included, as extracted at `frame_rate`."""

    id: str
    participant: str
    video: str
    start: float
    end: float
    first: int
    last: int
    verb: int
    noun: int


def frame_rate(video: str) -> float:
    """Frames a second at which a video's frames were extracted: 50 where its number has three digits, else 60.

    Lists count frames at these rates, whatever rate a video itself has.

    Raises:
        DataError: no video's name.
    """
    found = VIDEO.fullmatch(video)
    if found is None:
        raise DataError(f"{video[:40]!r} is not a video's name", todo="Names are like P01_11 or P01_101")
    return 50.0 if len(found[2]) == 3 else 60.0


def flow_rate(video: str) -> float:
    """Flow images a second as published: of every second frame for the videos of 2018 (two digits), else of each.

    Raises:
        DataError: no video's name.
    """
    rate = frame_rate(video)
    return rate if rate == 50.0 else rate / 2


def seconds(stamp: str) -> float:
    """A time stamp `00:05:30.62` in seconds.

    Raises:
        DataError: it is none.
    """
    found = STAMP.fullmatch(stamp)
    if found is None:
        raise DataError(f"{stamp[:40]!r} is no time", todo="Write HH:MM:SS.ff")
    return 3600.0 * int(found[1]) + 60.0 * int(found[2]) + float(found[3])


def read_rows(path: Path, version: Version = 100) -> list[EpicRow]:
    """The actions of a list, in its order.

    Raises:
        DataError: the file is missing, a pickle or no such list; file, row and column are named.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise DataError(
            "a pickle can run code and is not read", where=str(path), todo="Give the list in its published CSV form"
        )
    rows: dict[str, EpicRow] = {}
    for number, cells in enumerate(table(path, (ID[version], *COLUMNS)), start=2):
        where = f"{path}: row {number}"
        row = _row(cells, version, where)
        if row.id in rows:
            raise DataError(f"the action {row.id!r} is listed twice", where=where)
        rows[row.id] = row
    if not rows:
        raise DataError("lists no action", where=str(path))
    return list(rows.values())


def _row(cells: Mapping[str, str], version: Version, where: str) -> EpicRow:
    """One row.

    Raises:
        DataError: a cell is wrong, or the action is empty or reversed.
    """
    try:
        frame_rate(cells["video_id"])
        start, end = seconds(cells["start_timestamp"]), seconds(cells["stop_timestamp"])
    except DataError as error:
        raise DataError(str(error), where=where) from None
    first, last, verb, noun = (whole(cells[name], name, where) for name in COLUMNS[4:])
    if start >= end:
        raise DataError(f"the action {start} to {end} s is empty or reversed", where=where)
    if not 1 <= first <= last:
        raise DataError(f"the frames {first} to {last} are none, or do not count from 1", where=where)
    participant, video = cells["participant_id"], cells["video_id"]
    if not video.startswith(f"{participant}_"):
        raise DataError(f"the video {video!r} is not of the participant {participant!r}", where=where)
    return EpicRow(cells[ID[version]], participant, video, start, end, first, last, verb, noun)


def class_names(folder: Path, head: Literal["verb", "noun"], version: Version, labels: Names) -> Mapping[int, str]:
    """Names of a head's classes by number: those of the list of classes, or the numbers with three digits.

    Raises:
        DataError: the list is missing or wrong, or a number or a name is in it twice.
    """
    if labels == "number":
        return {number: f"{number:03d}" for number in range(1000)}
    file, number_column, name_column = CLASS_FILES[version][head]
    path = folder / file
    if not path.is_file():
        raise DataError("the list of classes is missing", where=str(path), todo="Add it, or set 'labels: number'")
    names: dict[int, str] = {}
    for row, cells in enumerate(table(path, (number_column, name_column)), start=2):
        where = f"{path}: row {row}"
        number, name = whole(cells[number_column], number_column, where), cells[name_column]
        if number in names or name in names.values():
            raise DataError(f"the class {number} {name!r} is listed twice", where=where)
        names[number] = name
    return names


def all_classes(
    folder: Path, head: Literal["verb", "noun"], version: Version, labels: Names, seen: Iterable[int]
) -> tuple[str, ...]:
    """All classes of a head as labels, in the order of their numbers: those of the list of classes.

    Without that list, which "number" does not need, all numbers up to the highest of `seen`.

    Raises:
        DataError: as `class_names`.
    """
    if labels == "number" and not (folder / CLASS_FILES[version][head][0]).is_file():
        return tuple(f"{number:03d}" for number in range(max(seen) + 1))
    names = class_names(folder, head, version, "name")
    return tuple(names[number] if labels == "name" else f"{number:03d}" for number in sorted(names))


def named(number: int, names: Mapping[int, str], head: str, row: EpicRow) -> str:
    """The name of a row's class.

    Raises:
        DataError: no such class.
    """
    if number not in names:
        raise DataError(f"action {row.id!r} has the {head} class {number}, which the list of classes lacks")
    return names[number]


def listed(path: Path, what: str) -> tuple[str, ...]:
    """A list with a heading and one entry a line: tail classes, or participants.

    Raises:
        DataError: it is missing, no text, or has no entry.
    """
    entries = tuple(text_lines(path, what)[1:])
    if not entries:
        raise DataError(f"{what} is empty", where=str(path))
    return entries


def tail_classes(folder: Path, labels: Names = "name", version: Version = 100) -> dict[str, frozenset[str]]:
    """The rare classes of `verb` and `noun` by the lists `EPIC_100_tail_verbs.csv` and `EPIC_100_tail_nouns.csv`.

    Args:
        folder: of the lists.
        labels: as the reader's option: what the clips' labels are.
        version: whose list of class names is read.

    Raises:
        DataError: a list is missing, or names what is no class.
    """
    found: dict[str, frozenset[str]] = {}
    for head in ("verb", "noun"):
        path = folder / f"EPIC_100_tail_{head}s.csv"
        names = class_names(folder, head, version, labels)
        numbers = [whole(cell, head, str(path)) for cell in listed(path, "the list of tail classes")]
        unknown = [number for number in numbers if number not in names]
        if unknown:
            raise DataError(f"names the class {unknown[0]}, which the list of classes lacks", where=str(path))
        found[head] = frozenset(names[number] for number in numbers)
    return found


def subsets(
    clips: Sequence[Clip], tail: Mapping[str, Iterable[str]], unseen: Iterable[str] = ()
) -> dict[str, NDArray[np.bool_]]:
    """Which clips (N,) each subset counts, by name, as the published results are told.

    Args:
        clips: of this format, in the order of the predictions.
        tail: rare classes of `verb` and `noun`; see `tail_classes`.
        unseen: participants that train never shows; none: no such subset.

    Returns:
        "tail_verb", "tail_noun", "tail_both" (verb and noun), "tail_either" (verb or noun), and "unseen".
    """
    rare = {head: frozenset(names) for head, names in tail.items()}
    verb, noun = (
        np.array([clip.labels.get(head) in rare[head] for clip in clips], np.bool_) for head in ("verb", "noun")
    )
    found = {"tail_verb": verb, "tail_noun": noun, "tail_both": verb & noun, "tail_either": verb | noun}
    people = frozenset(unseen)
    if people:
        found["unseen"] = np.array([(clip.group or "").partition("_")[0] in people for clip in clips], np.bool_)
    return found


def subset_ids(clips: Sequence[Clip], folder: Path, labels: Names, version: Version) -> dict[str, frozenset[str]]:
    """Ids of the clips of each of `subsets` that the published lists in a folder define; a list may be absent.

    Tail classes are of verbs and nouns, published for version 100 alone; a subset without any clip is left out.

    Raises:
        DataError: a list that is there is wrong.
    """
    tails = [folder / f"EPIC_100_tail_{head}s.csv" for head in ("verb", "noun")]
    unseen = folder / UNSEEN
    known = version == 100 and all(path.is_file() for path in tails)
    tail = tail_classes(folder, labels, version) if known else {"verb": frozenset(), "noun": frozenset()}
    people = listed(unseen, "the list of unseen participants") if version == 100 and unseen.is_file() else ()
    found = subsets(clips, tail, people)
    ids = np.array([clip.id for clip in clips], np.object_)
    return {name: frozenset(ids[mask].tolist()) for name, mask in found.items() if mask.any()}
