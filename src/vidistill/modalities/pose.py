"""2-D pose: image joints as fractions of the frame with a confidence, encoded free of place and size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.arrays import array_signal
from vidistill.modalities.base import MODALITIES, Encoding, SourceOptions, select
from vidistill.modalities.joints import (
    fill_missing,
    joint_distances,
    joint_vectors,
    mirrored,
    observed,
    times_of,
    velocities,
)
from vidistill.modalities.skeleton_layouts import Layout, get_layout, layout_for

VELOCITY_STD = 3.0
"""Velocities are divided by it: JHMDB's spread is 3.3 and 2.7 body sizes a second by axis."""
LARGEST_FRACTION = 4.0
"""Coordinates beyond this many frames are pixels."""


@dataclass(frozen=True)
class PoseSource(SourceOptions):
    """How poses are read or derived.

    Attributes:
        coordinates: fractions (of width and height, origin top left); pixels (needs `frame_size`); centred (origin in
            the frame's middle, both axes in frame heights: JHMDB's `pos_world`); auto: centred where the file's name
            holds "world", pixels where numbers exceed 4, else fractions.
        frame_size: (H, W) in pixels, for `pixels`.
        aspect: frame width / height, for `centred`.
        rate: frames a second (None: the clip's fps, else 30).
        least_confidence: joints below it count as not seen.
        weights: of `derive`: a torchvision name (DEFAULT) or a `.pth`/`.safetensors` file.
    """

    coordinates: Literal["auto", "fractions", "pixels", "centred"] = "auto"
    frame_size: tuple[int, int] | None = None
    aspect: float = 4 / 3
    rate: float | None = None
    least_confidence: float = 0.0
    weights: str = "DEFAULT"

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return "torchvision keypointrcnn_resnet50_fpn (where derived)", version("torchvision")


@MODALITIES.register("pose")
@dataclass(frozen=True)
class Pose(Encoding):
    """Joints (T, J, 3), x, y in fractions of the frame and confidence, as float32 (T, D) or (C, T, J).

    Attributes:
        frames: time steps (None: the view's own).
        kind: joints, jjd or jjv.
        joints: joint list: jhmdb15, coco17, kinect20, ..., or auto (then call `fitted` before `shape`).
        place: body: centred on the root and divided by the body's size (mean over the view of the joints' root
            mean square distance from the root), so that neither where the person is nor how far counts; crop: -1 .. 1
            over the crop.
        velocity: kind joints also gives movement, in that unit a second / `VELOCITY_STD`, measured before centring.
        confidence: kind joints also gives each joint's confidence (0: interpolated).
        aspect: frame width / height, for `place="body"`: makes x and y one unit. JHMDB: 4/3.
        layout: sequence (T, D), or graph (C, T, J), kind joints only.
    """

    frames: int | None = None
    kind: Literal["joints", "jjd", "jjv"] = "joints"
    joints: str = "jhmdb15"
    place: Literal["body", "crop"] = "body"
    velocity: bool = True
    confidence: bool = False
    aspect: float = 4 / 3
    layout: Literal["sequence", "graph"] = "sequence"

    name: ClassVar[str] = "pose"
    derivable: ClassVar[bool] = True
    Source: ClassVar[type[SourceOptions]] = PoseSource

    def __post_init__(self) -> None:
        if self.joints != "auto":
            get_layout(self.joints, "pose")

    def fitted(self, signal: Signal) -> Pose:
        """The same encoding with the joint list settled by a signal's number of joints."""
        return self if self.joints != "auto" else replace(self, joints=layout_for(signal.values.shape[-2]))

    @property
    def channels(self) -> int:
        """Numbers a joint, of kind joints."""
        return 2 + 2 * self.velocity + self.confidence

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        count = get_layout(self.joints, "pose").count
        if self.layout == "graph":
            return (self.channels, self.steps(), count)
        pairs = count * (count - 1) // 2
        return (self.steps(), {"joints": self.channels * count, "jjd": pairs, "jjv": 2 * pairs}[self.kind])

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: joints at its times, in its crop, mirrored (x mirrored, left and right exchanged) where flipped."""
        layout = get_layout(self.fitted(signal).joints, "pose")
        if signal.values.shape[-2] != layout.source_count:
            raise DataError(
                f"a pose of {signal.values.shape[-2]} joints, but the joint list {self.joints!r} has "
                f"{layout.source_count}",
                todo="Set the pose's `joints`.",
            )
        indices = select(signal, view, self.frames)
        values = torch.from_numpy(np.array(signal.values[indices], np.float32))
        if layout.take:
            values = values[:, list(layout.take)]
        points, confidence = in_crop(values[..., :2], view.box), values[..., 2]
        if view.flip:
            points = mirrored(points * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0]), layout)
            confidence = mirrored(confidence, layout)
        points = self._placed(points, view.box, layout)
        if self.kind == "jjd":
            return joint_distances(points)
        if self.kind == "jjv":
            return joint_vectors(points)
        return self._joints(points, confidence, times_of(signal, indices), layout)

    def _placed(self, points: torch.Tensor, box: tuple[float, float, float, float], layout: Layout) -> torch.Tensor:
        """Fractions of the crop in the unit that `place` names; not centred yet."""
        if self.place == "crop":
            return points * 2.0 - 1.0
        aspect = self.aspect * (box[2] - box[0]) / (box[3] - box[1])
        points = points * torch.tensor([aspect, 1.0])
        spread = points - points[:, list(layout.root)].mean(1, keepdim=True)
        size = spread.square().sum(-1).mean(-1).sqrt().mean()
        return points / size.clamp_min(1e-6)

    def _joints(
        self, points: torch.Tensor, confidence: torch.Tensor, times: NDArray[np.float64], layout: Layout
    ) -> torch.Tensor:
        place = points
        if self.place == "body":
            place = points - points[:, list(layout.root)].mean(1, keepdim=True)
        parts = [place]
        if self.velocity:
            parts.append(velocities(points, times) / VELOCITY_STD)
        if self.confidence:
            parts.append(confidence[..., None])
        features = torch.cat(parts, dim=-1)
        return features.permute(2, 0, 1).contiguous() if self.layout == "graph" else features.flatten(1)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: PoseSource) -> Signal:
        """The clip's pose, float32 (T, J, 3): x, y as fractions of the frame (may leave 0 .. 1), confidence.

        Without confidences in the file a seen joint has 1. Joints not seen (NaN, zeros, low confidence) are
        interpolated over time and have 0.

        Raises:
            DataError: not a pose, no frame size for pixels, or no joint in any frame.
        """
        where = f"{path}#{key}" if key else str(path)
        signal = array_signal(path, key, clip, options.rate, 30.0)
        values = np.asarray(signal.values, np.float32)
        if values.ndim != 3 or values.shape[-1] not in (2, 3):
            raise DataError(f"joints (T, J, 2 or 3) are expected, not {values.shape}", where=where)
        seen = observed(values[..., :2])
        if values.shape[-1] == 3:
            seen &= values[..., 2] > options.least_confidence
        points = to_fractions(values[..., :2], path.name, options, where)
        confidence = values[..., 2] if values.shape[-1] == 3 else np.ones(seen.shape, np.float32)
        return replace(signal, values=assemble(points, confidence, seen, where))

    @classmethod
    def derive(cls, rgb: Signal, options: PoseSource) -> Signal:
        """The most certain person's 17 COCO joints in each frame, by torchvision's Keypoint R-CNN."""
        from vidistill.modalities.estimators import PoseEstimator

        found = PoseEstimator.from_weights(options.weights)(np.asarray(rgb.values))
        seen = found[..., 2] > options.least_confidence
        return replace(rgb, values=assemble(found[..., :2], found[..., 2], seen, None))


def to_fractions(points: NDArray[np.float32], file_name: str, options: PoseSource, where: str) -> NDArray[np.float32]:
    """Image coordinates (T, J, 2) as fractions of the frame.

    JHMDB's `pos_world` is (x / W - 1/2) * W/H / scale and (y / H - 1/2) / scale, with a puppet scale that its file does
    not hold. With scale taken as 1 the place in the frame is approximate (clips of distant persons reach outside of
    it) while everything that is relative to the body's own size is exact.
    """
    kind = options.coordinates
    if kind == "auto":
        largest = float(np.nanmax(np.abs(points), initial=0.0))
        kind = "centred" if "world" in file_name else "pixels" if largest > LARGEST_FRACTION else "fractions"
    if kind == "fractions":
        return points
    if kind == "centred":
        return np.asarray(points / np.array([options.aspect, 1.0]) + 0.5, np.float32)
    if options.frame_size is None:
        raise DataError("a pose in pixels needs the frame's size", where=where, todo="Set pose.frame_size: [H, W].")
    height, width = options.frame_size
    return np.asarray(points / np.array([width, height]), np.float32)


def in_crop(points: torch.Tensor, box: tuple[float, float, float, float]) -> torch.Tensor:
    """Fractions of the frame (..., 2) as fractions of a crop; joints outside of it lie outside of 0 .. 1."""
    x0, y0, x1, y1 = box
    return (points - torch.tensor([x0, y0])) / torch.tensor([x1 - x0, y1 - y0])


def assemble(
    points: NDArray[Any], confidence: NDArray[Any], seen: NDArray[np.bool_], where: str | None
) -> NDArray[Any]:
    """Joints (T, J, 3) with gaps interpolated and their confidence 0."""
    filled = fill_missing(points, seen, where)
    return np.concatenate((filled, np.where(seen, confidence, 0.0)[..., None]), -1, dtype=np.float32)
