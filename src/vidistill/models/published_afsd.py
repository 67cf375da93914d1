"""Key maps of AFSD detectors: their authors' (Lin et al., CVPR 2021), and those of generative feature distillation.

Both keep the trunk, an I3D, under `backbone._model.` and the heads under `coarse_pyramid_detection.`; the second has
attention on both maps beside them.
"""

from __future__ import annotations

from collections.abc import Callable

from vidistill.core.errors import RecipeError
from vidistill.models.anchor_detector import AnchorDetector
from vidistill.models.attention import PublishedAttention, attention_prefixes
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.inception3d import PUBLISHED_PREFIXES, Inception3d
from vidistill.models.published import PUBLISHED, Prefixes

MAPS = ("mixed_4f", "mixed_5c")
INSIDE = "backbone."
ROOT = "backbone._model."
PYRAMID = "coarse_pyramid_detection."
"""Before the keys of the heads, in checkpoints of a detector."""

CONVOLUTIONS = (".conv1d.", ".conv3d.")
"""Wrappers that published convolutions have around them."""

BRANCH = {"cur_point_conv.": "point.", "lr_conv.": "sides.", "roi_conv.": "at_frames.", "proposal_conv.": "merge."}
TOWER_STEP = 3
"""Layers of ours in a step of a tower: convolution, normalisation, ReLU."""


def head_prefixes(levels: int, maps: int, published: str = PYRAMID, ours: str = "backbone.heads.") -> Prefixes:
    """Published prefixes of the pyramid and its heads -> ours.

    Args:
        levels: of the pyramid, the first `maps` of them made from maps.
        maps: that the pyramid is made from.
        published: before the published keys.
        ours: before our keys.
    """
    prefixes: Prefixes = {}
    for level in range(levels):
        place = f"from_maps.{level}." if level < maps else f"further.{level - maps}."
        prefixes[f"pyramids.{level}."] = f"pyramid.{place}"
        prefixes[f"loc_heads.{level}."] = f"scales.{level}."
    prefixes["deconv."] = "pyramid.frame_level."
    for part in ("loc", "conf"):
        for step in range(2):
            for layer in range(2):
                prefixes[f"{part}_tower.{step}.{layer}."] = f"{part}_tower.{TOWER_STEP * step + layer}."
        prefixes |= {f"{part}_proposal_branch.{old}": f"{part}_branch.{new}" for old, new in BRANCH.items()}
    heads = ("loc_head.", "conf_head.", "prop_loc_head.", "prop_conf_head.", "center_head.")
    prefixes |= {head: head for head in heads}
    return {f"{published}{old}": f"{ours}{new}" for old, new in prefixes.items()}


def head_keys(prefixes: Prefixes) -> Callable[[str], str | None]:
    """The key map of `prefixes` for published heads, whose convolutions are wrapped, as in `….conv1d.weight`."""
    outer = prefix_map(prefixes)

    def mapped(key: str) -> str | None:
        new = outer(key)
        for wrapper in CONVOLUTIONS:
            new = new and new.replace(wrapper, ".")
        return new

    return mapped


@PUBLISHED.register("afsd")
def afsd_keys(network: Network) -> KeyMap:
    """`anchor_detector` over `i3d` or `i3d_topheavy`; see `detector_keys`.

    Raises:
        RecipeError: another network, or another trunk, maps or attention.
    """
    return detector_keys(network, "afsd")


def detector_keys(network: Network, system: str) -> KeyMap:
    """The key map of a detector of `system`, with `attention: published` or none. The trunk's classifier is dropped.

    Raises:
        RecipeError: another network, or another trunk, maps or attention.
    """
    if not isinstance(network, AnchorDetector) or not isinstance(network.backbone.trunk, Inception3d):
        raise RecipeError(
            f"{system!r} published no checkpoints for network {network.name!r} as built here",
            todo="Choose anchor_detector over i3d or i3d_topheavy.",
        )
    backbone = network.backbone
    if backbone.maps != MAPS:
        raise RecipeError(f"{system!r} published checkpoints for the maps {', '.join(MAPS)} only", todo="Set maps so.")
    if any(not isinstance(layer, PublishedAttention) for layer in backbone.attention):
        raise RecipeError(
            f"{system!r} published checkpoints for attention: published, or none", todo="Set attention so."
        )
    trunk: Prefixes = {
        old: f"{INSIDE}trunk.{(new or '').removeprefix(INSIDE)}" for old, new in PUBLISHED_PREFIXES.items()
    }
    trunk |= {f"{ROOT}logits.": None}
    for place, name in enumerate(MAPS[: len(backbone.attention)]):
        # The heads of the other maps come with their own round.
        own = attention_prefixes(name.removeprefix("mixed_"), f"{INSIDE}attention.{place}.")
        trunk |= {old: new for old, new in own.items() if new is not None}
    of_heads = head_keys(head_prefixes(len(backbone.heads.scales), len(MAPS)))
    of_others = prefix_map(trunk)
    return lambda key: (of_heads if key.startswith(PYRAMID) else of_others)(key)
