"""Key map of the published layout teacher (STLT of Radevski et al., ICCV 2023, arXiv 2307.07483)."""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix
from vidistill.models.stlt import PUBLISHED_EPSILON, LayoutTransformer

TEMPORAL = "temporal_transformer."
SPATIAL = f"{TEMPORAL}layout_embedding."
SLOTS = f"{SPATIAL}category_box_embeddings."

PUBLISHED_PREFIXES: Prefixes = {
    f"{SLOTS}category_embeddings.": "backbone.embedding.category.",
    f"{SLOTS}box_embedding.": "backbone.embedding.box.",
    f"{SLOTS}score_embedding.": "backbone.embedding.score.",
    f"{SLOTS}side_embedding.": "backbone.embedding.side.",
    f"{SLOTS}state_embedding.": "backbone.embedding.state.",
    f"{SLOTS}layer_norm.": "backbone.embedding.normalisation.",
    f"{SPATIAL}cls_token": "backbone.spatial.token",
    f"{SPATIAL}transformer.layers.": "backbone.spatial.layers.",
    f"{TEMPORAL}position_embeddings.": "backbone.temporal.positions.",
    f"{TEMPORAL}layer_norm.": "backbone.temporal.normalisation.",
    f"{TEMPORAL}cls_token": "backbone.temporal.token",
    f"{TEMPORAL}transformer.layers.": "backbone.temporal.layers.",
}


@PUBLISHED.register("stlt")
def stlt_keys(network: Network) -> KeyMap:
    """STLT as layout teacher. A classifier `classifiers.VERB` goes to our head `verb`, `ACTION` also to an only head.

    Raises:
        RecipeError: another network, or one with another epsilon than the checkpoints were trained with.
    """
    backbone = network.backbone
    if not isinstance(backbone, LayoutTransformer):
        raise RecipeError(f"'stlt' published no checkpoints for network {network.name!r}", todo="Choose stlt.")
    if backbone.embedding.normalisation.eps != PUBLISHED_EPSILON:
        raise RecipeError(f"'stlt' published checkpoints for epsilon: {PUBLISHED_EPSILON} only", todo="Set it so.")
    prefixes: Prefixes = {**PUBLISHED_PREFIXES, "classifiers.ACTION.": classifier_prefix(network)}
    prefixes |= {f"classifiers.{head.upper()}.": f"head.{key}." for head, key in network.head.keys_of.items()}
    return prefix_map(prefixes)
