"""`anchor_detector`: which segments a window of an untrimmed clip holds, without anchors of given lengths (AFSD).

Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021; with attention
and background maps as in Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644. Any
network of clips is the trunk: its maps, weighed by attention where there is one, become a pyramid
(`anchor_pyramid.py`) with heads (`anchor_heads.py`).

    F_fg = F * A * sum F / sum (F * A)        F_bg = F * (1 - A) * sum F / sum (F * (1 - A))

Deviations: the sums are over a clip, so that its output depends on no other clip and keeps the map's scale.
`variant: released` has the published F * A / sum A and F * (1 - A) / sum (1 - A) with sums over the whole batch, which
leave features of about 1e-6, and the published gradient of boundary pooling.

Shapes: B windows, A anchors, K classes with background (class 0), W the pyramid's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Outputs
from vidistill.models.anchor_heads import AnchorHeads
from vidistill.models.attended import attend
from vidistill.models.attention import PooledAttention, PublishedAttention
from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS

Attention = Literal["none", "pooled", "published"]
Variant = Literal["default", "released"]
Shapes = Mapping[str, tuple[int, ...]]

ATTENTION = "attention_"
"""Before the name of a map, in the name of the feature that holds its attention (B, C, T)."""
STEPPED = 5
"""Axes of a window that is given step by step."""
BACKGROUND = ("background_loc", "background_conf")
"""What the coarse heads say of the background maps; asking for "background" gives both."""
ALWAYS = (
    "priors",
    "loc",
    "prop_loc",
    "prop_conf",
    "center",
    "start",
    "end",
    "start_loc_prop",
    "end_loc_prop",
    "start_conf_prop",
    "end_conf_prop",
)
"""Features that are there unasked; see `AnchorAnswers`. `priors` are (B, A) here: every feature is of windows."""


def weigh(feature: Tensor, attention: Tensor, variant: Variant = "default") -> Tensor:
    """The map (B, C, T, H, W) where the attention (B, C, T) is; see the file's head."""
    if variant == "default":
        return attend(feature, attention)
    return feature * attention[..., None, None] / attention.sum()


class AnchorBackbone(Backbone):
    """A trunk, the attention on its maps, and the pyramid with all its heads.

    The embedding (B, A, W) is the confidence branch's vector of every anchor's segment.
    """

    def __init__(
        self,
        trunk: Backbone,
        maps: tuple[str, ...],
        attention: Sequence[nn.Module],
        heads: AnchorHeads,
        width: int,
        frozen_bn: bool,
        variant: Variant,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.maps = maps
        self.attention = nn.ModuleList(attention)  # one a map, or none at all
        self.heads = heads
        self.frozen_bn, self.variant = frozen_bn, variant
        self.embedding_dim = width
        attended = (*(ATTENTION + name for name in maps), "background", *BACKGROUND) if attention else ()
        self.feature_names = (*trunk.feature_names, *attended, *ALWAYS)

    def train(self, mode: bool = True) -> Self:
        """A frozen trunk's batch statistics stay as they are."""
        super().train(mode)
        if self.frozen_bn:
            for module in self.trunk.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, A, W) of windows (B, C, T, H, W); `conf` (B, A, K), `ALWAYS` and the features asked for."""
        asked = tuple(name for name in features if name in self.trunk.feature_names)
        _, raw = self.trunk(x, tuple(dict.fromkeys((*asked, *self.maps))))
        attention = {name: layer(raw[name]) for name, layer in zip(self.maps, self.attention, strict=False)}
        answers = self.heads([self._weighed(raw[name], attention.get(name)) for name in self.maps])
        found: Features = {name: getattr(answers, name) for name in ALWAYS}
        found["priors"] = answers.priors.expand(x.shape[0], -1)
        found["conf"] = answers.conf
        found |= {name: raw[name] for name in asked}
        found |= {ATTENTION + name: value for name, value in attention.items() if ATTENTION + name in features}
        if any(name in features for name in ("background", *BACKGROUND)):
            behind = self.heads.coarse([self._weighed(raw[name], 1.0 - attention[name]) for name in self.maps])
            found |= dict(zip(BACKGROUND, (behind.loc, behind.conf), strict=True))
        return answers.proposals, found

    def _weighed(self, feature: Tensor, attention: Tensor | None) -> Tensor:
        return feature if attention is None else weigh(feature, attention, self.variant)


class ProposalClassifier(nn.Module):
    """The class logits of refined segments, of their embedding."""

    def __init__(self, head: str, convolution: nn.Conv1d) -> None:
        super().__init__()
        self.name = head
        self.convolution = convolution

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """`prop_conf` (B, A, K), by head, of embeddings (B, A, W)."""
        return {self.name: self.convolution(embedding.transpose(1, 2)).transpose(1, 2)}


class AnchorDetector(Network):
    """A network whose outputs have an anchor axis: logits (B, A, K) of one head, and the embedding (B, A, W).

    The logits are the coarse ones. The embedding is that of the refined segments: `head` makes the feature `prop_conf`
    of it, not the logits.
    """

    backbone: AnchorBackbone

    def __init__(self, backbone: AnchorBackbone, input_shape: tuple[int, ...], classes: Mapping[str, int]) -> None:
        nn.Module.__init__(self)  # Network's own constructor makes linear classifiers, of which there are none here
        self.name = type(backbone).__name__
        self.options: dict[str, Any] = {}
        self.input_shape = tuple(input_shape)
        self.classes = dict(classes)
        self.embedding_dim = backbone.embedding_dim
        self.backbone = backbone
        self._shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def head(self) -> ProposalClassifier:  # type: ignore[override]
        """Embedding (B, A, W) -> the feature `prop_conf` (B, A, K), by head. Its weights are the backbone's own."""
        return ProposalClassifier(next(iter(self.classes)), self.backbone.heads.prop_conf_head)

    @property
    def frames(self) -> int:
        """Frames of a window, the unit of all distances."""
        return window_shape(self.input_shape)[1]

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Coarse logits (B, A, K), the embedding (B, A, W), and always the features `ALWAYS`.

        Asked for by name: the trunk's maps; with attention also `attention_<map>` (B, C, T) of the pyramid's maps, and
        `background`, which gives `background_loc` (B, A, 2) and `background_conf` (B, A, K).

        Raises:
            RecipeError: a feature this network does not make.
        """
        for feature in features:
            if feature not in self.backbone.feature_names:
                hint = nearest(feature, self.backbone.feature_names)
                raise RecipeError(f"network {self.name!r} has no feature {feature!r}", todo=hint)
        stretch = x.transpose(1, 2).flatten(2, 3) if len(self.input_shape) == STEPPED else x
        embedding, found = self.backbone(stretch, tuple(features))
        return Outputs({next(iter(self.classes)): found.pop("conf")}, embedding, found)


@NETWORKS.register("anchor_detector")
def build_anchor_detector(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    *,
    trunk: str = "i3d",
    trunk_options: dict[str, Any] | None = None,
    maps: tuple[str, ...] | None = None,
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 512,
    levels: Annotated[int, Field(ge=1, le=12)] = 6,
    attention: Attention = "none",
    frozen_bn: bool = False,
    variant: Variant = "default",
) -> Network:
    """The anchor-free detector for windows (C, T, H, W) of T frames.

    Args:
        input_shape: (C, T, H, W), or (S, C, T / S, H, W) of a window of S steps, which are put together as one stretch.
        classes: classes of the one head, background (class 0) included.
        trunk: any registered network of clips.
        trunk_options: its options.
        maps: the trunk's maps that become the first levels, the longest first. None: the deepest map and, before it,
            the deepest one with more time steps, if any.
        width: channels of the pyramid and of all heads.
        levels: of the pyramid; each halves the time steps of the one before.
        attention: on each of the maps. "published" is heavy; "pooled" is light and takes any number of steps.
        frozen_bn: the trunk's batch normalisations keep their statistics while training, for pretrained trunks and
            batches of one or two windows (published: true). Their weights are trained all the same.
        variant: see the file's head.

    Raises:
        RecipeError: no such trunk, wrong options, or a map that it does not make.
        ModelError: several heads, a single class, a trunk without maps of video, or maps that make no such pyramid.
    """
    # Imported here: the package registers this module before it can offer `build_network`.
    from vidistill.models import build_network

    window = window_shape(input_shape)
    expect_rank("anchor_detector", window, "C, T, H, W")
    if len(classes) != 1 or min(classes.values()) < 2:
        raise ModelError(
            f"network 'anchor_detector' has one head of background and other classes, not {dict(classes)}",
            todo="Choose the head: task.heads",
        )
    place = "network 'anchor_detector': trunk_options"
    network = build_network(trunk, window, {"left_behind": 1}, trunk_options or {}, where=place)
    found = {name: shape for name, shape in network.feature_shapes().items() if len(shape) == 4}
    chosen = choose_maps(trunk, found, maps)
    shapes = [found[name] for name in chosen]
    (count,) = classes.values()
    heads = AnchorHeads(shapes, count, width, levels, window[1], variant)
    layers = [_attention(attention, shape) for shape in shapes] if attention != "none" else []
    backbone = AnchorBackbone(network.backbone, chosen, layers, heads, width, frozen_bn, variant)
    return AnchorDetector(backbone, input_shape, classes)


def window_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (C, T, H, W) of a window whose steps are put together; any other shape as it is."""
    if len(input_shape) != STEPPED:
        return tuple(input_shape)
    steps, channels, frames, height, width = input_shape
    return channels, steps * frames, height, width


def choose_maps(trunk: str, shapes: Shapes, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The maps (C, T, H, W) that the pyramid starts from: those asked for, or as `build_anchor_detector` says.

    Raises:
        RecipeError: a map that the trunk does not make.
        ModelError: no map at all.
    """
    for name in asked or ():
        if name not in shapes:
            todo = nearest(name, shapes)
            raise RecipeError(f"network 'anchor_detector': trunk {trunk!r} has no map {name!r}", todo=todo)
    if asked:
        return asked
    if not shapes:
        raise ModelError(
            f"network 'anchor_detector' needs a trunk with maps of video, not {trunk!r}",
            todo="Choose i3d or compact3d.",
        )
    names = list(shapes)
    longer = [name for name in names if shapes[name][1] > shapes[names[-1]][1]]
    return (*longer[-1:], names[-1])


def _attention(kind: Attention, shape: tuple[int, ...]) -> nn.Module:
    channels, steps, height, width = shape
    return PublishedAttention(channels, steps, (height, width)) if kind == "published" else PooledAttention(channels)
