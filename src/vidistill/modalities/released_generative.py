"""The pipelines of generative feature distillation (AAAI 2024, arXiv 2312.08644) and the code it builds on, to compare.

Not used in training: a view's crop is shared by all modalities and keeps its aspect, and a flip negates u. Detection's
clips are (C, T, H, W) of arrays that Pillow resized; recognition's are (H, W, C * T), frames one after the other, of
images that OpenCV resizes. Random functions draw from a `random.Random` in the published order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Video = NDArray[Any]

RATIOS = {3: (1.0, 0.875, 0.75, 0.66), 2: (1.0, 0.875, 0.75)}
"""Sizes of the multi-scale crop, parts of the short side, of colour (3 channels) and of flow (2)."""
PLACES = np.array(
    [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
)
"""Places of the multi-scale crop (y, x) in quarters of the room there is: corners and middle, sides, and between."""
TRIES = 10


def imresize(image: Video, size: tuple[int, int], filter: Literal["bicubic", "bilinear"] = "bicubic") -> Video:
    """A uint8 image (H, W, C) resized by Pillow to `size` = (W, H); the aspect is not kept."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[filter.upper()]))


def resize_clip(clip: Video, side: int) -> Video:
    """A uint8 clip (C, T, H, W) resized frame by frame to `side` x `side`."""
    frames = np.moveaxis(clip, 0, -1)
    return np.moveaxis(np.stack([imresize(frame, (side, side)) for frame in frames]), -1, 0)


def center_crop(clip: Video, side: int) -> Video:
    """The middle `side` x `side` pixels of (..., H, W); halves round to even."""
    top, left = (round((length - side) / 2) for length in clip.shape[-2:])
    return clip[..., top : top + side, left : left + side]


def random_crop(clip: Video, side: int, random: Random) -> Video:
    """`side` x `side` pixels of (..., H, W), the same of every frame. Draws top, then left."""
    top, left = (random.randint(0, length - side) for length in clip.shape[-2:])
    return clip[..., top : top + side, left : left + side]


def mirrors(random: Random) -> bool:
    """Whether a clip is flipped: the one draw of horizontal and vertical flips. The published flip leaves u's sign."""
    return random.random() < 0.5


def symmetric(levels: Video) -> NDArray[np.float32]:
    """Grey levels 0..255 as float32 in [-1, 1]."""
    return (np.asarray(levels, np.float32) / np.float32(255.0) * 2.0 - 1.0).astype(np.float32)


def channels_of(clip: Video) -> Literal[2, 3]:
    """Whether (H, W, C * T) is colour: published code takes all that 3 divides for it, flow of 3 frames too."""
    return 3 if clip.shape[2] % 3 == 0 else 2


def resized(clip: Video, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, C * T) resized by OpenCV (bilinear, on its own type) to `size` = (W, H), as float32."""
    width, height = size
    planes = [cv2.resize(np.ascontiguousarray(clip[..., k]), size) for k in range(clip.shape[2])]
    return np.stack(planes, -1).reshape(height, width, -1).astype(np.float32)


def scale(clip: Video, short: int) -> Video:
    """(H, W, C * T) with its short side at `short`, the long one in proportion, truncated.

    Fault kept: of flow, frame t is written to the channels t and t + 1 instead of 2t and 2t + 1 (from the same ones),
    so all channels after the first T + 1 are zero.
    """
    height, width = clip.shape[:2]
    if min(height, width) == short:
        return clip
    size = (short, int(short * height / width)) if width < height else (int(short * width / height), short)
    result = resized(clip, size)
    if channels_of(clip) == 2:
        result[..., clip.shape[2] // 2 + 1 :] = 0.0
    return result


def center_crop_last(clip: Video, side: int) -> NDArray[np.float32]:
    """The middle `side` x `side` pixels of (H, W, C * T); halves round to even."""
    return np.moveaxis(center_crop(np.moveaxis(clip, -1, 0), side), 0, -1).astype(np.float32)


def crop_sizes(height: int, width: int, ratios: Sequence[float], distortion: int = 1) -> list[tuple[int, int]]:
    """Sizes (h, w) that the multi-scale crop chooses from: `ratios` of the short side, at most `distortion` apart."""
    sides = [int(min(height, width) * ratio) for ratio in ratios]
    return [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= distortion]


def crop_offsets(height: int, width: int, size: tuple[int, int], places: Literal[5, 13] = 13) -> NDArray[np.int64]:
    """Places (y, x) that the multi-scale crop chooses from, for `size` (h, w).

    The published code gives the network's size here, not the crop's: a larger crop is then cut by the border, and
    resized from another aspect.
    """
    room = np.array([(height - size[0]) // 4, (width - size[1]) // 4])
    return np.asarray(PLACES[:places] * room, np.int64)


def multi_scale_crop(clip: Video, side: int, random: Random, ratios: Sequence[float] | None = None) -> Video:
    """A crop of (H, W, C * T) of drawn size and place, resized to `side` x `side`. Draws the size, then the place."""
    height, width = clip.shape[:2]
    sizes = crop_sizes(height, width, RATIOS[channels_of(clip)] if ratios is None else ratios)
    offsets = crop_offsets(height, width, (side, side))
    h, w = sizes[random.randint(0, len(sizes) - 1)]
    y, x = offsets[random.randint(0, len(offsets) - 1)]
    return resized(clip[y : y + h, x : x + w], (side, side))


def random_sized_crop(clip: Video, side: int, random: Random) -> Video:
    """A crop of 0.08 to 1 of the area and 3/4 to 4/3 of aspect, resized to `side` x `side`.

    Draws, for each of up to ten tries: area, aspect, whether the sides are swapped; where it fits, left and top.
    Where none fits: `scale` and the middle.
    """
    height, width = clip.shape[:2]
    for _ in range(TRIES):
        area = random.uniform(0.08, 1.0) * height * width
        aspect = random.uniform(3.0 / 4.0, 4.0 / 3.0)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if random.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return resized(clip[top : top + h, left : left + w], (side, side))
    return center_crop_last(scale(clip, side), side)


def normalised(clip: Video, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Levels (H, W, C * T) as float32 (C * T, H, W): (v / 255 - mean) / std, means and stds by channel in turn."""
    levels = np.moveaxis(np.asarray(clip, np.float32), -1, 0) / np.float32(255.0)
    times = len(levels) // len(mean)
    centre, spread = (np.tile(np.array(numbers, np.float32), times)[:, None, None] for numbers in (mean, std))
    return np.asarray((levels - centre) / spread, np.float32)


def by_channel(levels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(C * T, H, W), frames one after the other, as a network takes it: (C, T, H, W)."""
    return np.ascontiguousarray(np.moveaxis(levels.reshape(-1, channels, *levels.shape[1:]), 0, 1))
