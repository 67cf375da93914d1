"""The pictures that the checkpoints of Radevski et al. (ICCV 2023) were trained and tested with, to compare.

Multimodal Distillation for Egocentric Action Recognition, arXiv 2307.07483. Not used in training: there a view's crop
and colour are fractions shared by all modalities, resized by OpenCV, and colour is one linear map. Here Pillow resizes,
three crops miss the last pixel of an odd margin, colour jitter goes step by step over 8-bit pictures, and normalisation
is left to the network. What was drawn is an argument. Videos are uint8 (..., H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional

from vidistill.modalities.released_transforms import center_crop, scale

SWIN_MEAN, SWIN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET_MEAN, RESNET_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
STEPS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
"""Colour jitter by the numbers that name its operations."""

Video = NDArray[np.uint8]


def three_crops(video: Video, size: int) -> NDArray[np.uint8]:
    """`size` x `size` crops along the longer side: its start, its end, its middle: (3, ..., size, size, 3).

    The end is twice half the margin, rounded down: with an odd margin the last pixel is in no crop.
    """
    height, width = video.shape[-3:-1]
    down, right = (height - size) // 2, (width - size) // 2
    corners = [(n * down, n * right) for n in (0, 2, 1)]
    return np.stack([video[..., top : top + size, left : left + size, :] for top, left in corners])


def fixed_crops(video: Video, size: int, crops: Literal[1, 3] = 1) -> NDArray[np.float32]:
    """Test views of a video, (crops, ..., 3, size, size) in [0, 1]: the short side to `size`, then the crops."""
    resized = scale(video, size)
    return to_unit(three_crops(resized, size) if crops == 3 else center_crop(resized, size)[None])


def train_crop(
    video: Video,
    short_side: int,
    crop: tuple[int, int, int, int],
    order: Sequence[int] = (),
    strengths: Sequence[float] = (1.0, 1.0, 1.0, 0.0),
) -> NDArray[np.float32]:
    """A training view of a video, (..., 3, size, size) in [0, 1].

    Args:
        video: (..., H, W, 3).
        short_side: it is resized to; published: 224 times a draw from 1.15 to 1.43, truncated.
        crop: top, left, height and width on the resized video.
        order: operations of the colour jitter in turn: 0 brightness, 1 contrast, 2 saturation, 3 hue; none: no jitter.
        strengths: of each operation, by its number; contrast is about the mean grey of each cropped frame.
    """
    top, left, height, width = crop
    cropped = scale(video, short_side)[..., top : top + height, left : left + width, :]
    frames = [jittered(frame, order, strengths) for frame in cropped.reshape(-1, height, width, 3)]
    return to_unit(np.stack(frames).reshape(cropped.shape))


def jittered(frame: Video, order: Sequence[int], strengths: Sequence[float]) -> Video:
    """One 8-bit picture (H, W, 3) after each operation in turn, rounded each time."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    for number in order:
        image = STEPS[number](image, strengths[number])
    return np.asarray(image)


def to_unit(video: Video) -> NDArray[np.float32]:
    """(..., H, W, 3) as float32 (..., 3, H, W) in [0, 1]."""
    return np.moveaxis(np.asarray(video, np.float32) / np.float32(255.0), -1, -3)


def normalised(video: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(..., 3, H, W) in [0, 1], standardised as the published networks do inside."""
    centre, spread = (torch.tensor(numbers).view(3, 1, 1) for numbers in (mean, std))
    return ((torch.from_numpy(np.ascontiguousarray(video)) - centre) / spread).numpy()


def crop_major(views: NDArray[np.float32], clips: int) -> NDArray[np.float32]:
    """Crops (K, clips * N, 3, S, S) of the joined frames of several clips as views (K * clips, N, 3, S, S).

    All clips of the first crop come first, as `ViewPolicy.test` counts them.
    """
    return views.reshape(len(views) * clips, -1, *views.shape[2:])
