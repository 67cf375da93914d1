"""Key map of the published I3D networks: the Kinetics files and those of generative feature distillation."""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.inception3d import PUBLISHED_PREFIXES, ROOTS, Inception3d
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix


@PUBLISHED.register("generative")
def generative_keys(network: Network) -> KeyMap:
    """I3D as published for Kinetics (`rgb_imagenet.pt`), and I3D or Top-heavy I3D of Wang et al. (AAAI 2024).

    Keys may begin with `backbone._model.`. The classifier, a convolution of 1 x 1 x 1, becomes a matrix. What a
    distilled network has beside its backbone (attention) is not for `i3d`, keeps its name and is so refused.

    Raises:
        RecipeError: another network.
    """
    if not isinstance(network.backbone, Inception3d):
        raise RecipeError(
            f"'generative' published no checkpoints for network {network.name!r}", todo="Choose i3d or i3d_topheavy."
        )
    heads: Prefixes = {f"{root}logits.conv3d.": classifier_prefix(network) for root in ROOTS}
    return prefix_map({**PUBLISHED_PREFIXES, **heads})
