"""The pipelines that the checkpoints of Luo et al. (ECCV 2018) and SAKD (ACM MM 2025) were trained with, to compare.

Not used in training: a view's crop and flip are shared by all modalities, scale flow by one rule in training and test,
and resize with OpenCV. Here each modality draws its own crop and flip, flow is rescaled in training only, and Pillow
resizes. Videos are (..., H, W, C); crops and flips are the same for all frames of a video.

`frame_positions` and the multi-scale crops are SAKD's. Its random transforms start from the same seed at each draw, so
they are not random; `fixed()` is that source.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Video = NDArray[Any]

ZERO_LEVEL = 128.0
"""The grey level of no motion when flow is rescaled. A flip mirrors about 127.5 all the same, as published."""
TRIES = 10
Corner = Literal["c", "tl", "tr", "bl", "br"]
CORNERS: tuple[Corner, ...] = ("c", "tl", "tr", "bl", "br")


def fixed() -> Random:
    """The random source of each of SAKD's random transforms, made anew for each call."""
    return Random(1024)


def frame_positions(length: int, size: int, place: Literal["begin", "center", "random"] = "begin") -> NDArray[np.int64]:
    """The `size` neighbouring frames of SAKD, cyclically repeated where the video ends before.

    Faults kept: "begin" and "center" never take the first frame, and take nothing of a video of one frame.

    Args:
        length: frames of the video, 1 or more.
        size: frames to take.
        place: where; "random" is drawn from `fixed()`.

    Returns:
        (size,) positions in [0, length), or (0,).
    """
    if place == "random":
        start = fixed().randint(0, max(1, length - size - 1))
    else:
        start = 1 if place == "begin" else max(1, length // 2 - size // 2)
    taken = np.arange(start, min(start + size, length), dtype=np.int64)
    return np.resize(taken, size) if len(taken) else taken


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


def corner_crop(video: Video, side: int, corner: Corner = "c") -> Video:
    """`side` x `side` pixels of the middle (halves round to even) or of a corner: top or bottom, left or right."""
    if corner == "c":
        return center_crop(video, side)
    height, width = video.shape[-3:-1]
    top = 0 if corner[0] == "t" else height - side
    left = 0 if corner[1] == "l" else width - side
    return video[..., top : top + side, left : left + side, :]


def multi_scale_corner_crop(video: Video, factor: float, size: int, corner: Corner = "c") -> NDArray[np.uint8]:
    """`corner_crop` of `factor` times the short side (truncated), resized to `size` x `size`."""
    side = int(factor * min(video.shape[-3:-1]))
    return resize(corner_crop(video, side, corner), (size, size))


def draw_corner(factors: tuple[float, ...]) -> tuple[float, Corner]:
    """The factor and the corner of SAKD's "random" `multi_scale_corner_crop`: the source is made anew for each."""
    return fixed().choice(factors), fixed().choice(CORNERS)


def multi_scale_random_crop(video: Video, factor: float, size: int, place: tuple[float, float]) -> NDArray[np.uint8]:
    """A crop of `factor` times the short side (truncated), resized to `size` x `size`.

    Its left and top are `place` (x, y), in [0, 1), of the room there is, as real numbers that round to pixels.
    """
    height, width = video.shape[-3:-1]
    side = int(factor * min(height, width))
    left, top = place[0] * (width - side), place[1] * (height - side)
    x0, y0, x1, y1 = (round(edge) for edge in (left, top, left + side, top + side))
    return resize(video[..., y0:y1, x0:x1, :], (size, size))


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
