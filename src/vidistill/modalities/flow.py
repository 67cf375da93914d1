"""Optical flow: motion of each pixel from a frame to the next, in pixels a frame at the stored size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.base import (
    MODALITIES,
    Encoding,
    SourceOptions,
    channels_first,
    crop_pixels,
    crop_resize,
    fit_short_side,
    pair,
    select,
)
from vidistill.modalities.flow_pairs import read_pairs
from vidistill.modalities.frame_folders import read_flow_folder
from vidistill.modalities.rgb import read_frames, shrink

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
SMALLEST = 32
"""Pixels: DIS and TV-L1 need some; smaller frames are enlarged for the search and the flow is scaled back."""

PairFlow = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class FlowSource(SourceOptions):
    """How flow is computed or read.

    Attributes:
        algorithm: dis (OpenCV, fast), tvl1 (OpenCV, the published protocol, about 200 times slower) or raft
            (torchvision's network, needs `weights`).
        preset: of dis: ultrafast, fast or medium.
        short_side: pixels of the stored short side, never above the RGB frames'.
        weights: of raft: a torchvision name (DEFAULT, C_T_V2) or a `.pth`/`.safetensors` file.
        network: of raft: raft_small or raft_large.
        pixels_per_level: of flow kept as 8-bit images: pixels a grey level, with level `zero` = no motion.
        zero: see `pixels_per_level`.
        rate: frames a second of flow kept as arrays or images (None: the clip's fps, else 30; of EPIC-KITCHENS' folders
            the published one, 30 or 50).
    """

    algorithm: Literal["dis", "tvl1", "raft"] = "dis"
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    short_side: int | None = 128
    weights: str = "DEFAULT"
    network: Literal["raft_small", "raft_large"] = "raft_small"
    pixels_per_level: float = 1.0
    zero: float = 127.5
    rate: float | None = None

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        if self.algorithm == "raft":
            return f"torchvision {self.network}", version("torchvision")
        return {"dis": "opencv DISOpticalFlow", "tvl1": "opencv DualTVL1OpticalFlow"}[self.algorithm], cv2.__version__


@MODALITIES.register("flow")
@dataclass(frozen=True)
class Flow(Encoding):
    """Flow (u, v) as float32 (2, T, H, W) in [-1, 1].

    Attributes:
        frames: time steps (None: the view's own).
        size: output (H, W).
        bound: pixels a frame, at the output size, that become 1; more is clamped.
    """

    frames: int | None = None
    size: int | tuple[int, int] = 112
    bound: float = 5.0

    name: ClassVar[str] = "flow"
    derivable: ClassVar[bool] = True
    derived_unasked: ClassVar[bool] = True
    Source: ClassVar[type[SourceOptions]] = FlowSource

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise RecipeError(f"bound must be above 0 pixels, not {self.bound}", where="flow")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (2, self.steps(), *pair(self.size))

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: crop, resize, vectors to output pixels, flip (mirrors and negates u), divide by `bound`, clamp."""
        height, width = signal.values.shape[1:3]
        box = crop_pixels(view.box, height, width)
        size = pair(self.size)
        tensor = channels_first(crop_resize(signal.values, select(signal, view, self.frames), box, size), view.flip)
        u = size[1] / (box[2] - box[0]) / self.bound
        v = size[0] / (box[3] - box[1]) / self.bound
        scale = torch.tensor([-u if view.flip else u, v]).view(2, 1, 1, 1)
        return tensor.mul_(scale).clamp_(-1.0, 1.0)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: FlowSource) -> Signal:
        """Flow of the clip's own, float16 (T, H, W, 2): arrays in pixels, or 8-bit images (u, v first).

        Folders may hold u and v as `flow_x_*` and `flow_y_*`, beside frames or alone, or as folders `u` and `v`. Grey
        images of an HDF5 file are u and v in turn, as published; levels that the file states go before options.
        """
        pairs = read_flow_folder(path, clip, options.rate) or read_pairs(path, key, clip, options.rate)
        signal = read_frames(path, key, clip, None, rate=options.rate) if pairs is None else pairs[0]
        stated = {} if pairs is None else pairs[1]
        values = signal.values
        if values.ndim != 4 or values.shape[-1] < 2:
            raise DataError(f"flow (T, H, W, 2) is expected, not {values.shape}", where=str(path))
        flow = np.asarray(values[..., :2], np.float32)
        if values.dtype == np.uint8:
            zero, scale = stated.get("zero", options.zero), stated.get("pixels_per_level", options.pixels_per_level)
            flow = (flow - zero) * scale
        return replace(signal, values=resize_flow(flow, options.short_side).astype(np.float16))

    @classmethod
    def derive(cls, rgb: Signal, options: FlowSource) -> Signal:
        """Flow of RGB frames, float16 (T, H, W, 2). Frame t holds the motion t -> t + 1; the last is repeated."""
        frames = np.asarray(rgb.values)
        if len(frames) < 2:
            raise DataError("flow needs at least two frames", todo="Remove clips of one frame.")
        frames = shrink(frames, fit_short_side((frames.shape[1], frames.shape[2]), options.short_side))
        if options.algorithm == "raft":
            from vidistill.modalities.estimators import RaftEstimator

            flow = RaftEstimator.from_weights(options.weights, options.network)(frames)
        else:
            flow = classic_flow(frames, options)
        flow = np.concatenate((flow, flow[-1:]))
        return replace(rgb, values=flow.astype(np.float16))


def classic_flow(frames: NDArray[Any], options: FlowSource) -> NDArray[np.float32]:
    """OpenCV flow of consecutive frames (T, H, W, 3): (T - 1, H, W, 2)."""
    height, width = frames.shape[1:3]
    grow = max(1.0, SMALLEST / min(height, width))
    work = (round(height * grow), round(width * grow))
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in shrink(frames, work)]
    estimate = pair_estimator(options)
    flow = np.stack([estimate(first, second) for first, second in zip(grey[:-1], grey[1:], strict=True)])
    return flow if work == (height, width) else rescale_flow(flow, (height, width))


def pair_estimator(options: FlowSource) -> PairFlow:
    """The flow of two grey frames, by OpenCV."""
    library: Any = cv2
    if options.algorithm == "dis":
        search = library.DISOpticalFlow_create(PRESETS[options.preset])
    else:
        search = library.optflow.DualTVL1OpticalFlow_create()

    def estimate(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(search.calc(first, second, None), np.float32)

    return estimate


def rescale_flow(flow: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Flow (T, H, W, 2) at another size, vectors in pixels of that size."""
    height, width = flow.shape[1:3]
    resized = shrink(flow, size)
    return resized * np.array([size[1] / width, size[0] / height], np.float32)


def resize_flow(flow: NDArray[np.float32], short_side: int | None) -> NDArray[np.float32]:
    """Flow at the stored size."""
    size = fit_short_side((flow.shape[1], flow.shape[2]), short_side)
    return flow if size == flow.shape[1:3] else rescale_flow(flow, size)
