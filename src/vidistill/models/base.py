"""What every network is: one backbone, named linear heads, features by name.

Shapes: B clips; everything a network returns has channels second. Feature maps of image-like inputs are
(B, C, T, H, W), also those of image trunks; of sequences (B, C, T); of skeleton graphs (B, C, T, J).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Outputs

Features = dict[str, Tensor]

torch.export.register_dataclass(Outputs, serialized_type_name="vidistill.Outputs")


class Backbone(nn.Module):
    """Everything before the heads.

    A subclass sets `embedding_dim` and `feature_names` (in the order in which the maps are made) and its `forward`
    returns the embedding (B, embedding_dim), without dropout on it, and the maps asked for.
    """

    embedding_dim: int
    feature_names: tuple[str, ...] = ()

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, embedding_dim) and the named maps of `x`."""
        raise NotImplementedError


class Heads(nn.ModuleDict):
    """One linear classifier a head; called with an embedding (B, D) it returns logits (B, classes) by head."""

    def __init__(self, embedding_dim: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.keys_of = {head: self._key(head) for head in classes}
        for head, count in classes.items():
            self[self.keys_of[head]] = nn.Linear(embedding_dim, count)

    @staticmethod
    def _key(head: str) -> str:
        """`head` as a module name: without dots, and not the name of a method such as `type`."""
        key = head.replace(".", "_")
        return f"{key}_" if hasattr(nn.ModuleDict, key) or key == "training" else key

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) by head."""
        return {head: self[key](embedding) for head, key in self.keys_of.items()}


class Network(nn.Module):
    """A model of one modality: a tensor in, `Outputs` out.

    Attributes:
        name: the registered name it was built by; `options`: all its options, defaults filled in.
        input_shape: shape of one clip's input, without the batch.
        classes: number of classes by head.
        embedding_dim: D of the embedding (B, D), the vector before dropout and heads.
        head: module, embedding (B, D) -> logits by head. In eval mode `head(outputs.embedding)` equals `logits`.
    """

    def __init__(
        self, backbone: Backbone, input_shape: tuple[int, ...], classes: Mapping[str, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not classes or any(count < 1 for count in classes.values()):
            raise ModelError(f"a network needs at least one head with classes, not {dict(classes)}")
        self.name = type(backbone).__name__
        self.options: dict[str, Any] = {}
        self.input_shape = tuple(input_shape)
        self.classes = dict(classes)
        self.embedding_dim = backbone.embedding_dim
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = Heads(backbone.embedding_dim, classes)
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Logits by head (B, classes), the embedding (B, D) and exactly the maps named in `features`.

        Raises:
            RecipeError: a feature this network does not make.
        """
        for feature in features:
            if feature not in self.backbone.feature_names:
                hint = nearest(feature, self.backbone.feature_names)
                raise RecipeError(f"network {self.name!r} has no feature {feature!r}", todo=hint)
        embedding, maps = self.backbone(x, tuple(features))
        return Outputs(self.head(self.dropout(embedding)), embedding, maps)

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape without batch of each map `forward` can return, in order of depth, for inputs of `input_shape`.

        Found once, by a pass of one clip of shapes without numbers (meta tensors): no arithmetic is done.

        Raises:
            ModelError: the input is too small for the network, or of a kind it cannot take.
        """
        if self._shapes is None:
            modes = {module: module.training for module in self.modules()}
            self.eval()
            try:
                self._shapes = self._trace_shapes()
            finally:
                for module, mode in modes.items():
                    module.training = mode
        return dict(self._shapes)

    def _trace_shapes(self) -> dict[str, tuple[int, ...]]:
        weights = {key: value.detach().to("meta") for key, value in (*self.named_parameters(), *self.named_buffers())}
        clip = torch.empty(1, *self.input_shape, device="meta")
        try:
            with torch.no_grad():
                outputs = torch.func.functional_call(self, weights, (clip, self.backbone.feature_names))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ModelError(
                f"network {self.name!r} cannot take inputs of shape {self.input_shape} ({str(error).splitlines()[0]})",
                todo="Give it more frames or larger frames, or choose another network.",
            ) from None
        return {key: tuple(value.shape[1:]) for key, value in outputs.features.items()}


def expect_rank(network: str, input_shape: tuple[int, ...], axes: str) -> None:
    """Checks that a clip's input has the axes a network takes, e.g. `expect_rank("gru", (32, 60), "T, D")`.

    Raises:
        ModelError: another number of axes, or an empty one.
    """
    takes = {"C, T, H, W": "image-like", "T, D": "sequence", "C, T, J": "joint-graph"}[axes]
    if len(input_shape) != len(axes.split(", ")):
        raise ModelError(
            f"network {network!r} takes {takes} inputs ({axes}), not inputs of shape {tuple(input_shape)}",
            todo="Choose a network for this modality, or another encoding of it.",
        )
    if min(input_shape) < 1:
        raise ModelError(f"network {network!r} cannot take the empty input shape {tuple(input_shape)}")
