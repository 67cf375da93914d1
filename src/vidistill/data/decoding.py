"""One way to read frames and sound: video files through PyAV, image folders, NumPy arrays, HDF5 datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidistill.core.errors import DecodeError
from vidistill.core.types import Signal
from vidistill.data.containers import DEFAULT_LIMITS, ArrayFrames, FrameSource, Hdf5Frames, ImageFolder, Limits
from vidistill.data.sound import read_audio
from vidistill.data.video import VideoFrames

__all__ = ["DEFAULT_LIMITS", "FrameSource", "Limits", "open_frames", "read_all", "read_audio"]


def open_frames(
    path: Path,
    key: str | None = None,
    *,
    rate: float | None = None,
    luma: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> FrameSource:
    """Open frames by what the path is: folder of images, `.npy`, `.npz`, HDF5 (with `key`), else a video file.

    Args:
        path: file or folder.
        key: array or dataset inside a container; None elsewhere (an `.npz` of one array needs none).
        rate: frames a second of sources without a clock (images, arrays); None: 30. Video has its own.
        luma: video only: the stored luma plane (T, H, W, 1) instead of RGB; depth videos need it.
        limits: what the source may ask for.

    Raises:
        DecodeError: absent, empty, truncated, damaged, not media, or beyond the limits; names the file.
    """
    if path.is_dir():
        return ImageFolder(path, rate, limits)
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        raise DecodeError("the file does not exist", where=str(path)) from None
    if size == 0:
        raise DecodeError("the file is empty (0 bytes)", where=str(path))
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return ArrayFrames(path, key, rate, limits)
    if suffix in (".h5", ".hdf5"):
        if key is None:
            raise DecodeError("no dataset is named", where=str(path), todo=f"Name one as {path.name}#<dataset>")
        return Hdf5Frames(path, key, rate, limits)
    return VideoFrames(path, luma, limits)


def read_all(
    path: Path,
    key: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    start: float = 0.0,
    end: float | None = None,
    rate: float | None = None,
    luma: bool = False,
) -> Signal:
    """All frames with their real times, or those shown in [start, end) seconds; times then count from `start`.

    Raises:
        DecodeError: as `open_frames`; also where a video gives fewer frames than it lists, or none in the range.
    """
    with open_frames(path, key, rate=rate, luma=luma, limits=limits) as source:
        inside = np.flatnonzero((source.times >= start - 1e-6) & (source.times < (np.inf if end is None else end)))
        if not len(inside):
            raise DecodeError(f"no frame between {start} s and {end} s of {source.times[-1]:.2f} s", where=str(path))
        values = source.read(inside)
        return Signal(values=values, rate=source.rate, times=source.times[inside] - start)
