"""Folders of numbered frames with lists of three columns, as SAKD (ACM MM 2025, arXiv 2504.00606) reads UCF101.

A line is `name frames label`, e.g. `v_ApplyEyeMakeup_g08_c01 120 0`; the frames are
`<frames>/<class>/<name>/image_00001.jpg` and so on, where the class is the name's second part between `_`. Two-stream
code writes `<frames>/<name>/img_00001.jpg` and flow beside it, `flow_x_00001.jpg` and `flow_y_00001.jpg`; see
`data.frame_series` for the names that are known.

The trap of UCF101: names say `v_HandStandPushups_*` and the official archive's folder is `HandstandPushups`. A folder
that differs only by upper and lower case is the class's folder here; the released code finds no frame there and fails.
It also cuts a clip silently where a frame is missing; here such a clip is a problem that names the frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_folder, text_lines
from vidistill.data.formats.frame_sources import find_frames
from vidistill.data.manifest import Manifest, Problem

GROUP = re.compile(r"_(g\d+)_c\d+$", re.ASCII)


class ListedFrames(NamedTuple):
    """One line of a list: a video's name, its number of frames, its class from 0."""

    name: str
    frames: int
    label: int

    @property
    def label_name(self) -> str | None:
        """The class in the video's name, `v_<class>_...`; None where there is none."""
        parts = self.name.split("_")
        return parts[1] if len(parts) > 1 and parts[1] else None


def read_frame_list(path: Path) -> list[ListedFrames]:
    """The videos of a list, in its order; a video's place in it is the published "index".

    Raises:
        DataError: the file is missing or empty, a line is not three such columns, or a video is there twice.
    """
    rows: dict[str, ListedFrames] = {}
    for number, line in enumerate(text_lines(path, "the list of videos"), start=1):
        where = f"{path}: line {number}"
        columns = line.split()
        if len(columns) != 3 or not all(column.isascii() and column.isdecimal() for column in columns[1:]):
            raise DataError(f"{line!r} is not 'name frames label'", where=where)
        row = ListedFrames(columns[0], int(columns[1]), int(columns[2]))
        if row.frames < 1 or {"/", "\\"} & set(row.name) or row.name in (".", ".."):
            raise DataError(f"{line!r} is no video of at least one frame", where=where)
        if row.name in rows:
            raise DataError(f"the video {row.name!r} is there twice", where=where)
        rows[row.name] = row
    if not rows:
        raise DataError("the list of videos is empty", where=str(path))
    return list(rows.values())


def _class_names(rows: Iterable[ListedFrames], labels: Literal["name", "number"]) -> dict[int, str]:
    """The class of each number: its name in the videos' names, or the number with as many digits as the highest.

    Raises:
        DataError: a video's name has no class, a number has two classes, or a class has two numbers.
    """
    rows = list(rows)
    if labels == "number":
        digits = len(str(max(row.label for row in rows)))
        return {row.label: f"{row.label:0{digits}d}" for row in rows}
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for row in rows:
        name = row.label_name
        if name is None:
            raise DataError(f"no class is in the name {row.name!r}", todo="Set 'labels: number'")
        if names.setdefault(row.label, name) != name or numbers.setdefault(name, row.label) != row.label:
            raise DataError(
                f"{row.name!r} has class {row.label}, but names pair {name!r} with {numbers.get(name, row.label)} "
                f"and {row.label} with {names[row.label]!r}",
                todo="Correct the list or set 'labels: number'",
            )
    return names


def _folder(media: Path, row: ListedFrames, classes: dict[str, list[str]]) -> str | None:
    """The video's folder relative to `media`: in its class's folder, in one of other case, or directly."""
    label = row.label_name
    others = classes.get(label.casefold(), []) if label else []
    places = [f"{name}/{row.name}" for name in sorted(others, key=lambda name: (name != label, name))]
    return next((place for place in (*places, row.name) if (media / place).is_dir()), None)


def _clip(media: Path, folder: str, row: ListedFrames, part: str, label: str, fps: float) -> Clip | Problem:
    """A video whose listed frames are all there, else what is wrong with it."""
    try:
        found = find_frames(media, folder)
    except DataError as error:
        return Problem(row.name, "unreadable", str(error))
    absent = found.first_missing(row.frames)
    if absent is not None:
        return Problem(row.name, "short", f"frame {absent} of the {row.frames} listed ones is not in {media / folder}")
    group = GROUP.search(row.name)
    return Clip(
        id=row.name,
        split=part,
        labels={"action": label},
        sources=found.sources,
        end=row.frames / fps if len(found.numbers) > row.frames else None,
        fps=fps,
        frames=row.frames,
        group=group[1] if group else None,
    )


@FORMATS.register("frame_lists")
def read_frame_lists(
    root: Path,
    *,
    train: str = "train_rgb_split1.txt",
    test: str = "val_rgb_split1.txt",
    frames: str | None = None,
    fps: float = 25.0,
    labels: Literal["name", "number"] = "name",
) -> Manifest:
    """Frames as `<frames>/<class>/<name>/image_00001.jpg` (and flow) and lists of `name frames label`.

    Paths are relative to `root` or absolute. Videos whose folder or frames are missing are problems.

    Args:
        root: the data set's folder.
        train: the list of training videos.
        test: the list of test videos.
        frames: the folder of frames; by default `frames`, or `root` itself.
        fps: frames a second of the videos, as folders do not say.
        labels: classes go by their "name", or by the lists' "number", which keeps the order of published classifiers.

    Raises:
        DataError: a list is wrong (the line is named), a video is in both lists, or none of the videos is there.
    """
    need_folder(root)
    media = first_folder(root, frames, "frames")
    parts = {"train": read_frame_list(root / train), "test": read_frame_list(root / test)}
    both = {row.name for row in parts["train"]} & {row.name for row in parts["test"]}
    if both:
        raise DataError(f"{len(both)} videos are in both lists, e.g. {min(both)!r}", where=str(root))
    names = _class_names((row for rows in parts.values() for row in rows), labels)
    classes: dict[str, list[str]] = {}
    with os.scandir(media) as entries:
        for entry in entries:
            if entry.is_dir():
                classes.setdefault(entry.name.casefold(), []).append(entry.name)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for part, rows in parts.items():
        for row in rows:
            folder = _folder(media, row, classes)
            if folder is None:
                problems.append(Problem(row.name, "missing", f"{row.name} is listed but has no folder in {media}"))
                continue
            clip = _clip(media, folder, row, part, names[row.label], fps)
            if isinstance(clip, Problem):
                problems.append(clip)
            else:
                clips.append(clip)
    if not clips:
        raise DataError(f"none of the {len(problems)} listed videos is there, e.g. {problems[0].message}")
    return Manifest(root=media, clips=tuple(clips), problems=tuple(problems))
