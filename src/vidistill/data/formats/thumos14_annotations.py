"""The annotation files of THUMOS14, as AFSD (Lin et al., CVPR 2021) and arXiv 2312.08644 publish them.

Times in seconds are right. The columns of frames are those seconds at 30 frames a second whatever the video's rate
(video_validation_0000666 has 25), and are read for `data.published_windows` only. `Ambiguous` rows are neither an
action nor background for sure and are left out, as published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vidistill.core.errors import DataError
from vidistill.core.registry import nearest
from vidistill.data.formats.base import csv_rows, need_file, text_lines

Part = Literal["train", "test"]

AMBIGUOUS = "Ambiguous"
PREFIX: dict[Part, str] = {"train": "val", "test": "test"}
SUBSETS: dict[str, Part] = {"train": "train", "validation": "train", "val": "train", "test": "test"}
CLASS_FILE, TRUTH = "Class Index_Detection.txt", "thumos_gt.json"
CLASSES = {
    **{7: "BaseballPitch", 9: "BasketballDunk", 12: "Billiards", 21: "CleanAndJerk", 22: "CliffDiving"},
    **{23: "CricketBowling", 24: "CricketShot", 26: "Diving", 31: "FrisbeeCatch", 33: "GolfSwing"},
    **{36: "HammerThrow", 40: "HighJump", 45: "JavelinThrow", 51: "LongJump", 68: "PoleVault"},
    **{79: "Shotput", 85: "SoccerPenalty", 92: "TennisSwing", 93: "ThrowDiscus", 97: "VolleyballSpiking"},
}
"""Official numbers of the classes. In their order and by name they are the same, so 1..20 are the published labels."""


class Row(NamedTuple):
    """One annotated action: seconds, and the published frames; the frames are nan where a file has none."""

    label: str
    start: float
    end: float
    first: float = math.nan
    last: float = math.nan


class VideoInfo(NamedTuple):
    """Frames a second and number of frames of a video, and of its published array."""

    fps: float
    frames: int
    sampled: int


Annotated = dict[str, list[Row] | None]
"""Actions by video, in the file's order; None where all that is annotated is ambiguous."""


def _number(value: object, what: str, where: str) -> float:
    """A finite number that is not negative, given as one or as text.

    Raises:
        DataError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise DataError(f"{what} is {str(value)[:40]!r}, not a number from 0", where=where)
    return number


def _row(label: object, start: object, end: object, known: Mapping[int, str], where: str) -> Row | None:
    """One action; None where it is ambiguous.

    Raises:
        DataError: an unknown label, times that are no numbers, or a segment that is empty or reversed.
    """
    begin, stop = _number(start, "the start", where), _number(end, "the end", where)
    if begin >= stop:
        raise DataError(f"the segment {begin} to {stop} s is {'empty' if begin == stop else 'reversed'}", where=where)
    if label == AMBIGUOUS:
        return None
    if label not in known.values():
        raise DataError(f"unknown class {str(label)[:40]!r}", where=where, todo=nearest(str(label), known.values()))
    return Row(str(label), begin, stop)


def class_numbers(path: Path) -> dict[int, str]:
    """Classes by their official numbers, of a file `7 BaseballPitch` a line, in its order.

    Raises:
        DataError: the file is missing, empty or wrong; the line is named.
    """
    found: dict[int, str] = {}
    for number, line in enumerate(text_lines(path, "the list of classes"), start=1):
        index, _, name = line.partition(" ")
        if not (index.isascii() and index.isdecimal() and name.strip()):
            raise DataError(f"{line[:60]!r} is not '<number> <class>'", where=f"{path}: line {number}")
        if int(index) in found or name.strip() in found.values():
            raise DataError(f"{line[:60]!r} is there twice", where=f"{path}: line {number}")
        found[int(index)] = name.strip()
    if not found:
        raise DataError("the list of classes is empty", where=str(path))
    return found


def _table(path: Path, what: str, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file by column, each with where it stands.

    Raises:
        DataError: the file is missing, no CSV or without rows, a column is missing, or a row has other cells.
    """
    rows = csv_rows(path, what, strict=True)
    if len(rows) < 2:
        raise DataError(f"{what} has no rows", where=str(path))
    header = [cell.strip() for cell in rows[0]]
    for column in columns:
        if column not in header:
            raise DataError(f"column {column!r} is missing", where=str(path), todo=f"Expected: {','.join(columns)}")
    for number, cells in enumerate(rows[1:], start=2):
        where = f"{path}: row {number}"
        if len(cells) != len(header):
            raise DataError(f"{len(cells)} cells, but the header has {len(header)}", where=where)
        yield where, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def read_rows(path: Path, known: Mapping[int, str]) -> Annotated:
    """The actions of a `*_Annotation.csv` (`video,type,type_idx,start,end,startFrame,endFrame`).

    Raises:
        DataError: see `_table`; also a wrong number or class, of which the row is named.
    """
    found: Annotated = {}
    columns = ("video", "type", "type_idx", "start", "end", "startFrame", "endFrame")
    for where, cells in _table(path, "the list of annotations", columns):
        video, label, number = cells["video"], cells["type"], cells["type_idx"]
        if not video:
            raise DataError("column 'video' is empty", where=where)
        row = _row(label, cells["start"], cells["end"], known, where)
        if row is None:
            found.setdefault(video, None)
            continue
        named = known.get(int(_number(number, "type_idx", where)))
        if named != label:
            raise DataError(f"class {number} is {named or 'unknown'}, not {label}", where=where)
        first, last = (_number(cells[name], name, where) for name in ("startFrame", "endFrame"))
        found[video] = [*(found.get(video) or []), row._replace(first=first, last=last)]
    return found


def read_info(path: Path) -> dict[str, VideoInfo]:
    """The videos of a `*_video_info.csv` (`video,fps,sample_fps,count,sample_count`).

    Raises:
        DataError: see `_table`; also a number that is not above 0, or a video that is there twice.
    """
    found: dict[str, VideoInfo] = {}
    names = ("fps", "count", "sample_count")
    for where, cells in _table(path, "the list of videos", ("video", *names)):
        values = [_number(cells[name], name, where) for name in names]
        if min(values) <= 0 or cells["video"] in found:
            what = "a number is 0" if min(values) <= 0 else "the video is there twice"
            raise DataError(f"{cells['video'][:60]!r}: {what}", where=where)
        found[cells["video"]] = VideoInfo(values[0], int(values[1]), int(values[2]))
    return found


def read_truth(path: Path, known: Mapping[int, str]) -> dict[Part, Annotated]:
    """The actions of `thumos_gt.json` (`{"database": {video: {"subset", "annotations"}}}`) by part.

    Raises:
        DataError: not such JSON, or a wrong time or class; video and row (from 1) are named.
    """
    try:
        tree = json.loads(need_file(path, "the list of annotations").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON ({error})", where=str(path)) from None
    videos = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(videos, dict) or not videos:
        raise DataError("holds no annotated videos", where=str(path), todo='Write {"database": {video: {...}}}')
    found: dict[Part, Annotated] = {"train": {}, "test": {}}
    for video, entry in videos.items():
        where = f"{path}: video {video!r}"
        listed = entry.get("annotations") if isinstance(entry, dict) else None
        if not isinstance(listed, list):
            raise DataError("no list of annotations", where=where)
        part = SUBSETS.get(str(entry.get("subset")).lower())
        if part is None:
            raise DataError(f"the subset is {entry.get('subset')!r}, not train or test", where=where)
        rows = [_truth_row(item, known, f"{where}: row {n}") for n, item in enumerate(listed, start=1)]
        clear = [row for row in rows if row is not None]
        found[part][video] = clear if clear or not rows else None
    return found


def _truth_row(item: Any, known: Mapping[int, str], where: str) -> Row | None:
    span = item.get("segment") if isinstance(item, dict) else None
    if not isinstance(span, list) or len(span) != 2:
        raise DataError('not {"label": text, "segment": [start, end]}', where=where)
    return _row(item.get("label"), span[0], span[1], known, where)


def annotation_file(folder: Path, part: Part) -> Path:
    """The CSV of a part: as published first, else the one that AFSD made of it without ambiguous rows."""
    names = [f"{PREFIX[part]}_Annotation{ending}.csv" for ending in ("", "_ours")]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
