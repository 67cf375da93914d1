"""Clips that a list names without their file's ending: where each lies, and what is not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.formats.base import VIDEOS
from vidistill.data.manifest import Manifest, Problem

Names = Literal["name", "number"]


def places(folder: Path, media: Literal["videos", "frames"]) -> dict[str, str]:
    """What lies in a folder, by clip: names of video files without their ending, or of the folders of frames.

    Raises:
        DataError: two files differ only in their ending.
    """
    found: dict[str, str] = {}
    with os.scandir(folder) as entries:
        inside = sorted(entry.name for entry in entries if _is_clip(entry, media))
    for name in inside:
        stem = os.path.splitext(name)[0] if media == "videos" else name
        if stem in found:
            raise DataError(f"{found[stem]} and {name} are one clip", where=str(folder), todo="Keep one of them")
        found[stem] = name
    return found


def _is_clip(entry: os.DirEntry[str], media: Literal["videos", "frames"]) -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_dir() if media == "frames" else entry.name.lower().endswith(VIDEOS)


def those_there(root: Path, clips: Iterable[Clip], required: str) -> Manifest:
    """The clips that have the `required` source; the others as problems.

    Raises:
        DataError: no clip has it, or there are no clips.
    """
    kept: list[Clip] = []
    problems: list[Problem] = []
    for clip in clips:
        if required in clip.sources:
            kept.append(clip)
        else:
            problems.append(Problem(clip.id, "missing", f"{clip.id} is listed but not in {root}"))
    if not kept:
        told = f", e.g. {problems[0].message}" if problems else ""
        raise DataError(f"none of the {len(problems)} listed clips is there{told}", where=str(root))
    return Manifest(root=root, clips=tuple(kept), problems=tuple(problems))


def names_of_classes(names: dict[int, str], labels: Names, where: str) -> dict[int, str]:
    """Classes by number as labels: their names, or their numbers with as many digits as the highest has.

    Numbers keep the order of published classifiers, for classes are in the order of their labels.

    Raises:
        DataError: two classes have one name.
    """
    if labels == "number":
        digits = len(str(max(names)))
        return {number: f"{number:0{digits}d}" for number in names}
    by_name = sorted(names, key=lambda number: (names[number], number))
    for first, second in zip(by_name, by_name[1:], strict=False):
        if names[first] == names[second]:
            raise DataError(f"classes {first} and {second} are both {names[first]!r}", where=where)
    return names


def numbered_names(lines: Iterable[str], number_first: bool, prefix: str, where: str) -> dict[int, str]:
    """Classes by number from lines `c000 Holding some clothes` or, with the number last, `Open Fridge 12`.

    Args:
        lines: of the list.
        number_first: which end of a line is the number.
        prefix: before the number, such as "c".
        where: the file, for messages.

    Raises:
        DataError: a line is not such a one, or a number is there twice; the line is named.
    """
    names: dict[int, str] = {}
    for row, line in enumerate(lines, start=1):
        first, _, second = line.partition(" ") if number_first else line.rpartition(" ")
        code, name = (first, second) if number_first else (second, first)
        digits = code.removeprefix(prefix)
        if not (code.startswith(prefix) and digits.isascii() and digits.isdecimal() and name.strip()):
            form = f"{prefix}<number> <class>" if number_first else f"<class> {prefix}<number>"
            raise DataError(f"{line[:60]!r} is not {form!r}", where=f"{where}: line {row}")
        if int(digits) in names:
            raise DataError(f"the class {int(digits)} is there twice", where=f"{where}: line {row}")
        names[int(digits)] = name.strip()
    if not names:
        raise DataError("the list of classes is empty", where=where)
    return names
