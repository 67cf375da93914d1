"""Body-worn sensors: accelerometer (g) and gyroscope (degrees a second), resampled by time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.arrays import array_signal
from vidistill.modalities.base import MODALITIES, Encoding, SourceOptions

MEAN = (-0.64, -0.25, -0.07, 3.46, -4.0, 0.04)
STD = (0.76, 0.52, 0.58, 100.9, 117.0, 117.0)
"""Per channel, of UTD-MHAD's training subjects 1, 3, 5, 7 (accelerometer x y z in g, gyroscope x y z in degrees/s)."""


@dataclass(frozen=True)
class InertialSource(SourceOptions):
    """How samples are read.

    Attributes:
        rate: samples a second.
        span: `own` trusts `rate`; `clip` spreads the samples evenly over the clip's frames / fps, for recordings
            whose devices started and stopped together but whose video clock is nominal. UTD-MHAD is one: at 30 fps
            its Kinect frames cover only 0.50 to 0.68 of the sensor's seconds.
    """

    rate: float = 50.0
    span: Literal["own", "clip"] = "own"


@MODALITIES.register("inertial")
@dataclass(frozen=True)
class Inertial(Encoding):
    """Sensor channels (T, 6), standardised by channel, as float32 (frames, 6).

    Each step is the mean of the signal over that step's time (at least one sample's), so long clips do not alias.

    Attributes:
        frames: time steps (None: the view's own).
        mean: per channel.
        std: per channel.
        mirror: channels that a mirrored view negates; a mirrored view of a sensor with none declared is an error,
            because a sensor on one arm has no mirror image in general.
    """

    frames: int | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    mirror: tuple[int, ...] = ()

    name: ClassVar[str] = "inertial"
    Source: ClassVar[type[SourceOptions]] = InertialSource

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(not 0 <= axis < len(self.mean) for axis in self.mirror):
            raise RecipeError("mean, std and mirror must speak of the same channels", where="inertial")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (self.steps(), len(self.mean))

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: the sensor during the view's time; crop and colour do not apply.

        Raises:
            RecipeError: the view is flipped and no mirror axes are declared.
            DataError: another number of channels.
        """
        if view.flip and not self.mirror:
            raise RecipeError(
                "a flipped view has no meaning for a body-worn sensor", where="inertial",
                todo="Set views.flip to 0, or declare the sensor's `mirror` axes.",
            )  # fmt: skip
        if signal.values.ndim != 2 or signal.values.shape[1] != len(self.mean):
            raise DataError(f"{signal.values.shape[1:]} channels where {len(self.mean)} are expected", where="inertial")
        values = resample(signal, view.times_for(self.frames))
        scaled = (values - np.asarray(self.mean)) / np.asarray(self.std)
        if view.flip:
            scaled[:, list(self.mirror)] *= -1.0
        return torch.from_numpy(scaled.astype(np.float32))

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: InertialSource) -> Signal:
        """The clip's samples, float32 (T, C); gaps (NaN) are interpolated over time.

        Raises:
            DataError: not (T, C), or a channel without any value.
        """
        where = f"{path}#{key}" if key else str(path)
        signal = array_signal(path, key, clip, options.rate, options.rate)
        if signal.values.ndim != 2:
            raise DataError(f"samples (T, channels) are expected, not {signal.values.shape}", where=where)
        values = np.array(signal.values, np.float32)
        for channel in np.flatnonzero(~np.isfinite(values).all(0)):
            known = np.flatnonzero(np.isfinite(values[:, channel]))
            if not len(known):
                raise DataError(f"channel {channel} has no value", where=where)
            values[:, channel] = np.interp(np.arange(len(values)), known, values[known, channel])
        if options.span == "clip" and clip.frames and clip.fps:
            return Signal(values, len(values) * clip.fps / clip.frames)
        return replace(signal, values=values)


def resample(signal: Signal, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of (T, C) over a window around each time, as wide as the steps (at least one sample): (len(times), C).

    With steps finer than the samples this is linear interpolation. Beyond its ends the signal keeps its last value.
    """
    period = 1.0 / signal.rate
    step = float(np.median(np.diff(times))) if len(times) > 1 else period
    half = max(step, period) / 2.0
    starts = signal.start + np.arange(len(signal)) * period if signal.times is None else signal.times
    margin = 2.0 * half + abs(float(times[0]) - float(starts[0])) + abs(float(times[-1]) - float(starts[-1]))
    inner = (starts[1:] + starts[:-1]) / 2.0
    edges = np.concatenate(([starts[0] - period / 2 - margin], inner, [starts[-1] + period / 2 + margin]))
    values = np.asarray(signal.values, np.float64)
    total = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(edges)[:, None], 0)))
    columns = range(values.shape[1])
    upper = np.stack([np.interp(times + half, edges, total[:, c]) for c in columns], 1)
    lower = np.stack([np.interp(times - half, edges, total[:, c]) for c in columns], 1)
    return (upper - lower) / (2.0 * half)
