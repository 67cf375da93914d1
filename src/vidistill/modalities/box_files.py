"""Detections as they are published: Something-Something's and Something-Else's JSON, EPIC-KITCHENS' HDF5.

JSON: a list of videos, `{"id", "size": [w, h], "frames": [[{"category", "x1", "y1", "x2", "y2", "score"}, ...], ...]}`;
in the older form a frame is `{"frame_objects": [...]}` and the sizes are in a file of their own, `{id: [w, h]}`.
Coordinates are pixels; a category that has "hand" in it is a hand, every other an object; annotated boxes without a
score have 1.

Such a file has a gigabyte: it is scanned once a process, and only the videos that are asked for become more than text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.registry import nearest
from vidistill.core.types import Clip, Signal
from vidistill.modalities.base import cut
from vidistill.modalities.box_epic import epic_boxes, is_group
from vidistill.modalities.box_rows import box_row, by_frame, clear_odd, need_list, ordered
from vidistill.modalities.layout import COLUMNS, fix_box

MAX_NAMED = 1000
"""Of more videos than these the nearest name is not looked for."""
BLANK = re.compile(r"[ \t\r\n]*")
CORNERS = ("x1", "y1", "x2", "y2")

Variant = Literal["default", "released"]


def is_detections(path: Path, key: str | None) -> bool:
    """Whether a source is a file of published detections: JSON, or a group (not a dataset) of an HDF5 file."""
    if path.suffix.lower() == ".json":
        return True
    if key is None or path.suffix.lower() not in (".h5", ".hdf5"):
        return False
    return is_group(path, key)


def json_boxes(
    path: Path,
    video: str,
    count: int,
    frame_size: tuple[int, int] | None = None,
    sizes: str = "videoid2size.json",
    variant: Variant = "default",
) -> NDArray[np.float32]:
    """One video's boxes (T, count, COLUMNS), as fractions; at most `count` a frame, see `by_frame`.

    Args:
        path: the JSON file.
        video: id of the video in it.
        count: boxes a frame.
        frame_size: (H, W) in pixels where neither the video's entry nor `sizes` knows it.
        sizes: name of the file of sizes beside `path`, for entries without a size.
        variant: "released" repairs boxes as published (`fix_box`) and keeps the file's order; otherwise corners are
            put in order and nothing else, for views clip boxes to what they show.

    Raises:
        DataError: no such video, no size, or not detections; file and video are named.
    """
    where = f"{path}#{video}"
    entry = _scan(path, _stamp(path)).entry(video)
    frames = [_objects(frame, where) for frame in need_list(entry.get("frames"), "frames", where)]
    if not frames:
        raise DataError("has no frames", where=where)
    rows = [_pixel_row(item, where) for items in frames for item in items]
    boxes = np.array(rows, np.float64).reshape(-1, COLUMNS)
    if len(boxes):
        width, height = _size(entry, path, video, frame_size, sizes)
        clear_odd(boxes)
        corners = boxes[:, :4]
        corners = fix_box(corners, width, height) if variant == "released" else ordered(corners)
        boxes[:, :4] = corners / np.array([width, height, width, height], np.float64)
    numbers = np.repeat(np.arange(len(frames)), [len(items) for items in frames])
    return by_frame(boxes, numbers, len(frames), count, variant == "released")


def read_detections(
    path: Path, key: str | None, clip: Clip, rate: float, count: int, variant: Variant, **options: Any
) -> Signal:
    """A clip's boxes (T, count, COLUMNS) from a file of detections; the key is a video's id, by default the clip's.

    Of HDF5 the key may name a stretch of the video, see `epic_boxes`.

    `options` are the further ones of `json_boxes`, which HDF5 has no use for.

    Raises:
        SignalAbsent: HDF5 without a frame of the clip.
        DataError: not detections, no such video, or nothing within the clip's seconds.
    """
    video = key or clip.id
    if path.suffix.lower() == ".json":
        return cut(Signal(json_boxes(path, video, count, variant=variant, **options), rate), clip)
    return epic_boxes(path, video, clip, rate, count, variant)


class _Scan:
    """A JSON file of detections: its text, and where in it each video is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
            self.spans: dict[str, tuple[int, int]] = {}
            for entry, start, end in _entries(self.text):
                if not isinstance(entry, dict) or "frames" not in entry:
                    raise ValueError("an entry is not a video with frames")
                video = str(entry.get("id", path.stem))
                if video in self.spans:
                    raise ValueError(f"the video {video!r} is listed twice")
                self.spans[video] = (start, end)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"not a readable file of detections ({error})", where=str(path)) from None

    def entry(self, video: str) -> dict[str, Any]:
        """What the file says of a video.

        Raises:
            DataError: nothing.
        """
        if video not in self.spans:
            todo = nearest(video, self.spans) if len(self.spans) <= MAX_NAMED else None
            raise DataError(f"holds no video {video!r}", where=str(self.path), todo=todo)
        entry: dict[str, Any] = json.loads(self.text[slice(*self.spans[video])])
        return entry


def _entries(text: str) -> Iterator[tuple[Any, int, int]]:
    """The entries of a JSON list, or a JSON object alone, each with where it stands; one at a time is in memory."""
    decoder = json.JSONDecoder()
    place = _skip(text, 0)
    if text[place : place + 1] == "{":
        entry, end = decoder.raw_decode(text, place)
        yield entry, place, end
    elif text[place : place + 1] == "[":
        place = _skip(text, place + 1)
        while text[place : place + 1] != "]":
            entry, end = decoder.raw_decode(text, place)
            yield entry, place, end
            place = _skip(text, end)
            if text[place : place + 1] == ",":
                place = _skip(text, place + 1)
            elif text[place : place + 1] != "]":
                raise ValueError(f"a comma or the list's end is due at character {place}")
        end = place + 1
    else:
        raise ValueError("not a list of videos")
    if _skip(text, end) != len(text):
        raise ValueError(f"more after its end at character {end}")


def _skip(text: str, place: int) -> int:
    found = BLANK.match(text, place)
    return found.end() if found else place


@lru_cache(maxsize=4)
def _scan(path: Path, stamp: tuple[int, int]) -> _Scan:
    return _Scan(path)


@lru_cache(maxsize=4)
def _sizes(path: Path, stamp: tuple[int, int]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not a readable file of sizes ({error})", where=str(path)) from None
    if not isinstance(content, dict):
        raise DataError("not an object {video: [width, height]}", where=str(path))
    return content


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise DecodeError("the file does not exist", where=str(path)) from None
    return status.st_size, status.st_mtime_ns


def _size(
    entry: Mapping[str, Any], path: Path, video: str, frame_size: tuple[int, int] | None, sizes: str
) -> tuple[int, int]:
    """(w, h) of a video: its entry's, that of the file of sizes, or the one given."""
    beside = path.parent / sizes
    size = entry.get("size")
    if size is None and beside.is_file():
        size = _sizes(beside, _stamp(beside)).get(video)
    if size is None and frame_size is not None:
        size = [frame_size[1], frame_size[0]]
    if size is None:
        raise DataError(
            f"its size is neither in the entry nor in {sizes}",
            where=f"{path}#{video}",
            todo="Set prepare.sources.boxes.frame_size: [H, W].",
        )
    try:
        width, height = (int(side) for side in need_list(size, "its size", f"{path}#{video}"))
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if min(width, height) < 1:
        raise DataError(f"its size {str(size)[:40]} is not [width, height]", where=f"{path}#{video}")
    return width, height


def _objects(frame: Any, where: str) -> list[Any]:
    return need_list(frame.get("frame_objects") if isinstance(frame, dict) else frame, "a frame", where)


def _pixel_row(item: Any, where: str) -> list[float]:
    return box_row(item, [item.get(name) for name in CORNERS] if isinstance(item, dict) else [], where)
