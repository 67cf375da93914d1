"""HMDB51 with its official lists: 51 actions, 70 train and 30 test clips a class (Kuehne et al., ICCV 2011)."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_folder, source_video, text_lines
from vidistill.data.formats.frame_sources import usable_videos
from vidistill.data.manifest import Manifest

PARTS = {"0": None, "1": "train", "2": "test"}


@FORMATS.register("hmdb51")
def read_hmdb51(
    root: Path, *, videos: str | None = None, lists: str | None = None, split: int = 1, fps: float = 30.0
) -> Manifest:
    """HMDB51 as `<videos>/<class>/<clip>.avi` and `<lists>/<class>_test_split<N>.txt` (0 unused, 1 train, 2 test).

    Instead of videos there may be folders of frames, `<videos>/<class>/<clip>/image_00001.jpg` or `img_00001.jpg`, with
    flow beside them as `flow_x_00001.jpg` and `flow_y_00001.jpg`; they have `fps` frames a second, as the videos.

    The folders are relative to `root` (or absolute); by default `videos` or `hmdb51_org`, and `lists`, `splits` or
    `testTrainMulti_7030_splits`, or `root` itself. The group of a clip is the recording it was cut from. Listed
    clips that are not there are problems.

    Raises:
        RecipeError: `split` is not 1, 2 or 3.
        DataError: there are no lists, a line is wrong, or none of the clips is there.
    """
    if split not in (1, 2, 3):
        raise RecipeError(f"HMDB51 has splits 1, 2 and 3, not {split}")
    need_folder(root)
    media = first_folder(root, videos, "videos", "hmdb51_org")
    listing = first_folder(root, lists, "lists", "splits", "testTrainMulti_7030_splits")
    ending = f"_test_split{split}.txt"
    paths = sorted(path for path in listing.iterdir() if path.name.endswith(ending))
    if not paths:
        raise DataError(f"there is no <class>{ending}", where=str(listing), todo="Name the folder with: lists")
    clips = []
    for path in paths:
        label = path.name.removesuffix(ending)
        for number, line in enumerate(text_lines(path, "the list of clips"), start=1):
            name, _, mark = line.rpartition(" ")
            if mark not in PARTS or not name:
                raise DataError(f"{line!r} is not '<clip> 0|1|2'", where=f"{path}: line {number}")
            part, stem = PARTS[mark], Path(name.strip()).stem
            if part is not None:
                group = f"{label}/{source_video(stem, label)}"
                sources = {"rgb": f"{label}/{name.strip()}"}
                clips.append(Clip(f"{label}/{stem}", part, {"action": label}, sources, group=group))
    return usable_videos(media, clips, fps)
