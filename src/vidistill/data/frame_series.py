"""Folders that hold the frames of a video and its flow as numbered images, as two-stream code writes them.

Frames are `image_00001.jpg` or `img_00001.jpg`, with any number of digits, from 0 or 1; flow is `flow_x_0001.jpg` and
`flow_y_0001.jpg`, grey, in the same folder or in one of its own. EPIC-KITCHENS has flow as folders `u` and `v` of
images with the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vidistill.core.errors import DataError

FLOW = re.compile(r"flow_([xy])_(\d+)\.\w+", re.ASCII | re.IGNORECASE)
NUMBERED = re.compile(r"(.*?)(\d+)\.\w+", re.DOTALL | re.ASCII)


def still_names(names: Iterable[str]) -> list[str]:
    """Names of frames: those that are not flow; where all look like flow, all."""
    listed = list(names)
    return [name for name in listed if FLOW.fullmatch(name) is None] or listed


def flow_pairs(names: Iterable[str], where: str) -> list[tuple[str, str]]:
    """Names of u and v of each flow image, by number; empty where there are none.

    Raises:
        DataError: an image has no partner, or two.
    """
    found: dict[str, dict[int, str]] = {"x": {}, "y": {}}
    for name in names:
        match = FLOW.fullmatch(name)
        if match is None:
            continue
        side, number = found[match[1].lower()], int(match[2])
        if number in side:
            raise DataError(f"holds {side[number]!r} and {name!r}", where=where, todo="Keep one of them")
        side[number] = name
    alone = min(found["x"].keys() ^ found["y"].keys(), default=None)
    if alone is not None:
        name = found["x"].get(alone) or found["y"][alone]
        raise DataError(f"{name!r} has no partner in the other direction", where=where)
    return [(found["x"][number], found["y"][number]) for number in sorted(found["x"])]


def direction_pairs(u: Iterable[str], v: Iterable[str], where: str) -> list[tuple[str, str]]:
    """Names of u and v of each flow image, by number, of folders `u` and `v` that hold images of the same names.

    Raises:
        DataError: an image has no partner, or two, or no number.
    """
    numbered: list[dict[int, str]] = []
    for names in (u, v):
        found: dict[int, str] = {}
        for name in names:
            match = NUMBERED.fullmatch(name)
            if match is None:
                raise DataError(f"{name!r} has no number", where=where)
            if int(match[2]) in found:
                raise DataError(f"holds {found[int(match[2])]!r} and {name!r}", where=where, todo="Keep one of them")
            found[int(match[2])] = name
        numbered.append(found)
    alone = min(numbered[0].keys() ^ numbered[1].keys(), default=None)
    if alone is not None:
        side = "u" if alone in numbered[0] else "v"
        name = numbered["uv".index(side)][alone]
        raise DataError(f"'{side}/{name}' has no partner in the other direction", where=where)
    return [(f"u/{numbered[0][number]}", f"v/{numbered[1][number]}") for number in sorted(numbered[0])]


def frame_numbers(names: Iterable[str], where: str) -> set[int]:
    """The numbers of the frames among the names of images; they share what stands before the number.

    Raises:
        DataError: there are frames under several such patterns.
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match is not None and FLOW.fullmatch(name) is None:
            numbers.setdefault(match[1], set()).add(int(match[2]))
    if len(numbers) > 1:
        first, second = sorted(numbers)[:2]
        raise DataError(f"holds frames {first!r} and {second!r}", where=where, todo="Keep one series of frames")
    return next(iter(numbers.values()), set())
