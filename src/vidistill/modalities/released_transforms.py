"""The image pipeline that the checkpoints of Luo et al. (ECCV 2018) were trained with, to compare with them.

Not used in training: a view's crop and flip are shared by all modalities, scale flow by one rule in training and test,
and resize with OpenCV. Here each modality draws its own crop and flip, flow is rescaled in training only, and Pillow
resizes. Videos are (..., H, W, C); crops and flips are the same for all frames of a video.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Video = NDArray[Any]

ZERO_LEVEL = 128.0
"""The grey level of no motion when flow is rescaled. A flip mirrors about 127.5 all the same, as published."""
TRIES = 10


def resize(video: Video, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames resized to (H, W) by Pillow's antialiased bilinear filter, on uint8; two channels one by one."""
    height, width, channels = video.shape[-3:]
    planes = np.moveaxis(np.asarray(video, np.uint8), -1, -3).reshape(-1, height, width)
    images = [Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR) for plane in planes]
    stacked = np.stack([np.asarray(image) for image in images]).reshape(*video.shape[:-3], channels, *size)
    return np.ascontiguousarray(np.moveaxis(stacked, -3, -1))


def rescale_levels(flow: Video, factors: tuple[float, float]) -> NDArray[np.float32]:
    """Flow as grey levels, its u and v multiplied by `factors` about `ZERO_LEVEL`; not rounded back."""
    levels = (np.asarray(flow, np.float32) - ZERO_LEVEL) * np.array(factors, np.float32) + ZERO_LEVEL
    return levels.astype(np.float32)


def scale(video: Video, short: int, flow: bool = False) -> Video:
    """The short side to `short` pixels, the long side in proportion, truncated; `flow` rescales the vectors too."""
    height, width = video.shape[-3:-1]
    if min(height, width) == short:
        return video
    size = (short, int(short * width / height)) if height < width else (int(short * height / width), short)
    resized = resize(video, size)
    return rescale_levels(resized, (size[1] / width, size[0] / height)) if flow else resized


def center_crop(video: Video, size: int) -> Video:
    """The middle `size` x `size` pixels; halves round to even."""
    height, width = video.shape[-3:-1]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return video[..., top : top + size, left : left + size, :]


def random_sized_crop(video: Video, size: int, random: Random, flow: bool = False) -> Video:
    """A crop of 0.4 to 1 of the area and 3/4 to 4/3 of aspect, resized to `size` x `size`.

    Draws, for each of up to ten tries: area, aspect, whether the sides are swapped; where it fits, left and top.
    Where none fits: `scale` and `center_crop`. `flow` rescales the vectors by the resize (in the last case by that of
    `scale`, which no published number covers).
    """
    height, width = video.shape[-3:-1]
    for _ in range(TRIES):
        area = random.uniform(0.4, 1.0) * height * width
        aspect = random.uniform(3.0 / 4.0, 4.0 / 3.0)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if random.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            crop = resize(video[..., top : top + h, left : left + w, :], (size, size))
            return rescale_levels(crop, (size / w, size / h)) if flow else crop
    return center_crop(scale(video, size, flow), size)


def random_flip(video: Video, random: Random, flow: bool = False) -> Video:
    """Mirrored left to right with probability one half; `flow` also turns u about 127.5."""
    if random.random() >= 0.5:
        return video
    flipped = video[..., ::-1, :].copy()
    if flow:
        flipped[..., 0] = 255 - flipped[..., 0]
    return flipped


def normalised(video: Video, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Grey levels as float32 with channels before height: (v / 255 - mean) / std."""
    levels = np.moveaxis(np.asarray(video, np.float32) / np.float32(255.0), -1, -3)
    centre, spread = (np.array(numbers, np.float32)[:, None, None] for numbers in (mean, std))
    return np.asarray((levels - centre) / spread, np.float32)
