"""Boundary max pooling: the strongest answer of each channel near a segment's start and near its end.

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.3:

    y[b, c, k] = max x[b, c, l..r],    (l, r) = segments[b, k, 0:2] for the first half of the channels, else [2:4]

Bounds are truncated toward zero and clamped to the sequence; a reversed window (r < l) is the one step l. Windows are
looked up in a sparse table of maxima (windows of 1, 2, 4, ... steps from every step), two of which cover any window;
where a maximum lies is then searched down the table, for the K windows only. Cost does not depend on the windows'
lengths: O((T + K) log T). The gradient goes to the first maximum of a window, none to bounds.

`variant: released` has the backward pass of the published CUDA kernel (also used by Generative Model-based Feature
Knowledge Distillation, AAAI 2024), which takes the length of the sequence from the output: with K windows over T != K
steps its gradients land on wrong elements. It is for parity only; the forward pass is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

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
    """Index (B, C, K) of the first maximum of each channel of `x` (B, C, T) in its window of `segments` (B, K, 4).

    A value that is not a number counts as infinity, so that it is not lost.
    """
    batch, channels, length = x.shape
    if channels % 2:  # one more at the start, not returned: halves of one width are pooled at once
        return first_maxima(functional.pad(x, (0, 0, 1, 0)), segments)[:, 1:]
    bounds = segments.nan_to_num(0.0).clamp(0, length - 1).long()
    # From here halves count as clips: (2B, K) windows around the starts and the ends, and (2B, T, C / 2) steps whose
    # values adjoin.
    first, last = torch.stack(bounds.chunk(2, dim=2), dim=1).flatten(0, 1).unbind(-1)
    halves = x.reshape(2 * batch, channels // 2, length).transpose(1, 2)
    steps = halves.clone(memory_format=torch.contiguous_format).nan_to_num_(torch.inf, torch.inf, -torch.inf)
    found = _first_maxima(steps, first, torch.maximum(first, last))
    return found.transpose(1, 2).reshape(batch, channels, segments.shape[1])


def _first_maxima(steps: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Index (B, K, C) of the first maximum of each channel of `steps` (B, T, C) from `first` to `last` (B, K)."""
    table = _sparse_table(steps)
    # The largest power of two within a window: two such windows, from its first and to its last step, cover it.
    powers = 2 ** torch.arange(len(table), device=steps.device)
    level = (powers <= (last - first + 1).unsqueeze(-1)).sum(-1) - 1
    behind = last - powers[level] + 1
    earlier, later = _look_up(table, torch.cat([level, level], 1), torch.cat([first, behind], 1)).chunk(2, dim=1)
    best = torch.maximum(earlier, later)
    found = torch.where(earlier == best, first.unsqueeze(-1), behind.unsqueeze(-1))
    # Down the table: of the two halves of what is left, the first that has the maximum. It begins at `found`.
    for height in range(len(table) - 1, 0, -1):
        half = table[height - 1].gather(1, found.clamp(max=table[height - 1].shape[1] - 1))
        moves = (half < best) & (level >= height).unsqueeze(-1)
        found = torch.where(moves, found + 2 ** (height - 1), found)
    return found


def _sparse_table(steps: Tensor) -> list[Tensor]:
    """Maxima (B, T + 1 - n, C) of the windows of n = 1, 2, 4, ... steps from each step of (B, T, C) where they fit."""
    table = [steps]
    reach = 1
    while 2 * reach <= steps.shape[1]:
        table.append(torch.maximum(table[-1][:, :-reach], table[-1][:, reach:]))
        reach *= 2
    return table


def _look_up(table: list[Tensor], level: Tensor, place: Tensor) -> Tensor:
    """Maxima (B, N, C) of windows (B, N), each at its level of the table and from its place.

    All windows are read at all levels (whose last place stands for what is not there), since that is far cheaper than
    to put the levels together in one tensor.
    """
    clips = torch.arange(place.shape[0], device=place.device).unsqueeze(-1)
    looked = torch.zeros(1, dtype=table[0].dtype, device=place.device)
    for height, values in enumerate(table):
        rows = place.clamp(max=values.shape[1] - 1) + clips * values.shape[1]
        read = values.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, values.shape[2])
        looked = torch.where((level == height).unsqueeze(-1), read, looked)
    return looked


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
