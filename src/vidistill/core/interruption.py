"""Interrupted frames: which frames of a view are blanked and in which order its frames are shown.

Part of the seams because rooms on both sides need it: a curriculum decides it, a view carries it, encoders apply it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Interrupted:
    """What happens to the T frames of a view. First `order` is applied, then frames are blanked.

    Attributes:
        dropped: positions in [0, T) of frames that are set to zero, which is the mean colour after normalisation.
        order: permutation of range(T): position i shows frame `order[i]`.
    """

    dropped: tuple[int, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise DataError(f"{self.order} is not an order of {len(self.order)} frames")
        if len(set(self.dropped)) < len(self.dropped) or not set(self.dropped) <= set(self.order):
            raise DataError(f"{self.dropped} are not different positions among {len(self.order)} frames")

    def __len__(self) -> int:
        return len(self.order)

    def places(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The same interruption for an encoding of the view with `count` time steps.

        A step belongs to the frame in whose share of the view it lies. It is blanked with its frame, and moves as far
        as its frame does. Where `count` is a multiple of T, whole blocks of steps are exchanged.

        Returns:
            sources (count,): the step that each place shows; blank (count,): which places are blanked.
        """
        length = len(self.order)
        step = np.arange(count)
        frame = step * length // max(count, 1)
        moved = (np.array(self.order, np.int64) - np.arange(length))[frame]
        sources = np.clip(np.rint(step + moved * (count / max(length, 1))), 0, max(count - 1, 0)).astype(np.int64)
        return sources, np.isin(frame, self.dropped)


def apply_interruption(values: Tensor, time_axis: int, interrupted: Interrupted | None) -> Tensor:
    """An encoded view with its frames moved and blanked.

    Args:
        values: encoded and normalised, e.g. (C, T, H, W) with `time_axis` 1, (T, D) with 0, (B, C, T, H, W) with 2.
        time_axis: the axis of time; its length need not be the interruption's (see `Interrupted.places`).
        interrupted: None leaves the view as it is.

    Returns:
        The same shape; `values` itself where nothing changes, else a new tensor.
    """
    if interrupted is None or not len(interrupted):
        return values
    sources, blank = interrupted.places(values.shape[time_axis])
    if (sources != np.arange(len(sources))).any():
        values = values.index_select(time_axis, _index(values, sources))
    if blank.any():
        values = values.index_fill(time_axis, _index(values, np.flatnonzero(blank)), 0)
    return values


def _index(like: Tensor, places: NDArray[np.int64]) -> Tensor:
    """Places as an int64 tensor on the device of `like`."""
    import torch  # here, so that the seams load without torch

    return torch.from_numpy(places).to(like.device)
