"""`multimodal`: a network over several modalities that does without those that a clip lacks.

Compare KARMMA (Knowledge distillation for Action Recognition with Missing Modalities, 2025): one trunk a modality, a
transformer over their tokens, and modality dropout while it learns. Here

    z[m] = W[m] e[m] + k[m]                     the token of modality m, of its trunk's embedding e[m]
    y    = transformer(z of those heard)
    embedding = mean of y over those heard

While training, a modality is left out of a clip with probability p - p^M / M, never all (`modality_dropout.py`); in
eval mode all that are there are heard. A missing modality thus weighs nothing, and nothing stands in for it: the mean
is over the others. Its input is made of several (`data/joint.py`): one row with all parts and who is there.

Batch statistics: a trunk that runs on zeros for missing clips would count them. While training, missing rows repeat
the present row before them (the last one at the batch's start); nobody hears what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.data.joint import split
from vidistill.models.base import Backbone, Features, Network
from vidistill.models.modality_dropout import heard
from vidistill.models.networks import NETWORKS

MULTIMODAL = "multimodal"


class Mixer(nn.Module):
    """Tokens of modalities (B, M, D) as one vector (B, D), of those heard (B, M, bool)."""

    def __init__(self, modalities: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.kinds = nn.Parameter(0.02 * torch.randn(modalities, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True) for _ in range(layers)
        )

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        kept = kept | ~kept.any(1, keepdim=True)  # a clip that lacks everything would make numbers of nothing
        mixed = tokens + self.kinds
        for layer in self.layers:
            mixed = layer(mixed, src_key_padding_mask=~kept)
        weights = kept.to(mixed.dtype)[..., None]
        return (mixed * weights).sum(1) / weights.sum(1)


class Multimodal(Backbone):
    """A trunk a modality, and a mixer of what they say. Features are the trunks' own, as `<input>.<feature>`."""

    def __init__(
        self,
        trunks: Mapping[str, Backbone],
        shapes: Mapping[str, tuple[int, ...]],
        mixer: Mixer,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.names, self.shapes, self.dropout = tuple(trunks), dict(shapes), dropout
        self.trunks = nn.ModuleList(trunks.values())
        self.entrances = nn.ModuleList(nn.Linear(trunk.embedding_dim, width) for trunk in trunks.values())
        self.mixer = mixer
        self.embedding_dim = width
        self.feature_names = tuple(f"{name}.{each}" for name, trunk in trunks.items() for each in trunk.feature_names)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of rows (B, sum of parts), and the named maps: where a clip lacks the part, of nothing."""
        parts, present = split(x, self.shapes)
        tokens: list[Tensor] = []
        found: Features = {}
        for place, (name, trunk, entrance) in enumerate(zip(self.names, self.trunks, self.entrances, strict=True)):
            clips = stood_in(parts[name], present[:, place]) if self.training else parts[name]
            wanted = tuple(each.removeprefix(f"{name}.") for each in features if each.startswith(f"{name}."))
            embedding, maps = trunk(clips, wanted)
            tokens.append(entrance(embedding))
            found |= {f"{name}.{each}": value for each, value in maps.items()}
        kept = present
        if self.training and self.dropout:
            kept = heard(torch.rand(present.shape, device=present.device), present, self.dropout)
        return self.mixer(torch.stack(tokens, 1), kept), found


def stood_in(clips: Tensor, present: Tensor) -> Tensor:
    """Clips (B, ...) with every missing row, where `present` (B,) is False, replaced by the present one before it.

    The batch is a ring; where nothing is present, all is the first row.
    """
    count = len(present)
    own = torch.where(present, torch.arange(count, device=present.device), -1)
    # Twice around: a place of the second round knows the rows before it, whatever round they are in.
    turned = torch.cat((own, torch.where(present, own + count, -1)))
    return clips[turned.cummax(0).values[count:].clamp(min=0) % count]


@NETWORKS.register(MULTIMODAL)
def build_multimodal(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    parts: dict[str, dict[str, Any]],
    width: Annotated[int, Field(ge=2)] = 128,
    layers: Annotated[int, Field(ge=0)] = 1,
    heads: Annotated[int, Field(ge=1)] = 4,
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Network:
    """A network over an input of several modalities (`modalities.<input>.of`).

    Args:
        input_shape: (D,): a row of all parts, see `data/joint.py`.
        classes: classes by head.
        parts: by input name, `network` and its options; one for each input of `of`.
        width: of the tokens and of the embedding.
        layers: of the transformer over tokens; 0: only their mean.
        heads: of attention; they share out the width.
        modality_dropout: p of the file's head, while training.
        dropout: of the embedding, while training.
        shapes: of the parts' inputs, without batch; given by the run.

    Raises:
        RecipeError: parts that are not the input's, no such network, or options it has not.
        ModelError: the input is not made of several, a part is no network of whole clips, or heads do not share out
            the width.
    """
    if shapes is None:
        raise ModelError(
            "network 'multimodal' takes an input of several", todo="Make one: modalities.both.of=[rgb, audio]"
        )
    if width % heads:
        raise ModelError(f"{heads} heads do not share out a width of {width}", todo="Choose heads that divide it.")
    trunks = _trunks(parts, shapes)
    backbone = Multimodal(trunks, shapes, Mixer(len(trunks), width, layers, heads), width, modality_dropout)
    return Network(backbone, input_shape, classes, dropout)


def _trunks(parts: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Backbone]:
    """The network of each part of the input, without its head, in the input's order."""
    # Imported here: the package registers this module before it can offer `build_network`.
    from vidistill.models import build_network

    for name in parts.keys() ^ shapes.keys():
        where = "network 'multimodal': parts"
        if name in parts:
            raise RecipeError(f"the input has no part {name!r}", where=where, todo=nearest(name, shapes))
        raise RecipeError(f"no network for the part {name!r}", where=where, todo=f"Add {name}: {{network: ...}}")
    trunks = {}
    for name, shape in shapes.items():
        options = dict(parts[name])
        kind, where = str(options.pop("network", "")), f"network 'multimodal': parts.{name}"
        network = build_network(kind, shape, {"left_behind": 1}, options, where=where)
        if type(network) is not Network:
            raise ModelError(f"{kind!r} is no network of whole clips", where=where, todo="Choose e.g. compact3d.")
        trunks[name] = network.backbone
    return trunks
