"""Frames that are stored already: image folders, NumPy arrays, HDF5 datasets; all behind `FrameSource`."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vidistill.core.errors import DecodeError
from vidistill.core.registry import nearest
from vidistill.data.frame_series import still_names

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULT_RATE = 30.0
"""Frames a second of sources that have no clock of their own (image folders, arrays)."""

MANY = 1000
"""Names of an HDF5 file that are searched for a misspelt one."""

Frames = NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What one source may ask for at most; beyond it is an error, so that no file can exhaust the memory.

    `max_frames` in one read, `max_pixels` a frame, `max_bytes` of the array (or sound) that a read returns.
    """

    max_frames: int = 200_000
    max_pixels: int = 1 << 25
    max_bytes: int = 4 << 30

    def check(self, path: object, frames: int, pixels: int, size: int) -> None:
        """Refuse more than is allowed.

        Raises:
            DecodeError: naming the file, what it asks for and the limit.
        """
        for what, asked, most in (
            ("frames", frames, self.max_frames),
            ("pixels a frame", pixels, self.max_pixels),
            ("bytes", size, self.max_bytes),
        ):
            if asked > most:
                raise DecodeError(f"asks for {asked} {what}, more than the limit of {most}", where=str(path))


DEFAULT_LIMITS = Limits()


class FrameSource(ABC):
    """Frames of one file or folder, read by index.

    Attributes:
        frames: how many there are (at least 1).
        rate: frames a second, > 0.
        times: (frames,) seconds, increasing, the first is 0.
        size: (H, W) in pixels as `read` gives them, after rotation.
    """

    frames: int
    rate: float
    times: NDArray[np.float64]
    size: tuple[int, int]

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        self.limits = limits

    @abstractmethod
    def _read(self, indices: NDArray[np.int64]) -> Frames:
        """Frames at increasing, distinct, valid indices."""

    def close(self) -> None:
        """Let the file go; reading is over."""
        return None

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Frames:
        """Frames (T, H, W, C) at `indices`, in their order; repeats are allowed.

        Video and images give uint8 RGB (deep grey images keep their type); arrays keep shape and type.

        Raises:
            IndexError: an index is not in [0, frames).
            DecodeError: the file is damaged, or more is asked for than the limits allow.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.frames):
            raise IndexError(f"{self.path}: frame indices must be in [0, {self.frames})")
        unique, back = np.unique(wanted, return_inverse=True)
        self.limits.check(self.path, len(wanted), 0, 0)
        read = self._read(unique)
        return read if len(unique) == len(wanted) and bool(np.all(back[1:] > back[:-1])) else read[back]

    def _clock(self, frames: int, rate: float | None) -> None:
        """Set an even clock: `rate`, or the default where nothing is known."""
        if frames < 1:
            raise DecodeError("holds no frames", where=str(self.path))
        self.frames = frames
        self.rate = rate or DEFAULT_RATE
        self.times = np.arange(frames) / self.rate

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which `img_10` comes after `img_9`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def decode_image(file: Path | BinaryIO, where: str, limits: Limits = DEFAULT_LIMITS) -> NDArray[Any]:
    """One image (H, W, C): RGB or grey uint8; 16- and 32-bit grey images keep their depth. EXIF rotation is applied.

    Raises:
        DecodeError: not an image, truncated, or larger than the limits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            limits.check(where, 1, image.width * image.height, 0)
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith(("I", "F"))
            array = np.asarray(upright if deep or upright.mode == "L" else upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError(f"not a readable image ({error})", where=where) from None
    return array[:, :, None] if array.ndim == 2 else array


def _stack(images: list[NDArray[Any]], where: object) -> Frames:
    """Images of one shape as (T, H, W, C)."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise DecodeError(f"holds images of different sizes ({shapes[0]} and {shapes[-1]})", where=str(where))
    return np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8)


class ImageFolder(FrameSource):
    """A folder with one image a frame, in natural order of their names; flow that lies beside them is passed over."""

    def __init__(self, path: Path, rate: float | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        inside = (f.name for f in path.iterdir() if f.suffix.lower() in IMAGES and not f.name.startswith("."))
        self.files = [path / name for name in sorted(still_names(inside), key=natural_key)]
        if not self.files:
            raise DecodeError("the folder holds no images", where=str(path), todo=f"Known: {', '.join(IMAGES)}")
        self._clock(len(self.files), rate)
        first = decode_image(self.files[0], str(self.files[0]), limits)
        self.size = (first.shape[0], first.shape[1])
        self._bytes = first.nbytes

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        self.limits.check(self.path, len(indices), 0, len(indices) * self._bytes)
        return _stack([decode_image(self.files[i], str(self.files[i]), self.limits) for i in indices], self.path)


class ArrayFrames(FrameSource):
    """A `.npy` file (memory-mapped) or one array of an `.npz` file, time first; shape and type are kept."""

    def __init__(
        self, path: Path, key: str | None = None, rate: float | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        super().__init__(path, limits)
        try:
            if path.suffix.lower() == ".npy":
                self.values: Frames = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                self.values = self._member(key)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DecodeError(f"not a readable array ({error})", where=str(path)) from None
        if self.values.ndim == 0:
            raise DecodeError("holds a single number, not an array over time", where=str(path))
        self._clock(len(self.values), rate)
        self.size = (self.values.shape[1], self.values.shape[2]) if self.values.ndim >= 3 else (1, 1)

    def _member(self, key: str | None) -> Frames:
        """One array of an `.npz` file; its declared size is checked before it is read."""
        with zipfile.ZipFile(self.path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                todo = f"Name one as {self.path.name}#<key>" if key is None else nearest(key, names)
                raise DecodeError(
                    f"holds {len(names)} arrays" if key is None else f"holds no array {key!r}",
                    where=str(self.path),
                    todo=todo if len(todo) < 200 else "",
                )
            member = archive.namelist()[names.index(key)]
            self.limits.check(f"{self.path}#{key}", 0, 0, archive.getinfo(member).file_size)
            with archive.open(member) as file:
                values = np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
        return np.asarray(values)

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        item = self.values.dtype.itemsize * int(np.prod(self.values.shape[1:]))
        self.limits.check(self.path, len(indices), 0, len(indices) * item)
        return np.asarray(self.values[indices])


class Hdf5Frames(FrameSource):
    """A dataset of an HDF5 file: a raw array with time first, or one encoded image (bytes) a frame.

    Encoded images may be fixed-length strings or variable-length uint8. The file is opened at the first read, in
    the process that reads (an open HDF5 file does not survive a fork).
    """

    def __init__(self, path: Path, key: str, rate: float | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        self.key = key
        self._file: h5py.File | None = None
        dataset = self._dataset()
        shape = tuple(int(n) for n in dataset.shape or ())
        self.encoded = dataset.dtype.kind in "SO"
        if not shape or (self.encoded and len(shape) != 1):
            raise DecodeError(f"dataset {key!r} of shape {shape} is not a series of frames", where=str(path))
        self._clock(shape[0], rate)
        self._item = dataset.dtype.itemsize * int(np.prod(shape[1:]))
        if self.encoded:
            first = self._read(np.zeros(1, np.int64))[0]
            shape, self._item = (shape[0], *first.shape), first.nbytes
        self.size = (shape[1], shape[2]) if len(shape) >= 3 else (1, 1)
        self.close()

    def _dataset(self) -> Any:
        """The dataset, of a file opened on demand."""
        try:
            if self._file is None:
                self._file = h5py.File(self.path, "r")
            found = self._file.get(self.key)
            if not isinstance(found, h5py.Dataset):
                # Published files hold 200,000 names: a nearest one is sought among few, or a partial set takes hours.
                todo = nearest(self.key, list(self._file)) if len(self._file) <= MANY else None
                raise DecodeError(f"holds no dataset {self.key!r}", where=str(self.path), todo=todo)
        except (OSError, KeyError, RuntimeError) as error:
            raise DecodeError(f"not a readable HDF5 file ({error})", where=str(self.path)) from None
        return found

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        dataset = self._dataset()
        if not self.encoded:
            self.limits.check(self.path, len(indices), 0, len(indices) * self._item)
        try:
            rows = dataset[indices] if len(indices) else dataset[:0]
        except (OSError, ValueError, RuntimeError) as error:
            raise DecodeError(f"dataset {self.key!r} is damaged ({error})", where=str(self.path)) from None
        if not self.encoded:
            return np.asarray(rows)
        images = []
        for index, row in zip(indices, rows, strict=True):
            data = row if isinstance(row, bytes) else np.asarray(row, dtype=np.uint8).tobytes()
            images.append(decode_image(io.BytesIO(data), f"{self.path}#{self.key}[{index}]", self.limits))
            self.limits.check(self.path, len(indices), 0, len(indices) * images[-1].nbytes)
        return _stack(images, self.path)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
