"""`attended`: any network, with channel-time attention on its deepest map.

Source: Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644 (recognition).

    F_fg = F * A * sum |F| / sum |F * A|          the attended map, as large as the map on average
    e    = mean over (T, H, W) of F_fg            the embedding, for ordinary heads

The features are the trunk's own (F among them, not attended) and "attention", A (B, C, T): what the generative method
reads. Deviations: sums are over a clip, so that its output depends on no other clip; `variant: released` takes them
over the whole batch. Sums are of absolute values, which is the same after a ReLU, and keeps the divisor away from zero
for maps of both signs. The published head averages windows of two steps and adds up the probabilities of each
(`methods/generative_losses.py`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.models.attention import PooledAttention, PublishedAttention, as_map, map_shape
from vidistill.models.base import Backbone, Features, Network
from vidistill.models.networks import NETWORKS

ATTENTION = "attention"
"""Name of the feature A (B, C, T)."""
EPSILON = 1e-12

Variant = Literal["default", "released"]


def attend(feature: Tensor, attention: Tensor, variant: Variant = "default") -> Tensor:
    """The attended map F_fg of the file's head.

    Args:
        feature: F (B, C, T, H, W).
        attention: A (B, C, T), above 0.
        variant: "released" takes sums over the whole batch, and of signed values.

    Returns:
        (B, C, T, H, W); zero where the map of a clip is.
    """
    weighed = feature * attention[..., None, None].to(feature.dtype)
    if variant == "released":
        scale: Tensor = feature.sum() / weighed.sum()
        return weighed * scale
    # Means instead of sums: their ratio is the same, and half precision does not overflow.
    before, after = (values.abs().flatten(1).mean(1, dtype=torch.float32) for values in (feature, weighed))
    scale = before / after.clamp(min=EPSILON)
    return weighed * scale.to(feature.dtype)[:, None, None, None, None]


def weigh(feature: Tensor, weights: Tensor, variant: Variant = "default") -> Tensor:
    """A map weighed without its own sums: what is attended (weights A), and what is not (weights 1 - A), of detection.

    Args:
        feature: F (B, C, T, H, W).
        weights: (B, C, T), 0 or more.
        variant: "released" divides by the sum of the weights over the whole batch, which leaves numbers around 1e-6 of
            F; otherwise by their mean over the clip, which leaves its size.

    Returns:
        (B, C, T, H, W).
    """
    if variant == "released":
        scale = weights.sum()[None, None, None]
    else:
        scale = weights.mean(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    return feature * (weights / scale)[..., None, None].to(feature.dtype)


class Attended(Backbone):
    """A trunk's backbone whose deepest map is attended before it is averaged."""

    def __init__(
        self,
        trunk: Backbone,
        name: str,
        attention: PooledAttention | PublishedAttention,
        channels: int,
        variant: Variant,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.attention = attention
        self.name, self.variant = name, variant
        self.embedding_dim = channels
        self.feature_names = (*trunk.feature_names, ATTENTION)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, C), the trunk's maps asked for, and A (B, C, T) where it is."""
        own = tuple(name for name in features if name != ATTENTION)
        _, maps = self.trunk(x, own if self.name in own else (*own, self.name))
        feature = as_map(maps[self.name])
        attention = self.attention(feature)
        embedding = attend(feature, attention, self.variant).mean(dim=(2, 3, 4))
        found = {**maps, ATTENTION: attention}
        return embedding, {name: found[name] for name in features}


@NETWORKS.register("attended")
def build_attended(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    trunk: str,
    map: str = "",
    attention: Literal["pooled", "published"] = "pooled",
    variant: Variant = "default",
    trunk_options: dict[str, Any] | None = None,
) -> Network:
    """A registered network with attention on its deepest map.

    Args:
        input_shape: as the trunk takes it.
        classes: classes by head.
        trunk: any registered network of clips.
        map: the trunk's deepest map by name, or "" for it; another one is an error, as nothing comes after attention.
        attention: "pooled", light and for any number of steps, or "published", heavy and for one number of steps.
        variant: "released" scales the attended map by sums over the batch, not over each clip.
        trunk_options: options of the trunk; its dropout is on the embedding here.

    Raises:
        RecipeError: no such trunk, options it has not, or a map it does not make or that is not its deepest.
        ModelError: a trunk of steps or of frames compared in episodes, without maps, whose embedding comes from more
            than one map, or that cannot take the input.
    """
    # Imported here: the package registers this module before it can offer `build_network`.
    from vidistill.models import build_network

    network = build_network(
        trunk, input_shape, {"left_behind": 1}, trunk_options or {}, where="network 'attended': trunk_options"
    )
    name, (channels, steps, height, width) = _deepest(network, trunk, map)
    head = (
        PublishedAttention(channels, steps, (height, width)) if attention == "published" else PooledAttention(channels)
    )
    backbone = Attended(network.backbone, name, head, channels, variant)
    return Network(backbone, input_shape, classes, network.dropout.p)


def _deepest(network: Network, trunk: str, asked: str) -> tuple[str, tuple[int, int, int, int]]:
    """Name and shape (C, T, H, W) of the map to attend."""
    shapes = network.feature_shapes()
    if type(network) is not Network or not shapes or ATTENTION in shapes:
        raise ModelError(
            f"network 'attended' cannot use {trunk!r} as its trunk: it needs a network of clips with maps and without "
            "attention",
            todo="Choose another trunk, e.g. compact3d.",
        )
    name = list(shapes)[-1]
    if asked and asked not in shapes:
        raise RecipeError(f"network 'attended': {trunk!r} has no map {asked!r}", todo=nearest(asked, shapes))
    if asked and asked != name:
        raise RecipeError(
            f"network 'attended': {asked!r} is not the deepest map of {trunk!r}",
            todo=f"Name {name!r}, or leave it out.",
        )
    shape = map_shape(shapes[name])
    if shape is None or shape[0] != network.embedding_dim:
        raise ModelError(
            f"network 'attended': the embedding of {trunk!r} ({network.embedding_dim} numbers) is not made from one "
            f"map: {name!r} has the shape {shapes[name]}",
            todo="Choose a trunk that averages its deepest map, e.g. compact3d.",
        )
    return name, shape
