"""3-D skeletons in metres, as joints with velocities, joint-joint distances and vectors, or joint-line distances.

The feature kinds jjd, jjv and jld are named after Luo et al. (ECCV 2018); their joint and line lists were not
published, so ours (skeleton_layouts.py) are a definition of our own with the same formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.arrays import array_signal
from vidistill.modalities.base import MODALITIES, Encoding, SourceOptions, cut, select
from vidistill.modalities.joints import (
    fill_missing,
    joint_distances,
    joint_vectors,
    line_distances,
    lines_of,
    mirrored,
    observed,
    times_of,
    velocities,
)
from vidistill.modalities.skeleton_files import SUFFIXES, read_skeleton_file
from vidistill.modalities.skeleton_layouts import Layout, get_layout, layout_for

STANDARD: dict[str, tuple[float, float]] = {
    "joints": (0.0, 0.3),
    "jjd": (0.53968146, 0.32319776),
    "jjv": (0.0, 0.35953656),
    "jld": (0.35, 0.28),
}
"""Mean and standard deviation in metres that each kind is standardised with.

jjd, jjv: the constants of Luo et al. for NTU RGB+D and PKU-MMD. jld: of our own lines, over UTD-MHAD (theirs, 0.1598
and 0.1278, are of lines that were not published). joints: the spread of root-centred joints of UTD-MHAD's training
subjects (0.14, 0.46, 0.12 m by axis), taken as one number so that rotations stay rotations.
"""
VELOCITY_STD = 0.5
"""Metres a second; UTD-MHAD's training subjects have 0.32, 0.58, 0.51 by axis."""


@dataclass(frozen=True)
class SkeletonSource(SourceOptions):
    """How skeletons are read.

    Attributes:
        rate: frames a second (None: the clip's fps, else 30).
        scale: factor from the file's unit to metres.
        features: arrays are (T, D) features of the kind that is asked for, computed elsewhere, not joints.
    """

    rate: float | None = None
    scale: float = 1.0
    features: bool = False


@MODALITIES.register("skeleton")
@dataclass(frozen=True)
class Skeleton(Encoding):
    """3-D joints (T, J, 3) or (T, P, J, 3), metres, as float32 (T, D), or (C, T, P * J) with `layout="graph"`.

    Attributes:
        frames: time steps (None: the view's own).
        kind: joints (centred on the first person's root; with velocities), jjd, jjv or jld.
        joints: joint list: kinect20, kinect25, ntu12, jhmdb15, coco17, cad15, or auto (then call `fitted`
            before `shape`).
        persons: persons taken; a clip with fewer repeats its last one.
        velocity: kind joints also gives movement in metres a second, measured before centring.
        mark: kind joints also gives 1 for joints that were seen, 0 for interpolated ones.
        layout: sequence (T, D), or graph (C, T, P * J), kind joints only.
        mean: subtracted from features (None: `STANDARD`).
        std: features are divided by it (None: `STANDARD`).
    """

    frames: int | None = None
    kind: Literal["joints", "jjd", "jjv", "jld"] = "joints"
    joints: str = "kinect20"
    persons: int = 1
    velocity: bool = True
    mark: bool = False
    layout: Literal["sequence", "graph"] = "sequence"
    mean: float | None = None
    std: float | None = None

    name: ClassVar[str] = "skeleton"
    Source: ClassVar[type[SourceOptions]] = SkeletonSource

    def __post_init__(self) -> None:
        if self.layout == "graph" and self.kind != "joints":
            raise RecipeError(f"layout graph needs kind joints, not {self.kind}", where="skeleton")
        if self.persons < 1:
            raise RecipeError("persons is at least 1", where="skeleton")
        if self.joints != "auto":
            get_layout(self.joints, "skeleton")

    def fitted(self, signal: Signal) -> Skeleton:
        """The same encoding with the joint list settled by a signal's number of joints."""
        if self.joints == "auto" and signal.values.ndim == 2:
            raise RecipeError("features do not say of which joints they are", where="skeleton", todo="Set joints.")
        return self if self.joints != "auto" else replace(self, joints=layout_for(signal.values.shape[-2], space=True))

    @property
    def channels(self) -> int:
        """Numbers a joint, of kind joints."""
        return 3 + 3 * self.velocity + self.mark

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        layout = get_layout(self.joints, "skeleton")
        points = layout.count * self.persons
        if self.layout == "graph":
            return (self.channels, self.steps(), points)
        pairs = points * (points - 1) // 2
        lines = len(layout.lines) * self.persons * (points - 2)
        width = {"joints": self.channels * points, "jjd": pairs, "jjv": 3 * pairs, "jld": lines}[self.kind]
        return (self.steps(), width)

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: joints at its times, mirrored (x negated, left and right exchanged) where it is flipped.

        The crop does not apply: metres know no frame.
        """
        fitted = self.fitted(signal)
        layout = get_layout(fitted.joints, "skeleton")
        indices = select(signal, view, self.frames)
        if signal.values.ndim == 2:
            return self._features(signal, indices, view.flip)
        points, seen = self._points(signal, indices, layout)
        if view.flip:
            points = mirrored(points, layout, self.persons) * torch.tensor([-1.0, 1.0, 1.0])
            seen = mirrored(seen, layout, self.persons)
        mean, std = self._standard()
        if self.kind == "joints":
            return self._joints(points, seen, times_of(signal, indices), layout)
        if self.kind == "jjd":
            features = joint_distances(points)
        elif self.kind == "jjv":
            features = joint_vectors(points)
        else:
            features = line_distances(points, lines_of(layout, self.persons))
        return (features - mean) / std

    def _features(self, signal: Signal, indices: NDArray[np.int64], flip: bool) -> torch.Tensor:
        """Features that were computed elsewhere, standardised; which of them a mirror exchanges is not known.

        Raises:
            DataError: not as many as this kind has.
            RecipeError: a flipped view.
        """
        mean, std = self._standard()
        if signal.values.shape[1:] != self.shape[1:]:
            raise DataError(
                f"{signal.values.shape[1]} features, but {self.kind} of {self.persons} persons' {self.joints!r} are "
                f"{self.shape[1]}",
                todo="Set the skeleton's `kind`, `joints` and `persons`.",
            )
        if flip:
            raise RecipeError(
                "features cannot be mirrored", where="skeleton", todo="Set views.flip to 0, or give joints."
            )
        return (torch.from_numpy(np.asarray(signal.values[indices], np.float32)) - mean) / std

    def _standard(self) -> tuple[float, float]:
        mean, std = STANDARD[self.kind]
        return (mean if self.mean is None else self.mean, std if self.std is None else self.std)

    def _points(self, signal: Signal, indices: NDArray[np.int64], layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """Joints (T, P * J, 3) and which were seen (T, P * J), of the frames looked at."""
        stored = signal.values
        if stored.shape[-2] != layout.source_count:
            raise DataError(
                f"a skeleton of {stored.shape[-2]} joints, but {self.joints!r} has {layout.source_count}",
                todo="Set the skeleton's `joints`.",
            )
        values = np.asarray(stored[indices], np.float32)
        if values.shape[-1] == 3 and not observed(values).all():
            values = mark_missing(np.asarray(stored, np.float32))[indices]
        if values.ndim == 3:
            values = values[:, None]
        if layout.take:
            values = values[:, :, list(layout.take)]
        persons = np.minimum(np.arange(self.persons), values.shape[1] - 1)
        flat = torch.from_numpy(np.ascontiguousarray(values[:, persons])).flatten(1, 2)
        seen = flat[..., 3] if flat.shape[-1] == 4 else torch.ones(flat.shape[:2])
        return flat[..., :3], seen

    def _joints(
        self, points: torch.Tensor, seen: torch.Tensor, times: NDArray[np.float64], layout: Layout
    ) -> torch.Tensor:
        mean, std = self._standard()
        root = points[:, list(layout.root)].mean(1, keepdim=True)
        parts = [(points - root - mean) / std]
        if self.velocity:
            parts.append(velocities(points, times) / VELOCITY_STD)
        if self.mark:
            parts.append(seen[..., None])
        features = torch.cat(parts, dim=-1)
        return features.permute(2, 0, 1).contiguous() if self.layout == "graph" else features.flatten(1)

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: SkeletonSource) -> Signal:
        """The clip's joints, float32 (T, [P,] J, 3); where some were not seen, (T, [P,] J, 4) as `mark_missing` gives.

        `.skeleton` and `.txt` files are raw text of NTU RGB+D, PKU-MMD or CAD-60; others are arrays.

        Raises:
            SignalAbsent: raw text without anybody.
            DataError: not a skeleton, or no joint in any frame.
        """
        where = f"{path}#{key}" if key else str(path)
        if path.suffix.lower() in SUFFIXES:
            signal = cut(Signal(read_skeleton_file(path), options.rate or clip.fps or 30.0), clip)
        else:
            signal = array_signal(path, key, clip, options.rate, 30.0)
        values = signal.values
        if options.features and values.ndim == 2:
            return replace(signal, values=np.asarray(values, np.float32))
        if values.ndim not in (3, 4) or values.shape[-1] != 3:
            raise DataError(f"joints (T, J, 3) are expected, not {values.shape}", where=where)
        points = np.asarray(values, np.float32) * np.float32(options.scale)
        return replace(signal, values=mark_missing(points, where))


def mark_missing(points: NDArray[np.float32], where: str | None = None) -> NDArray[Any]:
    """Joints (T, [P,] J, 3) unchanged where all were seen; else with gaps filled and a fourth number, 1 seen, 0 filled.

    Persons that are never seen are left out.
    """
    seen = observed(points)
    if points.ndim == 4 and seen.any():
        present = seen.any(axis=(0, 2))
        points, seen = points[:, present], seen[:, present]
    if seen.all():
        return points
    if points.ndim == 3:
        return np.concatenate((fill_missing(points, seen, where), seen[..., None]), -1, dtype=np.float32)
    if not seen.any():
        raise DataError("no joint in any frame", where=where, todo="Leave the clip's skeleton out of the manifest.")
    people = [fill_missing(points[:, p], seen[:, p], where) for p in range(points.shape[1])]
    return np.concatenate((np.stack(people, 1), seen[..., None]), -1, dtype=np.float32)
