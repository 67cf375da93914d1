"""PKU-MMD: 1,076 untrimmed recordings of 51 actions, three cameras (Liu et al., arXiv 1703.07475)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Segment
from vidistill.data.containers import IMAGES
from vidistill.data.formats.base import FORMATS, need_file
from vidistill.data.formats.found import Places, class_labels, find_sources
from vidistill.data.manifest import Manifest, Problem

NAME = re.compile(r"\d{4}-[LMR]", re.ASCII)
CLASSES = 51
RATE = 30.0
SLACK = 30
"""Frames by which a label may outlast the frames that are there: it is cut then; one that ends later is a mistake."""
LABEL_FOLDERS = ("Label_PKU_Final", "label")
FIELDS = "Write class,start,end,confidence"
HEADINGS = {"train": "train", "valid": "test", "test": "test"}

Protocol = Literal["cross_subject", "cross_view"]


class LabelRow(NamedTuple):
    """One row of a label file: class 1..51, first frame and frame after the last (from 0), annotator's confidence."""

    label: int
    start: int
    end: int
    confidence: int


def check_name(name: str, where: str | None = None) -> None:
    """Refuse what is not a recording's name, `0002-L`: number and camera (left, middle, right).

    Raises:
        DataError: it is not.
    """
    if NAME.fullmatch(name) is None:
        raise DataError(f"{name[:60]!r} is not a recording's name", where=where, todo="Names are like 0002-L")


def split_names(text: str, where: str, variant: Literal["default", "released"] = "default") -> dict[str, list[str]]:
    """Names of train and test of a split file: two headings with a colon, names after each with commas between.

    A comma after the last name changes nothing, nor do line breaks. "released" drops what follows the last comma of a
    line even if it is a name: the published code loses the last recording of a list that does not end with a comma.

    Raises:
        DataError: names before a heading, a part without names, or a name twice.
    """
    names: dict[str, list[str]] = {"train": [], "test": []}
    part = None
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        at = f"{where}: line {number}"
        if ":" in line:
            kind = next((kind for kind in HEADINGS if line.strip().lower().startswith(kind)), None)
            if kind is None:
                raise DataError(f"{line.strip()[:40]!r} is no known heading", where=at)
            part = HEADINGS[kind]
            line = line.partition(":")[2]
        cells = line.split(",")[:-1] if variant == "released" else line.split(",")
        for name in filter(None, map(str.strip, cells)):
            check_name(name, at)
            if part is None:
                raise DataError(f"{name!r} stands before any heading", where=at, todo="Begin with 'Training videos:'")
            if any(name in listed for listed in names.values()):
                raise DataError(f"{name!r} is listed twice", where=at)
            names[part].append(name)
    for part, listed in names.items():
        if not listed:
            raise DataError(f"lists no videos of {part}", where=where)
    return names


def thinned(names: Sequence[str], rate: int) -> list[str]:
    """Every `rate`-th name, from the first; all where `rate` is 0 or 1."""
    return list(names[:: max(rate, 1)])


def read_labels(text: str, where: str, frames: int | None = None) -> list[LabelRow]:
    """Rows `class,start,end,confidence` of a label file in the file's order; an empty file has none.

    Where the number of `frames` is known, an end up to `SLACK` frames beyond it is cut.

    Raises:
        DataError: a field that is missing, no whole number or out of its range; file, line and field are named.
    """
    rows = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if not line.strip():
            continue
        at = f"{where}: line {number}"
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(LabelRow._fields):
            raise DataError(f"{len(cells)} fields, not {len(LabelRow._fields)}", where=at, todo=FIELDS)
        for field, cell in zip(LabelRow._fields, cells, strict=True):
            if not (cell.isascii() and cell.isdecimal() and len(cell) < 10):
                raise DataError(f"the field {field} holds {cell[:40]!r}, not a whole number", where=at, todo=FIELDS)
        row = LabelRow(*map(int, cells))
        if not 1 <= row.label <= CLASSES:
            raise DataError(f"class {row.label} is not one of 1 to {CLASSES}", where=at)
        if row.start >= row.end:
            raise DataError(f"the segment {row.start} to {row.end} is empty or reversed", where=at)
        if frames is not None and (row.start >= frames or row.end > frames + SLACK):
            raise DataError(f"the segment {row.start} to {row.end} is beyond the {frames} frames", where=at)
        rows.append(row if frames is None else row._replace(end=min(row.end, frames)))
    return rows


def _text(path: Path, what: str) -> str:
    try:
        return need_file(path, what).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", where=str(path)) from None


def _places(features: str) -> Places:
    """The raw folders as they are published, then those of Luo et al."""
    return {
        "rgb": (("RGB_VIDEO", ".avi"), ("rgb", "")),
        "flow": (("oflow", ""),),
        "depth": (("depth", ""),),
        "skeleton": (("PKU_Skeleton_Renew", ".txt"), (f"skeleton/{features}", ".npy")),
    }


def _frames(root: Path, source: str | None) -> int | None:
    """Number of images where a source is a folder of them; unknown without opening it where it is a file."""
    if source is None or not (root / source).is_dir():
        return None
    return sum(name.lower().endswith(IMAGES) for name in os.listdir(root / source))


def _split_file(root: Path, given: str | None, protocol: str) -> Path:
    """The split file that is given, or the first of the usual names that is there."""
    if given is not None:
        return need_file(root / given, "the split file")
    names = [f"{protocol.replace('_', mark)}.txt" for mark in "-_"]
    usual = [root / folder / name for folder in ("split", "Split", ".") for name in names]
    return next((path for path in usual if path.is_file()), usual[0])


@FORMATS.register("pku_mmd")
def read_pku_mmd(
    root: Path,
    *,
    protocol: Protocol = "cross_subject",
    subsample: int = 0,
    variant: Literal["default", "released"] = "default",
    split_file: str | None = None,
    class_names: str | None = None,
    features: Literal["jjd", "jjv", "jld"] = "jjd",
) -> Manifest:
    """PKU-MMD as published, or as the folders of Luo et al. (ECCV 2018): untrimmed clips with segments of `action`.

    As published: `RGB_VIDEO/<name>.avi`, `PKU_Skeleton_Renew/<name>.txt`, `Label_PKU_Final/<name>.txt`. Of Luo et
    al.: folders of frames `rgb/<name>/`, `oflow/<name>/`, `depth/<name>/`, features `skeleton/jjd|jjv|jld/<name>.npy`
    (prepare the skeleton with `features: true`), `label/<name>.txt`. The validation part of the split file is test.
    A recording's group is its number, shared by its three cameras. A recording that is listed but not there, or
    whose label file is absent or wrong, is a problem; an empty label file says that nothing is done in it.

    Args:
        root: folder of these folders.
        protocol: which split file: `split/cross-subject.txt` or `split/cross-view.txt`.
        subsample: every so-manieth recording of train, by name (20: the published subset); 0: all. Test has all.
        variant: "released" reads the split file as the published code does; see `split_names`.
        split_file: another split file, below `root` or absolute.
        class_names: file of 51 names, one a line; None: 01 to 51, so that their order is the published one.
        features: which features of Luo et al. are the skeleton.

    Raises:
        RecipeError: `subsample` is negative.
        DataError: the split file is missing or wrong, or no listed recording is there.
    """
    if subsample < 0:
        raise RecipeError(f"subsample is {subsample}; it must be 0 or more", where="data")
    labels = class_labels(root, class_names, [f"{number:02d}" for number in range(1, CLASSES + 1)])
    found = find_sources(root, _places(features), check_name)
    path = _split_file(root, split_file, protocol)
    listed = split_names(_text(path, "the split file"), str(path), variant)
    folder = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), root / LABEL_FOLDERS[0])
    clips: list[Clip] = []
    problems: list[Problem] = []
    for split, names in listed.items():
        there = sorted(set(names) & found.keys())
        problems += [
            Problem(name, "missing", f"{name} is listed but not in {root}") for name in names if name not in found
        ]
        for name in thinned(there, subsample) if split == "train" else there:
            try:
                clips.append(_clip(root, name, split, found[name], folder, labels))
            except DataError as error:
                problems.append(Problem(name, "unreadable", str(error)))
    if not clips:
        raise DataError(f"no listed recording can be used, e.g. {problems[0].message}", where=str(root))
    return Manifest(root=root, clips=tuple(clips), problems=tuple(problems))


def _clip(root: Path, name: str, split: str, sources: dict[str, str], folder: Path, labels: Sequence[str]) -> Clip:
    """One recording with its segments in order of time."""
    frames = _frames(root, sources.get("rgb"))
    path = folder / f"{name}.txt"
    rows = sorted(read_labels(_text(path, "the label file"), str(path), frames), key=lambda row: (row.start, row.end))
    segments = tuple(Segment(row.start / RATE, row.end / RATE, labels[row.label - 1]) for row in rows)
    return Clip(
        id=name,
        split=split,
        labels={},
        sources=sources,
        fps=RATE,
        frames=frames,
        group=name.partition("-")[0],
        segments={"action": segments},
    )
