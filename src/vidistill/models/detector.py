"""`detector`: what happens at each of many steps of an untrimmed clip; any network of ours is its step encoder.

Luo et al., Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018 (temporal detector). An input
is a window of S steps, each a short clip. The encoder gives each step a vector, a bidirectional GRU lets the steps of
the window see each other, and linear heads classify every step (class 0 is background).

Shapes: B windows, S steps, E the encoder's embedding, D the detector's. Against the published network: the
encoder's own classifier, which was kept there and never trained, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.core.types import Outputs
from vidistill.models.base import Backbone, Features, Network
from vidistill.models.networks import NETWORKS
from vidistill.models.weights import misfit, read_weights

Directions = Literal["sum", "concat"]

HEAD = "head."
OURS = ".safetensors"


class StepSequence(Backbone):
    """Encodes steps one by one, then relates the steps of a window by a bidirectional GRU.

    Features: `steps` (B, E, S), the encoder's vectors; `sequence` (B, D, S), what the heads see.
    """

    feature_names = ("steps", "sequence")

    def __init__(
        self, encoder: Backbone, hidden: int, layers: int, dropout: float, directions: Directions, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.recurrent = nn.GRU(
            encoder.embedding_dim,
            hidden,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.directions = directions
        self.embedding_dim = hidden if directions == "sum" else 2 * hidden
        self.frozen = frozen
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode: neither its dropout nor its batch statistics move."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (N, E) of steps (N, ...)."""
        embedding: Tensor = self.encoder(x)[0]
        return embedding

    def contextualise(self, steps: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embeddings (B, S, D) of step vectors (B, S, E), and the named maps."""
        x, _ = self.recurrent(steps)
        if self.directions == "sum":
            forward, backward = x.chunk(2, dim=2)
            x = forward + backward
        maps = {"steps": steps, "sequence": x}
        return x, {name: maps[name].transpose(1, 2) for name in features}

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embeddings (B, S, D) of windows (B, S, ...) and the named maps."""
        steps = self.encode(x.flatten(0, 1))
        return self.contextualise(steps.reshape(-1, x.shape[1], steps.shape[1]), features)


class Detector(Network):
    """A network whose outputs have a step axis: logits (B, S, classes) by head and the embedding (B, S, D).

    `forward(x)` equals `contextualise` of `encode` of all steps. An evaluation over overlapping windows encodes every
    step once and contextualises each window.
    """

    backbone: StepSequence

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (N, E) of N single steps (N, *input_shape[1:])."""
        return self.backbone.encode(x)

    def contextualise(self, embeddings: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Outputs of windows whose steps are encoded: (B, S, E); S may differ from that of `input_shape`."""
        embedding, maps = self.backbone.contextualise(embeddings, features)
        return Outputs(self.head(self.dropout(embedding)), embedding, maps)


@NETWORKS.register("detector")
def build_detector(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    encoder: dict[str, Any],
    hidden: Annotated[int, Field(ge=1)] | None = None,
    layers: Annotated[int, Field(ge=1, le=8)] = 1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    directions: Directions = "sum",
    freeze_encoder: bool = False,
) -> Network:
    """The temporal detector over windows of steps: (S, C, n, H, W), (S, n, D) or (S, C, n, J), n frames a step.

    Args:
        input_shape: S steps first, then the shape of one step, which the encoder takes.
        classes: classes by head, background (class 0) included.
        encoder: `network`, any registered name; `weights`, a .safetensors file of that network trained by us, its
            heads left out; all further keys (and `weights` that are no such file) are options of that network.
        hidden: units of each direction of the GRU; None: as many as the encoder's embedding has.
        layers: layers of the GRU.
        dropout: between layers of the GRU only, while training.
        directions: "sum" adds the two directions (as published, D = hidden), "concat" keeps both (D = 2 x hidden).
        freeze_encoder: the encoder is not trained and stays in eval mode.

    Raises:
        RecipeError: the encoder is not named, is a detector, or its options are wrong.
        ModelError: inputs without a step axis, or steps the encoder cannot take.
        CheckpointError: weights that do not fit the encoder; the first such keys are named.
    """
    options = dict(encoder)
    name = options.pop("network", None)
    if not isinstance(name, str):
        raise RecipeError("network 'detector': encoder.network is missing", todo="Name any network, e.g. gru_mean")
    if name == "detector":
        raise RecipeError("network 'detector': its encoder cannot be a detector", todo="Name the network of one step")
    weights = options.get("weights")
    trained = options.pop("weights") if isinstance(weights, str) and weights.endswith(OURS) else None
    network = _build_encoder(name, tuple(input_shape), options)
    if trained is not None:
        load_encoder(network, trained)
    backbone = network.backbone
    width = backbone.embedding_dim if hidden is None else hidden
    return Detector(StepSequence(backbone, width, layers, dropout, directions, freeze_encoder), input_shape, classes)


def _build_encoder(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> Network:
    """The encoder for single steps, with a head that the detector leaves behind."""
    # Imported here: the package registers this module before it can offer `build_network`.
    from vidistill.models import build_network

    def build(shape: tuple[int, ...], chosen: Mapping[str, Any]) -> Network:
        return build_network(name, shape, {"left_behind": 1}, chosen, where="network 'detector': encoder")

    try:
        return build(input_shape[1:], options)
    except ModelError:
        random = {key: value for key, value in options.items() if key != "weights"}
        if _succeeds(lambda: build(input_shape, random)):
            raise ModelError(
                f"network 'detector' takes windows of steps; inputs of shape {input_shape} have no step axis",
                todo="Set views.steps.",
            ) from None
        raise


def _succeeds(build: Callable[[], Network]) -> bool:
    """Whether a network can be built; on meta tensors, so that nothing is drawn or computed."""
    try:
        with torch.device("meta"):
            build()
    except ModelError:
        return False
    return True


def load_encoder(network: Network, path: str) -> None:
    """Loads weights that `save_weights` wrote into all of `network` but its heads, whatever heads the file has.

    Raises:
        CheckpointError: unreadable file, or the first missing, unexpected and misshapen keys.
    """
    tensors, source = read_weights(path)
    given = {key: value for key, value in tensors.items() if not key.startswith(HEAD)}
    expected = {key: value for key, value in network.state_dict().items() if not key.startswith(HEAD)}
    problem = misfit(expected, given)
    if problem:
        origin = f"weights of network {source!r}" if source else "these weights"
        raise CheckpointError(
            f"{origin} do not fit the detector's encoder {network.name!r}: {problem}",
            where=path,
            todo="Name the network that was saved, with its options and its modality's channels.",
        )
    network.load_state_dict(given, strict=False)
