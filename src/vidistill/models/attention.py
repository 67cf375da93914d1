"""Channel-time attention: how much each channel of a feature map matters at each time step, A (B, C, T) in (0, 1).

Source: Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644. `PublishedAttention` is its
head: 27 million weights at 1024 channels, more than the student's whole backbone, for one number of time steps.
`PooledAttention` does the same from the mean over the frame, for any number of steps, with about C^2 / 4 weights.
`plain_attention` has no weights at all, for networks without a head of their own.

Maps are (B, C, T, H, W); those of sequences (B, C, T) and of skeleton graphs (B, C, T, J) are taken as maps of one
pixel and of one row (`as_map`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError

PUBLISHED_HIDDEN, PUBLISHED_GROUPS = 512, 32


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the published 32 groups, or with fewer where channels are few.

    The largest divisor of `channels` up to 32 that leaves a group two channels: a group of one channel at one time
    step is a single number, and normalising that gives zero.
    """
    fitting = (count for count in range(PUBLISHED_GROUPS, 1, -1) if channels % count == 0 and channels >= 2 * count)
    return nn.GroupNorm(next(fitting, 1), channels)


def as_map(feature: Tensor) -> Tensor:
    """A feature (B, C, T), (B, C, T, J) or (B, C, T, H, W) as (B, C, T, H, W)."""
    return feature.reshape(*feature.shape, *(1,) * (5 - feature.ndim))


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """(C, T, H, W) of a feature's shape without batch; None where it is no map."""
    if not 2 <= len(shape) <= 4:
        return None
    channels, steps, height, width = (*shape, 1, 1)[:4]
    return channels, steps, height, width


class PublishedAttention(nn.Module):
    """The published head: the whole frame to 512 channels, time stretched to C, then mapped back to T.

    Args:
        channels: C of the map.
        steps: T of the map; no other number of steps can be taken.
        pixels: (H, W) of the map, the size of the first kernel.
        hidden: width in between.
    """

    def __init__(self, channels: int, steps: int, pixels: tuple[int, int], hidden: int = PUBLISHED_HIDDEN) -> None:
        super().__init__()
        self.channels, self.steps, self.pixels = channels, steps, pixels
        self.reduce = nn.Sequential(nn.Conv3d(channels, hidden, (1, *pixels)), group_norm(hidden), nn.ReLU())
        self.head = nn.Sequential(
            # "SAME" padding of a kernel of 3 with stride 1 is one zero on either side.
            nn.Conv1d(hidden, channels, 3, padding=1),
            group_norm(channels),
            nn.ReLU(),
            nn.Linear(channels, steps),
            nn.Sigmoid(),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """A (B, C, T) of a map (B, C, T, H, W).

        Raises:
            ModelError: another number of time steps or pixels than the head was made for.
        """
        feature = as_map(feature)
        if tuple(feature.shape[2:]) != (self.steps, *self.pixels):
            raise ModelError(
                f"this attention is for maps of {(self.steps, *self.pixels)} steps and pixels, "
                f"not {tuple(feature.shape[2:])}",
                todo="Use attention: pooled, which takes any number of steps.",
            )
        x = self.reduce(feature).flatten(2)
        # Published as it is: the axis that the linear map reduces is time, stretched to as many steps as channels.
        attention: Tensor = self.head(functional.interpolate(x, size=self.channels, mode="nearest"))
        return attention


class PooledAttention(nn.Module):
    """The light head: mean over the frame, a bottleneck of three 1-D convolutions over time. It starts at A = 1/2.

    Args:
        channels: C of the map.
        hidden: width in between; None: an eighth of the channels, 8 at least.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = max(8, channels // 8) if hidden is None else hidden
        self.head = nn.Sequential(
            nn.Conv1d(channels, hidden, 1),
            nn.GroupNorm(1, hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        # Equal attention leaves the map as it is: the network starts as its trunk.
        last = self.head[5]
        assert isinstance(last, nn.Conv1d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """A (B, C, T) of a map (B, C, T, H, W) of any T, H, W."""
        attention: Tensor = self.head(as_map(feature).mean(dim=(3, 4)))
        return attention


def plain_attention(feature: Tensor) -> Tensor:
    """Attention without weights: the sigmoid of the mean over the frame, standardised over a clip's channels and steps.

    Args:
        feature: a map (B, C, T, H, W).

    Returns:
        A (B, C, T) in (0, 1), at least float32; 1/2 everywhere where the map is constant.
    """
    means = as_map(feature).mean(dim=(3, 4)).to(torch.promote_types(feature.dtype, torch.float32))
    return torch.sigmoid(functional.layer_norm(means, means.shape[1:]))


def attention_prefixes(level: str = "5c", ours: str = "") -> dict[str, str | None]:
    """Published prefixes of an attention head -> those of a `PublishedAttention` under `ours`; for `prefix_map`.

    Args:
        level: "5c" or "4f", the map that the head reads; the other level's head is dropped.
        ours: where our head is, e.g. "backbone.attention.".

    Raises:
        ModelError: another level.
    """
    reduce = {"5c": "deconv1.", "4f": "deconv2."}
    if level not in reduce:
        raise ModelError(f"the published networks have no attention on {level!r}", todo="Known: 5c, 4f.")
    head = f"Att_Head_{level}."
    dropped = {prefix: None for other in reduce for prefix in (reduce[other], f"Att_Head_{other}.")}
    kept = {reduce[level]: f"{ours}reduce.", f"{head}0.conv1d.": f"{ours}head.0.", head: f"{ours}head."}
    return {**dropped, **kept}
