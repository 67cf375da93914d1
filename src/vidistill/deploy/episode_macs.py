"""What an episode costs: multiply-adds of all its frames and of the comparison of its clips.

Lite-MKD states 72.6 "GFLOPs" for MobileNetV3-large with two heads and 1023.3 for ResNet50 with TRX{2,3}: multiply-adds
of one 5-way 5-shot episode with 5 queries of 8 frames of 224 x 224 pixels, as the package thop counts them. thop hangs
a rule on each module it knows, so it sees

- convolutions and linear layers, without bias; normalisations at four a value, average pooling by the pixel,
- TRX's two projections of every tuple of every clip, each at full width, once a stream,

and does not see what is no module: the attention of queries to support, prototypes, distances. `published` counts
so; `ours` counts every matrix product, convolution and attention that this project runs for the same episode. TRX here
projects each frame once for each place in a tuple and adds, and attends with matrix products, so both differ.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidistill.models.episode_heads import EpisodeHead
from vidistill.models.episode_network import FRAMES, EpisodeNetwork
from vidistill.models.trx import Trx

GIGA = 1e9


@dataclass(frozen=True)
class EpisodeCost:
    """Multiply-adds of one episode, in 1e9: of the frames' vectors and of the comparison, by both ways of counting.

    `published_comparison` is None for heads that the published tables do not have.
    """

    published_frames: float
    published_comparison: float | None
    frames: float
    comparison: float

    @property
    def published(self) -> float | None:
        """As the published tables count."""
        return None if self.published_comparison is None else self.published_frames + self.published_comparison

    @property
    def ours(self) -> float:
        """What this project computes."""
        return self.frames + self.comparison


def count_episode_macs(network: EpisodeNetwork, way: int = 5, shot: int = 5, queries: int = 5) -> EpisodeCost:
    """Multiply-adds of an episode of way x shot support clips and `queries` query clips in all, every stream compared.

    Nothing is computed: the network is copied without its numbers (meta tensors). It is left as it is.
    """
    counted = copy.deepcopy(network).to("meta").eval()
    clips = way * shot + queries
    clip = torch.zeros(1, *network.input_shape, device="meta")
    published = count_modules(counted.backbone, clip)
    # The fused attention kernels count as nothing in some versions of torch; the plain one is counted always.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        counted.backbone(clip)
    streams = len(network.streams)
    per_stream = published_comparison(network.head, clips)
    return EpisodeCost(
        published * clips / GIGA,
        None if per_stream is None else per_stream * streams / GIGA,
        counter.get_total_flops() / 2 * clips / GIGA,
        streams * _comparison(counted, way, shot, queries) / GIGA,
    )


def count_modules(module: nn.Module, x: Tensor) -> float:
    """Multiply-adds of `module(x)` as thop's rules count them; modules without a rule count nothing."""
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _rule(layer, inputs[0], output)

    leaves = [layer for layer in module.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in leaves]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _rule(layer: nn.Module, x: Tensor, output: Tensor) -> float:
    """One module's multiply-adds by thop's rules; average pooling: an addition a pixel and a division a result."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return float(output.numel() * math.prod(layer.weight.shape[1:]))
    if isinstance(layer, nn.Linear):
        return float(output.numel() * layer.in_features)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)):
        return 4.0 * x.numel()
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return float(x.numel() + output.numel())
    return 0.0


def published_comparison(head: EpisodeHead, clips: int) -> float | None:
    """Multiply-adds of TRX over `clips` clips as the published module runs it; None for another head.

    Keys and values of every tuple by a linear layer over its frames side by side, a normalisation of the keys. Support
    and queries are projected once; the loop over classes that follows has no modules.
    """
    if not isinstance(head, Trx):
        return None
    total = 0.0
    for size in head.cardinalities:
        outputs = clips * math.comb(head.length, size) * head.projection
        total += outputs * (2 * size * head.width + 4)
    return total


def _comparison(network: EpisodeNetwork, way: int, shot: int, queries: int) -> float:
    """Multiply-adds of comparing one stream of an episode, all that the network's head runs."""
    length, width = network.feature_shapes()[FRAMES]
    head = network.head
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        support = head.project(torch.zeros(way * shot, length, width, device="meta"))
        asked = head.project(torch.zeros(queries, length, width, device="meta"))
        known = tuple(part.reshape(1, way, shot, *part.shape[1:]) for part in support)
        head.compare(known, tuple(part[None] for part in asked))
    return float(counter.get_total_flops()) / 2
