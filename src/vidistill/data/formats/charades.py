"""Charades and Charades-Ego: untrimmed videos in which actions overlap (Sigurdsson et al., ECCV 2016 and CVPR 2018).

A list is CSV with the columns `id`, `length` (seconds) and `actions`, `c092 11.90 21.20;c147 0.00 12.60`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Segment
from vidistill.data.formats.base import FORMATS, first_folder, need_folder, table, text_lines
from vidistill.data.formats.placed import Names, names_of_classes, numbered_names, places, those_there
from vidistill.data.manifest import Manifest, Problem

ACTION = re.compile(r"c(\d{3}) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)", re.ASCII)
SLACK = 1.0
"""Seconds by which an action may begin after the end of its video: lists round to whole frames of other encodings."""


def read_actions(cell: str, length: float, names: Mapping[int, str], where: str) -> tuple[Segment, ...]:
    """The segments of a video of `length` seconds, in order of time; ends beyond the video's are cut.

    An empty cell says that nothing listed is done. An action that is nothing once cut, at the video's very end, is
    left out.

    Raises:
        DataError: not such a cell, a class that is not listed, or an action that is reversed or beyond the video.
    """
    segments: list[Segment] = []
    for part in filter(None, (part.strip() for part in cell.split(";"))):
        found = ACTION.fullmatch(part)
        if found is None:
            raise DataError(f"the action {part[:40]!r} is not 'c092 11.90 21.20'", where=where)
        number, start, end = int(found[1]), float(found[2]), float(found[3])
        if number not in names:
            raise DataError(f"the class of {part!r} is not listed", where=where)
        if start > end or start > length + SLACK:
            said = "reversed" if start > end else f"beyond the video's {length:g} s"
            raise DataError(f"the action {part!r} is {said}", where=where)
        if start < min(end, length):
            segments.append(Segment(start, min(end, length), names[number]))
    return tuple(sorted(segments, key=lambda segment: (segment.start, segment.end, segment.label)))


def read_list(path: Path, names: Mapping[int, str]) -> tuple[dict[str, tuple[Segment, ...]], list[Problem]]:
    """The segments of each video of a list, in its order, and the videos whose actions are wrong, with their rows.

    Raises:
        DataError: not such a list, or a video twice; file, row and column are named.
    """
    videos: dict[str, tuple[Segment, ...]] = {}
    problems: list[Problem] = []
    for number, row in enumerate(table(path, ("id", "length")), start=2):
        where = f"{path}: row {number}"
        if "actions" not in row:
            raise DataError("column 'actions' is missing", where=str(path))
        name = row["id"]
        if {"/", "\\"} & set(name) or name in (".", ".."):
            raise DataError(f"{name[:40]!r} is not a video's id", where=where)
        if name in videos or any(problem.clip == name for problem in problems):
            raise DataError(f"the video {name!r} is listed twice", where=where)
        try:
            length = float(row["length"])
        except ValueError:
            length = math.nan
        if not 0 < length < math.inf:
            raise DataError(f"column 'length' holds {row['length']!r}, not seconds above 0", where=where)
        try:
            videos[name] = read_actions(row["actions"], length, names, where)
        except DataError as error:
            problems.append(Problem(name, "unreadable", str(error)))
    if not videos:
        raise DataError(f"lists no usable video{f', e.g. {problems[0].message}' if problems else ''}", where=str(path))
    return videos, problems


@FORMATS.register("charades")
def read_charades(
    root: Path,
    *,
    train: str = "Charades_v1_train.csv",
    test: str = "Charades_v1_test.csv",
    classes: str = "Charades_v1_classes.txt",
    annotations: str | None = None,
    videos: str | None = None,
    labels: Names = "name",
    skip: tuple[str, ...] = (),
) -> Manifest:
    """Untrimmed videos `<videos>/<id>.mp4` with segments of `action`, in seconds; segments may overlap.

    Charades-Ego has the same form: `train: CharadesEgo_v1_train.csv`, `test: CharadesEgo_v1_test.csv`. The two videos
    of one script there, seen by the actor and by another, are one group. Videos whose listed actions are wrong, and
    listed ones that are not there, are problems.

    Args:
        root: the data set's folder.
        train: list of training videos.
        test: list of test videos.
        classes: list of classes, `c000 Holding some clothes` a line.
        annotations: folder of these lists, below `root` or absolute; by default `annotations`, `Charades` or `root`.
        videos: folder of the videos below `root`; by default `Charades_v1_480`, `Charades_v1`, `videos` or `root`.
        labels: classes go by "name", or by "number", which keeps the order of published classifiers.
        skip: ids of videos to leave out, such as damaged ones.

    Raises:
        RecipeError: `videos` is not below `root`.
        DataError: a list is missing or wrong (file and row are named), a video is in both, or none is there.
    """
    need_folder(root)
    lists = first_folder(root, annotations, "annotations", "Charades")
    path = lists / classes
    numbered = numbered_names(text_lines(path, "the list of classes"), True, "c", str(path))
    names = names_of_classes(numbered, labels, str(path))
    read = {"train": read_list(lists / train, names), "test": read_list(lists / test, names)}
    parts = {part: videos for part, (videos, _) in read.items()}
    wrong = [problem for _, problems in read.values() for problem in problems if problem.clip not in skip]
    both = parts["train"].keys() & parts["test"].keys()
    if both:
        raise DataError(f"{len(both)} videos are in both lists, e.g. {min(both)!r}", where=str(lists))
    media = first_folder(root, videos, "Charades_v1_480", "Charades_v1", "videos")
    if not media.is_relative_to(root):
        raise RecipeError(f"videos {videos!r} is not below {root}", where="data", todo="Give it relative to the root")
    found = places(media, "videos")
    below = media.relative_to(root)
    clips = [
        Clip(
            id=name,
            split=part,
            labels={},
            sources={"rgb": (below / found[name]).as_posix()} if name in found else {},
            group=name.removesuffix("EGO"),
            segments={"action": segments},
        )
        for part, listed in parts.items()
        for name, segments in listed.items()
        if name not in skip
    ]
    manifest = those_there(root, clips, "rgb")
    return replace(manifest, problems=(*wrong, *manifest.problems))
