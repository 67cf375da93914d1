"""From a file to a network's input, exactly as in training: the modality, its encoding and the test views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vidistill.core.errors import DataError, DecodeError, ModelError
from vidistill.core.registry import check_options
from vidistill.core.types import Clip, Signal, View
from vidistill.data.decoding import open_frames
from vidistill.data.views import ClipShape, ViewPolicy
from vidistill.modalities import get_modality
from vidistill.modalities.base import cut, fit_short_side, make_signal, within
from vidistill.modalities.rgb import CHUNK, RgbSource, shrink, thin

IN_VIDEO = ("rgb", "depth", "audio")
"""Modalities that a video file itself holds; others are derived from its RGB frames."""
ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".txt", ".csv")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
DURATION = 10.0
"""Seconds of a window where the model does not say how long its training clips were."""
MAX_WINDOWS = 12
SOUND_FRAMES = 25.0
"""Frames a second that views of a sound file are counted in, which has no frames of its own."""


@dataclass(frozen=True)
class Window:
    """One stretch of the file, read as a clip."""

    signal: Signal
    shape: ClipShape


@dataclass(frozen=True)
class Extent:
    """What is known of a file before its signal is read: frames, frames per second, seconds."""

    frames: int
    rate: float
    seconds: float


class Pipeline(Protocol):
    """What reads files for a model of clips."""

    modality: str

    def extent(self, path: Path, key: str | None = None) -> Extent:
        """Frames, rate and seconds of a file."""

    def looks(self, path: Path, key: str | None, extent: Extent) -> Iterator[torch.Tensor]:
        """All test views of every window of a file, float32 (views, *input_shape) each."""


class InputPipeline:
    """Reads files as a model wants them.

    Args:
        metadata: what `export_onnx` stored: `input` (modality and encoding options), `view` (options of the view
            policy), `input_shape`; optional `sources` (prepare options by modality) and `duration` (seconds of a
            typical training clip).
        where: the model's file, for messages.

    Raises:
        ModelError: the metadata lacks a part or does not fit the model's input.
        RecipeError: unknown modality or option.
    """

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        for key in ("input", "view", "input_shape"):
            if key not in metadata:
                raise ModelError(
                    f"the model's metadata lacks {key!r}",
                    where=where,
                    todo="Export it again with: vidistill export RUN",
                )
        options = dict(metadata["input"])
        self.modality: str = options.pop("modality", "rgb")
        kind = self._kind = get_modality(self.modality, where)
        self.policy = ViewPolicy(**check_options(ViewPolicy, metadata["view"], f"{where}: view"))
        encoding = kind(**check_options(kind, options, f"{where}: input"))
        self.encoding = encoding.with_frames(self.policy.frames)
        given = (*((self.policy.steps,) if self.policy.steps > 1 else ()), *self.encoding.shape)
        if given != tuple(metadata["input_shape"]):
            raise ModelError(
                f"its input is {tuple(metadata['input_shape'])}, its encoding gives {given}",
                where=where,
            )
        self._sources: Mapping[str, Mapping[str, Any]] = metadata.get("sources") or {}
        self._where = where
        self.duration = float(metadata.get("duration") or DURATION)

    def extent(self, path: Path, key: str | None = None) -> Extent:
        """Frames, rate and seconds of a file.

        Raises:
            DecodeError: the file is missing, empty or broken.
        """
        if not path.exists():
            raise DecodeError("no such file", where=str(path), todo="Check the path.")
        if self._holds_frames(path):
            with open_frames(path, key) as source:
                if not source.frames:
                    raise DecodeError("no frames in it", where=str(path))
                return Extent(source.frames, source.rate, float(source.times[-1]) + 1.0 / source.rate)
        signal = self.load(path, key, stretch())
        rate = SOUND_FRAMES if self.modality == "audio" else signal.rate
        return Extent(max(1, round(signal.duration * rate)), rate, signal.duration)

    def windows(self, path: Path, key: str | None, extent: Extent) -> Iterator[Window]:
        """The file as one clip, or where it is longer than two training clips as windows spread evenly over it.

        Only one window is in memory at a time, and a video is decoded once, from its start to its end.
        """
        if extent.seconds <= 2 * self.duration:
            yield self._window(self.load(path, key, stretch()), extent)
            return
        count = min(MAX_WINDOWS, int(extent.seconds / self.duration))
        step = (extent.seconds - self.duration) / (count - 1)
        clips = [stretch(number * step, number * step + self.duration) for number in range(count)]
        for signal in self._signals(path, key, clips):
            yield self._window(signal, extent)

    def steps(self, path: Path, key: str | None, extent: Extent) -> Iterator[torch.Tensor]:
        """The time steps of an untrimmed file in their order, each encoded once: float32 (*shape of one step).

        Only half a window is in memory at a time. A modality derived from frames (flow) is derived by such stretches.
        """
        policy, shape = self.policy, ClipShape(extent.frames, extent.rate)
        count, width = policy.steps_of(shape), policy.step_frames / extent.rate
        stretch_steps = max(1, policy.steps // 2)
        starts = range(0, count, stretch_steps)
        clips = [stretch(start * width, min((start + stretch_steps) * width, extent.seconds)) for start in starts]
        for start, signal in zip(starts, self._signals(path, key, clips), strict=True):
            here = min(stretch_steps, count - start)
            last = min((start + here) * policy.step_frames, extent.frames) - 1 - start * policy.step_frames
            indices = np.minimum(policy.stride * np.arange(here * policy.frames), last)
            aspect = signal.values.shape[2] / signal.values.shape[1] if signal.values.ndim == 4 else 1.0
            view = policy.test("file", 0, ClipShape(last + 1, extent.rate, aspect))
            for times in np.split(indices / extent.rate, here):
                yield self._encode(signal, replace(view, times=times))

    def _signals(self, path: Path, key: str | None, clips: Sequence[Clip]) -> Iterator[Signal]:
        """The model's modality of stretches of a file that follow each other; a video is decoded once."""
        if not self._holds_frames(path) or self.modality == "audio":
            whole = self.load(path, key, stretch())
            signals: Iterator[Signal] = (cut(whole, clip) for clip in clips)
        elif self.modality == "rgb" or self._from_rgb(path):
            signals = (self._of_rgb(frames) for frames in read_stretches(path, clips, self._options("rgb")))
        else:
            signals = (self.load(path, key, clip) for clip in clips)
        yield from signals

    def views(self, shape: ClipShape) -> list[View]:
        """All test views of a clip."""
        return [self.policy.test("file", number, shape) for number in range(self.policy.views_of(shape))]

    def encode(self, window: Window) -> torch.Tensor:
        """All test views of a window: float32 (views, *input_shape)."""
        return torch.stack([self._encode(window.signal, view) for view in self.views(window.shape)])

    def looks(self, path: Path, key: str | None, extent: Extent) -> Iterator[torch.Tensor]:
        """All test views of every window of a file, float32 (views, *input_shape) each."""
        for window in self.windows(path, key, extent):
            yield self.encode(window)

    def _encode(self, signal: Signal, view: View) -> torch.Tensor:
        tensor: torch.Tensor = self.encoding.encode(signal, view)
        return tensor

    def one_view(self, path: Path) -> torch.Tensor:
        """One test view (*input_shape) of a file, reading no more frames than it needs; what decoding costs."""
        if self.modality not in ("rgb", "depth") or not self._holds_frames(path):
            window = next(self.windows(path, None, self.extent(path)))
            return self._encode(window.signal, self.views(window.shape)[0])
        with open_frames(path, luma=self.modality == "depth") as source:
            view = self.views(ClipShape(source.frames, source.rate, source.size[1] / source.size[0]))[0]
            every = Signal(source.times, source.rate, times=source.times)
            indices = np.unique(every.nearest(view.times_for(self.encoding.frames)))
            signal = Signal(source.read(indices), source.rate, times=source.times[indices])
        return self._encode(signal, view)

    @property
    def from_frames(self) -> bool:
        """Whether the modality is the RGB frames or can be computed from them."""
        return self.modality == "rgb" or bool(self._kind.derivable)

    def _holds_frames(self, path: Path) -> bool:
        """Whether the file is video (or a folder of frames), not an array or a sound."""
        return path.suffix.lower() not in (*ARRAYS, *SOUNDS)

    def _from_rgb(self, path: Path) -> bool:
        """Whether the modality is computed from the file's RGB frames.

        Raises:
            DataError: neither does the file hold it nor can it be derived.
        """
        if self.modality in IN_VIDEO or not self._holds_frames(path):
            return False
        if not self._kind.derivable:
            raise DataError(
                f"the model takes {self.modality}, which a video does not hold",
                where=str(path),
                todo="Give a .npy or .npz file of it.",
            )
        return True

    def _options(self, modality: str) -> Any:
        kind = get_modality(modality, self._where).Source
        return kind(**check_options(kind, self._sources.get(modality, {}), f"{self._where}: sources.{modality}"))

    def _of_rgb(self, rgb: Signal) -> Signal:
        """The model's modality of RGB frames."""
        signal: Signal = rgb if self.modality == "rgb" else self._kind.derive(rgb, self._options(self.modality))
        return signal

    def load(self, path: Path, key: str | None, clip: Clip) -> Signal:
        """The model's modality of a stretch of the file: its own, or derived from its RGB frames."""
        if self._from_rgb(path):
            return self._of_rgb(get_modality("rgb").load(path, key, clip, self._options("rgb")))
        signal: Signal = self._kind.load(path, key, clip, self._options(self.modality))
        return signal

    def _window(self, signal: Signal, extent: Extent) -> Window:
        frames = max(1, round(signal.duration * extent.rate))
        aspect = signal.values.shape[2] / signal.values.shape[1] if signal.values.ndim == 4 else 1.0
        return Window(signal, ClipShape(min(frames, extent.frames), extent.rate, aspect))


def stretch(start: float = 0.0, end: float | None = None) -> Clip:
    """The seconds from `start` to `end` of a file as an unlabelled clip."""
    return Clip("file", "test", {}, {}, start=start, end=end)


def read_stretches(path: Path, clips: Sequence[Clip], options: RgbSource) -> Iterator[Signal]:
    """What `Rgb.load` gives for clips of one video that follow each other, decoding the video once."""
    with open_frames(path) as source:
        times = np.asarray(source.times, np.float64)
        size = fit_short_side(source.size, options.short_side)
        for clip in clips:
            wanted, rate = thin(times, within(times, source.rate, clip), source.rate, options.max_rate)
            parts = [shrink(source.read(wanted[i : i + CHUNK]), size) for i in range(0, len(wanted), CHUNK)]
            yield make_signal(np.concatenate(parts), times[wanted] - clip.start, rate)
