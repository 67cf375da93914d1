"""Flow as pairs of grey images, `flow_x_*` and `flow_y_*` or `u/*` and `v/*`, behind `FrameSource`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.data.containers import DEFAULT_LIMITS, IMAGES, FrameSource, Limits, decode_image
from vidistill.data.frame_series import direction_pairs, flow_pairs


def pairs_in(path: Path) -> list[tuple[str, str]]:
    """Names of u and v of each flow image in a folder, by number; empty where it holds no flow.

    Raises:
        DataError: an image has no partner, or two.
    """
    if not path.is_dir():
        return []
    u, v = path / "u", path / "v"
    if u.is_dir() and v.is_dir():
        return direction_pairs(_images(u), _images(v), str(path))
    return flow_pairs(_images(path), str(path))


def published_rate(path: Path) -> float | None:
    """Flow images a second of a folder `P01_11` with `u` and `v`, as EPIC-KITCHENS publishes it; None elsewhere."""
    from vidistill.data.formats.epic_rows import VIDEO, flow_rate  # formats are many, and needed for this name alone

    published = VIDEO.fullmatch(path.name) is not None and (path / "u").is_dir() and (path / "v").is_dir()
    return flow_rate(path.name) if published else None


def _images(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith(".")]


class FlowFolder(FrameSource):
    """The flow images of a folder as levels, uint8 (T, H, W, 2): u, v. Other images there are passed over.

    Raises:
        DataError: an image has no partner; `DecodeError`: there are none, or they cannot be read.
    """

    def __init__(self, path: Path, rate: float | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        self.pairs = pairs_in(path)
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
