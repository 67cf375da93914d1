"""Object boxes: x1, y1, x2, y2 as fractions of the frame, with a score and what they hold, a fixed number a frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.arrays import array_signal
from vidistill.modalities.base import MODALITIES, Encoding, SourceOptions, select
from vidistill.modalities.layout import COLUMNS, in_view, layout_in_view

RATE = 30.0
"""Frames a second where neither the options nor the clip say it."""


@dataclass(frozen=True)
class BoxesSource(SourceOptions):
    """How boxes are read or derived.

    Attributes:
        count: boxes kept a frame, best scores first.
        frame_size: (H, W) in pixels of boxes stored in pixels (None: they are fractions). Detections in JSON know it.
        rate: frames a second (None: the clip's fps, else 30).
        sizes: of detections in JSON without sizes: a file `{video: [w, h]}` beside them.
        variant: of detections in files; "released" keeps the file's order, repairs boxes in pixels as published
            (`layout.fix_box`, which cuts off fractions), and counts EPIC's frames from the clip's start.
        least_score: detections below it are dropped by `derive`.
        category: class, or classes, that `derive` keeps (COCO's 1: person; None: all).
        hands: classes that are hands to `derive`: the class column then says 1 object, 2 hand, as `kind: layout` needs
            it (None: it has the detector's own numbers). COCO has no hands: `[]` makes all objects.
        detector: of `derive`: a detection network of torchvision.
        classes: of `derive` with a weights file: the detector's number of classes, background included.
        weights: of `derive`: a torchvision name (DEFAULT) or a `.pth`/`.safetensors` file.
    """

    count: int = 4
    frame_size: tuple[int, int] | None = None
    rate: float | None = None
    sizes: str = "videoid2size.json"
    variant: Literal["default", "released"] = "default"
    least_score: float = 0.3
    category: int | tuple[int, ...] | None = 1
    hands: tuple[int, ...] | None = None
    detector: str = "fasterrcnn_resnet50_fpn"
    classes: int | None = None
    weights: str = "DEFAULT"

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return f"torchvision {self.detector} (where derived)", version("torchvision")


@MODALITIES.register("boxes")
@dataclass(frozen=True)
class Boxes(Encoding):
    """Boxes (T, N, 5) = x1, y1, x2, y2, score (then: class, side, state) as float32 (T, count * numbers a box).

    Attributes:
        frames: time steps (None: the view's own).
        count: boxes a frame; fewer are filled up with zeros, whose score 0 says that there is no box.
        kind: boxes: 5 numbers a box (6 with `category`). layout: slots of `layout.COLUMNS` numbers, what is in the view
            first, for the network `stlt`; a slot of class 0 is none.
        category: kind boxes also gives the class column (0 where there is none).
        follow: boxes are clipped to the view's crop and mirrored with it, as the picture is; False: they stay where
            they are in the whole frame, as published, although a network of pictures beside it sees the crop.
    """

    frames: int | None = None
    count: int = 4
    kind: Literal["boxes", "layout"] = "boxes"
    category: bool = False
    follow: bool = True

    name: ClassVar[str] = "boxes"
    derivable: ClassVar[bool] = True
    Source: ClassVar[type[SourceOptions]] = BoxesSource

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RecipeError("count is at least 1", where="boxes")
        if self.kind == "layout" and self.category:
            raise RecipeError("a layout has its class already", where="boxes", todo="Leave category out.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (self.steps(), self.count * self._numbers)

    @property
    def _numbers(self) -> int:
        """Numbers a box."""
        return COLUMNS if self.kind == "layout" else 6 if self.category else 5

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: boxes at its times, clipped to its crop and mirrored with it; boxes outside of it become zeros."""
        stored = signal.values[select(signal, view, self.frames)]
        if not self.follow:
            view = replace(view, box=(0.0, 0.0, 1.0, 1.0), flip=False)
        if self.kind == "layout":
            return layout_in_view(stored, view, self.count).flatten(1)
        moved = in_view(torch.from_numpy(np.array(stored[:, : self.count], np.float32)), view)
        boxes = torch.zeros(len(moved), self.count, self._numbers)
        width = min(moved.shape[2], self._numbers)
        boxes[:, : moved.shape[1], :width] = moved[..., :width]
        return boxes.flatten(1)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: BoxesSource) -> Signal:
        """The clip's boxes, float32 (T, count, 5, 6 or 8), corners in order; rows that are not finite become "no box".

        The source is an array, or a file of detections (`box_files`): `detections.json#<video>`.

        Raises:
            DataError: not boxes.
        """
        from vidistill.modalities.box_files import is_detections, read_detections  # needed at prepare time only

        if is_detections(path, key):
            rate = options.rate or clip.fps or RATE
            sizes = {"frame_size": options.frame_size, "sizes": options.sizes}
            return read_detections(path, key, clip, rate, options.count, options.variant, **sizes)
        signal = array_signal(path, key, clip, options.rate, RATE)
        values = as_boxes(np.array(signal.values, np.float32), f"{path}#{key}" if key else str(path))
        if options.frame_size is not None:
            values[..., :4] /= np.array([options.frame_size[1], options.frame_size[0]] * 2, np.float32)
        first, second = np.minimum(values[..., :2], values[..., 2:4]), np.maximum(values[..., :2], values[..., 2:4])
        values[..., :2], values[..., 2:4] = first, second
        best = np.argsort(-values[..., 4], axis=1, kind="stable")[:, : options.count]
        return replace(signal, values=np.take_along_axis(values, best[..., None], 1))

    @classmethod
    def derive(cls, rgb: Signal, options: BoxesSource) -> Signal:
        """The best-scored boxes of each frame, float32 (T, count, 6), by a detector of torchvision."""
        from vidistill.modalities.estimators import BoxEstimator

        estimator = BoxEstimator.from_weights(
            options.weights,
            network=options.detector,
            classes=options.classes,
            count=options.count,
            least_score=options.least_score,
            category=options.category,
            hands=options.hands,
        )
        return replace(rgb, values=estimator(np.asarray(rgb.values)))


def as_boxes(values: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """An array of a file as boxes (T, N, 5, 6 or 8): without a score, 1 for boxes that are there.

    Raises:
        DataError: of another shape.
    """
    if values.ndim != 3 or values.shape[-1] not in (4, 5, 6, COLUMNS):
        raise DataError(f"boxes (T, N, 5) are expected, not {values.shape}", where=where)
    if values.shape[-1] == 4:
        values = np.concatenate((values, (values != 0).any(-1, keepdims=True)), -1, dtype=np.float32)
    values[~np.isfinite(values).all(-1)] = 0.0
    return values
