"""Views: where and when to look at a clip. A view is a pure function of (policy, seed, clip, number).

Training views are drawn at random from a counter-based generator, test views lie on a fixed grid. All modalities of
a clip receive the same view, so a flow teacher sees what the RGB student sees, and a view can be a key of a cache.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import RecipeError
from vidistill.core.seeds import generator
from vidistill.core.types import Colour, View
from vidistill.data.sampling import dense_indices, uniform_indices

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (2, 0), (2, 4), (0, 2), (4, 2), (1, 1), (3, 1), (1, 3), (3, 3))
"""Places (x, y) of multi-scale crops in quarters of the room there is: corners and middle (5), then 8 more."""
LATER = ("steps", "short", "crop", "scales", "places", "parts")
"""Options that are in a policy's key only where they are set, so that keys of older caches stay."""


@dataclass(frozen=True)
class ClipShape:
    """What a policy must know of a clip: frames and frames per second of its reference modality, width / height."""

    frames: int
    rate: float
    aspect: float = 1.0


@dataclass(frozen=True)
class ViewPolicy:
    """How views are drawn.

    Attributes:
        frames: frames a view.
        sampling: `uniform` takes one frame from each of `frames` equal parts of the clip (random within its part in
            training, its middle in testing); `dense` takes frames `stride` apart from a window of the clip.
        stride: step of `dense` sampling, in frames of the reference modality.
        short: what `dense` sampling takes of a clip that is shorter than the window: `clamp` repeats its last frame,
            `loop` plays it again from its start.
        aspect: width / height of the crop in pixels; None keeps the whole frame, whatever its shape.
        crop: how training crops are drawn: `area` by `scale` and `stretch` anywhere; `multiscale` as two-stream
            networks (Wang et al., arXiv 1507.02159): width and height are two neighbours in `scales`, or one twice,
            at one of `places`.
        scale: range of the crop's area in training, as a fraction of the largest crop of that aspect.
        stretch: the crop's aspect is multiplied by a factor drawn log-uniformly from [1 / stretch, stretch].
        scales: of `multiscale`: sides of the crop, in order, as fractions of those of the largest crop of that aspect.
        places: of `multiscale`: 5 (corners, middle) or 13 (also the sides' middles and between). The published code
            lays them out for the network's size and cuts larger crops at the border, which changes their aspect
            (`modalities.released_generative`); here they are laid out for the crop.
        flip: probability of a horizontal mirror in training. 0 where left and right tell classes apart.
        colour: strength of colour jitter in training: factors are drawn from 1 +- colour, hue from +- colour / 4.
        test_clips: test views in time.
        test_crops: test views in space, 1 (centre) or 3 (start, middle, end of the longer side; needs `aspect`).
        steps: more than 1 looks at untrimmed clips: a view is a window of `steps` time steps that follow each other,
            each of `frames` frames `stride` apart. Training windows start anywhere; test view k is the k-th window
            of those that lie end to end (`windows`), so that each moment is seen once.
        parts: what several test clips of `uniform` sampling see: `full` each the whole clip, in frames between those of
            the others; `consecutive` each its own part of it, one after the other, as published (Radevski et al.).
    """

    frames: int = 8
    sampling: Literal["uniform", "dense"] = "uniform"
    stride: int = 2
    aspect: float | None = None
    scale: tuple[float, float] = (0.5, 1.0)
    stretch: float = 1.15
    flip: float = 0.0
    colour: float = 0.0
    test_clips: int = 1
    test_crops: Literal[1, 3] = 1
    steps: int = 1
    short: Literal["clamp", "loop"] = "clamp"
    crop: Literal["area", "multiscale"] = "area"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    places: Literal[5, 13] = 13
    parts: Literal["full", "consecutive"] = "full"

    def __post_init__(self) -> None:
        self._check_numbers()
        set_here = self._set()
        if self.short == "loop" and (self.sampling != "dense" or self.steps > 1):
            raise RecipeError("short: loop is for dense sampling of trimmed clips", where="views")
        if self.parts == "consecutive" and (self.sampling != "uniform" or self.steps > 1):
            raise RecipeError("parts: consecutive is for uniform sampling of trimmed clips", where="views")
        unused = {"area": {"scales", "places"}, "multiscale": {"scale", "stretch"}}[self.crop] & set_here
        if unused:
            raise RecipeError(f"{', '.join(sorted(unused))} changes nothing with crop: {self.crop}", where="views")

    def _check_numbers(self) -> None:
        if self.frames < 1 or self.test_clips < 1 or self.stride < 1 or self.steps < 1:
            raise RecipeError("frames, stride, steps and test_clips are at least 1", where="views")
        if self.steps > 1 and self.test_views > 1:
            raise RecipeError(
                "windows of steps cover a clip once", where="views", todo="Leave test_clips, test_crops 1"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise RecipeError(f"scale {self.scale} is not a range within (0, 1]", where="views")
        if not self.scales or not all(0 < side <= 1 for side in self.scales):
            raise RecipeError(f"scales {self.scales} are not fractions in (0, 1]", where="views")
        if self.stretch < 1 or not 0 <= self.flip <= 1 or not 0 <= self.colour < 1:
            raise RecipeError("stretch >= 1, 0 <= flip <= 1 and 0 <= colour < 1 are required", where="views")
        if self.test_crops == 3 and self.aspect is None:
            raise RecipeError("three test crops need an aspect", where="views", todo="Set views.aspect, e.g. 1.0")

    @property
    def test_views(self) -> int:
        """Number of test views a clip."""
        return self.test_clips * self.test_crops

    def key(self) -> dict[str, object]:
        """What identifies the policy in a cache key."""
        set_here = self._set()
        return {name: value for name, value in asdict(self).items() if name not in LATER or name in set_here}

    def _set(self) -> set[str]:
        """Names of the options that differ from their defaults."""
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}

    @property
    def step_frames(self) -> int:
        """Frames of the reference modality from one step to the next."""
        return self.frames * self.stride

    def steps_of(self, shape: ClipShape) -> int:
        """Number of time steps of an untrimmed clip; a last step counts where at least half of it is there."""
        return max(1, int(shape.frames / self.step_frames + 0.5))

    def views_of(self, shape: ClipShape) -> int:
        """Number of test views of a clip: `test_views`, or the windows that cover an untrimmed one."""
        return self.test_views if self.steps == 1 else -(-self.steps_of(shape) // self.steps)

    def train(self, seed: int, clip: str, number: int, shape: ClipShape) -> View:
        """The training view `number` of a clip: the same for the same (policy, seed, clip, number)."""
        random = generator(seed, "view", clip, number)
        indices = self._indices(shape.frames, 1, random)[0] if self.steps == 1 else self._window(shape.frames, random)
        box = self._placed_crop(shape, random) if self.crop == "multiscale" else self._area_crop(shape, random)
        flip = bool(random.uniform() < self.flip)
        colour = None
        if self.colour > 0:
            factors = 1 + self.colour * random.uniform(-1, 1, 3)
            colour = Colour(*(float(f) for f in (*factors, random.uniform(-1, 1) * self.colour / 4)))
        return View(clip, number, indices / shape.rate, box, flip, colour, seed, self._loop(shape))

    def test(self, clip: str, number: int, shape: ClipShape) -> View:
        """The test view `number` in [0, views_of(shape)): number = crop * test_clips + clip, or the window's."""
        crop, part = divmod(number, self.test_clips) if self.steps == 1 else (0, number)
        if self.steps == 1:
            indices = self._indices(shape.frames, self.test_clips, None)[part]
        else:
            indices = self._window(shape.frames, None, part)
        width, height = largest_crop(self.aspect, shape.aspect)
        place = 0.5 if self.test_crops == 1 else (0.0, 0.5, 1.0)[crop]
        x, y = place * (1 - width), place * (1 - height)
        return View(clip, number, indices / shape.rate, (x, y, x + width, y + height), loop=self._loop(shape))

    def _area_crop(self, shape: ClipShape, random: np.random.Generator) -> Box:
        """A crop of drawn area and aspect, anywhere."""
        width, height = largest_crop(self.aspect, shape.aspect)
        area = random.uniform(*self.scale)
        ratio = float(np.exp(random.uniform(-1, 1) * np.log(self.stretch)))
        width = min(1.0, width * float(np.sqrt(area * ratio)))
        height = min(1.0, height * float(np.sqrt(area / ratio)))
        x, y = float(random.uniform(0, 1 - width)), float(random.uniform(0, 1 - height))
        return x, y, x + width, y + height

    def _placed_crop(self, shape: ClipShape, random: np.random.Generator) -> Box:
        """A crop of drawn sides, at a drawn place; each pair of sides is as likely, and each place."""
        sides = range(len(self.scales))
        pairs = [(self.scales[i], self.scales[j]) for i in sides for j in sides if abs(i - j) <= 1]
        across, down = pairs[int(random.integers(len(pairs)))]
        right, low = PLACES[int(random.integers(self.places))]
        width, height = largest_crop(self.aspect, shape.aspect)
        width, height = width * across, height * down
        x, y = right / 4 * (1 - width), low / 4 * (1 - height)
        return x, y, x + width, y + height

    def _indices(self, length: int, clips: int, random: np.random.Generator | None) -> NDArray[np.int64]:
        """Frame indices (clips, frames); `random` None gives the fixed test positions."""
        if self.sampling == "uniform":
            variant: Literal["default", "released"] = "released" if self.parts == "consecutive" else "default"
            return uniform_indices(length, self.frames, clips, generator=random, variant=variant)
        return dense_indices(length, self.frames, self.stride, clips, generator=random, short=self.short)

    def _loop(self, shape: ClipShape) -> float | None:
        """Seconds after which a clip is played again."""
        return shape.frames / shape.rate if self.short == "loop" else None

    def _window(self, length: int, random: np.random.Generator | None, number: int = 0) -> NDArray[np.int64]:
        """Frame indices (steps * frames,) of a window: drawn at random, or the `number`-th; past the end the last."""
        span = self.steps * self.step_frames
        start = number * span if random is None else int(random.integers(0, max(length - span, 0), endpoint=True))
        return np.minimum(start + self.stride * np.arange(self.steps * self.frames), length - 1)


def largest_crop(aspect: float | None, frame_aspect: float) -> tuple[float, float]:
    """Width and height, as fractions of the frame, of the largest crop whose pixels have the given aspect."""
    if aspect is None:
        return 1.0, 1.0
    return min(1.0, aspect / frame_aspect), min(1.0, frame_aspect / aspect)
