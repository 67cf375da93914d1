"""Prepared data, as training reads it: a few large memory-mapped files and a compact index."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import StoreError
from vidistill.core.types import Clip, Signal
from vidistill.data.manifest import Problem, read_manifest
from vidistill.data.shards import FORMAT, Record, read_json, shard_path, write_shard
from vidistill.data.store_index import REFERENCES, Index, decode_texts, read_index

__all__ = ["ClipStore", "Record", "Store", "write_shard"]

AGAIN = "Run the prepare stage again"


class ClipStore(Protocol):
    """What training needs of prepared clips: trimmed ones (`Store`), or streams of them (`Streams`)."""

    def __len__(self) -> int: ...

    @property
    def hash(self) -> str: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    @property
    def provenance(self) -> dict[str, dict[str, Any]]: ...

    @property
    def manifest_summary(self) -> dict[str, Any]: ...

    @property
    def classes(self) -> dict[str, tuple[str, ...]]: ...

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def clips(self) -> tuple[Clip, ...]: ...

    def labels(self, head: str) -> NDArray[np.int64]: ...

    def indices(self, split: str) -> NDArray[np.int64]: ...

    def present(self, modality: str) -> NDArray[np.bool_]: ...

    def has(self, index: int, modality: str) -> bool: ...

    def signal(self, index: int, modality: str) -> Signal: ...

    def duration(self, index: int) -> float: ...

    def frames(self, index: int) -> int: ...

    def rate(self, index: int) -> float: ...

    def frame_size(self, index: int) -> tuple[int, int]: ...


def _reopen(folder: str, expected: str) -> Store:
    return Store.open(Path(folder), expected=expected)


class Store:
    """The prepared clips of one manifest, numbered 0..N-1 in the manifest's order without the unusable ones.

    Signals are read-only views of memory maps, opened when first asked for: memory does not grow with the set. A
    store travels to other processes as its folder and hash, and opens its files there anew.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], index: Index) -> None:
        self.folder = folder
        self._header = header
        self._index = index
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._column = {name: number for number, name in enumerate(header["modalities"])}
        self._present: NDArray[np.bool_] = index["dtype"] >= 0
        self._reference = self._reference_columns()

    @classmethod
    def open(cls, folder: Path | str, *, expected: str | None = None) -> Store:
        """Opens a prepared folder; `expected` is the hash that it must have.

        Raises:
            StoreError: nothing prepared there, another format version, another hash, or a damaged index.
        """
        folder = Path(folder)
        path = folder / "store.json"
        header = read_json(path)
        if header is None:
            raise StoreError("no prepared data here, or its preparation did not finish", where=str(folder), todo=AGAIN)
        if header.get("format") != FORMAT:
            found = header.get("format")
            raise StoreError(f"format version {found}, this program reads {FORMAT}", where=str(path), todo=AGAIN)
        if expected is not None and header["hash"] != expected:
            raise StoreError("holds other data than expected (another hash)", where=str(path), todo=AGAIN)
        try:
            index = read_index(folder / "index.npz")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"unreadable index ({error})", where=str(folder / "index.npz"), todo=AGAIN) from None
        if bytes(index["hash"]).decode() != header["hash"]:
            raise StoreError("the index belongs to other data", where=str(folder / "index.npz"), todo=AGAIN)
        return cls(folder, header, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.folder), self.hash)

    def __len__(self) -> int:
        return len(self._index["shard"])

    def _reference_columns(self) -> NDArray[np.int64]:
        """For each clip the column of its reference modality: rgb, else depth, else the first that it has."""
        columns = self._present.argmax(axis=1) if self._present.size else np.zeros(len(self), np.int64)
        for name in reversed(REFERENCES):
            if name in self._column:
                columns = np.where(self._present[:, self._column[name]], self._column[name], columns)
        return columns.astype(np.int64)

    @property
    def hash(self) -> str:
        """Hash of everything that decides the contents: clips, labels, splits, source files, options."""
        return str(self._header["hash"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that were asked for, sorted; a clip may lack some (`has`)."""
        return tuple(self._header["modalities"])

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """By modality: options, tool and version that made it, and how many clips have it (`clips`, `derived`)."""
        return {name: dict(value) for name, value in self._header["provenance"].items()}

    @property
    def manifest_summary(self) -> dict[str, Any]:
        """`listed`, `prepared`, `splits` (clips by split), `split_hash` of the manifest, `problems` (count by kind)."""
        return dict(self._header["summary"])

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class names by head, in the order of the class numbers; heads in the manifest's order."""
        return {head: tuple(names) for head, names in self._header["classes"]}

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The listed clips that could not be prepared, each with its kind and reason."""
        return tuple(Problem(*entry) for entry in self._header["problems"])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Clip ids."""
        return decode_texts(self._index["ids"], self._index["ids_end"])

    @cached_property
    def clips(self) -> tuple[Clip, ...]:
        """The manifest rows of the prepared clips; read when first asked for."""
        path = self.folder / "clips.csv"
        clips = read_manifest(path).clips
        if len(clips) != len(self):
            raise StoreError(f"{len(clips)} rows for {len(self)} prepared clips", where=str(path), todo=AGAIN)
        return clips

    def labels(self, head: str) -> NDArray[np.int64]:
        """Class numbers (N,) of a head, -1 where a clip has no such label.

        Raises:
            StoreError: no clip has such labels.
        """
        if f"label:{head}" not in self._index:
            raise StoreError(f"no labels {head!r}", where=str(self.folder), todo=f"Known: {', '.join(self.classes)}")
        return self._index[f"label:{head}"].astype(np.int64)

    def indices(self, split: str) -> NDArray[np.int64]:
        """The numbers of the clips of a split, increasing; none where no clip has that split."""
        splits = list(self._header["splits"])
        number = splits.index(split) if split in splits else -1
        return np.flatnonzero(self._index["split"] == number).astype(np.int64)

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Which clips have the modality, (N,)."""
        column = self._column.get(modality)
        return np.zeros(len(self), np.bool_) if column is None else self._present[:, column].copy()

    def has(self, index: int, modality: str) -> bool:
        """Whether clip `index` has the modality."""
        column = self._column.get(modality)
        return column is not None and bool(self._present[index, column])

    def signal(self, index: int, modality: str) -> Signal:
        """One modality of one clip: read-only views of the memory map, nothing is copied.

        Raises:
            StoreError: the clip lacks the modality, or its shard is absent or cut.
        """
        if not self.has(index, modality):
            raise StoreError(f"clip {self.ids[index]!r} has no {modality}", where=str(self.folder))
        column = self._column[modality]
        table = self._index
        dtype = np.dtype(self._header["dtypes"][table["dtype"][index, column]])
        shape = tuple(table["shape"][index, column, : table["ndim"][index, column]].tolist())
        shard, times_at = int(table["shard"][index]), int(table["times"][index, column])
        values = self._view(shard, int(table["offset"][index, column]), dtype, shape)
        times = None if times_at < 0 else self._view(shard, times_at, np.dtype("<f8"), shape[:1])
        return Signal(values, float(table["rate"][index, column]), float(table["start"][index, column]), times)

    def duration(self, index: int) -> float:
        """Seconds from the clip's start to the end of its last frame (of the reference modality)."""
        return float(self._index["end"][index, self._reference[index]])

    def frames(self, index: int) -> int:
        """Number of frames of the clip's reference modality: rgb, else depth, else the first that it has."""
        return int(self._index["shape"][index, self._reference[index], 0])

    def rate(self, index: int) -> float:
        """Frames a second of the clip's reference modality."""
        return float(self._index["rate"][index, self._reference[index]])

    def frame_size(self, index: int) -> tuple[int, int]:
        """(H, W) of the clip's reference modality where that is frames, else (1, 1)."""
        column = self._reference[index]
        if self._index["ndim"][index, column] != 4:
            return 1, 1
        height, width = self._index["shape"][index, column, 1:3]
        return int(height), int(width)

    def complete(self) -> bool:
        """Whether every shard is there in full."""
        paths = ((shard_path(self.folder, number), size) for number, size in enumerate(self._header["shards"]))
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    def _view(self, shard: int, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if shard not in self._maps:
            self._maps[shard] = self._map(shard)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._maps[shard][offset : offset + size].view(dtype).reshape(shape)

    def _map(self, shard: int) -> NDArray[np.uint8]:
        path, size = shard_path(self.folder, shard), self._header["shards"][shard]
        if not path.is_file() or path.stat().st_size != size:
            raise StoreError("this part of the prepared data is absent or cut", where=str(path), todo=AGAIN)
        try:
            return np.asarray(np.memmap(path, np.uint8, mode="r"))
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", where=str(path)) from None
