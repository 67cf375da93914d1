"""Key map of the ensemble's 3-D ResNet classifiers (Radevski et al., ICCV 2023) and of the networks they start from."""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix
from vidistill.models.resnet3d import PUBLISHED_PREFIXES, Resnet3d


@PUBLISHED.register("resnet3d")
def resnet3d_keys(network: Network) -> KeyMap:
    """3-D ResNets as the ensemble system publishes them (`resnet.4.0.conv1`), or as pretrained (`layer1.0.conv1`).

    A classifier `classifiers.VERB` goes to our head `verb`. The classifier `fc` of a pretrained network goes to the
    only head of a network without a projector, and is dropped elsewhere: it sees the map's mean, our head the
    projection.

    Raises:
        RecipeError: another network.
    """
    backbone = network.backbone
    if not isinstance(backbone, Resnet3d):
        raise RecipeError(f"'resnet3d' published no checkpoints for network {network.name!r}", todo="Choose resnet3d.")
    prefixes: Prefixes = {**PUBLISHED_PREFIXES, "fc.": None if len(backbone.projector) else classifier_prefix(network)}
    prefixes |= {f"classifiers.{head.upper()}.": f"head.{key}." for head, key in network.head.keys_of.items()}
    return prefix_map(prefixes)
