"""A manifest: one row a clip, with labels, split and the path or key of each of its modalities; as a CSV file."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from vidistill.core.errors import DataError
from vidistill.core.registry import nearest
from vidistill.core.seeds import digest
from vidistill.core.types import Clip
from vidistill.data.carving import carve_validation
from vidistill.data.segment_cells import read_segments

__all__ = [
    "SPLITS",
    "Manifest",
    "Problem",
    "annotation",
    "carve_validation",
    "check",
    "labels_of",
    "read_manifest",
    "resolve",
    "write_manifest",
]

SPLITS = ("train", "val", "test")
COLUMNS = ("id", "split", "start", "end", "fps", "frames", "group", "checksum")
LABEL, PATH, SEGMENTS = "label:", "path:", "segments:"
CONTAINER = re.compile(r"^(?P<path>.+?\.(?:npz|hdf5|h5|json))#(?P<key>.+)$", re.IGNORECASE | re.DOTALL)
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Problem:
    """A clip that is listed but cannot be used; `kind` is missing, corrupt, short, empty or unreadable."""

    clip: str
    kind: str
    message: str


@dataclass(frozen=True)
class Manifest:
    """Usable clips, and the listed clips that the reader found unusable.

    Attributes:
        root: folder that the clips' sources are relative to.
        clips: the usable ones.
        problems: the others.
        fixed_classes: by head, all classes of the data set in the order of their numbers, where it fixes them: a part
            of the set then gives networks the published outputs. Other heads have the classes that clips have.
        subsets: ids of the clips that results are also told for, by the name of the subset.
    """

    root: Path
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...] = ()
    fixed_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Names of the labels, in the order in which clips first name them."""
        return tuple(dict.fromkeys(head for clip in self.clips for head in (*clip.labels, *clip.segments)))

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class names by head; a class's index is its place here. Where not fixed: those of all splits, sorted."""
        return {
            head: self.fixed_classes[head]
            if head in self.fixed_classes
            else tuple(sorted({label for clip in self.clips for label in labels_of(clip, head)}))
            for head in self.heads
        }

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that at least one clip has, in the order in which clips first name them."""
        return tuple(dict.fromkeys(name for clip in self.clips for name in clip.sources))

    @cached_property
    def split_hash(self) -> str:
        """A hash of who is in which split with which labels; the order of the rows does not change it."""
        return digest(sorted(annotation(clip) for clip in self.clips))

    def split(self, name: str) -> tuple[Clip, ...]:
        """The clips of one split, in manifest order."""
        return tuple(clip for clip in self.clips if clip.split == name)


def labels_of(clip: Clip, head: str) -> list[str]:
    """A clip's labels of one head: its own, and those of its segments."""
    own = [clip.labels[head]] if head in clip.labels else []
    return own + [segment.label for segment in clip.segments.get(head, ())]


def annotation(clip: Clip) -> list[object]:
    """What is said of a clip, as JSON values to be hashed; a trimmed clip's does not know of segments."""
    said: list[object] = [clip.id, clip.split, sorted(clip.labels.items())]
    if clip.segments:
        said.append(
            [[head, [[s.start, s.end, s.label] for s in clip.segments[head]]] for head in sorted(clip.segments)]
        )
    return said


def resolve(root: Path, relative: str) -> tuple[Path, str | None]:
    """The file that a source names, and the key inside it where the source is `container#key`.

    Only `.npz`, `.hdf5`, `.h5` and `.json` files have keys; elsewhere a `#` belongs to the file's name.

    Raises:
        DataError: the path is absolute or leaves `root`.
    """
    match = CONTAINER.match(relative)
    name, key = (match["path"], match["key"]) if match else (relative, None)
    path = PurePosixPath(name)
    if not name or path.is_absolute() or Path(name).is_absolute():
        raise DataError(f"source {relative!r} is not a relative path", todo=f"Give it relative to {root}")
    if ".." in path.parts or ".." in Path(name).parts:
        raise DataError(f"source {relative!r} leaves the manifest's folder", todo=f"Keep all media below {root}")
    return root / path, key


def _number(kind: Callable[[str], Number], cell: str, column: str, where: str) -> Number | None:
    """A cell as a number that is finite and not negative; None where it is empty."""
    if cell == "":
        return None
    try:
        value = kind(cell)
    except ValueError:
        raise DataError(f"column {column!r} holds {cell!r}, not a number", where=where) from None
    if not math.isfinite(value) or value < 0:
        raise DataError(f"column {column!r} holds {cell!r}; it must be finite and not negative", where=where)
    return value


def _check_header(header: list[str], where: str) -> None:
    """Refuse columns that are repeated, unknown or missing."""
    for column, count in Counter(header).items():
        if count > 1:
            raise DataError(f"column {column!r} is there {count} times", where=where, todo="Keep one of them")
        if column in COLUMNS or (column.startswith((LABEL, PATH, SEGMENTS)) and column.partition(":")[2]):
            continue
        known = (*COLUMNS, f"{LABEL}<head>", f"{PATH}<modality>", f"{SEGMENTS}<head>")
        hint = f"Write {LABEL}{column}" if column in ("action", "verb", "noun") else nearest(column, known)
        raise DataError(f"unknown column {column!r}", where=where, todo=hint)
    for missing in (name for name in ("id", "split") if name not in header):
        raise DataError(f"column {missing!r} is missing", where=where)
    if not any(column.startswith(PATH) for column in header):
        raise DataError(f"no {PATH}* column", where=where, todo="Name one, such as path:rgb")
    if not any(column.startswith((LABEL, SEGMENTS)) for column in header):
        raise DataError(
            f"no {LABEL}* column", where=where, todo="Name one, such as label:action (or segments:action if untrimmed)"
        )


def _clip(row: Mapping[str, str], where: str) -> Clip:
    """One row as a clip.

    Raises:
        DataError: no id, a number that is none, a time range that is empty, or segments that are not within it.
    """
    if not row["id"]:
        raise DataError("column 'id' is empty", where=where)
    start = _number(float, row.get("start", ""), "start", where) or 0.0
    end = _number(float, row.get("end", ""), "end", where)
    if end is not None and end <= start:
        raise DataError(f"the clip ends at {end} s, not after its start at {start} s", where=where)
    fps = _number(float, row.get("fps", ""), "fps", where) or None
    frames = _number(int, row.get("frames", ""), "frames", where)
    seconds = end - start if end is not None else frames / fps if frames and fps and not start else None
    return Clip(
        id=row["id"],
        split=row["split"],
        labels={name.removeprefix(LABEL): cell for name, cell in row.items() if name.startswith(LABEL) and cell},
        sources={name.removeprefix(PATH): cell for name, cell in row.items() if name.startswith(PATH) and cell},
        start=start,
        end=end,
        fps=fps,
        frames=frames,
        group=row.get("group") or None,
        checksum=row.get("checksum") or None,
        segments={
            name.removeprefix(SEGMENTS): read_segments(cell, name, where, seconds)
            for name, cell in row.items()
            if name.startswith(SEGMENTS) and cell
        },
    )


def read_manifest(path: Path, root: Path | None = None) -> Manifest:
    """Read a manifest from CSV (UTF-8, header row; an empty cell means absent).

    Args:
        path: the CSV file.
        root: folder that the `path:*` columns are relative to; None: the folder of the CSV file.

    Raises:
        DataError: the file is unreadable or its columns or cells are wrong; file, row and column are named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=str(path)) from None
    if not rows:
        raise DataError("the manifest is empty", where=str(path), todo="Give a header row and one row a clip")
    header = rows[0]
    _check_header(header, str(path))
    clips = []
    for number, cells in enumerate(rows[1:], start=2):
        where = f"{path}: row {number}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise DataError(f"{len(cells)} cells, but the header has {len(header)}", where=where)
        clips.append(_clip(dict(zip(header, cells, strict=True)), where))
    return Manifest(root=path.parent if root is None else root, clips=tuple(clips))


def _cells(clip: Clip) -> dict[str, str]:
    """A clip as the cells of its row; `repr` of a float reads back as the same float."""
    plain = {
        "id": clip.id,
        "split": clip.split,
        "start": repr(float(clip.start)) if clip.start else "",
        "end": "" if clip.end is None else repr(float(clip.end)),
        "fps": "" if clip.fps is None else repr(float(clip.fps)),
        "frames": "" if clip.frames is None else str(clip.frames),
        "group": clip.group or "",
        "checksum": clip.checksum or "",
    }
    labels = {LABEL + head: label for head, label in clip.labels.items()}
    for head, found in clip.segments.items():
        labels[SEGMENTS + head] = json.dumps([[s.start, s.end, s.label] for s in found], ensure_ascii=False)
    return plain | labels | {PATH + name: source for name, source in clip.sources.items()}


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the clips as CSV, beside and renamed; problems are not written.

    Sources stay relative to `manifest.root`: where `path` is in another folder, read it back with that root.
    """
    trimmed = dict.fromkeys(head for clip in manifest.clips for head in clip.labels)
    untrimmed = dict.fromkeys(head for clip in manifest.clips for head in clip.segments)
    annotations = [*(LABEL + head for head in trimmed), *(SEGMENTS + head for head in untrimmed)]
    columns = [*COLUMNS, *annotations, *(PATH + name for name in manifest.modalities)]
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(_cells(clip) for clip in manifest.clips)
    os.replace(beside, path)


def _check_overlap(clips: Iterable[Clip]) -> None:
    """Refuse a source whose same seconds are in two splits, under any clip id.

    Raises:
        DataError: two clips of different splits share a source (or a checksum) and some of their time.
    """
    by_source: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        names = {str(PurePosixPath(source)) for source in clip.sources.values()}
        for name in names | ({f"checksum {clip.checksum}"} if clip.checksum else set()):
            by_source[name].append(clip)
    for name, sharing in by_source.items():
        reach: dict[str, tuple[float, Clip]] = {}
        for clip in sorted(sharing, key=lambda clip: clip.start):
            for split, (until, other) in reach.items():
                if split != clip.split and clip.start < until:
                    raise DataError(
                        f"clips {other.id!r} ({split}) and {clip.id!r} ({clip.split}) share {name}",
                        todo="A clip may be in one split only; remove one of the two",
                    )
            end = math.inf if clip.end is None else clip.end
            if clip.split not in reach or end > reach[clip.split][0]:
                reach[clip.split] = (end, clip)


def _check_labels(manifest: Manifest, heads: Iterable[str]) -> None:
    """Refuse absent label columns, clips without any label, and heads with a single class."""
    for head in heads:
        if head not in manifest.heads:
            have = ", ".join(LABEL + name for name in manifest.heads) or "none"
            raise DataError(f"label column '{LABEL}{head}' is missing", where=str(manifest.root), todo=f"Have: {have}")
    for clip in manifest.clips:
        if not clip.labels and not clip.segments:
            raise DataError("the clip has no label", where=f"clip {clip.id!r}", todo="Label it or remove its row")
    for head, classes in manifest.classes.items():
        _check_fixed(manifest, head)
        trained = {label for clip in manifest.split("train") for label in labels_of(clip, head)}
        background = any(head in clip.segments for clip in manifest.clips)
        if len(trained) + background < 2:
            raise DataError(
                f"head {head!r} has {len(classes)} class{'es' * (len(classes) != 1)}, {len(trained)} of them in train",
                where=str(manifest.root),
                todo="Learning needs train clips of two classes or more",
            )


def _check_fixed(manifest: Manifest, head: str) -> None:
    """Refuse labels that a head's fixed classes lack, and classes that are fixed twice."""
    fixed = manifest.fixed_classes.get(head)
    if fixed is None:
        return
    known = set(fixed)
    if len(known) < len(fixed):
        raise DataError(f"head {head!r} has two classes of one name", where=str(manifest.root))
    for clip in manifest.clips:
        for label in labels_of(clip, head):
            if label not in known:
                raise DataError(
                    f"the label {label!r} is no class of {head!r}",
                    where=f"clip {clip.id!r}",
                    todo=nearest(label, fixed),
                )


def _warnings(manifest: Manifest, new_classes: bool) -> list[str]:
    """What is allowed and yet likely a mistake, a line each."""
    lines = []
    for name in sorted({clip.split for clip in manifest.clips} - {*SPLITS, ""}):
        lines.append(f"split {name!r} is used by nothing. {nearest(name, SPLITS)}")
    if not manifest.split("test"):
        lines.append("no clip has split 'test': results cannot be measured")
    for head, classes in manifest.classes.items():
        counts = {
            name: Counter(label for clip in manifest.split(name) for label in labels_of(clip, head)) for name in SPLITS
        }
        unit = "segment" if any(head in clip.segments for clip in manifest.clips) else "clip"
        if unit == "segment" and manifest.split("test") and not counts["test"]:
            lines.append(f"no clip of test has a segment of {head!r}: results cannot be measured")
        for label in classes:
            total = sum(count[label] for count in counts.values())
            if total == 1:
                lines.append(f"class {label!r} of {head!r} has one {unit}")
            lines += [
                f"class {label!r} of {head!r} is absent from {name}"
                for name in ("train", "test")
                if not new_classes and total > 1 and counts[name] and not counts[name][label]
            ]
        alike: dict[str, list[str]] = defaultdict(list)
        for label in classes:
            alike[" ".join(label.casefold().split())].append(label)
        lines += [f"classes of {head!r} that look alike: {names}" for names in alike.values() if len(names) > 1]
    torn = {clip.group for clip in manifest.split("train")} & {clip.group for clip in manifest.split("test")} - {None}
    if torn:
        lines.append(f"{len(torn)} groups have clips in train and in test, e.g. {min(map(str, torn))!r}")
    return lines


def check(manifest: Manifest, heads: Iterable[str] = (), *, new_classes: bool = False) -> list[str]:
    """Prove that the manifest can be learned from; `heads` are labels that a task needs.

    `new_classes`: validation and test classes are meant to be absent from train, as in few-shot recognition.

    Returns:
        Warnings, a line each: classes of one clip, classes absent from train or test, groups in train and test.

    Raises:
        DataError: no clips, no train clips, ids given twice, a missing label column, unlabelled clips, fewer than two
            train classes, or the same seconds of one source in two splits.
    """
    where = str(manifest.root)
    if not manifest.clips:
        found = manifest.problems
        first = f" (the first of {len(found)} problems: {found[0].message})" if found else ""
        raise DataError(f"there are no usable clips{first}", where=where)
    twice = [name for name, count in Counter(clip.id for clip in manifest.clips).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise DataError(f"clip id {twice[0]!r}{more} is given more than once", where=where, todo="Make ids unique")
    _check_overlap(manifest.clips)
    if not manifest.split("train"):
        raise DataError("no clip has split 'train'", where=where)
    _check_labels(manifest, heads)
    return _warnings(manifest, new_classes)
