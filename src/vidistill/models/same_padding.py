"""Convolutions and maxima with TensorFlow's SAME padding, which I3D and what is built on it need.

An axis of s samples under a kernel of k and a stride of q gives ceil(s / q) samples. It lacks

    p = max(k - q, 0) where q divides s, else max(k - s mod q, 0)

of which p // 2 are put before and the rest behind. So p may be odd and depends on the clip's size, unlike torch's own
padding. Where both sides get the same, nothing is copied: the kernel pads by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, int, int]
"""Extent over (T, H, W)."""

Padded = Literal["all", "time"]
"""Which axes of a clip are padded: all, or time alone (published as `spatial_valid`)."""

NOTHING = float("-inf")
"""Never the maximum."""


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Samples before and behind an axis of `length` samples; the second is the first or one more."""
    rest = length % stride
    total = max(kernel - (rest or stride), 0)
    return total // 2, total - total // 2


def split_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> tuple[list[int], list[int]]:
    """By axis: what both sides get, and the one sample more that the end of an axis may get."""
    sides = [same_padding(*axis) for axis in zip(sizes, kernel, stride, strict=True)]
    return [before for before, _ in sides], [behind - before for before, behind in sides]


def pad_ends(x: Tensor, extra: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with `extra` samples of `value` behind each of its last axes; itself where there are none."""
    if not any(extra):
        return x
    return functional.pad(x, [side for count in reversed(extra) for side in (0, count)], value=value)


class SameConv1d(nn.Conv1d):
    """(B, C, T) -> (B, O, ceil(T / stride)); padded with zeros. Keys as of `nn.Conv1d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, C, T)."""
        both, extra = split_padding(x.shape[2:], self.kernel_size, self.stride)
        return functional.conv1d(pad_ends(x, extra), self.weight, self.bias, self.stride, both)


class SameConv3d(nn.Conv3d):
    """(B, C, T, H, W) -> (B, O, ceil(T / stride), …), padded with zeros. Keys as of `nn.Conv3d`.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        kernel: over (T, H, W).
        stride: over (T, H, W).
        bias: whether there is one.
        padded: "time": H and W are not padded and shrink by the kernel, e.g. to one by a kernel of the whole frame.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: Size,
        stride: Size = (1, 1, 1),
        bias: bool = False,
        padded: Padded = "all",
    ) -> None:
        super().__init__(inside, outside, kernel, stride, bias=bias)
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x (B, C, T, H, W)."""
        both, extra = split_padding(x.shape[2:], self.kernel_size, self.stride)
        if self.padded == "time":
            both[1:], extra[1:] = (0, 0), (0, 0)
        return functional.conv3d(pad_ends(x, extra), self.weight, self.bias, self.stride, both)


class SameMaxPool3d(nn.Module):
    """Maxima over windows of (B, C, T, H, W), which becomes (B, C, ceil(T / stride), …).

    Args:
        kernel: over (T, H, W).
        stride: over (T, H, W).
        variant: "default": padding is never the maximum, as in TensorFlow. "released": it is zero and takes part, as
            in the published PyTorch port, so that negative maxima at borders become zero. Both are the same after a
            ReLU, and "default" copies less.
    """

    def __init__(self, kernel: Size, stride: Size, variant: Literal["default", "released"] = "default") -> None:
        super().__init__()
        self.kernel, self.stride, self.variant = kernel, stride, variant

    def forward(self, x: Tensor) -> Tensor:
        """Maxima of x (B, C, T, H, W)."""
        both, extra = split_padding(x.shape[2:], self.kernel, self.stride)
        if self.variant == "released":
            sides = [(before, before + more) for before, more in zip(both, extra, strict=True)]
            x = functional.pad(x, [side for pair in reversed(sides) for side in pair])
            return functional.max_pool3d(x, self.kernel, self.stride)
        # Rounding the count of windows up lets the last one reach over the end, without a padded copy and without
        # -inf in an exported graph, which int8 cannot hold. It cannot where the stride is one.
        rest = [more if step == 1 else 0 for more, step in zip(extra, self.stride, strict=True)]
        return functional.max_pool3d(
            pad_ends(x, rest, NOTHING), self.kernel, self.stride, both, ceil_mode=extra != rest
        )
