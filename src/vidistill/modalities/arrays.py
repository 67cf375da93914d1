"""Signals kept as arrays: joints, boxes, sensor samples."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.types import Clip, Signal
from vidistill.modalities.base import cut


def array_signal(path: Path, key: str | None, clip: Clip, rate: float | None, default_rate: float) -> Signal:
    """An array of a file (`.npy`, `.npz` or HDF5 with `key`) as a clip's signal.

    Arrays know no clock: samples are `rate` a second, else the clip's fps, else `default_rate`.

    Raises:
        DecodeError: unreadable or empty.
        DataError: nothing lies within the clip's seconds.
    """
    from vidistill.data.decoding import read_all  # the decoder is needed at prepare time only

    values = read_all(path, key).values
    return cut(Signal(values, rate or clip.fps or default_rate), clip)
