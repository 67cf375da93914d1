"""Sound and detections of published HDF5 files (Radevski et al., ICCV 2023): raw samples, and Python literals."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.core.types import Signal
from vidistill.data.containers import DEFAULT_LIMITS, Limits
from vidistill.data.hdf5_frames import dataset_of, opened, positive, stretch_of

SOUND_RATE = 24_000
"""Samples a second of the published waveforms, which do not say it themselves."""
LONGEST_LITERAL = 1 << 18
"""Bytes of one frame's detections; a longer literal is refused before it is parsed."""


def read_waveform(
    path: Path,
    key: str,
    rate: int = 16_000,
    stored_rate: int = SOUND_RATE,
    *,
    start: float = 0.0,
    end: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Signal:
    """A stretch of a recording's samples, float32 (samples,) at `rate`, with times from the stretch's start.

    Only the stretch is read. Integer samples are scaled to [-1, 1); several channels (samples, C) are averaged.

    Args:
        path: the file.
        key: the dataset; seconds in it (`stretch_of`) go before `start` and `end`.
        rate: samples a second to give.
        stored_rate: samples a second of the dataset; its attribute `rate` goes before it.
        start: seconds.
        end: seconds; None: to the end.
        limits: what may be read.

    Raises:
        DecodeError: no such dataset, no samples, none within the stretch, or numbers that are not finite.
    """
    name, first, last = stretch_of(key)
    start, end = (start, end) if first is None else (first, last)
    where = f"{path}#{name}"
    with opened(path) as file:
        dataset = dataset_of(file, name)
        if dataset.ndim not in (1, 2) or dataset.dtype.kind not in "fi":
            raise DecodeError(f"{dataset.dtype} of shape {dataset.shape} is not sound", where=where)
        stored = positive(dataset.attrs.get("rate")) or float(stored_rate)
        low = min(round(start * stored), len(dataset))
        high = len(dataset) if end is None else min(round(end * stored), len(dataset))
        if high <= low:
            raise DecodeError(f"no sound between {start} s and {end} s of {len(dataset) / stored:.2f} s", where=where)
        limits.check(where, 0, 0, (high - low) * 4)
        wave = np.asarray(dataset[low:high])
    if wave.dtype.kind == "i":
        wave = wave / -float(np.iinfo(wave.dtype).min)
    wave = np.ascontiguousarray(wave if wave.ndim == 1 else wave.mean(1), np.float32)
    if not np.isfinite(wave).all():
        raise DecodeError("holds samples that are not finite", where=where)
    return Signal(resampled(wave, round(stored), rate), float(rate))


def resampled(wave: NDArray[np.float32], have: int, want: int) -> NDArray[np.float32]:
    """Mono samples (samples,) at another rate, by FFmpeg's resampler."""
    if have == want:
        return wave
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate = have
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=want)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces]).astype(np.float32)


@dataclass(frozen=True)
class Detection:
    """One detected box as stored: corners x1, y1, x2, y2, in the file's own unit; state and side of hands only."""

    box: tuple[float, float, float, float]
    category: str
    score: float
    state: int | None = None
    side: int | None = None


def read_detections(path: Path, recording: str, indices: Iterable[int]) -> list[tuple[Detection, ...]]:
    """The detections of frames of a recording, stored as `/<recording>/<index>`: a tuple a frame, in their order.

    Raises:
        DecodeError: a frame is absent, or what is stored is no list of detections; the key is named.
    """
    with opened(path) as file:
        return [
            parse_detections(_literal(file, f"{recording}/{index}"), f"{path}#{recording}/{index}") for index in indices
        ]


def _literal(file: h5py.File, key: str) -> bytes:
    dataset = dataset_of(file, key)
    if dataset.shape != () or dataset.dtype.kind not in "SO" or dataset.dtype.itemsize > LONGEST_LITERAL:
        raise DecodeError(f"dataset {key!r} is not one text of at most {LONGEST_LITERAL} bytes", where=file.filename)
    value = dataset[()]
    return value if isinstance(value, bytes) else str(value).encode()


def parse_detections(literal: bytes, where: str) -> tuple[Detection, ...]:
    """A Python literal `[{"box": [x1, y1, x2, y2], "category": ..., "score": ...}, ...]`; nothing in it is run.

    Raises:
        DecodeError: too long, no such literal, or numbers that are not finite.
    """
    if len(literal) > LONGEST_LITERAL:
        raise DecodeError(f"{len(literal)} bytes of detections, at most {LONGEST_LITERAL} are read", where=where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of odd escapes and numbers, which are judged by the result
            rows = ast.literal_eval(literal.decode("utf-8").strip())
        if not isinstance(rows, list | tuple):
            raise TypeError
        found = tuple(_detection(row) for row in rows)
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, MemoryError, RecursionError) as error:
        raise DecodeError(f"not a list of detections ({type(error).__name__})", where=where) from None
    if not all(math.isfinite(number) for each in found for number in (*each.box, each.score)):
        raise DecodeError("a box or a score is not finite", where=where)
    return found


def _detection(row: dict[str, Any]) -> Detection:
    x1, y1, x2, y2 = (float(number) for number in row["box"])
    state, side = (None if row.get(name) is None else int(row[name]) for name in ("state", "side"))
    return Detection((x1, y1, x2, y2), str(row["category"]), float(row["score"]), state, side)
