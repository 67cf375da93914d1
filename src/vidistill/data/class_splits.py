"""Splits by class, as few-shot recognition needs them: the classes of train, val and test are disjoint.

Two ways: the published list files `{train,val,test}listNN.txt` with one `class/video` a line (hmdb_ARN, ucf_ARN,
kinetics_CMN, ssv2_OTAM), which name videos; or names of classes for any manifest.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Clip
from vidistill.data.manifest import SPLITS, Manifest, Problem

LIST = re.compile(r"(?P<part>train|val|test)list(?P<number>\d+)\.txt")
VIDEO = re.compile(r"\.(avi|gif|m4v|mkv|mov|mp4|mpeg|mpg|ts|webm|wmv)$", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """One line of a list: the class and the video as written, and the part of the file it stands in."""

    label: str
    video: str
    part: str


def video_key(name: str) -> str:
    """A video's name as lists and folders are compared: the path's last part, no extension, lower case, `_` for " "."""
    return VIDEO.sub("", PurePosixPath(name.strip()).name).replace(" ", "_").lower()


def _list_numbers(folder: Path) -> dict[int, list[Path]]:
    """The list files of a folder by number NN."""
    found: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = LIST.fullmatch(path.name)
        if match:
            found[int(match["number"])].append(path)
    return dict(found)


def read_lists(folder: Path, number: int | None = None) -> dict[str, Listed]:
    """What the lists of one split say of each video, by `video_key`.

    A part without a file has no videos (the train part of ssv2_OTAM is not among the published files).

    Args:
        folder: holds `{train,val,test}listNN.txt`.
        number: NN; None takes the only one there is.

    Raises:
        DataError: no lists, several numbers and none chosen, a line that is not `class/video`, or a video in two parts.
    """
    numbers = _list_numbers(folder)
    if not numbers:
        raise DataError(
            "there is no {train,val,test}listNN.txt", where=str(folder), todo="Name their folder with: lists"
        )
    if number is None and len(numbers) > 1:
        raise DataError(
            f"there are lists of splits {sorted(numbers)}", where=str(folder), todo="Choose one with: split"
        )
    chosen = next(iter(numbers)) if number is None else number
    if chosen not in numbers:
        raise DataError(f"there are no lists of split {chosen}", where=str(folder), todo=f"Have: {sorted(numbers)}")
    found: dict[str, Listed] = {}
    for path in numbers[chosen]:
        part = path.name.partition("list")[0]
        for row, line in enumerate(_lines(path), start=1):
            entry = _entry(line, part, f"{path}: line {row}")
            if entry is None:
                continue
            earlier = found.setdefault(video_key(entry.video), entry)
            if earlier.part != part:
                raise DataError(
                    f"video {entry.video!r} is in the lists of {earlier.part} and {part}", where=f"{path}: line {row}"
                )
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", where=str(path)) from None


def _entry(line: str, part: str, where: str) -> Listed | None:
    if not line.strip():
        return None
    label, found, video = line.strip().rpartition("/")
    if not found or not label or not video:
        raise DataError(f"{line.strip()!r} is not 'class/video'", where=where)
    return Listed(PurePosixPath(label).name, video, part)


def by_lists(manifest: Manifest, lists: Mapping[str, Listed], head: str = "action") -> Manifest:
    """The manifest with each clip in the part that the lists give its video; classes come from the manifest.

    A clip that no list names and a listed video that has no clip are problems of the manifest, not clips.

    Raises:
        DataError: no clip is listed, or a class has clips in two parts.
    """
    kept: list[Clip] = []
    problems = list(manifest.problems)
    seen: set[str] = set()
    for clip in manifest.clips:
        key = video_key(clip.id)
        if key in lists:
            seen.add(key)
            kept.append(replace(clip, split=lists[key].part))
        else:
            problems.append(Problem(clip.id, "unlisted", f"{clip.id} is in {manifest.root} and in no list"))
    if not kept:
        raise DataError(
            f"none of the {len(manifest.clips)} clips is in the lists, which name {len(lists)} videos",
            where=str(manifest.root),
        )
    for key, entry in lists.items():
        if key not in seen:
            name = f"{entry.label}/{entry.video}"
            problems.append(Problem(name, "missing", f"{name} is listed but not in {manifest.root}"))
    result = replace(manifest, clips=tuple(kept), problems=tuple(problems))
    check_disjoint(result, head)
    return result


def by_class(manifest: Manifest, *, val: Sequence[str] = (), test: Sequence[str], head: str = "action") -> Manifest:
    """The manifest with whole classes in one part: those named in `val` and `test`, and all others in train.

    Clips without a label of `head` become problems.

    Raises:
        RecipeError: a class that does not exist, a class named twice, no test class, or no class left for train.
    """
    known = sorted({clip.labels[head] for clip in manifest.clips if head in clip.labels})
    if not test:
        raise RecipeError("no class is named for test", todo="Name the classes to test on, e.g. test: [juggle, wave]")
    part: dict[str, str] = {}
    for name, labels in (("val", val), ("test", test)):
        for label in labels:
            if label not in known:
                raise RecipeError(f"{name} names an unknown class {label!r}", todo=nearest(label, known))
            if label in part:
                raise RecipeError(f"class {label!r} is named for {part[label]} and {name}", todo="Name it once")
            part[label] = name
    if len(part) == len(known):
        raise RecipeError(f"all {len(known)} classes are named for val and test", todo="Leave some for train")
    problems = [
        Problem(clip.id, "unlabelled", f"{clip.id} has no label {head!r}, so it is of no class")
        for clip in manifest.clips
        if head not in clip.labels
    ]
    clips = tuple(
        replace(clip, split=part.get(clip.labels[head], "train")) for clip in manifest.clips if head in clip.labels
    )
    return replace(manifest, clips=clips, problems=(*manifest.problems, *problems))


def check_disjoint(manifest: Manifest, head: str = "action") -> None:
    """Prove that no class has clips in two of the three parts.

    Raises:
        DataError: one has; the class, the parts and a clip of each are named.
    """
    first: dict[str, Clip] = {}
    for clip in _labelled(manifest.clips, head):
        other = first.setdefault(clip.labels[head], clip)
        if other.split != clip.split:
            raise DataError(
                f"class {clip.labels[head]!r} is in {other.split} ({other.id!r}) and in {clip.split} ({clip.id!r})",
                where=str(manifest.root),
                todo="Few-shot parts may not share classes",
            )


def _labelled(clips: Iterable[Clip], head: str) -> Iterable[Clip]:
    return (clip for clip in clips if head in clip.labels and clip.split in SPLITS)
