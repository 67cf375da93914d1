"""Flow as pairs of grey images, `flow_x_*` and `flow_y_*`, behind `FrameSource`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.data.containers import DEFAULT_LIMITS, IMAGES, FrameSource, Limits, decode_image
from vidistill.data.frame_series import flow_pairs


class FlowFolder(FrameSource):
    """The flow images of a folder as levels, uint8 (T, H, W, 2): u, v. Other images there are passed over.

    Raises:
        DataError: an image has no partner; `DecodeError`: there are none, or they cannot be read.
    """

    def __init__(self, path: Path, rate: float | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        names = (file.name for file in path.iterdir() if file.suffix.lower() in IMAGES)
        self.pairs = flow_pairs(names, str(path))
        self._clock(len(self.pairs), rate)
        first = self._pair(0)
        self.size = (first.shape[0], first.shape[1])
        self._bytes = first.nbytes

    def _pair(self, index: int) -> NDArray[np.uint8]:
        """One image (H, W, 2); of pictures that were saved in colour the first channel counts."""
        files = [self.path / name for name in self.pairs[index]]
        x, y = (decode_image(file, str(file), self.limits)[..., :1] for file in files)
        if x.shape != y.shape or x.dtype != np.uint8 or y.dtype != np.uint8:
            raise DecodeError(
                f"{files[0].name} and {files[1].name} are not 8-bit images of one size", where=str(self.path)
            )
        return np.concatenate((x, y), -1)

    def _read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.limits.check(self.path, len(indices), 0, len(indices) * self._bytes)
        read = [self._pair(int(index)) for index in indices]
        shapes = {image.shape for image in read}
        if len(shapes) > 1:
            raise DecodeError("holds flow of different sizes", where=str(self.path))
        return np.stack(read) if read else np.empty((0, *self.size, 2), np.uint8)
