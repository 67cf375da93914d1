"""One clip's signals as datasets of the published HDF5 layout: encoded frames, interleaved flow, raw sound.

Every dataset carries what a reader can check: `complete`, `sha256` of its elements, `rate`, and `clip`, a hash of what
it was made from. Flow also says what its grey levels mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Signal
from vidistill.data.hdf5_frames import opened
from vidistill.data.manifest import Problem

PACKED = ("rgb", "flow", "audio")
"""Modalities that the published layout has a file for, and that are written."""
BYTES = h5py.vlen_dtype(np.uint8)
ZERO_LEVEL = 128.0
"""Grey level of no motion: a whole number, so that what stands still is exactly 0 when read back."""


@dataclass(frozen=True)
class PackOptions:
    """How frames are encoded.

    Attributes:
        quality: of JPEG, 1 to 100.
        lossless: PNG instead of JPEG, for flow and pictures.
        flow_bound: pixels a frame that become grey level 255 or 1; more is clamped.
    """

    quality: int = 95
    lossless: bool = False
    flow_bound: float = 20.0

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100 or self.flow_bound <= 0:
            raise RecipeError("quality is 1 to 100 and flow_bound above 0", where="pack")

    @property
    def pixels_per_level(self) -> float:
        """Pixels of motion a grey level."""
        return self.flow_bound / 127.0


def write_signal(file: h5py.Group, key: str, modality: str, signal: Signal, options: PackOptions, stamp: str) -> None:
    """One dataset at `key`: rgb (T, H, W, 3) or flow (T, H, W, 2) as encoded images, audio (samples,) as float32.

    Frames have no clock in this layout: uneven ones are said to come at their mean rate.

    Raises:
        DataError: the signal has another shape or type.
    """
    values = np.asarray(signal.values)
    if modality == "audio":
        dataset, checksum = _write_sound(file, key, signal)
    else:
        images = flow_images(values, options.pixels_per_level) if modality == "flow" else pictures(values)
        dataset = file.create_dataset(key, (len(images),), BYTES)
        encoded = [encode_image(image, options) for image in images]
        for number, data in enumerate(encoded):
            dataset[number] = data
        checksum = checksum_of(encoded)
    if modality == "flow":
        dataset.attrs["pixels_per_level"], dataset.attrs["zero"] = options.pixels_per_level, ZERO_LEVEL
    dataset.attrs["rate"], dataset.attrs["sha256"] = mean_rate(signal), checksum
    dataset.attrs["clip"], dataset.attrs["complete"] = stamp, True


def _write_sound(file: h5py.Group, key: str, signal: Signal) -> tuple[h5py.Dataset, str]:
    """The samples from the clip's start on: silence where the sound begins later."""
    values = np.asarray(signal.values)
    wave = np.ascontiguousarray(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values, "<f4")
    if wave.ndim != 1:
        raise DataError(f"one channel of sound is expected, not {wave.shape}", where=key)
    late = max(round(signal.start * signal.rate), 0)
    wave = np.concatenate((np.zeros(late, "<f4"), wave))
    return file.create_dataset(key, data=wave), checksum_of([wave.view(np.uint8)])


def pictures(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) uint8 as OpenCV takes them.

    Raises:
        DataError: something else.
    """
    if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
        raise DataError(f"pictures uint8 (T, H, W, 3) are expected, not {values.dtype} {values.shape}")
    return np.asarray(values[..., ::-1])


def flow_images(values: NDArray[Any], pixels_per_level: float) -> NDArray[np.uint8]:
    """Flow (T, H, W, 2) in pixels as grey images (2T, H, W): u of frame i at 2i, v at 2i + 1.

    Raises:
        DataError: something else than flow.
    """
    if values.ndim != 4 or values.shape[3] != 2 or values.dtype.kind != "f":
        raise DataError(f"flow (T, H, W, 2) in pixels is expected, not {values.dtype} {values.shape}")
    levels = np.clip(np.rint(values.astype(np.float32) / pixels_per_level + ZERO_LEVEL), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 3, 1)).reshape(-1, *values.shape[1:3])


def encode_image(image: NDArray[np.uint8], options: PackOptions) -> NDArray[np.uint8]:
    """One image (H, W) or (H, W, 3) BGR as the bytes of a JPEG or PNG file (N,).

    Raises:
        DataError: it cannot be encoded (larger than 65,500 pixels a side).
    """
    kind, settings = (".png", []) if options.lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    try:
        done, data = cv2.imencode(kind, np.ascontiguousarray(image), settings)
    except cv2.error as error:
        raise DataError(f"an image of {image.shape} cannot be encoded ({error.err})") from None
    if not done:
        raise DataError(f"an image of {image.shape} cannot be encoded")
    return np.asarray(data, np.uint8).reshape(-1)


def mean_rate(signal: Signal) -> float:
    """Samples a second, of uneven ones on average."""
    if signal.times is None or len(signal) < 2:
        return float(signal.rate)
    return float((len(signal) - 1) / (signal.times[-1] - signal.times[0]))


def checksum_of(elements: Iterable[NDArray[np.uint8]]) -> str:
    """SHA-256 over the length and the bytes of each element."""
    total = hashlib.sha256()
    for element in elements:
        total.update(len(element).to_bytes(8, "little"))
        total.update(np.ascontiguousarray(element).data)
    return total.hexdigest()


def packed_stamps(file: h5py.File) -> dict[str, str]:
    """Key and stamp of the datasets that were written to their end."""
    stamps: dict[str, str] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.attrs.get("complete"):
            stamps[key] = str(item.attrs.get("clip", ""))

    file.visititems(visit)
    return stamps


def verify_pack(path: Path) -> list[Problem]:
    """Reads a packed file to its end and names the datasets whose bytes are not those that were written.

    Raises:
        DecodeError: no readable HDF5 file.
    """
    problems: list[Problem] = []
    with opened(path) as file:
        for key in packed_stamps(file):
            dataset = file[key]
            try:
                rows = dataset[:]
            except (OSError, RuntimeError) as error:
                problems.append(Problem(key, "corrupt", f"{path.name}: {error}"))
                continue
            elements = [rows.view(np.uint8)] if rows.dtype.kind == "f" else [np.asarray(row, np.uint8) for row in rows]
            if checksum_of(elements) != dataset.attrs["sha256"]:
                problems.append(Problem(key, "corrupt", f"{path.name}: the checksum does not fit"))
    return problems
