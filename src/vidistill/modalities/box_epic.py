"""Detections of EPIC-KITCHENS as they are published: HDF5, the boxes of each frame as text.

`/<video>/<frame number>` is a Python literal, a list of `{"box", "category", "score", "state"?, "side"?}` with boxes as
fractions. Literals are read, never run. A key may name a stretch of a video, `<video>[12.5:14.39]`, as it may for sound
(`hdf5_signals.read_waveform`): clips whose frames are the action's alone start at 0, their boxes do not.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.types import Clip, Signal
from vidistill.data.hdf5_frames import stretch_of
from vidistill.modalities.base import SignalAbsent
from vidistill.modalities.box_rows import box_row, by_frame, clear_odd, need_list, ordered
from vidistill.modalities.layout import COLUMNS

MAX_FRAMES = 1_000_000
MAX_LITERAL = 1 << 16
"""Bytes of one frame's literal; one of forty boxes has 6,000."""


def is_group(path: Path, key: str) -> bool:
    """Whether `key`, without the stretch it may name, is a group of an HDF5 file: a dataset is an array."""
    with _opened(path) as file:
        return isinstance(file.get(stretch_of(key)[0]), h5py.Group)


def epic_boxes(
    path: Path, key: str, clip: Clip, rate: float, count: int, variant: Literal["default", "released"] = "default"
) -> Signal:
    """A clip's boxes (T, count, COLUMNS) out of its video's, as fractions; at most `count` a frame, see `by_frame`.

    The key is the video's name; seconds in it (`stretch_of`) go before the clip's start and end, and times count from
    them. Frame n of a video is n / rate seconds after its start; a frame that the file leaves out has no boxes. With
    "released" frame numbers count from the clip's start, as the published reader takes them although the file numbers
    the frames of whole videos; it also keeps the file's order of boxes.

    Raises:
        SignalAbsent: the file has no frame of the clip.
        DataError: not detections, or too many frames; file, video and frame are named.
    """
    video, first, last = stretch_of(key)
    start, stop = (clip.start, clip.end) if first is None else (first, last)
    where = f"{path}#{video}"
    released = variant == "released"
    begin = 0 if released else round(start * rate)
    with _opened(path) as file:
        group = file[video]
        end = _last(group, begin) + 1 if stop is None else begin + max(round((stop - start) * rate), 1)
        if end - begin > MAX_FRAMES:
            raise DataError(f"{end - begin} frames are more than the limit of {MAX_FRAMES}", where=where)
        known = [number for number in range(begin, end) if str(number) in group]
        frames = [_boxes(group[str(number)], f"{where}/{number}") for number in known]
    if not known:
        raise SignalAbsent(f"has no frame from {begin} to {end}", where=where)
    boxes = np.array([row for rows in frames for row in rows], np.float64).reshape(-1, COLUMNS)
    clear_odd(boxes)
    boxes[:, :4] = ordered(boxes[:, :4])
    numbers = np.repeat(np.array(known, np.int64) - begin, [len(rows) for rows in frames])
    values = by_frame(boxes, numbers, end - begin, count, released)
    return Signal(values, rate, 0.0 if released else begin / rate - start)


def _last(group: h5py.Group, begin: int) -> int:
    """The highest frame number of a video, `begin` - 1 where it has none from there on."""
    return max((int(name) for name in group if name.isdecimal() and len(name) < 10), default=begin - 1)


def _boxes(entry: Any, where: str) -> list[list[float]]:
    """The boxes of one frame of an HDF5 file.

    Raises:
        DataError: not a dataset that holds a literal list of boxes, or too long.
    """
    if not isinstance(entry, h5py.Dataset) or entry.shape != ():
        raise DataError("is not the text of one frame's boxes", where=where)
    if entry.dtype.itemsize > MAX_LITERAL:
        raise DataError(f"{entry.dtype.itemsize} bytes are more than {MAX_LITERAL}", where=where)
    content = entry[()]
    content = content.tobytes() if isinstance(content, (np.void, np.ndarray)) else content
    if not isinstance(content, (bytes, str)) or len(content) > MAX_LITERAL:
        raise DataError(f"is no text of at most {MAX_LITERAL} bytes", where=where)
    try:
        text = content.decode() if isinstance(content, bytes) else content
        items = ast.literal_eval(text.strip("\0 \n"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"not a Python literal ({error})", where=where) from None
    rows = []
    for item in need_list(items, "it", where):
        corners = item.get("box") if isinstance(item, dict) else None
        rows.append(box_row(item, corners if isinstance(corners, (list, tuple)) else (), where))
    return rows


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DecodeError(f"not a readable HDF5 file ({error})", where=str(path)) from None
