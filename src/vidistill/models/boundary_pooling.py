"""Boundary max pooling: the strongest answer of each channel near a segment's start and near its end.

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.3:

    y[b, c, k] = max x[b, c, l..r],    (l, r) = segments[b, k, 0:2] for the first half of the channels, else [2:4]

Bounds are truncated toward zero and clamped to the sequence; a reversed window (r < l) is the one step l. Windows are
looked up in a sparse table of maxima (windows of 1, 2, 4, ... steps from every step), two look-ups a window, so that
cost does not depend on their lengths: O(T log T). The gradient goes to the first maximum of a window, none to bounds.

`variant: released` has the backward pass of the published CUDA kernel (also used by Generative Model-based Feature
Knowledge Distillation, AAAI 2024), which takes the length of the sequence from the output: with K windows over T != K
steps its gradients land on wrong elements. It is for parity only; the forward pass is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidistill.core.errors import ModelError

Variant = Literal["default", "released"]


def boundary_max_pool(x: Tensor, segments: Tensor, variant: Variant = "default") -> Tensor:
    """Maxima near the boundaries of segments.

    Args:
        x: sequences (B, C, T).
        segments: first and last step around the start, then around the end, of each segment (B, K, 4), in steps of
            `x`, of any size and order. Not a number counts as 0.
        variant: see the file's head.

    Returns:
        (B, C, K). The first C // 2 channels are pooled around the start, the others around the end.

    Raises:
        ModelError: shapes that do not fit each other; or, if `variant` is "released", more windows than steps, for
            which the published kernel leaves its memory.
    """
    if x.dim() != 3 or segments.dim() != 3 or segments.shape[0] != x.shape[0] or segments.shape[2] != 4:
        shapes = f"{tuple(x.shape)} and {tuple(segments.shape)}"
        raise ModelError(f"boundary pooling takes sequences (B, C, T) and segments (B, K, 4), not {shapes}")
    if variant == "default":
        return x.gather(2, first_maxima(x.detach(), segments.detach()))
    if segments.shape[1] > x.shape[2]:
        raise ModelError(f"the released pooling has no gradient for {segments.shape[1]} windows of {x.shape[2]} steps")
    pooled: Tensor = _ReleasedPooling.apply(x, segments)
    return pooled


def pool_sets(x: Tensor, sets: Sequence[Tensor], variant: Variant = "default") -> list[Tensor]:
    """`boundary_max_pool` of one sequence (B, C, T) by several sets of segments (B, K, 4): one (B, C, K) a set.

    One look into one table; but the released gradient depends on the size of a set, which is so pooled by itself.
    """
    if variant == "released":
        return [boundary_max_pool(x, segments, variant) for segments in sets]
    pooled = boundary_max_pool(x, torch.cat([*sets], dim=1))
    return list(torch.split(pooled, [segments.shape[1] for segments in sets], dim=2))


def pool_sequences(sequences: Sequence[Tensor], sets: Sequence[Tensor], variant: Variant = "default") -> list[Tensor]:
    """`boundary_max_pool` of several sequences (B, C, T) by a set of segments (B, K, 4) each: one (B, C, K) a sequence.

    One look into the table of all sequences put together, as `pool_sets`.
    """
    if variant == "released":
        return [boundary_max_pool(x, segments, variant) for x, segments in zip(sequences, sets, strict=True)]
    moved, before = [], 0
    for x, segments in zip(sequences, sets, strict=True):
        moved.append(segments.nan_to_num(0.0).clamp(0, x.shape[2] - 1) + before)
        before += x.shape[2]
    return pool_sets(torch.cat([*sequences], dim=2), moved)


def first_maxima(x: Tensor, segments: Tensor) -> Tensor:
    """Index (B, C, K) of the first maximum of each channel of `x` (B, C, T) in its window of `segments` (B, K, 4)."""
    length = x.shape[2]
    first, last = _windows(segments, x.shape[1], length)
    values, places = _sparse_table(x)
    # The largest power of two within a window: two such windows, from its first and to its last step, cover it.
    powers = 2 ** torch.arange(len(values), device=x.device)
    level = (powers <= (last - first + 1).unsqueeze(-1)).sum(-1) - 1
    table, indices = torch.cat(values, dim=2), torch.cat(places, dim=2)
    row = level * length
    before, after = row + first, row + last - powers[level] + 1
    earlier = table.gather(2, before) >= table.gather(2, after)
    return torch.where(earlier, indices.gather(2, before), indices.gather(2, after))


def _windows(segments: Tensor, channels: int, length: int) -> tuple[Tensor, Tensor]:
    """First and last step (B, C, K) of every channel's windows, within the sequence and in order."""
    bounds = segments.nan_to_num(0.0).clamp(0, length - 1).long()
    starts = channels // 2
    around = [bounds[:, None, :, :2].expand(-1, starts, -1, -1)]
    around.append(bounds[:, None, :, 2:].expand(-1, channels - starts, -1, -1))
    first, last = torch.cat(around, dim=1).unbind(-1)
    return first, torch.maximum(first, last)


def _sparse_table(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Maxima, and their first indices, of windows of 1, 2, 4, ... steps from each step: two lists of (B, C, T).

    Of windows that pass the end of the sequence nothing is asked; they keep what the shorter window had.
    """
    length = x.shape[2]
    values = [x]
    places = [torch.arange(length, device=x.device).expand_as(x)]
    reach = 1
    while 2 * reach <= length:
        value, place = values[-1], places[-1]
        later, place_later = value[:, :, reach:], place[:, :, reach:]
        earlier = value[:, :, :-reach] >= later
        values.append(torch.cat([torch.where(earlier, value[:, :, :-reach], later), value[:, :, -reach:]], dim=2))
        places.append(torch.cat([torch.where(earlier, place[:, :, :-reach], place_later), place[:, :, -reach:]], dim=2))
        reach *= 2
    return values, places


class _ReleasedPooling(torch.autograd.Function):
    """The right values with the published gradient, which reads `x` as if it had as many steps as there are windows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, segments: Tensor) -> Tensor:
        ctx.save_for_backward(x, segments)
        return x.gather(2, first_maxima(x, segments))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, segments = ctx.saved_tensors
        (grad,) = grads
        misread = x.flatten()[: grad.numel()].view_as(grad)
        landed = torch.zeros_like(misread).scatter_add(2, first_maxima(misread, segments), grad)
        behind = x.new_zeros(x.numel() - grad.numel())
        return torch.cat([landed.flatten(), behind]).view_as(x), None
