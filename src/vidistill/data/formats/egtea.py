"""EGTEA Gaze+: 10,321 trimmed first-person clips of 106 actions, three official splits (Li, Liu & Rehg, ECCV 2018)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_folder, text_lines, usable
from vidistill.data.formats.placed import Names, names_of_classes, numbered_names
from vidistill.data.manifest import Manifest

Head = Literal["action", "verb", "noun"]
HEADS: tuple[Head, ...] = ("action", "verb", "noun")
NAME = re.compile(r"(?P<session>[A-Z]*\d+-R\d+-\w+)(?:-[\w-]+)?", re.ASCII)


class ListedClip(NamedTuple):
    """One line of a list: a clip and its classes, from 1; a list may give the action alone."""

    name: str
    session: str
    numbers: dict[str, int]


def read_list(path: Path) -> list[ListedClip]:
    """The clips of a list, `<clip> <action> [<verb> <noun>]` a line, in its order.

    Raises:
        DataError: missing or empty, a line is not such a one, or a clip is there twice; the line is named.
    """
    found: dict[str, ListedClip] = {}
    for number, line in enumerate(text_lines(path, "the list of clips"), start=1):
        where = f"{path}: line {number}"
        name, *cells = line.split()
        known = NAME.fullmatch(name)
        if known is None:
            raise DataError(f"{name[:60]!r} is not a clip's name", where=where, todo="Names begin like OP01-R01-Pizza-")
        if len(cells) not in (1, 3) or not all(cell.isascii() and cell.isdecimal() and int(cell) for cell in cells):
            raise DataError(f"{line[:80]!r} is not '<clip> <action> [<verb> <noun>]', numbers from 1", where=where)
        if name in found:
            raise DataError(f"the clip {name!r} is there twice", where=where)
        found[name] = ListedClip(name, known["session"], dict(zip(HEADS, map(int, cells), strict=False)))
    if not found:
        raise DataError("the list of clips is empty", where=str(path))
    return list(found.values())


@FORMATS.register("egtea")
def read_egtea(
    root: Path,
    *,
    split: int = 1,
    lists: str | None = None,
    clips: str | None = None,
    heads: tuple[Head, ...] = ("action",),
    labels: Names = "name",
) -> Manifest:
    """EGTEA Gaze+ as `<clips>/<session>/<clip>.mp4` and `<lists>/{train,test}_split<N>.txt`, as published.

    The group of a clip is its session, as `OP01-R01-PastaSalad`; the official splits tear sessions apart, so results
    say little of people who are not in train. Listed clips that are not there are problems.

    Args:
        root: the data set's folder.
        split: 1, 2 or 3.
        lists: folder of the lists and of `action_idx.txt`, `verb_idx.txt`, `noun_idx.txt` (`Open Fridge 12` a line),
            below `root` or absolute; by default `action_annotation`, `lists` or `root` itself.
        clips: folder of the sessions; by default `cropped_clips`, `clips` or `root` itself.
        heads: what is learned: `action`; `verb` and `noun` where the lists have them.
        labels: classes go by "name" or by "number" (from 1), which keeps the order of published classifiers.

    Raises:
        RecipeError: no such split, or no heads.
        DataError: a list is missing or wrong (the line is named), a clip is in both, or none is there.
    """
    if split not in (1, 2, 3) or not heads:
        raise RecipeError(f"EGTEA has splits 1, 2 and 3, not {split}" if heads else "heads is empty", where="data")
    need_folder(root)
    media = first_folder(root, clips, "cropped_clips", "clips")
    listing = first_folder(root, lists, "action_annotation", "lists")
    names = {head: _names(listing, head, labels) for head in heads}
    parts = {part: read_list(listing / f"{part}_split{split}.txt") for part in ("train", "test")}
    both = {row.name for row in parts["train"]} & {row.name for row in parts["test"]}
    if both:
        raise DataError(f"{len(both)} clips are in both lists, e.g. {min(both)!r}", where=str(listing))
    found = [
        Clip(
            id=row.name,
            split=part,
            labels={head: _label(row, head, names[head], listing) for head in heads},
            sources={"rgb": f"{row.session}/{row.name}.mp4"},
            group=row.session,
        )
        for part, rows in parts.items()
        for row in rows
    ]
    return usable(media, found, "rgb")


def _names(listing: Path, head: Head, labels: Names) -> dict[int, str]:
    """The class names of a head by number."""
    path = listing / f"{head}_idx.txt"
    lines = text_lines(path, f"the list of classes of {head}")
    return names_of_classes(numbered_names(lines, False, "", str(path)), labels, str(path))


def _label(row: ListedClip, head: Head, names: dict[int, str], listing: Path) -> str:
    """The class of a clip.

    Raises:
        DataError: the list has none of this head, or one that is no class.
    """
    number = row.numbers.get(head)
    if number is None:
        raise DataError(f"the lists give no {head} of {row.name}", where=str(listing), todo="Set 'heads: [action]'")
    if number not in names:
        raise DataError(f"{row.name} has the {head} {number}, which {head}_idx.txt lacks", where=str(listing))
    return names[number]
