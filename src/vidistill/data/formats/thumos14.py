"""THUMOS14: untrimmed sports videos, 200 to train and 213 to test, segments of 20 actions (Jiang et al., 2014).

Read from the annotation files of generative feature distillation (AAAI 2024, arXiv 2312.08644); what to know of them
is said in `thumos14_annotations`. Eight actions begin after their video's end (22 more in video_test_0000270): they are
kept, because the published evaluation counts them as missed; no window shows them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Segment
from vidistill.data.formats.base import FORMATS, VIDEOS, first_folder, need_folder
from vidistill.data.formats.thumos14_annotations import (
    CLASS_FILE,
    CLASSES,
    PREFIX,
    TRUTH,
    Annotated,
    Part,
    Row,
    VideoInfo,
    annotation_file,
    class_numbers,
    read_info,
    read_rows,
    read_truth,
)
from vidistill.data.manifest import Manifest, Problem

Folders = dict[Part, str]

RATE = 10.0
"""Frames a second of the published arrays."""
USUAL: dict[str, dict[Part, tuple[str, ...]]] = {
    "rgb": {
        "train": ("validation_npy", "validation", "TH14_validation_set_mp4", "videos"),
        "test": ("test_npy", "test", "TH14_test_set_mp4", "videos"),
    },
    "flow": {"train": ("validation_flow_npy",), "test": ("test_flow_npy",)},
}


def _annotations(
    folder: Path, listing: Literal["json", "csv"], infos: Mapping[Part, Mapping[str, VideoInfo]]
) -> dict[Part, Annotated]:
    """All that is annotated, by part; videos that only the list of videos names are background from end to end."""
    classes = class_numbers(folder / CLASS_FILE) if (folder / CLASS_FILE).is_file() else CLASSES
    if listing == "json":
        if not (folder / TRUTH).is_file():
            raise DataError(
                f"{TRUTH} is missing", where=str(folder), todo="Name its folder with: annotations, or set listing: csv"
            )
        return read_truth(folder / TRUTH, classes)
    found = {part: read_rows(annotation_file(folder, part), classes) for part in PREFIX}
    for part, rows in found.items():
        for video in infos[part]:
            rows.setdefault(video, [])
    return found


def _media(root: Path, given: str | None, usual: tuple[str, ...]) -> dict[str, str]:
    """Arrays (first) and video files of a folder by name without ending, as paths below `root`."""
    name = given if given is not None else next((name for name in usual if (root / name).is_dir()), None)
    if name is None:
        return {}
    endings = (".npy", *VIDEOS)
    files = [Path(file) for file in os.listdir(need_folder(root / name)) if Path(file).suffix.lower() in endings]
    files.sort(key=lambda file: (endings.index(file.suffix.lower()), file.name))
    return {file.stem: f"{name}/{file.name}" for file in reversed(files)}


@FORMATS.register("thumos14")
def read_thumos14(
    root: Path,
    *,
    annotations: str | None = None,
    listing: Literal["json", "csv"] = "json",
    media: str | None = None,
    rgb: Folders | None = None,
    flow: Folders | None = None,
    rate: float = RATE,
) -> Manifest:
    """THUMOS14 as published: untrimmed clips with segments of `action`, in seconds; validation videos are train.

    Frames are `validation_npy/<video>.npy` and `test_npy/`, uint8 (N, H, W, 3) at 10 a second, or videos in
    `validation/` and `test/`; flow is `validation_flow_npy/` and `test_flow_npy/`, uint8 (N, H, W, 2). Published flow
    has +-20 pixels in 0..255: prepare it with `sources.flow: {pixels_per_level: 0.156863, zero: 127.5}`, and beside
    videos `rate: 10`. A clip that lacks one of the two lacks it; one that has neither is a problem. The number of
    frames is that of `{val,test}_video_info.csv`, where they are there.

    Args:
        root: folder of the set.
        annotations: folder of the annotation files, below `root` or absolute; by default `annotations`,
            `thumos_annotations` or `root`.
        listing: "json" reads `thumos_gt.json`, which is what results are published on; "csv" the
            `{val,test}_Annotation.csv`, which also have video_test_0000270 and 0001496, whose annotations are faulty.
        media: folder that holds the folders of arrays and videos, below `root` or absolute; None: `root`.
        rgb: other folders of frames by part, e.g. `{train: val_frames, test: test_frames}`, below `media`.
        flow: other folders of flow by part.
        rate: frames a second of arrays; videos have their own.

    Raises:
        RecipeError: `rate` is not above 0.
        DataError: annotations are missing or wrong (file, video or row are named), or none of the videos is there.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise RecipeError(f"rate is {rate}; it must be above 0", where="data")
    folder = first_folder(need_folder(root), annotations, "annotations", "thumos_annotations")
    files = {part: folder / f"{prefix}_video_info.csv" for part, prefix in PREFIX.items()}
    infos = {part: read_info(file) if file.is_file() else {} for part, file in files.items()}
    listed = _annotations(folder, listing, infos)
    place = root if media is None else need_folder(root / media)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for part, videos in listed.items():
        there = {
            name: _media(place, (given or {}).get(part), USUAL[name][part])
            for name, given in (("rgb", rgb), ("flow", flow))
        }
        for video, rows in videos.items():
            if rows is None:
                continue
            sources = {name: found[video] for name, found in there.items() if video in found}
            if sources:
                clips.append(_clip(video, part, rows, sources, infos[part].get(video), rate))
            else:
                problems.append(Problem(video, "missing", f"{video} is listed but not in {place}"))
    if not clips:
        count = f"none of the {len(problems)} listed videos is there"
        todo = "Name the folders of videos or arrays with: media, rgb, flow"
        raise DataError(count, where=str(place), todo=todo)
    return Manifest(root=place, clips=tuple(clips), problems=tuple(problems))


def _clip(
    video: str, part: Part, rows: list[Row], sources: dict[str, str], info: VideoInfo | None, rate: float
) -> Clip:
    """One video; its rate and number of frames are those of its frames (else of its flow)."""
    array = next(iter(sources.values())).lower().endswith(".npy")
    known = None if info is None else info.sampled if array else info.frames
    segments = (Segment(row.start, row.end, row.label) for row in sorted(rows, key=lambda row: (row.start, row.end)))
    return Clip(
        id=video,
        split=part,
        labels={},
        sources=sources,
        fps=rate if array else info.fps if info else None,
        frames=known,
        segments={"action": tuple(segments)},
    )
