"""Detections as files: JSON as ActivityNet's evaluation reads it, CSV, and subtitles to look at beside the video.

    {"version": "...", "results": {video: [{"label": "...", "score": 0.9, "segment": [start, end]}]},
     "external_data": {}}

Times are seconds. Numbers are written in full, so that what is read is what was written.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidistill.core.errors import DataError
from vidistill.core.registry import nearest
from vidistill.tasks.segments import Detections

COLUMNS = ("video", "label", "start", "end", "score")
Row = tuple[str, str, float, float, float]


class OtherSetError(DataError):
    """Detections of another data set than the one they are read for."""


def write_detections(
    detections: Detections, path: Path, *, version: str = "", videos: Iterable[str] = (), classes: Sequence[str] = ()
) -> None:
    """Write as `.json` or `.csv`, by the file's name; detections of a video the surest first.

    Args:
        detections: seconds.
        path: where to.
        version: name of the data set (JSON).
        videos: videos that are listed (JSON) even without detections.
        classes: names by label number, where labels are numbers; names are written as they are.

    Raises:
        DataError: another kind of file, or a label number beyond `classes`.
    """
    rows = _rows(detections, classes)
    if path.suffix == ".json":
        results: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
        for video, label, start, end, score in rows:
            results.setdefault(video, []).append({"label": label, "score": score, "segment": [start, end]})
        tree = {"version": version, "results": results, "external_data": {}}
        _write(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
        _write(path, text.getvalue())
    else:
        raise DataError("detections are written as .json or .csv", where=str(path))


def _rows(detections: Detections, classes: Sequence[str] = ()) -> list[Row]:
    """Rows of text and numbers, by video in the order of first appearance, then by falling score."""
    _, first, video = np.unique(detections.clip, return_index=True, return_inverse=True)
    order = np.lexsort((detections.start, -detections.score, first[video]))
    labels = detections.label.tolist()
    if len(classes) and detections.label.dtype.kind in "iu":
        beyond = (detections.label < 0) | (detections.label >= len(classes))
        if beyond.any():
            raise DataError(f"label {int(detections.label[beyond][0])} has no name among {len(classes)} classes")
        labels = [classes[number] for number in labels]
    columns = (detections.clip, detections.start, detections.end, detections.score)
    clip, start, end, score = (values.tolist() for values in columns)
    return [(str(clip[i]), str(labels[i]), start[i], end[i], score[i]) for i in order.tolist()]


def read_detections(
    path: Path,
    *,
    videos: Iterable[str] | None = None,
    classes: Iterable[str] | None = None,
    unknown: Literal["error", "ignore"] = "error",
) -> Detections:
    """Read `.json` or `.csv`; `clip` and `label` are names, in the file's order.

    Args:
        path: of `write_detections`, or any ActivityNet-style result file.
        videos: the set's videos; a file of which none is among them is of another set. None: any.
        classes: the set's class names; the same.
        unknown: whether detections of some other videos or classes are an error, or kept: subsets are judged with the
            detections of a whole set.

    Raises:
        OtherSetError: all videos, or all classes, are unknown.
        DataError: the file cannot be read, or some detections are of no video or class of the set: which entry, and
            what is wrong with it.
    """
    if path.suffix not in (".json", ".csv"):
        raise DataError("detections are read from .json or .csv", where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read detections ({error})", where=str(path)) from error
    placed = _parse_json(text, path) if path.suffix == ".json" else _parse_csv(text, path)
    for kind, names, column in (("video", videos, 0), ("class", classes, 1)):
        if names is not None:
            known = [str(name) for name in names]
            _check_set(kind, {str(row[column]) for _, row in placed}, known, path)
            if unknown == "error":
                _check_known(kind, [(where, str(row[column])) for where, row in placed], known)
    columns = list(zip(*(row for _, row in placed), strict=True)) or [()] * 5
    video, label, start, end, score = columns
    return Detections(np.array(video, str), np.array(start), np.array(end), np.array(label, str), np.array(score))


def _check_known(kind: str, found: Sequence[tuple[str, str]], known: Sequence[str]) -> None:
    """Refuse names, each with where it stands, that are not known; the first is told."""
    names = set(known)
    strange = [(where, name) for where, name in found if name not in names]
    if strange:
        where, name = strange[0]
        raise DataError(
            f"the set has no {kind} {name!r}; {len(strange)} of {len(found)} detections are of such ones",
            where=where,
            todo=nearest(name, known),
        )


def _check_set(kind: str, found: set[str], known: Sequence[str], path: Path) -> None:
    if found and found.isdisjoint(known):
        one = min(found)
        raise OtherSetError(
            f"these are detections of another set: it has no {kind} {one!r}, nor any other {kind} of the file",
            where=str(path),
            todo=nearest(one, known),
        )


def _parse_json(text: str, path: Path) -> list[tuple[str, Row]]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", where=str(path)) from error
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError("no entry 'results' with detections by video", where=str(path))
    rows = []
    for video, entries in results.items():
        if not isinstance(entries, list):
            raise DataError("expected a list of detections", where=f"{path}, results, {video}")
        for number, entry in enumerate(entries):
            where = f"{path}, results, {video}, entry {number}"
            if not isinstance(entry, Mapping):
                raise DataError("expected label, score and segment", where=where)
            segment = entry.get("segment")
            if not isinstance(segment, list) or len(segment) != 2:
                raise DataError(f"segment must be [start, end] (got {segment!r})", where=where)
            rows.append((where, _row((video, entry.get("label"), *segment, entry.get("score")), where)))
    return rows


def _parse_csv(text: str, path: Path) -> list[tuple[str, Row]]:
    try:
        return list(_csv_rows(csv.DictReader(text.splitlines(keepends=True)), path))
    except csv.Error as error:
        raise DataError(f"not CSV ({error})", where=str(path)) from error


def _csv_rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, Row]]:
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"no column {missing[0]!r}", where=str(path), todo=f"The columns are {', '.join(COLUMNS)}")
    for line in reader:
        where = f"{path}, line {reader.line_num}"
        yield where, _row([line[name] for name in COLUMNS], where)


def _row(values: Sequence[Any], where: str) -> Row:
    """One detection; numbers may be written as text."""
    video, label, *numbers = values
    if not isinstance(label, str) or not label:
        raise DataError(f"label must be a name (got {label!r})", where=where)
    try:
        start, end, score = (float(value) for value in numbers)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"start, end and score must be numbers (got {numbers!r})", where=where) from error
    if not all(map(math.isfinite, (start, end, score))) or end < start:
        raise DataError(f"not a segment with a score: [{start}, {end}], {score}", where=where)
    return str(video), label, start, end, score


def subtitles(detections: Detections, classes: Sequence[str] = ()) -> str:
    """The detections of ONE video as SubRip text: one cue a segment, with label and confidence, in order of time.

    Cues may overlap; players show them together. Of equal starts, the surer comes first. A cue ends at least 1 ms
    after it starts.

    Args:
        detections: seconds from the video's start.
        classes: names by label number, where labels are numbers.

    Raises:
        DataError: detections of several videos.
    """
    if len(np.unique(detections.clip)) > 1:
        raise DataError("subtitles are of one video; the detections are of several")
    rows = sorted(_rows(detections, classes), key=lambda row: (row[2], -row[4], row[3]))
    cues = []
    for number, (_, label, start, end, score) in enumerate(rows, 1):
        first = max(round(1000 * start), 0)
        last = max(round(1000 * end), first + 1)
        cues.append(f"{number}\n{_time(first)} --> {_time(last)}\n{_safe(label)} {score:.0%}\n")
    return "\n".join(cues)


def write_subtitles(detections: Detections, path: Path, classes: Sequence[str] = ()) -> None:
    """Write `subtitles` as UTF-8."""
    _write(path, subtitles(detections, classes))


def _write(path: Path, text: str) -> None:
    """Write beside `path` and rename, so that no reader meets half a file."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8", newline="")
    beside.replace(path)


def _time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"


def _safe(text: str) -> str:
    """One line that a player shows as it is: no markup, no arrow that ends a time line, no control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line.replace("-->", "->").translate(str.maketrans("<>{}", "‹›()")) or "?"
