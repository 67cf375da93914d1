"""UCF101 with its official lists: 13,320 clips of 101 actions, three splits (Soomro et al., 2012)."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_folder, text_lines
from vidistill.data.formats.frame_sources import usable_videos
from vidistill.data.manifest import Manifest

GROUP = re.compile(r"_(g\d+)_c\d+$")


def _class_names(path: Path) -> set[str]:
    """Class names of `classInd.txt` ("1 ApplyEyeMakeup" a line)."""
    names = set()
    for number, line in enumerate(text_lines(path, "the list of classes"), start=1):
        index, _, name = line.partition(" ")
        if not index.isdecimal() or not name:
            raise DataError(f"{line!r} is not '<number> <class>'", where=f"{path}: line {number}")
        names.add(name.strip())
    return names


@FORMATS.register("ucf101")
def read_ucf101(
    root: Path, *, videos: str | None = None, lists: str | None = None, split: int = 1, fps: float = 25.0
) -> Manifest:
    """UCF101 as `<videos>/<class>/<clip>.avi` and `<lists>/{classInd,trainlist0N,testlist0N}.txt`.

    Instead of videos there may be folders of frames, `<videos>/<class>/<clip>/image_00001.jpg` or `img_00001.jpg`, with
    flow beside them as `flow_x_00001.jpg` and `flow_y_00001.jpg`; they have `fps` frames a second, as the videos.

    The folders are relative to `root` (or absolute); by default `UCF-101` or `videos`, and `ucfTrainTestlist` or
    `lists`, or `root` itself. The group of a clip is its recording number `gXX`. Listed clips that are not there
    are problems.

    Raises:
        RecipeError: `split` is not 1, 2 or 3.
        DataError: a list is missing or wrong, or none of its clips is there.
    """
    if split not in (1, 2, 3):
        raise RecipeError(f"UCF101 has splits 1, 2 and 3, not {split}")
    need_folder(root)
    media = first_folder(root, videos, "UCF-101", "videos")
    listing = first_folder(root, lists, "ucfTrainTestlist", "lists")
    classes = _class_names(listing / "classInd.txt")
    clips = []
    for part in ("train", "test"):
        path = listing / f"{part}list{split:02d}.txt"
        for number, line in enumerate(text_lines(path, "the list of clips"), start=1):
            name = PurePosixPath(re.sub(r"\s+\d+$", "", line))
            if name.parent.name not in classes:
                raise DataError(f"{line!r} names no known class", where=f"{path}: line {number}")
            group = GROUP.search(name.stem)
            clips.append(
                Clip(
                    id=name.with_suffix("").as_posix(),
                    split=part,
                    labels={"action": name.parent.name},
                    sources={"rgb": name.as_posix()},
                    group=group[1] if group else None,
                )
            )
    return usable_videos(media, clips, fps)
