"""Networks of one modality: `build_network` makes any of them by name; every one returns `Outputs`.

Importing this package registers all networks. `NETWORKS` also knows `torchvision:<name>` for each image network of
torchvision, though it does not list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidistill.core.registry import check_options
from vidistill.models import (  # noqa: F401
    anchor_detector,
    attended,
    compact3d,
    detector,
    frame_embedder,
    fusion_network,
    graph_conv,
    image_trunks,
    inception3d,
    multimodal,
    plain_gru,
    published_afsd,
    published_fewshot,
    published_generative,
    published_layout,
    published_resnet3d,
    published_video,
    resnet3d,
    sequence,
    sequence_embedder,
    slowfast,
    stacked_frames,
    stlt,
    tpn,
    video_trunks,
)
from vidistill.models.base import Backbone, Heads, Network
from vidistill.models.networks import NETWORKS, NetworkBuilder
from vidistill.models.weights import load_weights, save_weights

__all__ = [
    "NETWORKS",
    "Backbone",
    "Heads",
    "Network",
    "NetworkBuilder",
    "build_network",
    "load_weights",
    "save_weights",
]


def build_network(
    name: str,
    input_shape: tuple[int, ...],
    classes: Mapping[str, int],
    options: Mapping[str, Any] | None = None,
    where: str | None = None,
) -> Network:
    """The network `name` for inputs of `input_shape` (without batch), with a linear head for each entry of `classes`.

    Weights are drawn from torch's global generator: seed it first for a repeatable network.

    Raises:
        RecipeError: unknown name or options (the nearest known one is given), or wrong types; `where` names the place.
        ModelError: the network cannot take such inputs, or its pretrained weights cannot be had.
    """
    builder = NETWORKS.get(name, where)
    checked = check_options(builder, options or {}, where or f"network {name!r}", skip=2)
    network = builder(tuple(input_shape), dict(classes), **checked)
    network.name = name
    network.options = checked
    network.feature_shapes()
    return network
