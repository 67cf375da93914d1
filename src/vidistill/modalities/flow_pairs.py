"""Flow kept as grey images in an HDF5 file, u and v in turn, as Radevski et al. (ICCV 2023) published it."""

from __future__ import annotations

from pathlib import Path

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Signal
from vidistill.modalities.base import make_signal, within


def read_pairs(path: Path, key: str | None, clip: Clip, rate: float | None) -> tuple[Signal, dict[str, float]] | None:
    """A clip's flow as levels, uint8 (T, H, W, 2), and what the file says of its levels (see `FlowPairs.levels`).

    Returns:
        None where the source is something else than grey images of an HDF5 file.

    Raises:
        DecodeError: the file is damaged, or an image has no partner.
        DataError: nothing lies within the clip's seconds.
    """
    from vidistill.data.hdf5_frames import SUFFIXES, FlowPairs, holds_grey_images  # needed at prepare time only

    if key is None or path.suffix.lower() not in SUFFIXES or not holds_grey_images(path, key):
        return None
    with FlowPairs(path, key, rate or clip.fps) as source:
        inside = within(source.times, source.rate, clip)
        if not len(inside):
            raise DataError(f"no frame between {clip.start} and {clip.end} s", where=f"{path}#{key}")
        return make_signal(source.read(inside), source.times[inside] - clip.start, source.rate), source.levels
