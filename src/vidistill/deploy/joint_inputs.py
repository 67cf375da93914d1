"""From a file to the input of a network over several modalities; what the file lacks is left out and named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vidistill.core.errors import DataError, DecodeError, ModelError
from vidistill.core.types import View
from vidistill.data.joint import join, width
from vidistill.deploy.inputs import ARRAYS, SOUNDS, Extent, InputPipeline, Window, stretch
from vidistill.modalities.base import SignalAbsent

TASTE = 1.0
"""Seconds that tell whether a file has sound."""
JointWindow = dict[str, Window]
"""One stretch of the file by input name, of the inputs that the file has."""


class JointPipeline:
    """Reads files as a model of several modalities wants them, each modality by an `InputPipeline` of its own.

    Args:
        metadata: as `InputPipeline`'s; its `input` has `of`, modality and encoding options by input name, and `shapes`.
        where: the model's file, for messages.

    Raises:
        ModelError: the metadata does not fit the model's input.
    """

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.parts: dict[str, InputPipeline] = {}
        self._shapes = {name: tuple(shape) for name, shape in metadata["input"]["shapes"].items()}
        for name, described in metadata["input"]["of"].items():
            self.parts[name] = InputPipeline({**metadata, "input": described, "input_shape": self._shapes[name]}, where)
        if tuple(metadata["input_shape"]) != (width(self._shapes),):
            raise ModelError(
                f"its input is {tuple(metadata['input_shape'])}, its modalities give ({width(self._shapes)},)",
                where=where,
            )
        self.modality = " and ".join(part.modality for part in self.parts.values())

    def extent(self, path: Path, key: str | None = None) -> Extent:
        """Frames, rate and seconds of a video, or of a sound file where the model hears.

        Raises:
            DecodeError: the file is missing, empty or broken.
            DataError: an array, which does not say what modality it is.
        """
        if path.suffix.lower() in ARRAYS:
            raise DataError(
                f"the model takes {self.modality}, an array is one of them", where=str(path), todo="Give a video."
            )
        hears = [part for part in self.parts.values() if part.modality == "audio"]
        if path.suffix.lower() in SOUNDS and not hears:
            raise DataError(f"the model takes {self.modality}, no sound", where=str(path), todo="Give a video.")
        seeing = [part for part in self.parts.values() if part not in hears]
        part = hears[0] if path.suffix.lower() in SOUNDS or not seeing else seeing[0]
        return part.extent(path, key)

    def there(self, path: Path, key: str | None) -> dict[str, InputPipeline]:
        """The inputs that a file has.

        Raises:
            DecodeError: it has none of them.
        """
        found = {name: part for name, part in self.parts.items() if self._has(part, path, key)}
        if not found:
            raise DecodeError(f"has no {self.modality}", where=str(path), todo="Give a video with one of them.")
        return found

    def windows(self, path: Path, key: str | None, extent: Extent) -> Iterator[JointWindow]:
        """The same stretches of every modality that the file has; see `InputPipeline.windows`."""
        there = self.there(path, key)
        streams = [part.windows(path, key, extent) for part in there.values()]
        for windows in zip(*streams, strict=True):
            yield dict(zip(there, windows, strict=True))

    def looks(self, path: Path, key: str | None, extent: Extent) -> Iterator[torch.Tensor]:
        """All test views of every window of a file, float32 (views, *input_shape) each."""
        for window in self.windows(path, key, extent):
            yield self.encode(window)

    def missing(self, path: Path, key: str | None) -> list[str]:
        """Modalities that a file lacks."""
        there = self.there(path, key)
        return [part.modality for name, part in self.parts.items() if name not in there]

    def encode(self, window: JointWindow) -> torch.Tensor:
        """All test views of a window: float32 (views, *input_shape)."""
        # What is drawn as images says how wide the frame is; a view of sound has no crop.
        seen = [each for each in window.values() if each.signal.values.ndim == 4] or list(window.values())
        return torch.stack([self._row(window, view) for view in next(iter(self.parts.values())).views(seen[0].shape)])

    def one_view(self, path: Path) -> torch.Tensor:
        """One test view (*input_shape) of a file: what decoding costs."""
        window = next(self.windows(path, None, self.extent(path)))
        return self.encode(window)[0]

    def _row(self, window: JointWindow, view: View) -> torch.Tensor:
        tensors: dict[str, torch.Tensor | None] = dict.fromkeys(self.parts)
        tensors |= {name: self.parts[name].encoding.encode(each.signal, view) for name, each in window.items()}
        return join(tensors, self._shapes)

    def _has(self, part: InputPipeline, path: Path, key: str | None) -> bool:
        """Whether the file holds a modality or it can be derived from its frames."""
        if path.suffix.lower() in SOUNDS:
            return part.modality == "audio"
        if part.modality == "audio":
            try:
                part.load(path, key, stretch(0.0, TASTE))
            except SignalAbsent:
                return False
            except DataError:  # whatever else is wrong with its sound is said where all of it is read
                return True
            return True
        return part.from_frames


def open_pipeline(metadata: Mapping[str, Any], where: str) -> InputPipeline | JointPipeline:
    """What reads files for a model, by its metadata."""
    joint = isinstance(metadata.get("input"), Mapping) and "of" in metadata["input"]
    return JointPipeline(metadata, where) if joint else InputPipeline(metadata, where)
