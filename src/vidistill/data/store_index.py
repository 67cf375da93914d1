"""The index of a store: one compact row a clip, so that opening a store of any size is quick.

`index.npz` holds plain arrays (no pickle); `store.json` holds what does not grow with the number of clips; `clips.csv`
holds the manifest rows of the prepared clips and is read only by those who ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.types import Clip
from vidistill.data.shards import beside, writing

MAX_DIMENSIONS = 5
REFERENCES = ("rgb", "depth")
"""The modalities whose frames count as the clip's frames, best first; after them the first one that the clip has."""

Index = dict[str, NDArray[Any]]


def reference(available: Sequence[str]) -> str:
    """The modality that gives a clip its frames, rate and duration."""
    return next((name for name in REFERENCES if name in available), available[0])


def encode_texts(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts as one block of UTF-8 bytes and the offset at which each ends."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def decode_texts(block: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[str, ...]:
    """The inverse of `encode_texts`."""
    data, bounds = block.tobytes(), [0, *ends.tolist()]
    return tuple(
        data[left:right].decode("utf-8", "surrogateescape") for left, right in zip(bounds, bounds[1:], strict=False)
    )


def index_columns(count: int, modalities: int) -> Index:
    """Empty columns for `count` clips: one number a clip and modality, -1 where the clip lacks it."""
    grid = (count, modalities)
    return {
        "shard": np.zeros(count, np.int32),
        "dtype": np.full(grid, -1, np.int8),
        "derived": np.zeros(grid, np.bool_),
        "offset": np.full(grid, -1, np.int64),
        "times": np.full(grid, -1, np.int64),
        "ndim": np.zeros(grid, np.int8),
        "shape": np.zeros((*grid, MAX_DIMENSIONS), np.int32),
        "rate": np.zeros(grid, np.float64),
        "start": np.zeros(grid, np.float64),
        "end": np.zeros(grid, np.float64),
    }


def fill_row(
    index: Index, row: int, shard: int, signals: Mapping[str, Any], modalities: Sequence[str], dtypes: list[str]
) -> None:
    """Writes what a shard says about one clip into row `row`; new types are appended to `dtypes`."""
    index["shard"][row] = shard
    for column, name in enumerate(modalities):
        entry = signals.get(name)
        if entry is None:
            continue
        if entry["dtype"] not in dtypes:
            dtypes.append(entry["dtype"])
        at, shape = (row, column), entry["shape"]
        index["dtype"][at] = dtypes.index(entry["dtype"])
        index["ndim"][at] = len(shape)
        index["shape"][row, column, : len(shape)] = shape
        index["times"][at] = -1 if entry["times"] is None else entry["times"]
        for key in ("derived", "offset", "rate", "start", "end"):
            index[key][at] = entry[key]


def label_columns(
    clips: Sequence[Clip], classes: Mapping[str, Sequence[str]], splits: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Ids, splits and labels of clips as columns (`label:<head>`: class number, -1 where absent)."""
    block, ends = encode_texts(clip.id for clip in clips)
    columns: Index = {"ids": block, "ids_end": ends}
    numbers = {name: number for number, name in enumerate(splits)}
    columns["split"] = np.array([numbers[clip.split] for clip in clips], np.int16)
    for head, names in classes.items():
        known = {name: number for number, name in enumerate(names)}
        columns[f"label:{head}"] = np.array([known.get(clip.labels.get(head, ""), -1) for clip in clips], np.int32)
    return columns


def write_index(path: Path, index: Index) -> None:
    """All columns in one uncompressed `.npz`, beside and renamed."""
    with beside(path) as file, writing(path):
        np.savez(file, **index)  # type: ignore[arg-type]


def read_index(path: Path) -> Index:
    """All columns of an index.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: absent or damaged.
    """
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
