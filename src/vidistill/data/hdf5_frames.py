"""The HDF5 files of Radevski et al. (Multimodal Distillation for Egocentric Action Recognition, ICCV 2023), read as is.

One file a modality. Frames are a dataset of encoded images, `/<clip>` or `/<recording>/<clip>`, which
`containers.Hdf5Frames` reads. Here is what else concerns frames: flow as grey images (u of frame i at 2i, v at 2i + 1),
and clips that are not in a file. Sound and detections are read by `hdf5_signals`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.types import Clip
from vidistill.data.containers import DEFAULT_LIMITS, Frames, FrameSource, Hdf5Frames, Limits
from vidistill.data.manifest import Manifest, Problem, resolve

SUFFIXES = (".h5", ".hdf5")
LEVELS = ("pixels_per_level", "zero")
"""Attributes of packed flow."""
STRETCH = re.compile(r"^(?P<name>.+)\[(?P<start>\d+(?:\.\d*)?):(?P<end>\d+(?:\.\d*)?)?\]$", re.DOTALL)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading while the block runs.

    Raises:
        DecodeError: it is absent, no HDF5 file, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DecodeError(f"not a readable HDF5 file ({error})", where=str(path)) from None


def dataset_of(file: h5py.File, key: str) -> h5py.Dataset:
    """The dataset at `key`.

    Raises:
        DecodeError: there is none; both names are given.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise DecodeError(f"holds no dataset {key!r}", where=file.filename, todo="Is the file a part of the set?")
    return found


def encoded_frames(path: Path, key: str) -> list[bytes]:
    """The encoded images of a dataset as they are stored; fixed-length ones without their trailing NULs.

    Raises:
        DecodeError: no such dataset, or no series of encoded images.
    """
    with opened(path) as file:
        dataset = dataset_of(file, key)
        if dataset.ndim != 1 or dataset.dtype.kind not in "SO":
            raise DecodeError(f"dataset {key!r} does not hold encoded images", where=str(path))
        return [row if isinstance(row, bytes) else np.asarray(row, np.uint8).tobytes() for row in dataset[:]]


class FlowPairs(FrameSource):
    """Flow as grey images, u of frame i at 2i and v at 2i + 1: `read` gives uint8 (T, H, W, 2).

    Attributes:
        levels: what the file says of its grey levels (`vidistill pack` does, the published files do not):
            `pixels_per_level`, pixels a grey level, and `zero`, the level of no motion.

    Raises:
        DecodeError: as `Hdf5Frames`; also where the images are not grey, or one has no partner.
    """

    def __init__(self, path: Path, key: str, rate: float | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        self._images = Hdf5Frames(path, key, rate, limits)
        if self._images.frames % 2:
            raise DecodeError(f"dataset {key!r} has {self._images.frames} images, not u and v in turn", where=str(path))
        if not _grey(self._images):
            raise DecodeError(f"dataset {key!r} does not hold grey images", where=str(path))
        self._clock(self._images.frames // 2, rate)
        self.size = self._images.size
        with opened(path) as file:
            stated = dataset_of(file, key).attrs
            numbers = {name: positive(stated.get(name)) for name in LEVELS}
        self.levels = {name: number for name, number in numbers.items() if number is not None}

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        images = self._images.read(np.stack((2 * indices, 2 * indices + 1), 1).ravel())
        height, width = self.size
        return np.ascontiguousarray(np.moveaxis(images.reshape(len(indices), 2, height, width), 1, 3))

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._images.close()


def holds_grey_images(path: Path, key: str) -> bool:
    """Whether a dataset is a series of encoded images of one channel.

    Raises:
        DecodeError: no such dataset, or its first image is damaged.
    """
    with Hdf5Frames(path, key) as source:
        return _grey(source)


def _grey(source: Hdf5Frames) -> bool:
    return source.encoded and bool(source.read([0]).shape[3] == 1)


def positive(value: Any) -> float | None:
    """A file's attribute as a number above 0, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def stretch_of(key: str) -> tuple[str, float | None, float | None]:
    """The dataset, and the seconds, that a key `recording[12.5:14.39]` names; None where it names no seconds.

    A clip of frames starts at its own first frame while the sound is the recording's: the key says where the clip is.
    """
    found = STRETCH.match(key)
    if found is None:
        return key, None, None
    return found["name"], float(found["start"]), float(found["end"]) if found["end"] else None


def without_absent(manifest: Manifest, required: Sequence[str]) -> Manifest:
    """A partial set: clips whose `required` dataset is not in its file become problems, other absent sources go.

    Each file is opened once. Sources that are no keys of HDF5 files are left as they are.

    Raises:
        DataError: a file cannot be read, or not one clip is left; the first absent one is named.
    """
    wanted: dict[Path, set[str]] = defaultdict(set)
    for clip in manifest.clips:
        for path, name in _datasets(manifest.root, clip).values():
            wanted[path].add(name)
    absent: dict[Path, set[str]] = {}
    for path, names in wanted.items():
        with opened(path) as file:
            absent[path] = {name for name in names if name not in file}
    kept, problems = [], list(manifest.problems)
    for clip in manifest.clips:
        datasets = _datasets(manifest.root, clip)
        gone = {modality: name for modality, (path, name) in datasets.items() if name in absent[path]}
        missing = next((modality for modality in required if modality in gone), None)
        if missing is None:
            sources = {name: source for name, source in clip.sources.items() if name not in gone}
            kept.append(replace(clip, sources=sources) if gone else clip)
        else:
            message = f"{missing}: {datasets[missing][0].name} holds no {gone[missing]!r}"
            problems.append(Problem(clip.id, "missing", message))
    if manifest.clips and not kept:
        first = problems[-1]
        raise DataError(f"none of {len(problems)} clips is there, e.g. {first.message}", where=str(manifest.root))
    return replace(manifest, clips=tuple(kept), problems=tuple(problems))


def _datasets(root: Path, clip: Clip) -> dict[str, tuple[Path, str]]:
    """File and dataset of each of a clip's modalities that lies in an HDF5 file that is there."""
    found = {name: resolve(root, source) for name, source in clip.sources.items()}
    return {
        name: (path, stretch_of(key)[0])
        for name, (path, key) in found.items()
        if key is not None and path.suffix.lower() in SUFFIXES and path.is_file()
    }
