"""What the readers of data sets share: the registry, the files that are there, and names."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path

from vidistill.core.errors import DataError
from vidistill.core.registry import Registry
from vidistill.core.types import Clip
from vidistill.data.manifest import Manifest, Problem, resolve

FORMATS: Registry[Callable[..., Manifest]] = Registry("data format")
"""Readers `(root: Path, **options) -> Manifest` by format name."""
MADE: set[str] = set()
"""Formats whose readers make the set where it is not there yet."""

VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def need_folder(root: Path) -> Path:
    """`root`, if it is a folder.

    Raises:
        DataError: it is not.
    """
    if not root.is_dir():
        raise DataError("is not a folder" if root.exists() else "the folder does not exist", where=str(root))
    return root


def need_file(path: Path, what: str) -> Path:
    """`path`, if it is a file.

    Raises:
        DataError: it is not; `what` says what it would be.
    """
    if not path.is_file():
        raise DataError(f"{what} is missing", where=str(path))
    return path


def listed_files(root: Path) -> set[str]:
    """All files below `root`, as relative posix paths; one walk is faster than asking for each of 13,000 files."""
    found: set[str] = set()
    for folder, _, names in os.walk(root, followlinks=True):
        below = Path(folder).relative_to(root)
        found.update((below / name).as_posix() for name in names)
    return found


def usable(root: Path, clips: Iterable[Clip], required: str) -> Manifest:
    """The clips whose `required` source is there; the others as problems. Other absent sources are dropped.

    Raises:
        DataError: not one of the listed clips is there.
    """
    there = listed_files(root)
    kept: list[Clip] = []
    problems: list[Problem] = []
    for clip in clips:
        source = clip.sources[required]
        if resolve(root, source)[0].relative_to(root).as_posix() in there:
            kept.append(clip)
        else:
            problems.append(Problem(clip.id, "missing", f"{source} is listed but not in {root}"))
    if problems and not kept:
        raise DataError(f"none of the {len(problems)} listed clips is there, e.g. {problems[0].message}")
    return Manifest(root=root, clips=tuple(kept), problems=tuple(problems))


def source_video(stem: str, label: str) -> str:
    """The recording that an HMDB51 or JHMDB clip was cut from: its name before `_<label>_<attributes>_<number>`."""
    title, found, _ = stem.rpartition(f"_{label}_")
    return title if found else re.sub(r"_\d+$", "", stem)


def text_lines(path: Path, what: str) -> list[str]:
    """Lines of a list file, stripped, without empty ones.

    Raises:
        DataError: the file is missing or not text.
    """
    try:
        text = need_file(path, what).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", where=str(path)) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def csv_rows(path: Path, what: str, strict: bool = False) -> list[list[str]]:
    """The rows of a CSV file in UTF-8, the header among them, without empty lines.

    Raises:
        DataError: the file is missing, not text, or no CSV; `strict`: also where a quote stands inside a cell.
    """
    try:
        with need_file(path, what).open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file, strict=strict) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=str(path), todo="Save it as UTF-8") from None


def table(path: Path, columns: tuple[str, ...], what: str = "the list of clips") -> list[dict[str, str]]:
    """Rows of a CSV file that must have `columns` and no empty cell in them; cells that a row lacks are empty.

    Raises:
        DataError: the file, a column or a cell is missing, or it is no CSV; file, row and column are named.
    """
    header, *rows = csv_rows(path, what) or [[]]
    absent = [column for column in columns if column not in header]
    if absent:
        raise DataError(f"column {absent[0]!r} is missing", where=str(path))
    found = [dict(zip_longest(header, row[: len(header)], fillvalue="")) for row in rows]
    for number, cells in enumerate(found, start=2):
        for column in columns:
            if not cells[column]:
                raise DataError(f"column {column!r} is empty", where=f"{path}: row {number}")
    return found


def whole(cell: str, column: str, where: str) -> int:
    """A cell as a whole number.

    Raises:
        DataError: it is none, or has more than 15 digits.
    """
    if not cell.isdecimal() or len(cell) > 15:
        raise DataError(f"column {column!r} holds {cell[:40]!r}, not a whole number", where=where)
    return int(cell)


def first_folder(root: Path, given: str | None, *names: str) -> Path:
    """The folder that an option gives (relative to `root` or absolute), else the first of `names` that is there."""
    if given is not None:
        return need_folder(root / given)
    return next((root / name for name in names if (root / name).is_dir()), root)
