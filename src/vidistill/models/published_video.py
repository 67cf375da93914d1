"""Key maps of published 3-D networks: SlowFast and TPN of gluoncv, Video Swin of its authors and of torchvision."""

from __future__ import annotations

from vidistill.core.errors import RecipeError
from vidistill.models.base import Network
from vidistill.models.import_ import KeyMap, prefix_map
from vidistill.models.published import PUBLISHED, Prefixes, classifier_prefix
from vidistill.models.slowfast import PUBLISHED_PREFIXES as SLOWFAST
from vidistill.models.slowfast import SlowFast
from vidistill.models.tpn import PUBLISHED_PREFIXES as TPN
from vidistill.models.tpn import Tpn
from vidistill.models.video_trunks import SWIN_STEPS, VideoTrunk

SWIN_STAGES = range(4)
ROOTS = ("", "backbone.")
"""Before the backbone's keys: torchvision's and the K400 file once cut have nothing, the authors' files `backbone.`."""


@PUBLISHED.register("slowfast")
def slowfast_keys(network: Network) -> KeyMap:
    """SlowFast as gluoncv publishes it, which is also the student and the teacher of SAKD (ACM MM 2025).

    Raises:
        RecipeError: another network.
    """
    if not isinstance(network.backbone, SlowFast):
        raise RecipeError(f"'slowfast' published no checkpoints for network {network.name!r}", todo="Choose slowfast.")
    return prefix_map({**SLOWFAST, "fc.": classifier_prefix(network)})


@PUBLISHED.register("tpn")
def tpn_keys(network: Network) -> KeyMap:
    """Temporal Pyramid Networks as gluoncv publishes them; the auxiliary classifier, which never runs, is dropped.

    Raises:
        RecipeError: another network, or one whose pyramid flows otherwise than that of the checkpoints.
    """
    backbone = network.backbone
    if not isinstance(backbone, Tpn):
        raise RecipeError(f"'tpn' published no checkpoints for network {network.name!r}", todo="Choose tpn.")
    if backbone.neck.flow != "sequential":
        raise RecipeError("'tpn' published checkpoints for the option flow: sequential only", todo="Set it so.")
    return prefix_map({**TPN, "fc.": classifier_prefix(network)})


@PUBLISHED.register("video_swin")
def swin_keys(network: Network) -> KeyMap:
    """Video Swin for `swin3d_t`, `swin3d_s`, `swin3d_b`: torchvision's names, and those of its authors.

    A classifier `classifiers.VERB` goes to our head `verb`; the only one of a checkpoint (`head`, `cls_head.fc_cls`)
    to the only head of the network, and is dropped where there are several.

    Raises:
        RecipeError: another network.
    """
    backbone = network.backbone
    if not isinstance(backbone, VideoTrunk) or backbone.steps != SWIN_STEPS:
        raise RecipeError(
            f"'video_swin' published no checkpoints for network {network.name!r}",
            todo="Choose swin3d_t, swin3d_s or swin3d_b.",
        )
    ours = "backbone.trunk."
    prefixes: Prefixes = {key: classifier_prefix(network) for key in ("head.", "cls_head.fc_cls.")}
    prefixes |= {f"classifiers.{head.upper()}.": f"head.{key}." for head, key in network.head.keys_of.items()}
    for root in ROOTS:
        prefixes |= {f"{root}{part}.": f"{ours}{part}." for part in ("patch_embed", "norm", "features")}
        for stage in SWIN_STAGES:
            prefixes[f"{root}layers.{stage}.blocks."] = f"{ours}features.{2 * stage}."
            prefixes[f"{root}layers.{stage}.downsample."] = f"{ours}features.{2 * stage + 1}."
    outer = prefix_map(prefixes)

    def mapped(key: str) -> str | None:
        new = outer(key)
        return new and new.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")

    return mapped
