"""RGB frames: stored as uint8 at a small size, encoded with ImageNet's mean and standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Colour, Signal, View
from vidistill.modalities.base import (
    MODALITIES,
    Encoding,
    SourceOptions,
    channels_first,
    crop_pixels,
    crop_resize,
    fit_short_side,
    make_signal,
    pair,
    select,
    within,
)
from vidistill.modalities.frame_folders import check_series

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CHUNK = 32

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
FROM_YIQ = np.linalg.inv(TO_YIQ)


@dataclass(frozen=True)
class RgbSource(SourceOptions):
    """How frames are stored.

    Attributes:
        short_side: pixels of the stored short side; smaller videos stay as they are.
        max_rate: frames a second kept at most (None: all).
    """

    short_side: int | None = 128
    max_rate: float | None = None

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return "pyav", version("av")


@MODALITIES.register("rgb")
@dataclass(frozen=True)
class Rgb(Encoding):
    """Frames as float32 (3, T, H, W).

    Attributes:
        frames: time steps (None: the view's own).
        size: output (H, W).
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    frames: int | None = None
    size: int | tuple[int, int] = 112
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    name: ClassVar[str] = "rgb"
    Source: ClassVar[type[SourceOptions]] = RgbSource

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (3, self.steps(), *pair(self.size))

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: crop, resize, flip, colour (only where the view has one), normalise."""
        height, width = signal.values.shape[1:3]
        box = crop_pixels(view.box, height, width)
        frames = crop_resize(signal.values, select(signal, view, self.frames), box, pair(self.size))
        tensor = channels_first(frames, view.flip)
        if view.colour is not None:
            tensor = jitter(tensor, view.colour)
        mean = torch.tensor(self.mean).mul_(255.0).view(3, 1, 1, 1)
        scale = torch.tensor(self.std).mul_(255.0).reciprocal_().view(3, 1, 1, 1)
        return tensor.sub_(mean).mul_(scale)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: RgbSource) -> Signal:
        """The clip's frames, uint8 (T, H, W, 3), short side at most `options.short_side`."""
        return read_frames(path, key, clip, options.short_side, options.max_rate)


def jitter(frames: torch.Tensor, colour: Colour) -> torch.Tensor:
    """Colour jitter of (3, T, H, W) in 0..255, the same for all frames, clamped once at the end.

    Brightness and saturation are factors, hue turns the chroma plane (YIQ), contrast scales about the clip's mean
    grey. All four are linear in the pixel, so they are one 3x3 matrix and an offset: a few times faster than in turn.
    """
    angle = 2.0 * math.pi * colour.hue
    turn = np.eye(3, dtype=np.float32)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    grey = np.tile(LUMA, (3, 1))
    saturate = colour.saturation * np.eye(3, dtype=np.float32) + (1.0 - colour.saturation) * grey
    matrix = torch.from_numpy((colour.brightness * saturate @ FROM_YIQ @ turn @ TO_YIQ).astype(np.float32))
    flat = frames.reshape(3, -1)
    mean_grey = torch.from_numpy(LUMA) @ (matrix @ flat.mean(1, keepdim=True))
    mixed = torch.addmm((1.0 - colour.contrast) * mean_grey.expand(3, 1), colour.contrast * matrix, flat)
    return mixed.clamp_(0.0, 255.0).view_as(frames)


def read_frames(
    path: Path,
    key: str | None,
    clip: Clip,
    short_side: int | None,
    max_rate: float | None = None,
    *,
    luma: bool = False,
    rate: float | None = None,
) -> Signal:
    """Frames of a clip (T, H, W, C), cut to its seconds, thinned and resized chunk by chunk; video gives uint8.

    `luma` reads a video's luma plane as one channel. Sources without a clock (images, arrays) have `rate` frames a
    second, else the clip's fps, else 30.

    Raises:
        DecodeError: the file cannot be read.
        DataError: no frame lies within the clip, or a folder of numbered images leaves numbers out.
    """
    from vidistill.data.decoding import open_frames  # the decoder is needed at prepare time only

    if path.is_dir():
        check_series(path)
    with open_frames(path, key, rate=rate or clip.fps, luma=luma) as source:
        times = np.asarray(source.times, np.float64)
        wanted = within(times, source.rate, clip)
        if not len(wanted):
            raise DataError(
                f"no frame between {clip.start} and {clip.end} s", where=str(path), todo="Check start and end."
            )
        wanted, rate = thin(times, wanted, source.rate, max_rate)
        size = fit_short_side(source.size, short_side)
        parts = [shrink(source.read(wanted[i : i + CHUNK]), size) for i in range(0, len(wanted), CHUNK)]
    return make_signal(np.concatenate(parts), times[wanted] - clip.start, rate)


def thin(
    times: NDArray[np.float64], wanted: NDArray[np.int64], rate: float, max_rate: float | None
) -> tuple[NDArray[np.int64], float]:
    """Indices nearest to an even grid of at most `max_rate` a second, and the rate that results."""
    if max_rate is None or rate <= max_rate:
        return wanted, rate
    grid = np.arange(times[wanted[0]], times[wanted[-1]] + 1e-9, 1.0 / max_rate)
    source = Signal(wanted, rate, times=times[wanted])
    return np.unique(wanted[source.nearest(grid)]), max_rate


def shrink(frames: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Frames (T, H, W, C) resized as a whole to `size`."""
    if frames.shape[1:3] == size:
        return frames
    height, width = frames.shape[1:3]
    return crop_resize(frames, np.arange(len(frames)), (0, 0, width, height), size)
