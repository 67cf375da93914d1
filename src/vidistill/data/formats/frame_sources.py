"""Official lists of videos over folders of their frames: `<class>/<clip>/image_00001.jpg`, flow beside them or not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.containers import IMAGES
from vidistill.data.formats.base import usable
from vidistill.data.frame_series import flow_pairs, frame_numbers
from vidistill.data.manifest import Manifest, Problem


class FoundFrames(NamedTuple):
    """What a folder holds: sources by modality (all are the folder), and the numbers of its frames (or of its flow)."""

    sources: dict[str, str]
    numbers: set[int]

    def first_missing(self, frames: int) -> int | None:
        """The first of `frames` numbers, from 0 where that is there and else from 1, that is not there."""
        first = 0 if 0 in self.numbers else 1
        return next((number for number in range(first, first + frames) if number not in self.numbers), None)


def find_frames(media: Path, folder: str) -> FoundFrames:
    """The frames and the flow in a folder below `media`.

    Raises:
        DataError: frames of several names, flow without partner, or no images at all.
    """
    where = str(media / folder)
    names = [name for name in os.listdir(media / folder) if name.lower().endswith(IMAGES) and not name.startswith(".")]
    numbers, pairs = frame_numbers(names, where), flow_pairs(names, where)
    if not numbers and not pairs:
        raise DataError("the folder holds no numbered images", where=where)
    sources = {"rgb": folder} if numbers else {}
    if pairs:
        sources["flow"] = folder
    return FoundFrames(sources, numbers or {int(x.rpartition("_")[2].partition(".")[0]) for x, _ in pairs})


def usable_videos(media: Path, clips: Iterable[Clip], fps: float) -> Manifest:
    """The clips whose video is there, or a folder of its name without ending that holds its frames.

    Folders have no clock: their clips have `fps` frames a second. Absent clips and folders without usable images are
    problems.

    Raises:
        DataError: not one of the listed clips is there.
    """
    clips = list(clips)
    folders = {clip.id: os.path.splitext(clip.sources["rgb"])[0] for clip in clips}
    if not any(os.path.isdir(f"{media}/{folder}") for folder in folders.values()):
        return usable(media, clips, "rgb")
    kept: list[Clip] = []
    problems: list[Problem] = []
    for clip in clips:
        if not (media / folders[clip.id]).is_dir():
            problems.append(Problem(clip.id, "missing", f"{folders[clip.id]} is listed but no folder in {media}"))
            continue
        try:
            found = find_frames(media, folders[clip.id])
        except DataError as error:
            problems.append(Problem(clip.id, "unreadable", str(error)))
            continue
        kept.append(replace(clip, sources=found.sources, fps=fps, frames=len(found.numbers)))
    if not kept:
        raise DataError(f"none of the {len(problems)} listed clips can be used, e.g. {problems[0].message}")
    return Manifest(root=media, clips=tuple(kept), problems=tuple(problems))
