"""A network starts from one of the same names whose kernels have another extent over time.

    2-D or 1 x k x k -> t x k x k:  the kernel repeated t times, divided by t (inflation, Carreira & Zisserman 2017,
                                    section 2.2): a clip of one repeated frame gives the same responses as the frame
    t x k x k -> 1 x k x k or 2-D:  its centre tap (index t // 2), or the sum of its taps: the inverse of inflation

So a top-heavy student, flat in its lower stages, starts from an I3D teacher, and the other way round. All other tensors
are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models.import_ import KeyMap, import_checkpoint, rename
from vidistill.models.trunks import adapt_channels
from vidistill.models.weights import misfit

Taps = Literal["centre", "sum"]
"""What of a 3-D kernel a flat one takes: the tap of the middle frame, or the sum over time."""

FRAME, CLIP = 4, 5
"""Axes of the kernels (O, I, kH, kW) and (O, I, kT, kH, kW)."""


def fit_time(kernel: Tensor, shape: torch.Size | tuple[int, ...], taps: Taps = "centre") -> Tensor:
    """`kernel` sliced or inflated to `shape` where the two differ in their extent over time alone; else itself.

    Args:
        kernel: (O, I, kH, kW) or (O, I, kT, kH, kW).
        shape: wanted. Extents over time of which neither is 1 are left apart: no tap of one is a tap of the other.
        taps: see `Taps`.
    """
    shape = tuple(shape)
    if tuple(kernel.shape) == shape or {kernel.dim(), len(shape)} - {FRAME, CLIP}:
        return kernel
    clip = kernel.unsqueeze(2) if kernel.dim() == FRAME else kernel
    wanted = (*shape[:2], 1, *shape[2:]) if len(shape) == FRAME else shape
    length, time = clip.shape[2], wanted[2]
    if (*clip.shape[:2], *clip.shape[3:]) != (*wanted[:2], *wanted[3:]) or (length != time and 1 not in (length, time)):
        return kernel
    if length > time:
        clip = clip.sum(2, keepdim=True) if taps == "sum" else clip[:, :, length // 2 : length // 2 + 1]
    elif length < time:
        clip = clip.repeat_interleave(time, dim=2) / time
    return clip.reshape(shape).contiguous()


def inherit(
    student: nn.Module,
    teacher: Mapping[str, Tensor],
    taps: Taps = "centre",
    first: tuple[str, ...] = (),
    where: str | None = None,
) -> None:
    """Starts `student` from the teacher's tensors of the same names; nothing is changed where one does not fit.

    Args:
        student: receives every one of its tensors.
        teacher: its state dict, on any device.
        taps: see `Taps`.
        first: keys of the kernels that see the input; they are adapted to its channels (`trunks.adapt_channels`).
        where: named in the error.

    Raises:
        CheckpointError: missing or unexpected keys, or shapes that differ in more than time; the first are named.
    """
    own, given = student.state_dict(), dict(teacher)
    for key in given.keys() & own.keys():
        if key in first and given[key].dim() > 1:
            given[key] = adapt_channels(given[key], own[key].shape[1])
        given[key] = fit_time(given[key], own[key].shape, taps)
    problem = misfit(own, given)
    if problem:
        raise CheckpointError(f"the weights do not fit {type(student).__name__}: {problem}", where=where)
    with torch.no_grad():
        student.load_state_dict(given)


def inherit_file(
    backbone: nn.Module, path: str, keys: KeyMap, inside: str, taps: Taps = "centre", first: tuple[str, ...] = ()
) -> None:
    """Starts a backbone from a file: a published checkpoint, or one of `save_weights`.

    Args:
        backbone: receives every one of its tensors.
        path: .pth, .pt or .safetensors.
        keys: key map from the published checkpoint to a `Network` over this backbone; leaves our own keys alone.
        inside: prefix of the backbone's keys; classifiers and whatever else has another prefix are left unread.
        taps: see `Taps`.
        first: keys within the backbone of the kernels that see the input.

    Raises:
        ModelError: no such file.
        CheckpointError: an unreadable file, or weights of another architecture; the first keys are named.
    """
    if not Path(path).is_file():
        raise ModelError(f"there is no weights file {path!r}", todo="Give a checkpoint's path, or null to start fresh.")
    state = rename(import_checkpoint(path), keys, path)
    own = {key.removeprefix(inside): value for key, value in state.items() if key.startswith(inside)}
    inherit(backbone, own, taps, first, path)
