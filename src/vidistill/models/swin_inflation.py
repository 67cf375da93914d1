"""Video Swin from the weights of an image Swin (Liu et al., CVPR 2022, section 3.3), by inflation.

A kernel of the patch embedding is repeated over time and divided by its length, so that a still clip gives what its
image gave. A table of position biases is repeated for every offset in time; where the windows differ it is first
resized bicubically. Everything else has the same shape and stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models.base import Network
from vidistill.models.import_ import rename
from vidistill.models.published import published_keys
from vidistill.models.weights import misfit

KERNEL, TABLE = "patch_embed.proj.weight", "relative_position_bias_table"
DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that follow from the window and are not inflated."""


def inflate_kernel(kernel: Tensor, time: int) -> Tensor:
    """A kernel (O, C, h, w) over images as one (O, C, time, h, w) over clips, of the same sum."""
    return (kernel / time).unsqueeze(2).repeat(1, 1, time, 1, 1)


def inflate_table(table: Tensor, window: Sequence[int]) -> Tensor:
    """Position biases (n * n, heads) of a square window as those of `window` (T, H, W): (offsets of all, heads).

    The rows of either are its offsets, the last axis fastest; n = 2 * side - 1.

    Raises:
        CheckpointError: the rows are not those of a square window.
    """
    time, height, width = (2 * side - 1 for side in window)
    side = isqrt(len(table))
    if side * side != len(table):
        raise CheckpointError(f"a table of {len(table)} position biases is not that of a square window")
    if (side, side) != (height, width):
        image = table.T.reshape(1, -1, side, side)
        resized = functional.interpolate(image, size=(height, width), mode="bicubic", align_corners=False)
        table = resized.reshape(-1, height * width).T
    return table.repeat(time, 1)


def inflate_swin(
    state: Mapping[str, Tensor], window: Sequence[int] = (8, 7, 7), patch_time: int = 2
) -> dict[str, Tensor]:
    """An image Swin's state dict (its authors' keys) as a Video Swin's, under the same keys.

    Args:
        state: `patch_embed.proj.weight`, `layers.0.blocks.0.attn.relative_position_bias_table`, and so on.
        window: tokens (T, H, W) of the video network's window.
        patch_time: frames of one of its patches.

    Returns:
        new tensors; buffers that follow from the window are left out.

    Raises:
        CheckpointError: a table of position biases that is not square; the key is named.
    """
    inflated: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(KERNEL):
            inflated[key] = inflate_kernel(value, patch_time)
        elif key.endswith(TABLE):
            try:
                inflated[key] = inflate_table(value, window)
            except CheckpointError as error:
                raise CheckpointError(f"{key}: {error}") from None
        elif not key.endswith(DERIVED):
            inflated[key] = value.clone()
    return inflated


def start_from_images(network: Network, state: Mapping[str, Tensor]) -> None:
    """Starts a Video Swin (`swin3d_*`) of three channels from an image Swin of its size; the heads stay as they are.

    Raises:
        ModelError: another network.
        CheckpointError: an image Swin of another size; the first keys are named.
    """
    windows = [m.window_size for m in network.modules() if isinstance(m, ShiftedWindowAttention3d)]
    if not windows:
        raise ModelError(f"network {network.name!r} is no Video Swin", todo="Choose swin3d_t, swin3d_s or swin3d_b.")
    own = network.state_dict()
    patch = next(value for key, value in own.items() if key.endswith(KERNEL))
    images = {key: value for key, value in state.items() if not key.startswith("head.")}
    given = rename(inflate_swin(images, windows[0], patch.shape[2]), published_keys("video_swin", network))
    kept = {key: value for key, value in own.items() if key.startswith("head.") or key.endswith(DERIVED)}
    problem = misfit(own, kept | given)
    if problem:
        raise CheckpointError(f"the image weights do not fit network {network.name!r}: {problem}")
    with torch.no_grad():
        network.load_state_dict(kept | given)
