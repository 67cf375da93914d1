"""Key maps of the published networks of generative feature distillation (Wang et al., AAAI 2024): by our network.

I3D and Top-heavy I3D, with the Kinetics files that they start from; the same with attention on the deepest map
(recognition); and detectors over them, with attention on both maps.
"""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.anchor_detector import AnchorDetector
from vidistill.models.attended import Attended
from vidistill.models.attention import PublishedAttention, attention_prefixes
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.inception3d import INSIDE, PUBLISHED_PREFIXES, ROOTS, Inception3d
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix
from vidistill.models.published_afsd import detector_keys

TRUNK = f"{INSIDE}trunk."


@PUBLISHED.register("generative")
def generative_keys(network: Network) -> KeyMap:
    """`i3d` and `i3d_topheavy`, `attended` over them with `attention: published`, and `anchor_detector` over them.

    Keys may begin with `backbone._model.`, or with nothing, as those of the Kinetics files (`rgb_imagenet.pt`). The
    classifier, a convolution of 1 x 1 x 1, becomes a matrix. What a network does not have, as `i3d` no attention, keeps
    its name and is so refused. CVAEs are published in files of their own and are no network's.

    Raises:
        RecipeError: another network.
    """
    if isinstance(network, AnchorDetector):
        return detector_keys(network, "generative")
    backbone = network.backbone
    heads: Prefixes = {f"{root}logits.conv3d.": classifier_prefix(network) for root in ROOTS}
    if isinstance(backbone, Inception3d):
        return prefix_map({**PUBLISHED_PREFIXES, **heads})
    if isinstance(backbone, Attended) and isinstance(backbone.trunk, Inception3d):
        if not isinstance(backbone.attention, PublishedAttention):
            raise RecipeError("'generative' published checkpoints for attention: published", todo="Set attention so.")
        trunk: Prefixes = {old: new and new.replace(INSIDE, TRUNK, 1) for old, new in PUBLISHED_PREFIXES.items()}
        return prefix_map({**trunk, **heads, **attention_prefixes("5c", f"{INSIDE}attention.")})
    raise RecipeError(
        f"'generative' published no checkpoints for network {network.name!r} as built here",
        todo="Choose i3d or i3d_topheavy, or attended or anchor_detector over one of them.",
    )
