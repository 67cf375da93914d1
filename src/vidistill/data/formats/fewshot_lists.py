"""Videos with published few-shot lists, whose train, val and test classes are disjoint.

hmdb_ARN and ucf_ARN (Zhang et al., ECCV 2020), kinetics_CMN (Zhu and Yang, ECCV 2018), ssv2_OTAM (Cao et al., CVPR
2020).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.class_splits import Listed, by_lists, read_lists, video_key
from vidistill.data.containers import IMAGES
from vidistill.data.formats.base import FORMATS, VIDEOS, first_folder, listed_files, need_folder
from vidistill.data.manifest import Manifest


def _sources(media: Path) -> dict[str, list[PurePosixPath]]:
    """What could be a clip, by `video_key`: video files, and folders that hold images directly."""
    paths: set[PurePosixPath] = set()
    for name in listed_files(media):
        path = PurePosixPath(name)
        if any(part.startswith(".") for part in path.parts):
            continue
        if path.suffix.lower() in VIDEOS:
            paths.add(path)
        elif path.suffix.lower() in IMAGES and len(path.parts) > 1:
            paths.add(path.parent)
    found: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in sorted(paths):
        found[video_key(path.name)].append(path)
    return found


def _clip(path: PurePosixPath, entry: Listed | None) -> Clip:
    """A clip; its class is the folder it lies in, or the lists' where it lies in none."""
    nested = len(path.parts) > 1
    label = path.parent.name if nested else entry.label.replace(" ", "_") if entry else ""
    stem = path.name.removesuffix(path.suffix) if path.suffix.lower() in VIDEOS else path.name
    name = (path.parent / stem).as_posix()
    return Clip(name, "", {"action": label} if label else {}, {"rgb": path.as_posix()})


def _choose(paths: list[PurePosixPath], entry: Listed | None, media: Path) -> list[PurePosixPath]:
    """The one path that a listed video means: of several, that in the folder of the listed class."""
    if entry is None or len(paths) == 1:
        return paths
    own = [path for path in paths if video_key(path.parent.name) == video_key(entry.label)]
    if len(own) != 1:
        raise DataError(
            f"video {entry.video!r} is there {len(paths)} times, e.g. {paths[0]} and {paths[1]}",
            where=str(media),
            todo="Keep one of them",
        )
    return own


@FORMATS.register("fewshot_lists")
def read_fewshot_lists(
    root: Path, *, lists: str | None = None, split: int | None = None, videos: str | None = None
) -> Manifest:
    """Videos as `<videos>/<class>/<video>.*` or `<videos>/<video>.*` (files, or folders of images) and
    `<lists>/{train,val,test}listNN.txt`.

    The folders are relative to `root` (or absolute); by default `videos` or `root` itself, and `lists`, `splits` or
    `root`. Lists and videos meet by the video's name alone (lower case, `_` for spaces); the class is the folder's, or
    the list's where there is none. Videos that no list names, and listed ones that are not there, are problems.

    Args:
        root: the data set's folder.
        lists: the folder of the lists.
        split: NN; may be left out where there is one.
        videos: the folder of the videos.

    Raises:
        DataError: no lists, no listed video, a video twice, or a class in two parts.
    """
    need_folder(root)
    media = first_folder(root, videos, "videos")
    listing = first_folder(root, lists, "lists", "splits")
    listed = read_lists(listing, split)
    clips = [
        _clip(path, listed.get(key))
        for key, paths in _sources(media).items()
        for path in _choose(paths, listed.get(key), media)
    ]
    return by_lists(Manifest(media, tuple(clips)), listed)
