"""A generated set in the form of EPIC-KITCHENS-100: annotation lists, videos with sound, detections of boxes.

```
ROOT/annotations/EPIC_100_{train,validation}.csv, …   the lists in their published form, class and tail lists beside
ROOT/P01/videos/P01_11.MP4                            video with an AAC sound track, or without
ROOT/detections.hdf5                                  /<video>/<n>: boxes of frame n, n / 12 s after the start
ROOT/synthetic.json                                   what it was made with; its presence says that all is there
```

Which actions there are: `synthetic_epic_rows`; what they look and sound like: `synthetic_kitchen`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.progress import progress
from vidistill.core.seeds import digest
from vidistill.data.formats.epic_rows import EpicRow
from vidistill.data.synthetic import MARKER, write_video
from vidistill.data.synthetic_epic_rows import Story, invented_story, is_tested, published_story
from vidistill.data.synthetic_kitchen import MOST, RATE, Box, Happening, film

DETECTIONS = "detections.hdf5"
_VERSION = 1


def make_synthetic_epic(
    root: Path,
    *,
    annotations: Path | None = None,
    clips: int = 280,
    verbs: int = 5,
    nouns: int = 6,
    without_audio: float = 0.0,
    seed: int = 0,
) -> Path:
    """Make such a set in a folder of its own below `root`, named by all that decides it, or find it there.

    The folder appears complete or not at all: it is written beside and renamed.

    Args:
        root: folder of generated sets.
        annotations: folder of the published lists, whose rows are kept; None: rows like them are made up.
        clips: at most so many actions.
        verbs: how many verbs are shown, 2 to 8.
        nouns: how many nouns are shown, 2 to 8.
        without_audio: part of the videos, of those for training and of those for testing, that lack a sound track.
        seed: everything random follows from it.

    Returns:
        the set's folder, readable with the format "epic_kitchens".

    Raises:
        RecipeError: an option out of its range.
        DataError: a published list is missing or wrong, or the files cannot be written.
    """
    if not (2 <= verbs <= MOST and 2 <= nouns <= MOST and clips >= 8 and 0 <= without_audio <= 1):
        raise RecipeError(
            f"verbs={verbs} and nouns={nouns} are 2 to {MOST}, clips={clips} at least 8, "
            f"without_audio={without_audio} a part, from 0 to 1",
            where="data",
        )
    if annotations is None:
        story = invented_story(clips, verbs, nouns, seed)
    else:
        story = published_story(annotations, clips, verbs, nouns)
    files = sorted(story.files.items())
    key = digest("synthetic epic", _VERSION, seed, without_audio, files, story.verbs, story.nouns)
    folder = root / f"{len(story.actions)}-clips-{key[:8]}"
    if (folder / MARKER).is_file():
        return folder
    beside = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _write(beside, story, without_audio, seed)
        (beside / MARKER).write_text(json.dumps(_description(story, annotations, without_audio, seed), indent=1))
        beside.rename(folder)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise DataError(what, where=str(folder), todo="Free the disk, or name another folder") from error
    return folder


def _description(story: Story, annotations: Path | None, without_audio: float, seed: int) -> dict[str, Any]:
    rows = "made up" if annotations is None else "of the published validation list"
    return {"rows": rows, "clips": len(story.actions), "without_audio": without_audio, "seed": seed}


def _write(folder: Path, story: Story, without_audio: float, seed: int) -> None:
    """Lists, videos and detections; one thread, for others run beside it."""
    (folder / "annotations").mkdir()
    for name, text in story.files.items():
        (folder / "annotations" / name).write_text(text, encoding="utf-8")
    videos = {video: list(rows) for video, rows in groupby(story.actions, lambda row: row.video)}
    mute = _mute(videos, without_audio)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with h5py.File(folder / DETECTIONS, "w") as detections, progress("making", len(videos), "videos") as counter:
            for video, rows in videos.items():
                _write_video(folder, video, rows, story, video in mute, seed, detections)
                counter.advance()
    finally:
        cv2.setNumThreads(threads)


def _mute(videos: Mapping[str, list[EpicRow]], part: float) -> set[str]:
    """The videos without a sound track: those that bring the part of such actions nearest to `part`, in either list."""
    found: set[str] = set()
    for wanted in (False, True):
        order = [video for video in videos if is_tested(video) == wanted]
        order.sort(key=lambda video: digest("synthetic epic mute", video))
        ends = np.cumsum([len(videos[video]) for video in order])
        if len(ends):
            kept = int(np.abs(np.concatenate(([0], ends)) - part * ends[-1]).argmin())
            found.update(order[:kept])
    return found


def _write_video(
    folder: Path, video: str, rows: list[EpicRow], story: Story, mute: bool, seed: int, detections: h5py.File
) -> None:
    happenings = [
        Happening(row.start, row.end, story.verbs.index(row.verb), story.nouns.index(row.noun)) for row in rows
    ]
    made = film(seed, video, happenings)
    path = folder / rows[0].participant / "videos" / f"{video}.MP4"
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in made.frames]
    write_video(path, pictures, RATE, quality=28, sound=None if mute else made.sound)
    _write_boxes(detections, video, made.boxes)


def _write_boxes(file: h5py.File, video: str, boxes: Mapping[int, list[Box]]) -> None:
    group = file.create_group(video)
    for number, found in boxes.items():
        group.create_dataset(str(number), data=np.bytes_(repr(found).encode()))
