"""The last step of the prepare stage: what the finished shards say becomes the index of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidistill.core.errors import StoreError
from vidistill.core.types import Clip
from vidistill.data.manifest import Manifest, Problem, write_manifest
from vidistill.data.prepare_clip import ModalitySource
from vidistill.data.shards import FORMAT, read_shard, shard_problems, write_json, writing
from vidistill.data.store_index import Index, fill_row, index_columns, label_columns, write_index


def build_index(
    manifest: Manifest, folder: Path, sources: Mapping[str, ModalitySource], key: str, whole: str, shards: int
) -> None:
    """Writes index and clips, and last the `store.json` that makes them count.

    `key` is the hash of the shards, `whole` that of the store. Shards are read one at a time.

    Raises:
        StoreError: a shard is absent; disk full.
    """
    modalities = sorted(name for name, source in sources.items() if source.store)
    index = index_columns(len(manifest.clips), len(modalities))
    dtypes: list[str] = []
    sizes: list[int] = []
    problems = list(manifest.problems)
    kept: list[str] = []
    for number in range(shards):
        header = read_shard(folder, number, key)
        if header is None:
            raise StoreError("a finished shard has vanished", where=str(folder), todo="Run the prepare stage again")
        sizes.append(header["bytes"])
        problems += shard_problems(header)
        for entry in header["clips"]:
            if not entry["problem"]:
                fill_row(index, len(kept), number, entry["signals"], modalities, dtypes)
                kept.append(entry["id"])
    index = {name: column[: len(kept)] for name, column in index.items()}
    usable = set(kept)
    clips = tuple(clip for clip in manifest.clips if clip.id in usable)
    classes, splits = manifest.classes, sorted({clip.split for clip in clips})
    index |= label_columns(clips, classes, splits)
    index["hash"] = np.frombuffer(whole.encode(), np.uint8)
    write_index(folder / "index.npz", index)
    with writing(folder / "clips.csv"):
        write_manifest(Manifest(manifest.root, clips), folder / "clips.csv")
    header = {
        "format": FORMAT,
        "hash": whole,
        "modalities": modalities,
        "dtypes": dtypes,
        "shards": sizes,
        "classes": list(classes.items()),  # a list, to keep the order of the heads
        "splits": splits,
        "problems": [[problem.clip, problem.kind, problem.message] for problem in problems],
        "provenance": {name: _provenance(sources[name], index, column) for column, name in enumerate(modalities)},
        "summary": _summary(manifest, clips, problems),
    }
    write_json(folder / "store.json", header)


def _provenance(source: ModalitySource, index: Index, column: int) -> dict[str, Any]:
    counts = {"clips": int((index["dtype"][:, column] >= 0).sum()), "derived": int(index["derived"][:, column].sum())}
    return {**source.provenance, **counts}


def _summary(manifest: Manifest, clips: tuple[Clip, ...], problems: list[Problem]) -> dict[str, Any]:
    return {
        "listed": len({clip.id for clip in manifest.clips} | {problem.clip for problem in manifest.problems}),
        "prepared": len(clips),
        "splits": dict(Counter(clip.split for clip in clips)),
        "split_hash": manifest.split_hash,
        "problems": dict(Counter(problem.kind for problem in problems)),
    }
