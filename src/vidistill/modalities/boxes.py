"""Person (or object) boxes: x1, y1, x2, y2 as fractions of the frame, with a score, a fixed number a frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.arrays import array_signal
from vidistill.modalities.base import MODALITIES, Encoding, SourceOptions, select


@dataclass(frozen=True)
class BoxesSource(SourceOptions):
    """How boxes are read or derived.

    Attributes:
        count: boxes kept a frame, best scores first.
        frame_size: (H, W) in pixels of boxes stored in pixels (None: they are fractions).
        rate: frames a second (None: the clip's fps, else 30).
        least_score: detections below it are dropped by `derive`.
        category: COCO class that `derive` keeps (1: person; None: all).
        weights: of `derive`: a torchvision name (DEFAULT) or a `.pth`/`.safetensors` file.
    """

    count: int = 4
    frame_size: tuple[int, int] | None = None
    rate: float | None = None
    least_score: float = 0.3
    category: int | None = 1
    weights: str = "DEFAULT"

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return "torchvision fasterrcnn_resnet50_fpn (where derived)", version("torchvision")


@MODALITIES.register("boxes")
@dataclass(frozen=True)
class Boxes(Encoding):
    """Boxes (T, N, 5) = x1, y1, x2, y2, score (a sixth column: class) as float32 (T, count * 5 or * 6).

    Attributes:
        frames: time steps (None: the view's own).
        count: boxes a frame; fewer are filled up with zeros, whose score 0 says that there is no box.
        category: the class column is encoded too (0 where there is none).
    """

    frames: int | None = None
    count: int = 4
    category: bool = False

    name: ClassVar[str] = "boxes"
    derivable: ClassVar[bool] = True
    Source: ClassVar[type[SourceOptions]] = BoxesSource

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RecipeError("count is at least 1", where="boxes")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (self.steps(), self.count * (6 if self.category else 5))

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: boxes at its times, clipped to its crop and mirrored with it; boxes outside of it become zeros."""
        stored = signal.values[select(signal, view, self.frames), : self.count]
        values = torch.from_numpy(np.array(stored, np.float32))
        width = 6 if self.category else 5
        moved = in_view(values, view)
        boxes = torch.zeros(len(moved), self.count, width)
        boxes[:, : moved.shape[1], : min(moved.shape[2], width)] = moved[..., :width]
        return boxes.flatten(1)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: BoxesSource) -> Signal:
        """The clip's boxes, float32 (T, count, 5 or 6), corners in order; rows that are not finite become "no box".

        Raises:
            DataError: not boxes.
        """
        where = f"{path}#{key}" if key else str(path)
        signal = array_signal(path, key, clip, options.rate, 30.0)
        values = np.array(signal.values, np.float32)
        if values.ndim != 3 or values.shape[-1] not in (4, 5, 6):
            raise DataError(f"boxes (T, N, 5) are expected, not {values.shape}", where=where)
        if values.shape[-1] == 4:
            values = np.concatenate((values, (values != 0).any(-1, keepdims=True)), -1, dtype=np.float32)
        values[~np.isfinite(values).all(-1)] = 0.0
        if options.frame_size is not None:
            values[..., :4] /= np.array([options.frame_size[1], options.frame_size[0]] * 2, np.float32)
        first, second = np.minimum(values[..., :2], values[..., 2:4]), np.maximum(values[..., :2], values[..., 2:4])
        values[..., :2], values[..., 2:4] = first, second
        best = np.argsort(-values[..., 4], axis=1, kind="stable")[:, : options.count]
        return replace(signal, values=np.take_along_axis(values, best[..., None], 1))

    @classmethod
    def derive(cls, rgb: Signal, options: BoxesSource) -> Signal:
        """The best-scored boxes of each frame, float32 (T, count, 6), by torchvision's Faster R-CNN."""
        from vidistill.modalities.estimators import BoxEstimator

        estimator = BoxEstimator.from_weights(
            options.weights, count=options.count, least_score=options.least_score, category=options.category
        )
        return replace(rgb, values=estimator(np.asarray(rgb.values)))


def in_view(boxes: torch.Tensor, view: View) -> torch.Tensor:
    """Boxes (T, N, 5 or 6) in fractions of a view's crop, clipped to it; a box left with no area becomes zeros."""
    x0, y0, x1, y1 = view.box
    origin = torch.tensor([x0, y0, x0, y0])
    extent = torch.tensor([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    corners = ((boxes[..., :4] - origin) / extent).clamp(0.0, 1.0)
    if view.flip:
        corners = torch.stack((1 - corners[..., 2], corners[..., 1], 1 - corners[..., 0], corners[..., 3]), -1)
    left = (corners[..., 2] > corners[..., 0]) & (corners[..., 3] > corners[..., 1]) & (boxes[..., 4] > 0)
    return torch.cat((corners, boxes[..., 4:]), -1) * left[..., None]
