"""Key maps of Lite-MKD's checkpoints (ACM MM 2023): students, single-modality teachers, fusions, episode heads."""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.base import Network
from vidistill.models.episode_network import DISTILLED, FRAMES, EpisodeNetwork
from vidistill.models.frame_embedder import FrameEmbedder
from vidistill.models.fusion_network import FusionNetwork
from vidistill.models.image_trunks import FrameTrunk
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix
from vidistill.models.published_heads import attention_prefixes, head_prefixes, mixer_prefixes

SEQUENTIAL = {"0.": "conv1.", "1.": "bn1.", "4.": "layer1.", "5.": "layer2.", "6.": "layer3.", "7.": "layer4."}
"""A ResNet as the list of its children -> torchvision's names, which the full networks keep."""

ROOTS = ("resnet.", "convnet.")
"""Where the published students and teachers, and the pre-training, keep a ResNet."""

JOINTS = ("three_fusion.", "four_fusion.", "five_fusion.", "fusion_temproal.")
"""Where the published fusions keep the transformer over three or more modalities; `fusion.` is that of two."""


@PUBLISHED.register("fewshot")
def fewshot_keys(network: Network | FusionNetwork) -> KeyMap:
    """Lite-MKD: `frame_embedder` and its episode head, the fusions, and the pre-trained `resnet50`.

    Raises:
        RecipeError: another network.
    """
    if isinstance(network, FusionNetwork):
        return prefix_map({**fusion_prefixes(), "f1.": None, **head_prefixes(network.head)})
    if isinstance(network.backbone, FrameEmbedder):
        assert isinstance(network, EpisodeNetwork)
        return prefix_map({**embedder_prefixes(network.backbone), **head_prefixes(network.head)})
    if isinstance(network.backbone, FrameTrunk):
        return prefix_map({**trunk_prefixes(), "fc.": classifier_prefix(network)})
    raise RecipeError(
        f"'fewshot' published no checkpoints for network {network.name!r}",
        todo="It has some for frame_embedder, resnet50 and the fusions.",
    )


def trunk_prefixes() -> Prefixes:
    """Published prefixes of an image trunk -> ours."""
    ours = "backbone.trunk."
    prefixes: Prefixes = {"mobile.0.": f"{ours}features."}
    for root in ROOTS:
        prefixes |= {root: ours, **{root + old: ours + new for old, new in SEQUENTIAL.items()}}
    return prefixes


def embedder_prefixes(backbone: FrameEmbedder) -> Prefixes:
    """Published prefixes of a student or teacher -> ours. Layers that the published forward never runs are dropped.

    Of two heads the published `fc1` is distilled and `fc2` labelled.
    """
    heads = {name: f"backbone.heads.layers.{name}." for name in backbone.heads.layers}
    attention = attention_prefixes("attn_pat.", "backbone.attention.")
    prefixes = {**trunk_prefixes(), **(attention if backbone.attention is not None else {"attn_pat.": None})}
    if backbone.mixer is None:
        prefixes |= {"fr_enrich.": None}
        one = heads.get(FRAMES) if DISTILLED not in heads else None
        prefixes |= {"fc.": one, "res18_2048.": one}
    else:
        prefixes |= {"res18_2048.": "backbone.widen.", **mixer_prefixes("fr_enrich.", "backbone.mixer.")}
    labelled = heads.get(FRAMES) if DISTILLED in heads else None
    return {**prefixes, "fc1.": heads.get(DISTILLED), "fc2.": labelled}


def fusion_prefixes() -> Prefixes:
    """Published prefixes of the fusions -> ours."""
    prefixes = joint_prefixes("fusion.", "fusion.pair.")
    for joint in JOINTS:
        prefixes |= joint_prefixes(joint, "fusion.joint.")
    cross = {
        "self.query.": "query.",
        "self.key.": "key.",
        "self.value.": "value.",
        "output.dense.": "dense.",
        "output.LayerNorm.": "normalisation.",
    }
    return {**prefixes, **{f"fusion.{old}": f"fusion.cross.{new}" for old, new in cross.items()}}


def joint_prefixes(published: str, ours: str) -> Prefixes:
    """Published prefixes of one transformer over modalities -> ours."""
    prefixes: Prefixes = {f"{published}transformer_encoder.": f"{ours}encoder.", f"{published}f1.": f"{ours}out."}
    for number in range(1, 6):
        place, placed = f"{published}positionEncoding{number}.", f"{ours}positions.{number - 1}."
        prefixes |= {
            f"{place}position_embeddings.": f"{placed}embedding.",
            f"{place}LayerNorm.": f"{placed}normalisation.",
        }
    return prefixes
