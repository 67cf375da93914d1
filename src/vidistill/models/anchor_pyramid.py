"""From the feature maps of a video network to a pyramid of sequences, each half as long as the one before.

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization (AFSD), CVPR 2021, section
3.1. Each map loses its pixels by a convolution over the whole frame; a deeper map is also added to the one above it;
further levels halve the deepest by a strided convolution. A frame-level sequence, as long as the window, is made of
the first level. Every convolution is followed by a group normalisation and a ReLU.

Shapes: B windows of `frames` frames, maps (B, C, T, H, W), sequences (B, width, t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.models.attention import group_norm
from vidistill.models.same_padding import SameConv1d


def activated(convolution: nn.Conv1d | nn.Conv3d) -> list[nn.Module]:
    """A convolution, its group normalisation and a ReLU."""
    return [convolution, group_norm(convolution.out_channels), nn.ReLU(inplace=True)]


class Pyramid(nn.Module):
    """The pyramid over maps of given shapes.

    Args:
        shapes: (C, T, H, W) of each map, the longest first.
        width: channels of every level.
        levels: how many, at least one a map.
        frames: of the window, the length of the frame-level sequence.

    Attributes:
        lengths: steps t of each level.

    Raises:
        ModelError: fewer levels than maps, a map longer than one before it, or a level beyond one of a single step.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], width: int, levels: int, frames: int) -> None:
        super().__init__()
        times = [shape[1] for shape in shapes]
        if levels < len(shapes):
            raise ModelError(f"{levels} pyramid levels over {len(shapes)} maps", todo="Give each map a level.")
        if times != sorted(times, reverse=True):
            raise ModelError(f"maps of {times} steps make no pyramid", todo="Name the longest map first.")
        self.frames = frames
        self.lengths = times
        self.from_maps = nn.ModuleList(
            nn.Sequential(*activated(nn.Conv3d(channels, width, (1, height, width_of))))
            for channels, _, height, width_of in shapes
        )
        self.further = nn.ModuleList()
        while len(self.lengths) < levels:
            if self.lengths[-1] == 1:
                raise ModelError(f"only {len(self.lengths)} pyramid levels fit {times[0]} steps, not {levels}")
            self.lengths.append(math.ceil(self.lengths[-1] / 2))
            self.further.append(nn.Sequential(*activated(SameConv1d(width, width, 3, stride=2))))
        kernels = (3, 3, 1)
        self.frame_level = nn.Sequential(
            *(layer for kernel in kernels for layer in activated(SameConv1d(width, width, kernel)))
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv3d)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The levels (B, width, t), longest first, and the frame-level sequence (B, width, frames)."""
        sequences = self.sequences(maps)
        return sequences, self.frame_level(functional.interpolate(sequences[0], self.frames))

    def sequences(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels (B, width, t) alone."""
        # Frames of another size than the pyramid was built for would leave pixels, which the next convolution refuses.
        found = [layer(x).squeeze(-1).squeeze(-1) for layer, x in zip(self.from_maps, maps, strict=True)]
        for level in range(len(found) - 1, 0, -1):
            above = found[level - 1]
            found[level - 1] = above + functional.interpolate(found[level], above.shape[2])
        for layer in self.further:
            found.append(layer(found[-1]))
        return found
