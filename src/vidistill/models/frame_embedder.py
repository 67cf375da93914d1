"""`frame_embedder`: an image network of torchvision that gives a vector for every frame, for few-shot recognition.

Source: Lite-MKD (ACM MM 2023), the students with one or two heads and the single-modality teachers; TRX (CVPR 2021)
for the pooling of patches; STRM (CVPR 2022) for the enrichment. The published code feeds frames in [0, 1] to ImageNet
weights without their mean and standard deviation. Here the modality normalises (`modalities/rgb.py`); its options
`mean: [0, 0, 0]` and `std: [1, 1, 1]` give the published inputs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.models.base import Features, expect_rank
from vidistill.models.episode_network import FRAMES, PATCHES, EpisodeNetwork, StreamHeads, comparison_head
from vidistill.models.image_trunks import FrameTrunk, checked_name, make_trunk
from vidistill.models.networks import NETWORKS
from vidistill.models.strm import FrameMixer, PatchAttention
from vidistill.models.trunks import load_pretrained, set_channels, set_momentum

SIDE = 4
"""Patches along each side of a frame."""

Pool = Literal["max_patches", "mean"]
Enrich = Literal["none", "patches", "strm"]


def patch_maxima(x: Tensor, side: int = SIDE) -> Tensor:
    """`nn.AdaptiveMaxPool2d(side)` of maps (N, C, H, W), written so that ONNX has it too."""
    return _window_maxima(_window_maxima(x, 2, side), 3, side)


def _window_maxima(x: Tensor, axis: int, side: int) -> Tensor:
    size = x.shape[axis]
    windows = [(index * size // side, -(-(index + 1) * size // side)) for index in range(side)]
    return torch.stack([x.narrow(axis, start, end - start).amax(axis) for start, end in windows], axis)


class FrameEmbedder(FrameTrunk):
    """Every frame alone through `trunk`, pooled over the frame, then to one or two streams of vectors.

    Args:
        trunk: torchvision's network.
        length: frames of a clip (the frame mixer of STRM is made for one number of them).
        dim: width of a stream; None keeps the trunk's.
        streams: 1 or 2.
        pool: over the frame, the mean of 4 x 4 patches' maxima or the plain mean.
        enrich: "patches" lets the patches of a frame attend to each other, "strm" then mixes the frames of a clip too.

    Raises:
        ModelError: a trunk without maps where patches are needed.
    """

    def __init__(
        self, trunk: nn.Module, length: int, dim: int | None, streams: int, pool: Pool, enrich: Enrich
    ) -> None:
        super().__init__(trunk, "mean")
        if not self.steps and pool == "max_patches":
            raise ModelError(f"{type(trunk).__name__} gives no map to take patches of", todo="Set pool to mean.")
        self.patches = pool == "max_patches"
        width = self.embedding_dim
        self.attention = self.mixer = self.widen = None
        if enrich != "none":
            if not self.patches:
                raise ModelError("STRM enriches patches, and there are none", todo="Set pool to max_patches.")
            self.attention = PatchAttention(width, SIDE * SIDE)
        if enrich == "strm":
            self.widen = nn.Linear(width, dim) if dim else nn.Identity()
            width = dim or width
            self.mixer = FrameMixer(width, length)
            # With one stream the mixed frames are the stream; two take a layer each.
            dim = dim if streams == 2 else None
        self.heads = StreamHeads(width, dim, streams)
        self.embedding_dim = self.heads.width
        enriched = (PATCHES,) if self.mixer is not None else ()
        self.feature_names = (*self.feature_names, *self.heads.names, *enriched)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of clips (B, C, L, H, W), all streams (B, L, D), and the trunk's maps asked for."""
        batch, _, frames = x.shape[:3]
        maps: Features = {}
        x = x.transpose(1, 2).flatten(0, 1)
        for path, name in self.steps:
            x = self.trunk.get_submodule(path)(x)
            if name in features:
                channels_first = x.permute(0, 3, 1, 2) if self.channels_last else x
                maps[name] = channels_first.reshape(batch, frames, *channels_first.shape[1:]).transpose(1, 2)
        x = self._pooled(x).reshape(batch, frames, -1)
        if self.mixer is not None and self.widen is not None:
            before = self.widen(x)
            x, maps[PATCHES] = self.mixer(before), before
        streams = self.heads(x)
        return streams[FRAMES].mean(dim=1), {**maps, **streams}

    def _pooled(self, x: Tensor) -> Tensor:
        """Vectors of frames (N, width) of the trunk's last map; of frames, where the trunk is no chain."""
        if not self.steps:
            whole: Tensor = self.trunk(x)
            return whole
        if self.patches:
            x = patch_maxima(x)
        if self.attention is not None:
            enriched: Tensor = self.attention(x.flatten(2).transpose(1, 2))
            return enriched.mean(dim=1)
        x = x.mean(dim=(2, 3), keepdim=True)
        if self.normalise:
            x = self.trunk.get_submodule("classifier")(x)
        return x.flatten(1)


@NETWORKS.register("frame_embedder")
def build_frame_embedder(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    trunk: str = "mobilenet_v3_large",
    weights: str | None = None,
    dim: Annotated[int | None, Field(ge=0)] = 2048,
    streams: Literal[1, 2] = 1,
    pool: Pool = "max_patches",
    enrich: Enrich = "none",
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1,
    comparison: dict[str, Any] | None = None,
) -> EpisodeNetwork:
    """Frames of clips (C, L, H, W) to vectors (L, D), compared in episodes.

    Args:
        input_shape: (C, L, H, W), any C.
        classes: classes by head; kept, but nothing depends on them.
        trunk: any image network of torchvision, e.g. resnet18, resnet50, mobilenet_v3_small, mobilenet_v3_large.
        weights: None, "DEFAULT", a name of torchvision's, or a file; see `trunks.load_pretrained`.
        dim: width of a stream; 0 or None: the trunk's own, without a layer (the published teachers).
        streams: 2 adds a stream for distillation beside the labelled one.
        pool: over the frame. `max_patches`: maxima of 4 x 4 patches, then their mean; `mean`: of all pixels.
        enrich: `patches`: patches of a frame attend to each other, for the head `strm`, which mixes frames itself.
            `strm`: frames of a clip are mixed here too, before their streams part (the published students); the
            feature `patch_frames` has them unmixed, for `strm.TupleDistance`.
        batch_norm_momentum: of all batch normalisations.
        comparison: the episode head, `{"name": "trx", ...its options}`; None: TRX.

    Raises:
        RecipeError: torchvision has no such trunk, or the comparison is unknown.
        ModelError: options that do not go together, frames the trunk cannot take, weights that cannot be had.
    """
    expect_rank("frame_embedder", input_shape, "C, T, H, W")
    if enrich == "strm" and (comparison or {}).get("name") == "strm":
        raise ModelError("the head 'strm' mixes frames itself", todo="Set enrich to patches.")
    trunk = checked_name(trunk, "frame_embedder.trunk")
    module = make_trunk(trunk, input_shape)
    backbone = FrameEmbedder(module, input_shape[1], dim or None, streams, pool, enrich)
    set_channels(module, input_shape[0])
    set_momentum(backbone, batch_norm_momentum)
    if weights is not None:
        load_pretrained(module, trunk, weights)
    head = comparison_head(comparison, input_shape[1], backbone.embedding_dim, "frame_embedder.comparison")
    return EpisodeNetwork(backbone, head, input_shape, classes)
