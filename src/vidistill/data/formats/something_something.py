"""Something-Something v2 (Goyal et al., ICCV 2017) and Something-Else (Materzynska et al., CVPR 2020).

A list is JSON, an entry a video: `{"id": "78687", "template": "Holding [something] next to [something]", ...}`. The
class is the template without its brackets. Something-Else has the same videos and classes in other splits: those of
its compositional one show test objects that train never shows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Clip
from vidistill.data.formats.base import FORMATS, first_folder, need_file, need_folder
from vidistill.data.formats.placed import Names, names_of_classes, places, those_there
from vidistill.data.hdf5_frames import SUFFIXES, without_absent
from vidistill.data.manifest import Manifest

Media = Literal["videos", "frames", "hdf5", "none"]
FOLDERS = {"videos": ("20bn-something-something-v2", "videos"), "frames": ("frames",)}
RATE = 12.0
"""Frames a second of the videos."""


class Files(NamedTuple):
    """Names of a data set's lists."""

    train: str
    test: str
    labels: str


SOMETHING_V2 = Files(*(f"something-something-v2-{part}.json" for part in ("train", "validation", "labels")))
SOMETHING_ELSE = Files(*(f"compositional/{part}.json" for part in ("train", "validation", "labels")))


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: missing, or not JSON.
    """
    try:
        return json.loads(need_file(path, what).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON ({error})", where=str(path)) from None


def template_class(template: str) -> str:
    """`Holding [something] next to [something]` as the class it is of: without brackets."""
    return template.replace("[", "").replace("]", "")


def read_labels(path: Path) -> dict[str, int]:
    """The number of each class: `{"Holding something next to something": "41", ...}`, numbers as text or not.

    Raises:
        DataError: not such a file, or a number is given twice.
    """
    content = read_json(path, "the list of classes")
    if not isinstance(content, dict) or not content:
        raise DataError("is not an object of classes", where=str(path), todo='Write {"class": number, ...}')
    numbers: dict[str, int] = {}
    for name, value in content.items():
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise DataError(f"the class {name!r} has the number {value!r}, not a whole one", where=str(path))
        numbers[name] = int(text)
    if len(set(numbers.values())) < len(numbers):
        raise DataError("two classes have one number", where=str(path))
    return numbers


def read_videos(path: Path, classes: dict[str, int]) -> dict[str, str]:
    """The class of each video of a list, in its order.

    Raises:
        DataError: not such a list, a video twice, or a template that is no class; file and entry (from 1) are named.
    """
    content = read_json(path, "the list of videos")
    if not isinstance(content, list) or not content:
        raise DataError("is not a list of videos", where=str(path), todo='Write [{"id": ..., "template": ...}, ...]')
    videos: dict[str, str] = {}
    for number, entry in enumerate(content, start=1):
        where = f"{path}: entry {number}"
        name, template = (entry.get(key) if isinstance(entry, dict) else None for key in ("id", "template"))
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not (isinstance(name, str) and name and isinstance(template, str)):
            raise DataError("has no id or no template", where=where)
        if {"/", "\\"} & set(name) or name in (".", ".."):
            raise DataError(f"{name[:40]!r} is not a video's id", where=where)
        if name in videos:
            raise DataError(f"the video {name!r} is there twice", where=where)
        label = template_class(template)
        if label not in classes:
            raise DataError(f"the template {template[:80]!r} is no class", where=where, todo=nearest(label, classes))
        videos[name] = label
    return videos


def read_something(
    defaults: Files,
    root: Path,
    *,
    train: str | None = None,
    test: str | None = None,
    classes: str | None = None,
    annotations: str | None = None,
    media: Media = "videos",
    folder: str | None = None,
    files: dict[Literal["rgb", "flow"], str] | None = None,
    boxes: str | None = None,
    labels: Names = "name",
    fps: float = RATE,
) -> Manifest:
    """Trimmed videos of `action`, by lists of templates; the published validation list is test.

    Listed videos that are not there are problems, so that a part of the set is enough. The classes are those of the
    file of class numbers, in their order, whichever of them the videos show.

    Args:
        defaults: names of the lists where options give none.
        root: folder of the media.
        train: the list of training videos.
        test: the list of test videos; the list published as test has no templates and is not read.
        classes: the file of class numbers.
        annotations: folder that these three are in, below `root` or absolute; by default `annotations`, `labels` or
            `root` itself.
        media: "videos", `<folder>/<id>.webm`; "frames", folders `<folder>/<id>`; "hdf5", datasets `/<id>` of encoded
            images (Radevski et al.); "none", where boxes are all there is.
        folder: of videos or frames; by default `20bn-something-something-v2` or `videos`, `frames`, or `root` itself.
        files: of hdf5: the file of `rgb`, and of `flow`, below `root`; by default `dataset.hdf5` is `rgb`.
        boxes: file of detections or annotated boxes below `root`, `[{"id": ..., "size": ..., "frames": ...}, ...]`:
            each clip has it as its source `boxes`; what it lacks is found when it is prepared.
        labels: classes go by "name", or by "number". Both are in the order of published classifiers.
        fps: frames a second of frames, datasets and boxes; videos have their own.

    Raises:
        RecipeError: options that do not fit each other.
        DataError: a list is missing or wrong (file and entry are named), a video is in both, or none is there.
    """
    need_folder(root)
    _check_options(media, folder, files, boxes, fps)
    lists = first_folder(root, annotations, "annotations", "labels")
    numbers = read_labels(lists / (classes or defaults.labels))
    parts = {
        "train": read_videos(lists / (train or defaults.train), numbers),
        "test": read_videos(lists / (test or defaults.test), numbers),
    }
    both = parts["train"].keys() & parts["test"].keys()
    if both:
        raise DataError(f"{len(both)} videos are in both lists, e.g. {min(both)!r}", where=str(lists))
    named = names_of_classes({number: name for name, number in numbers.items()}, labels, str(lists))
    sources = _sources(root, media, folder, dict(files or {}), {name for part in parts.values() for name in part})
    clips = [
        Clip(
            id=name,
            split=part,
            labels={"action": named[numbers[label]]},
            sources=sources.get(name, {}) | ({"boxes": f"{boxes}#{name}"} if boxes else {}),
            fps=fps,
        )
        for part, videos in parts.items()
        for name, label in videos.items()
    ]
    manifest = those_there(root, clips, "boxes" if media == "none" else "rgb")
    manifest = replace(manifest, fixed_classes={"action": tuple(named[number] for number in sorted(named))})
    keyed = media == "hdf5" or (boxes is not None and boxes.lower().endswith(SUFFIXES))
    return without_absent(manifest, ("boxes" if media == "none" else "rgb",)) if keyed else manifest


def _check_options(media: Media, folder: str | None, files: object, boxes: str | None, fps: float) -> None:
    """Refuse what does not fit."""
    if not fps > 0:
        raise RecipeError(f"fps is {fps}; it must be above 0", where="data")
    if media == "none" and boxes is None:
        raise RecipeError("media is none and there are no boxes", where="data", todo="Name the file of boxes")
    if files and media != "hdf5":
        raise RecipeError(f"files do not fit 'media: {media}'", where="data", todo="Set 'media: hdf5'")
    if folder is not None and media not in FOLDERS:
        raise RecipeError(f"folder does not fit 'media: {media}'", where="data", todo="Leave it out")


def _sources(
    root: Path, media: Media, folder: str | None, files: dict[Any, str], names: set[str]
) -> dict[str, dict[str, str]]:
    """Sources by video of what is there; of hdf5 of all videos."""
    if media == "none":
        return {}
    if media == "hdf5":
        files = files or {"rgb": "dataset.hdf5"}
        for modality, file in files.items():
            need_file(root / file, f"the HDF5 file of {modality}")
        return {name: {modality: f"{file}#{name}" for modality, file in files.items()} for name in names}
    where = first_folder(root, folder, *FOLDERS[media])
    if not where.is_relative_to(root):
        raise RecipeError(f"folder {folder!r} is not below {root}", where="data", todo="Give it relative to the root")
    below = where.relative_to(root)
    found = places(where, media)
    return {name: {"rgb": (below / found[name]).as_posix()} for name in names if name in found}


def _register(name: str, defaults: Files) -> None:
    FORMATS.register(name)(partial(read_something, defaults))


_register("something_something", SOMETHING_V2)
_register("something_else", SOMETHING_ELSE)
