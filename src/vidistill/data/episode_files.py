"""Fixed episodes as a file, so that others test on the same ones: JSON lines, one episode a line.

    {"classes": ["fencing", "kick"],
     "support": {"fencing": ["fencing/a_1"], "kick": ["kick/b_7"]},
     "queries": {"fencing": ["fencing/a_2"], "kick": ["kick/b_3"]}}

Clips are named by id and classes by name: the file means the same for any store of the same clips. (The published code
asks for such a file, ships none, and ignores it.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.registry import nearest
from vidistill.data.episodes import Episode, Episodes

PARTS = ("support", "queries")


def write_episodes(path: Path, episodes: Episodes, clip_ids: Sequence[str], class_names: Sequence[str]) -> None:
    """Write episodes, beside and renamed.

    Args:
        path: the file.
        episodes: store indices and class numbers.
        clip_ids: clip ids by store index.
        class_names: class names by class number.
    """
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        for index in range(len(episodes)):
            episode = episodes[index]
            names = [class_names[number] for number in episode.classes]
            queries = [episode.queries[episode.query_labels == label] for label in range(len(names))]
            record = {
                "classes": names,
                "support": {n: [clip_ids[clip] for clip in row] for n, row in zip(names, episode.support, strict=True)},
                "queries": {n: [clip_ids[clip] for clip in row] for n, row in zip(names, queries, strict=True)},
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(beside, path)


def read_episodes(
    path: Path, clip_ids: Sequence[str], labels: NDArray[Any], class_names: Sequence[str], clips: NDArray[Any]
) -> Episodes:
    """Read what `write_episodes` wrote and check it against the clips that are there.

    Args:
        path: the file.
        clip_ids: clip ids by store index.
        labels: class numbers by store index, -1 where absent.
        class_names: class names by class number.
        clips: store indices that episodes may use (those of one split).

    Raises:
        DataError: no such file, no JSON, a clip or class that is unknown, a clip of another class or split, a clip
            twice in an episode, or episodes of different sizes; the file and the row are named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the episodes cannot be read ({error})", where=str(path)) from None
    allowed = np.asarray(clips).tolist()
    book = _Book(
        {clip_ids[clip]: clip for clip in allowed}, frozenset(clip_ids), np.asarray(labels), tuple(class_names)
    )
    episodes: list[Episode] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: row {number}"
        episode = book.episode(_record(line, where), where)
        if episodes and (size := _size(episode)) != _size(episodes[0]):
            raise DataError(f"{size} differs from {_size(episodes[0])} of the first episode", where=where)
        episodes.append(episode)
    if not episodes:
        raise DataError("the file holds no episode", where=str(path))
    return Episodes.stack(episodes)


def _size(episode: Episode) -> str:
    way, shot = episode.support.shape
    return f"{way} way, {shot} shot, {len(episode.queries)} queries"


def _record(line: str, where: str) -> dict[str, Any]:
    """One line as a record of the three parts, with a list of clip ids for each class.

    Raises:
        DataError: it is none.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"no JSON ({error})", where=where) from None
    if not isinstance(record, dict) or not isinstance(record.get("classes"), list):
        raise DataError("an episode has 'classes', 'support' and 'queries'", where=where)
    names = record["classes"]
    if len(names) < 2 or len({str(name) for name in names}) < len(names):
        raise DataError(f"'classes' must name two different classes or more (got {names})", where=where)
    for part in PARTS:
        groups = record.get(part)
        if not isinstance(groups, dict) or set(groups) != set(names):
            raise DataError(f"{part!r} must hold a list of clips for each of {names}", where=where)
        if not all(
            isinstance(group, list) and all(isinstance(clip, str) for clip in group) for group in groups.values()
        ):
            raise DataError(f"{part!r} holds something else than lists of clip ids", where=where)
    return record


class _Book:
    """What clips and classes there are, to look names up in."""

    def __init__(
        self, allowed: Mapping[str, int], everything: frozenset[str], labels: NDArray[Any], names: tuple[str, ...]
    ) -> None:
        self.allowed, self.everything, self.labels, self.names = allowed, everything, labels, names

    def episode(self, record: dict[str, Any], where: str) -> Episode:
        """A record as store indices.

        Raises:
            DataError: as `read_episodes` says.
        """
        names: list[str] = record["classes"]
        for name in names:
            if name not in self.names:
                raise DataError(f"unknown class {name!r}", where=where, todo=nearest(name, self.names))
        numbers = [self.names.index(name) for name in names]
        support = [self._clips(record["support"][n], number, where) for n, number in zip(names, numbers, strict=True)]
        queries = [self._clips(record["queries"][n], number, where) for n, number in zip(names, numbers, strict=True)]
        shot = max(map(len, support))
        for name, group in zip(names, support, strict=True):
            if len(group) < max(shot, 1):
                raise DataError(f"class {name!r} has {len(group)} support clips, others have {shot}", where=where)
        flat = [clip for group in (*support, *queries) for clip in group]
        if len(set(flat)) < len(flat):
            raise DataError("a clip is there twice", where=where, todo="A query may not be in the support")
        if not any(queries):
            raise DataError("there are no queries", where=where)
        labels = np.repeat(np.arange(len(names)), [len(group) for group in queries])
        chosen = [clip for group in queries for clip in group]
        return Episode(np.array(support), np.array(chosen), labels, np.array(numbers))

    def _clips(self, ids: list[str], number: int, where: str) -> list[int]:
        found = []
        for name in ids:
            if name not in self.allowed:
                known = name in self.everything
                what = f"clip {name!r} is not in this split" if known else f"unknown clip {name!r}"
                raise DataError(what, where=where, todo="Test on the clips that the episodes were drawn from")
            clip = self.allowed[name]
            if self.labels[clip] != number:
                other = self.names[self.labels[clip]] if self.labels[clip] >= 0 else "no class"
                raise DataError(f"clip {name!r} is of {other!r}, not of {self.names[number]!r}", where=where)
            found.append(clip)
        return found
