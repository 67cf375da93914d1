"""What skeletons and poses share: gaps in time, joint features, motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.types import Signal
from vidistill.modalities.skeleton_layouts import Layout, Pairs


def observed(points: NDArray[Any]) -> NDArray[np.bool_]:
    """Which joints (..., D) were seen: trackers write NaN or exact zeros for those that were not."""
    result: NDArray[np.bool_] = np.isfinite(points).all(-1) & (points != 0).any(-1)
    return result


def fill_missing(points: NDArray[Any], seen: NDArray[np.bool_], where: str | None = None) -> NDArray[np.float32]:
    """Points (T, N, D) with unseen ones interpolated linearly over time, constant before the first and after the last.

    A joint that is never seen in the clip takes the mean of its frame's seen joints.

    Raises:
        DataError: the clip has no seen joint at all.
    """
    if not seen.any():
        raise DataError("no joint in any frame", where=where, todo="Leave the clip's skeleton out of the manifest.")
    filled = np.where(seen[..., None], points, 0.0).astype(np.float32)
    time = np.arange(len(points))
    for joint in np.flatnonzero(~seen.all(0) & seen.any(0)):
        known = np.flatnonzero(seen[:, joint])
        for axis in range(points.shape[-1]):
            filled[:, joint, axis] = np.interp(time, known, filled[known, joint, axis])
    never = ~seen.any(0)
    if never.any():
        filled[:, never] = filled[:, ~never].mean(1, keepdims=True)
    return filled


def pair_indices(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs i < j in row-major order."""
    first, second = torch.triu_indices(count, count, offset=1)
    return first, second


def joint_distances(points: torch.Tensor) -> torch.Tensor:
    """Distances of all joint pairs i < j: (T, N, D) to (T, N(N-1)/2)."""
    first, second = pair_indices(points.shape[1])
    distances: torch.Tensor = torch.linalg.vector_norm(points[:, first] - points[:, second], dim=-1)
    return distances


def joint_vectors(points: torch.Tensor) -> torch.Tensor:
    """Vectors x_i - x_j of all joint pairs i < j, axes interleaved: (T, N, D) to (T, D * N(N-1)/2)."""
    first, second = pair_indices(points.shape[1])
    return (points[:, first] - points[:, second]).flatten(1)


def line_distances(points: torch.Tensor, lines: Pairs) -> torch.Tensor:
    """Distances of each joint from each line it is no end of: (T, N, 3) to (T, L * (N - 2)).

    For the line through a and b and joint k, |(k - a) x (b - a)| / |b - a|; joints ascending within a line. A line
    whose ends coincide has no direction: its distances are 0.
    """
    count = points.shape[1]
    ends = torch.tensor(lines)
    others = torch.tensor([[k for k in range(count) if k not in line] for line in lines])
    start = points[:, ends[:, 0]]
    along = points[:, ends[:, 1]] - start
    offset = points[:, others] - start[:, :, None]
    area = torch.linalg.vector_norm(torch.linalg.cross(offset, along[:, :, None].expand_as(offset)), dim=-1)
    length = torch.linalg.vector_norm(along, dim=-1).clamp_min(1e-8)
    distances: torch.Tensor = (area / length[..., None]).flatten(1)
    return distances


def lines_of(layout: Layout, persons: int) -> Pairs:
    """The layout's lines for each person in turn, person p's joints counted from p * layout.count."""
    return tuple((a + p * layout.count, b + p * layout.count) for p in range(persons) for a, b in layout.lines)


def velocities(points: torch.Tensor, times: NDArray[np.float64]) -> torch.Tensor:
    """Movement since the step before, per second: (T, N, D) at `times` (T,). The first step repeats the second's.

    Steps that look at the same sample have no movement.
    """
    if len(points) == 1:
        return torch.zeros_like(points)
    step = torch.from_numpy(np.diff(times)).to(points.dtype)
    rate = torch.where(step > 1e-9, step.clamp_min(1e-9).reciprocal(), torch.zeros_like(step))
    moved = points.diff(dim=0) * rate[:, None, None]
    return torch.cat((moved[:1], moved))


def times_of(signal: Signal, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds at which samples were taken."""
    if signal.times is not None:
        return signal.times[indices]
    times: NDArray[np.float64] = signal.start + indices / signal.rate
    return times


def mirrored(points: torch.Tensor, layout: Layout, persons: int = 1) -> torch.Tensor:
    """Joints (T, persons * J, ...) with left and right exchanged within each person (coordinates are not touched)."""
    order = [p * layout.count + joint for p in range(persons) for joint in layout.mirror]
    return points[:, order]
