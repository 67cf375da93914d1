"""Depth, stored as an 8-bit nearness code: 0 = no depth, 20 = `far` .. 255 = `near`, linear in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, MissingExtra
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
from vidistill.modalities.depth_holes import fill_holes
from vidistill.modalities.rgb import read_frames

FAR_CODE = 20
NEAR_CODE = 255
ARRAYS = (".npy", ".npz", ".h5", ".hdf5")


@dataclass(frozen=True)
class DepthSource(SourceOptions):
    """How depth is read or derived.

    Attributes:
        short_side: pixels of the stored short side; smaller frames stay as they are.
        coding: `code` for 8-bit frames that hold the nearness code already (UTD-MHAD here), `millimetres` for
            numbers, `auto`: 8-bit is code, anything else is millimetres. `released`: 16-bit numbers as floor(d / 256),
            what the checkpoints of Luo et al. (ECCV 2018) were trained on (mean 0.0626, std 0.0154); a room has some
            20 levels then.
        near: millimetres of code 255; nearer is clamped.
        far: millimetres of code 20; farther is clamped.
        levels: of 8-bit video: `full` (luma 0..255 is the code), `video` (luma 16..235 is code 0..255: what encoders
            make of grey input; UTD-MHAD here), `auto`: video where more of the clip is near luma 16 than near 0,
            as "no depth" is the one code that both kinds have in plenty. Images and arrays are full.
        fill_holes: pixels without depth take the nearest depth of their frame.
        none_below: 8-bit codes below it count as no depth: compressed video blurs the border of 0.
        weights: depth network for `derive`: a folder, or a model name of the Hugging Face hub.
        rate: frames a second of frame folders and arrays (None: the clip's fps, else 30).
    """

    short_side: int | None = 128
    coding: Literal["auto", "code", "millimetres", "released"] = "auto"
    near: float = 800.0
    far: float = 4000.0
    levels: Literal["auto", "full", "video"] = "auto"
    fill_holes: bool = False
    none_below: int = 10
    weights: str | None = None
    rate: float | None = None

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        if self.weights is None:
            return "pyav", version("av")
        try:
            return "transformers.AutoModelForDepthEstimation", version("transformers")
        except PackageNotFoundError:
            raise MissingExtra("transformers", "depth", "depth from video") from None


@MODALITIES.register("depth")
@dataclass(frozen=True)
class Depth(Encoding):
    """Depth as float32 (1, T, H, W): code / 255, so 0 where there is none and 0.08 (far) .. 1 (near) elsewhere.

    Attributes:
        frames: time steps (None: the view's own).
        size: output (H, W).
        mean: subtracted where there is depth; "no depth" stays 0.
        std: what there is is divided by it.
    """

    frames: int | None = None
    size: int | tuple[int, int] = 112
    mean: float = 0.0
    std: float = 1.0

    name: ClassVar[str] = "depth"
    derivable: ClassVar[bool] = True
    Source: ClassVar[type[SourceOptions]] = DepthSource

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (1, self.steps(), *pair(self.size))

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: crop, resize (averaging depth only where there is some), flip, scale."""
        height, width = signal.values.shape[1:3]
        box = crop_pixels(view.box, height, width)
        frames = masked_resize(signal.values, select(signal, view, self.frames), box, pair(self.size))
        tensor = channels_first(frames, view.flip)
        if (self.mean, self.std) != (0.0, 1.0):
            tensor = torch.where(tensor > 0, (tensor - self.mean) / self.std, tensor)
        return tensor

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: DepthSource) -> Signal:
        """The clip's depth as nearness codes, uint8 (T, H, W, 1), of a video's luma, of images or an array."""
        signal = read_frames(path, key, clip, None, luma=True, rate=options.rate)
        frames = signal.values
        if frames.dtype == np.uint8 and not (path.is_dir() or path.suffix.lower() in ARRAYS):
            frames = full_range(frames, options.levels)
        codes = nearness_codes(frames, options, str(path))
        codes = store_size(codes, options.short_side)
        if options.fill_holes:
            codes = fill_holes(codes[..., 0], codes[..., 0] > 0)[..., None]
        return replace(signal, values=codes)

    @classmethod
    def derive(cls, rgb: Signal, options: DepthSource) -> Signal:
        """Nearness codes by a depth network: its relative inverse depth, stretched over the clip to 20..255."""
        from vidistill.modalities.estimators import DepthEstimator

        inverse = DepthEstimator.from_weights(options.weights)(np.asarray(rgb.values))
        low, high = float(inverse.min()), float(inverse.max())
        scaled = (inverse - low) / max(high - low, 1e-12)
        codes = np.rint(FAR_CODE + scaled * (NEAR_CODE - FAR_CODE)).astype(np.uint8)[..., None]
        return replace(rgb, values=store_size(codes, options.short_side))


def full_range(luma: NDArray[Any], levels: str) -> NDArray[np.uint8]:
    """Luma of an 8-bit video as codes 0..255; see `DepthSource.levels`."""
    if levels == "auto":
        counts = np.bincount(luma.ravel(), minlength=256)
        levels = "video" if counts[14:19].sum() > counts[:4].sum() else "full"
    if levels == "full":
        return luma
    table = np.clip(np.rint((np.arange(256) - 16) * 255.0 / 219.0), 0, 255).astype(np.uint8)
    return np.asarray(table[luma])


def nearness_codes(values: NDArray[Any], options: DepthSource, where: str) -> NDArray[np.uint8]:
    """Frames (T, H, W[, C]) of codes or millimetres as uint8 codes (T, H, W, 1).

    Numbers <= 0 or not finite are no depth.
    """
    frames = values if values.ndim == 3 else values[..., 0]
    if frames.ndim != 3:
        raise DataError(f"depth frames (T, H, W) are expected, not {values.shape}", where=where)
    coding = options.coding
    if coding == "auto":
        coding = "code" if frames.dtype == np.uint8 else "millimetres"
    if coding == "released":
        if frames.dtype.kind not in "iu" or frames.dtype.itemsize < 2:
            raise DataError(f"16-bit depth is expected, not {frames.dtype}", where=where, todo="Use another coding.")
        return np.asarray(np.clip(frames // 256, 0, 255), np.uint8)[..., None]
    if coding == "code":
        valid = frames >= max(options.none_below, 1)
        codes = np.clip(frames, FAR_CODE, NEAR_CODE)
    else:
        distance = frames.astype(np.float32)
        valid = np.isfinite(distance) & (distance > 0)
        nearness = (options.far - np.where(valid, distance, options.far)) / (options.far - options.near)
        codes = np.rint(FAR_CODE + np.clip(nearness, 0.0, 1.0) * (NEAR_CODE - FAR_CODE))
    return np.where(valid, codes, 0).astype(np.uint8)[..., None]


def masked_resize(
    codes: NDArray[Any], indices: NDArray[np.int64], box: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Crops of codes (T, H, W, 1) resized to float32 (N, H', W', 1) in 0..1.

    Depth and its presence are resized together, so that a pixel at a border is the mean of the depths it covers, not
    a depth halfway to nowhere; pixels that cover less than half of a depth have none.
    """
    x0, y0, x1, y1 = box
    crops = np.asarray(codes)[:, y0:y1, x0:x1]
    steps, places = np.unique(indices, return_inverse=True)
    chosen = crops[steps, ..., 0]
    both = np.empty((*chosen.shape, 2), np.float32)
    np.multiply(chosen, 1.0 / 255.0, out=both[..., 0], casting="unsafe")
    np.greater(chosen, 0, out=both[..., 1], casting="unsafe")
    whole = (0, 0, chosen.shape[2], chosen.shape[1])
    resized = crop_resize(both, np.arange(len(both)), whole, size)
    presence = resized[..., 1:]
    depth = np.where(presence >= 0.5, resized[..., :1] / np.maximum(presence, 0.5), 0.0)
    return depth.astype(np.float32)[places]


def store_size(codes: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Codes (T, H, W, 1) at the stored size."""
    height, width = codes.shape[1:3]
    size = fit_short_side((height, width), short_side)
    if size == (height, width):
        return codes
    resized = masked_resize(codes, np.arange(len(codes)), (0, 0, width, height), size)
    stored: NDArray[np.uint8] = np.rint(resized * 255.0).astype(np.uint8)
    return stored
