"""Raw skeleton text: NTU RGB+D `.skeleton`, PKU-MMD and CAD-60 `.txt`, as joints (T, P, J, 3) in metres.

Shahroudy et al., CVPR 2016; Liu et al., arXiv 1703.07475; Sung et al., ICRA 2012. Nothing that a file says about its
size is trusted: what is allocated is bounded by the lines that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.modalities.base import SignalAbsent

SUFFIXES = (".skeleton", ".txt")
MAX_BYTES = 128 << 20
"""Of one file; the longest of the three sets (PKU-MMD, ten minutes) has less than 30 MiB."""
JOINTS, JOINT_NUMBERS, BODY_NUMBERS, MAX_BODIES = 25, 12, 10, 6
"""Kinect v2: joints a body, numbers a joint, numbers before them, bodies that it can track at once."""
PERSONS = 2
PKU_NUMBERS = PERSONS * JOINTS * 3
CAD_TURNED, CAD_PLAIN = 11, 4
CAD_NUMBERS = CAD_TURNED * 14 + CAD_PLAIN * 4
"""CAD-60, after the frame number: 11 joints as 9 of rotation, 1 + 3 of position, 1; then 4 joints as 3 + 1."""
LARGEST = float(np.finfo(np.float32).max)

Points = NDArray[np.float32]
Frame = list[tuple[str, Points]]
"""The bodies of one frame in the file's order: identity and joints (25, 3)."""


def read_skeleton_file(path: Path) -> Points:
    """The joints of a skeleton file: `.skeleton` is NTU RGB+D; `.txt` is CAD-60 with commas, PKU-MMD without.

    Returns:
        float32 (T, P, J, 3), metres; P is 1 or 2, J is 25 (15 for CAD-60). A person who is not there is NaN.

    Raises:
        SignalAbsent: the file is sound, but nobody is in it.
        DataError: malformed or too large; file and line are named.
    """
    if path.suffix.lower() == ".skeleton":
        return read_ntu(path)
    lines = _lines(path)
    return cad60_points(lines, str(path)) if "," in next(filter(None, lines), "") else pku_points(lines, str(path))


def read_ntu(path: Path, persons: int = PERSONS) -> Points:
    """NTU RGB+D: at most `persons` bodies, each one row of P over all frames by its identity; see `keep_persons`."""
    return keep_persons(ntu_frames(_lines(path), str(path)), persons, str(path))


def ntu_frames(lines: Sequence[str], where: str) -> list[Frame]:
    """All tracked bodies of each frame of a `.skeleton` file, as listed; a frame may have none.

    Raises:
        DataError: counts that the lines do not bear out, or numbers that are none.
    """
    listed = _count(lines, 0, where, "frames")
    if listed > len(lines) - 1:
        raise DataError(f"lists {listed} frames, but has {len(lines)} lines", where=f"{where}: line 1")
    place, frames = 1, []
    for _ in range(listed):
        bodies = _count(lines, place, where, "bodies", most=MAX_BODIES)
        place += 1
        frame: Frame = []
        for _ in range(bodies):
            body = _line(lines, place, where, "a body").split()
            if len(body) != BODY_NUMBERS:
                raise DataError(f"{len(body)} numbers, not {BODY_NUMBERS} of a body", where=_at(where, place))
            joints = _count(lines, place + 1, where, "joints", most=JOINTS)
            if joints != JOINTS:
                raise DataError(f"a body of {joints} joints, not {JOINTS}", where=_at(where, place + 1))
            frame.append((body[0], _numbers(lines, place + 2, JOINTS, JOINT_NUMBERS, where, 3)))
            place += 2 + JOINTS
        frames.append(frame)
    left = next((number for number in range(place, len(lines)) if lines[number]), None)
    if left is not None:
        raise DataError(f"goes on after the {listed} frames listed", where=_at(where, left))
    return frames


def keep_persons(frames: Sequence[Frame], persons: int, where: str) -> Points:
    """Bodies by identity as (T, P, 25, 3), NaN where one is not tracked.

    Of more than `persons` bodies, those are kept that move most: the summed squared distance of a body's joints from
    their own means, which grows with the frames it is tracked in, so that furniture taken for a body for a moment
    loses; of equal ones the longest tracked. Kept bodies stay in the order of their first frames.

    Raises:
        SignalAbsent: no body in any frame.
        DataError: an identity twice in one frame.
    """
    tracks: dict[str, list[tuple[int, Points]]] = {}
    for time, frame in enumerate(frames):
        if len({name for name, _ in frame}) < len(frame):
            raise DataError(f"frame {time + 1} has two bodies of one identity", where=where)
        for name, joints in frame:
            tracks.setdefault(name, []).append((time, joints))
    if not tracks:
        raise SignalAbsent("nobody in any frame", where=where)
    joined = [(np.array([time for time, _ in t]), np.stack([joints for _, joints in t])) for t in tracks.values()]
    movement = [float(np.square(joints - joints.mean(0), dtype=np.float64).sum()) for _, joints in joined]
    best = sorted(range(len(joined)), key=lambda body: (-movement[body], -len(joined[body][0]), body))[:persons]
    points = np.full((len(frames), len(best), JOINTS, 3), np.nan, np.float32)
    for row, body in enumerate(sorted(best)):
        times, joints = joined[body]
        points[times, row] = joints
    return points


def pku_points(lines: Sequence[str], where: str) -> Points:
    """PKU-MMD: a line a frame, two persons of 25 joints; zeros are nobody, and a second person of zeros is dropped.

    Raises:
        SignalAbsent: nobody in any frame.
        DataError: a line that is not 150 numbers.
    """
    rows = _table(lines, PKU_NUMBERS, where, None)
    points = rows.reshape(len(rows), PERSONS, JOINTS, 3)
    points[(points == 0).all((2, 3))] = np.nan
    there = ~np.isnan(points).all((0, 2, 3))
    if not there.any():
        raise SignalAbsent("nobody in any frame", where=where)
    return np.ascontiguousarray(points[:, there])


def cad60_points(lines: Sequence[str], where: str) -> Points:
    """CAD-60: a line a frame (its number, 170 numbers, commas), then END; millimetres become metres: (T, 1, 15, 3).

    Raises:
        DataError: a line that is not one of a frame, or lines after END.
    """
    end = next((number for number, line in enumerate(lines) if line.upper() == "END"), len(lines))
    after = next((number for number in range(end + 1, len(lines)) if lines[number]), None)
    if after is not None:
        raise DataError("goes on after END", where=_at(where, after))
    rows = _table([line.rstrip(",") for line in lines[:end]], 1 + CAD_NUMBERS, where, ",")[:, 1:]
    turned = rows[:, : CAD_TURNED * 14].reshape(len(rows), CAD_TURNED, 14)[:, :, 10:13]
    plain = rows[:, CAD_TURNED * 14 :].reshape(len(rows), CAD_PLAIN, 4)[:, :, :3]
    return np.concatenate((turned, plain), 1)[:, None] / np.float32(1000.0)


def _lines(path: Path) -> list[str]:
    """The lines of a text file, stripped.

    Raises:
        DataError: too large, or not text.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{size} bytes are more than a skeleton file may have ({MAX_BYTES})", where=str(path))
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise DataError("not a skeleton file: it is not plain text", where=str(path)) from None
    return [line.strip() for line in text.split("\n")]


def _at(where: str, place: int) -> str:
    return f"{where}: line {place + 1}"


def _line(lines: Sequence[str], place: int, where: str, what: str) -> str:
    if place >= len(lines) or not lines[place]:
        raise DataError(f"ends, or has an empty line, where {what} is due", where=_at(where, place))
    return lines[place]


def _count(lines: Sequence[str], place: int, where: str, what: str, most: int = MAX_BYTES) -> int:
    """A line that is one whole number, from 0 to `most`."""
    cell = _line(lines, place, where, f"the number of {what}")
    if not (cell.isdecimal() and len(cell) < 12 and int(cell) <= most):
        raise DataError(f"{cell[:40]!r} is no possible number of {what}", where=_at(where, place))
    return int(cell)


def _numbers(
    lines: Sequence[str], start: int, rows: int, columns: int, where: str, used: int, sep: str | None = None
) -> Points:
    """The first `used` of `columns` cells of `rows` lines, finite numbers; the first line that is not so is named."""
    cells = [line.split(sep) for line in lines[start : start + rows]]
    try:
        if len(cells) == rows and all(len(row) == columns for row in cells):
            values = np.array([row[:used] for row in cells], np.float64)
            if (np.abs(values) <= LARGEST).all():
                return values.astype(np.float32)
    except (ValueError, OverflowError):
        pass
    for place in range(start, start + rows):
        found = _line(lines, place, where, f"a line of {columns} numbers").split(sep)
        if len(found) != columns:
            raise DataError(f"{len(found)} numbers, not {columns}", where=_at(where, place))
        for cell in found[:used]:
            if not _is_number(cell):
                raise DataError(f"{cell[:40]!r} is not a finite number", where=_at(where, place))
    raise DataError("holds cells that are not plain numbers", where=_at(where, start))


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) <= LARGEST
    except (ValueError, OverflowError):
        return False


def _table(lines: Sequence[str], columns: int, where: str, sep: str | None) -> Points:
    """All lines as rows of numbers; empty lines may only be at the end."""
    rows = len(lines)
    while rows and not lines[rows - 1]:
        rows -= 1
    if not rows:
        raise DataError("holds no frames", where=where)
    return _numbers(lines, 0, rows, columns, where, columns, sep)
