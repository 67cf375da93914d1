"""One way to read frames and sound: video files through PyAV, image folders, NumPy arrays, HDF5 datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.core.types import Signal
from vidistill.data.containers import DEFAULT_LIMITS, ArrayFrames, FrameSource, Hdf5Frames, ImageFolder, Limits
from vidistill.data.video import BROKEN, VideoFrames, open_media, reason

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


def _mono(container: Any, rate: int) -> Iterator[NDArray[np.float32]]:
    """Sound of the first audio stream at the wanted rate, channels averaged, in pieces (samples,)."""
    resampler = av.AudioResampler(format="fltp", rate=rate)
    for frame in container.decode(container.streams.audio[0]):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray().mean(axis=0, dtype=np.float32)
    for piece in resampler.resample(None):
        yield piece.to_ndarray().mean(axis=0, dtype=np.float32)


def read_audio(path: Path, rate: int = 16000, limits: Limits = DEFAULT_LIMITS) -> Signal | None:
    """The sound of a video or audio file: mono float32 (samples,) in [-1, 1] at `rate` Hz.

    Channels are averaged. The signal's `start` is when the sound begins, in seconds after the first picture.

    Returns:
        None where the file has no audio stream, or a stream without a sample.

    Raises:
        DecodeError: absent, empty, damaged, truncated or beyond the limits.
    """
    if not path.is_file():
        raise DecodeError("the file does not exist", where=str(path))
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)", where=str(path))
    _check_wave(path)
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream, video = container.streams.audio[0], container.streams.best("video")
        pieces: list[NDArray[np.float32]] = []
        count = 0
        try:
            for piece in _mono(container, rate):
                pieces.append(piece)
                count += len(piece)
                limits.check(path, 0, 0, 4 * count)
        except BROKEN as error:
            what = f"the sound breaks off after {count / rate:.2f} s ({reason(error)})"
            raise DecodeError(what, where=str(path)) from None
        listed = float((stream.duration or 0) * (stream.time_base or 0))
        start = _begins(stream) - (_begins(video) if video is not None else 0.0)
    if count / rate < 0.9 * listed - 0.5:
        raise DecodeError(f"truncated: {count / rate:.2f} of {listed:.2f} s of sound listed", where=str(path))
    if not count:
        return None
    return Signal(values=np.clip(np.concatenate(pieces), -1.0, 1.0), rate=float(rate), start=start)


def _check_wave(path: Path) -> None:
    """Refuse a WAV file that is shorter than its header says: the decoder would read the rest as if it were all.

    Raises:
        DecodeError: truncated. A size of 0 or of all ones (streamed files) says nothing.
    """
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    listed, there = int.from_bytes(header[4:8], "little"), path.stat().st_size - 8
    if listed != 0xFFFFFFFF and there < listed - 1:
        raise DecodeError(f"truncated: {there} of {listed} bytes listed are there", where=str(path))


def _begins(stream: Any) -> float:
    """When a stream begins, in seconds of its file's clock."""
    return float((stream.start_time or 0) * (stream.time_base or 0))
