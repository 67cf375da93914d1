"""What a modality is: where its signal comes from (prepare time) and how a view of it becomes a tensor (training time).

Times are seconds from the clip's start. Image signals are (T, H, W, C); one view's box and flip apply to all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import vidistill
from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import Registry
from vidistill.core.types import Clip, Signal, View

AREA_FROM = 1.5
"""Shrinking by more than this factor averages pixel areas; below, bilinear is four times faster and does not alias."""

Self = TypeVar("Self", bound="Encoding")


class SignalAbsent(DataError):
    """The source can be read but has nothing of this modality (a video without sound): the clip lacks it, unbroken."""


class Modality(Protocol):
    """The interface of every modality: a frozen dataclass of encoding options with prepare-side class methods."""

    Source: ClassVar[type[SourceOptions]]
    derivable: ClassVar[bool]
    derived_unasked: ClassVar[bool]
    frames: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view of a signal as float32 of `shape`."""

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: Any) -> Signal:
        """The clip's own signal from its source."""

    @classmethod
    def derive(cls, rgb: Signal, options: Any) -> Signal:
        """The signal computed from RGB frames (T, H, W, 3) uint8."""


@dataclass(frozen=True)
class SourceOptions:
    """Prepare options of a modality; subclasses add theirs."""

    def provenance(self) -> dict[str, Any]:
        """What makes the stored signal: `tool`, `version` and `options`, as JSON-like values.

        Options that name a weights file or folder carry its content's digest too, so that new weights are noticed.
        """
        tool, release = self.tool()
        options = asdict(self)
        weights = options.get("weights")
        if isinstance(weights, str) and Path(weights).exists():
            options["weights_digest"] = content_digest(Path(weights))
        return {"tool": tool, "version": release, "options": options}

    def tool(self) -> tuple[str, str]:
        """Name and version of what reads or computes the signal."""
        return "vidistill", vidistill.__version__


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


class Encoding:
    """Shared by the modality dataclasses: time steps, and refusals that say what to do."""

    derivable: ClassVar[bool] = False
    derived_unasked: ClassVar[bool] = False
    """Whether clips without a source of it get it derived by default: only what needs no weights."""
    name: ClassVar[str] = ""
    frames: int | None

    def with_frames(self: Self, frames: int) -> Self:
        """The same encoding with `frames` time steps, unless it already says how many."""
        return self if self.frames is not None else replace(self, frames=frames)  # type: ignore[type-var]

    def fitted(self: Self, signal: Signal) -> Self:
        """The same encoding with options that are "auto" settled by a signal of the set."""
        return self

    def steps(self) -> int:
        """Number of time steps.

        Raises:
            RecipeError: not set yet.
        """
        if self.frames is None:
            raise RecipeError(f"modality {self.name!r} does not know its number of frames", todo="Set frames.")
        return self.frames

    @classmethod
    def derive(cls, rgb: Signal, options: Any) -> Signal:
        """Modalities that RGB frames cannot give refuse."""
        raise RecipeError(
            f"modality {cls.name!r} cannot be derived from video",
            todo="Give the clips a source of it, or leave it out.",
        )


MODALITIES: Registry[type[Any]] = Registry("modality")


def get_modality(name: str, where: str | None = None) -> type[Any]:
    """The modality class filed under `name`."""
    return MODALITIES.get(name, where)


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a size given as one side or as both."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def select(signal: Signal, view: View, frames: int | None) -> NDArray[np.int64]:
    """Indices of the samples that a view of `frames` steps looks at."""
    return signal.nearest(view.times_for(frames))


def crop_pixels(box: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """A box of fractions as whole pixels (x0, y0, x1, y1), at least one pixel wide and high."""
    x0 = min(max(round(box[0] * width), 0), width - 1)
    y0 = min(max(round(box[1] * height), 0), height - 1)
    return x0, y0, min(max(round(box[2] * width), x0 + 1), width), min(max(round(box[3] * height), y0 + 1), height)


def crop_resize(
    values: NDArray[Any],
    indices: NDArray[np.int64],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: int | None = None,
) -> NDArray[Any]:
    """Frames `indices` of (T, H, W, C), cropped to a pixel box and resized to `size`: (N, H', W', C), dtype kept.

    Reads only the crops, so a memory-mapped clip costs what is looked at; a frame that is named twice is resized once.
    """
    x0, y0, x1, y1 = box
    height, width = size
    frames = np.asarray(values)
    channels = frames.shape[3]
    if interpolation is None:
        shrink = max((x1 - x0) / width, (y1 - y0) / height)
        interpolation = cv2.INTER_AREA if shrink > AREA_FROM else cv2.INTER_LINEAR
    kind = np.float32 if frames.dtype in (np.float16, np.float64) else frames.dtype
    out = np.empty((len(indices), height, width, channels), kind)
    for place, index in enumerate(indices):
        if place and index == indices[place - 1]:
            out[place] = out[place - 1]
            continue
        crop = frames[index, y0:y1, x0:x1]
        if crop.shape[:2] == size:
            out[place] = crop
            continue
        resized = cv2.resize(np.ascontiguousarray(crop, kind), (width, height), interpolation=interpolation)
        out[place] = resized.reshape(height, width, channels)
    return out


def channels_first(frames: NDArray[Any], flip: bool) -> torch.Tensor:
    """(T, H, W, C) as float32 (C, T, H, W), mirrored left to right where `flip`."""
    tensor = torch.from_numpy(frames).permute(3, 0, 1, 2)
    if flip:
        tensor = tensor.flip(3)
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


def make_signal(values: NDArray[Any], times: NDArray[np.float64], rate: float) -> Signal:
    """A signal at `times`; evenly spaced times are kept as start and rate, which costs nothing to store."""
    if not len(values):
        raise DataError("no samples")
    start = float(times[0])
    even = start + np.arange(len(times)) / rate
    if float(np.abs(times - even).max()) <= 0.1 / rate:
        return Signal(values, rate, start)
    return Signal(values, rate, start, times)


def cut(signal: Signal, clip: Clip) -> Signal:
    """The part of a source's signal that lies within `clip.start` .. `clip.end`, with times from the clip's start.

    Raises:
        DataError: no sample lies there.
    """
    times = signal.start + np.arange(len(signal)) / signal.rate if signal.times is None else signal.times
    inside = within(times, signal.rate, clip)
    if not len(inside):
        raise DataError(f"nothing between {clip.start} and {clip.end} s", where=clip.id, todo="Check start and end.")
    return make_signal(signal.values[inside[0] : inside[-1] + 1], times[inside] - clip.start, signal.rate)


def within(times: NDArray[np.float64], rate: float, clip: Clip) -> NDArray[np.int64]:
    """Indices of the samples of a clip; half a sample of tolerance, so that rounded seconds lose none."""
    slack = 0.5 / rate
    end = np.inf if clip.end is None else clip.end
    return np.flatnonzero((times >= clip.start - slack) & (times < end - 1e-9))


def fit_short_side(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(H, W) with the short side at `short_side`; smaller frames stay as they are (never upscaled)."""
    height, width = size
    short = min(height, width)
    if short_side is None or short <= short_side:
        return height, width
    return max(round(height * short_side / short), 1), max(round(width * short_side / short), 1)
