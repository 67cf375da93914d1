"""The seams: what rooms hand to each other. Shapes: B clips, C channels, T time steps, H x W pixels, D features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-9
"""Part of a clip's length that is lost to rounding at most."""

ENSEMBLE = "ensemble"
"""Name under which the weighted ensemble of all teachers answers, beside each teacher's own name."""


@dataclass(frozen=True)
class Segment:
    """A labelled stretch of an untrimmed clip: `start` < `end`, seconds from the clip's start."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Clip:
    """One row of a manifest: one labelled stretch of video with all its modalities.

    `sources` maps a modality to a path relative to the manifest's root, or `path#key` for an entry of a container
    (`.npz`, `.hdf5`). `start` and `end` are seconds within the source (`end=None`: to its end). `group` names clips
    that belong together (same recording, same subject) and must not be torn apart when a validation part is carved.
    An untrimmed clip has `segments` by head instead of a label; it may have none of them, and is background then.
    """

    id: str
    split: str
    labels: Mapping[str, str]
    sources: Mapping[str, str]
    start: float = 0.0
    end: float | None = None
    fps: float | None = None
    frames: int | None = None
    group: str | None = None
    checksum: str | None = None
    segments: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """One modality of one clip, over time.

    `values` has time first: frames (T, H, W, C), joints (T, J, 2|3), samples (T,) or (T, C). Sample i was taken
    `times[i]` seconds after the clip's start, or `start + i / rate` where `times` is None.
    """

    values: NDArray[np.generic]
    rate: float
    start: float = 0.0
    times: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def duration(self) -> float:
        """Seconds from the clip's start to the end of the last sample."""
        last = self.start + (len(self) - 1) / self.rate if self.times is None else float(self.times[-1])
        return last + 1.0 / self.rate

    def nearest(self, times: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices of the samples nearest to `times` (seconds), clamped to the signal."""
        if self.times is None:
            index = np.rint((times - self.start) * self.rate)
        else:
            right = np.clip(np.searchsorted(self.times, times), 1, max(len(self) - 1, 1))
            left_is_nearer = times - self.times[right - 1] <= self.times[np.minimum(right, len(self) - 1)] - times
            index = right - left_is_nearer
        return np.clip(index, 0, len(self) - 1).astype(np.int64)


@dataclass(frozen=True)
class Colour:
    """Colour jitter of a view: factors around 1 (hue: turns around 0)."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class View:
    """One look at a clip, shared by all its modalities.

    `times` are seconds from the clip's start, one for each frame of the view. They do not decrease, unless the view
    plays a short clip again from its start: `loop` is then the clip's length in seconds, and times are below it. `box`
    is the crop as fractions (x0, y0, x1, y1) of the uncropped frame; the flip is applied after the crop. `seed` is that
    of training views, for what a modality draws by itself (masks of spectrograms); None in testing.
    """

    clip: str
    number: int
    times: NDArray[np.float64]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    colour: Colour | None = None
    seed: int | None = None
    loop: float | None = None

    def times_for(self, count: int | None) -> NDArray[np.float64]:
        """The view's time span sampled `count` times: the frame times themselves where `count` is theirs or None.

        Between the clip's end and its start again, time goes on to the end and then begins at 0.
        """
        if count is None or count == len(self.times):
            return self.times
        if len(self.times) == 1:
            return np.repeat(self.times, count)
        places = np.linspace(0.0, len(self.times) - 1.0, count)
        if self.loop is None:
            return np.interp(places, np.arange(len(self.times)), self.times)
        played = self.times[0] + np.concatenate(([0.0], np.cumsum(np.diff(self.times) % self.loop)))
        times = np.interp(places, np.arange(len(played)), played) % self.loop
        # What rounding has left just below the clip's end is its start again.
        return np.where(self.loop - times < ROUNDING * self.loop, 0.0, times)


@dataclass
class Outputs:
    """What every network returns: logits (B, classes) by head, one embedding (B, D), named features on request."""

    logits: dict[str, Tensor]
    embedding: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def detach(self) -> Outputs:
        """The same values without gradient."""
        return Outputs(
            {k: v.detach() for k, v in self.logits.items()},
            self.embedding.detach(),
            {k: v.detach() for k, v in self.features.items()},
        )


@dataclass
class Batch:
    """Clips as tensors.

    `inputs` and `present` are keyed by input name (the key in the recipe's `modalities`). Where `present[name][b]` is
    False the clip lacks that modality: its rows of `inputs[name]` are zeros that nobody may use.
    `labels` are class indices (B,) by head, or (B, T) one for each time step of a window, or a window's segments
    (B, M, 3): start and end as parts of it, class, -1 for rows that fill up. `clip` indexes the store; `view` is the
    view number.
    """

    inputs: dict[str, Tensor]
    labels: dict[str, Tensor]
    clip: Tensor
    view: Tensor
    present: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.clip)

    def to(self, device: object) -> Batch:
        """The batch on another device; clip and view numbers go along."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}  # type: ignore[call-overload]

        return replace(
            self,
            inputs=move(self.inputs),
            labels=move(self.labels),
            clip=self.clip.to(device),  # type: ignore[call-overload]
            view=self.view.to(device),  # type: ignore[call-overload]
            present=move(self.present),
        )


@dataclass
class Loss:
    """One named term: a value a clip (B,) and the weight of the term.

    `per_clip=False` declares a batch loss: it has the same value for every clip and a curriculum does not weigh it.
    `distillation` tells terms taught by teachers from terms taught by labels. A term of weight 0 is only recorded.
    """

    values: Tensor
    weight: float = 1.0
    per_clip: bool = True
    distillation: bool = True


Losses = dict[str, Loss]
