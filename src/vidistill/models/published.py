"""Key maps of published checkpoints by system: from the authors' state-dict keys to ours (`vidistill import`).

`PUBLISHED` holds, by system, a function that gives the key map for one of our networks. A system with several
architectures decides by the network. Another system adds its function here or, beside its architectures, by
`@PUBLISHED.register("<system>")` in a module that the package imports. Keys that a map does not know keep their names,
so that loading reports them as unexpected. Prefixes of wrappers (`module.`) are gone before a map sees a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from vidistill.core.errors import CheckpointError, RecipeError
from vidistill.core.registry import Registry
from vidistill.models.base import Backbone, Network
from vidistill.models.detector import StepSequence
from vidistill.models.import_ import KeyMap, prefix_map, rename, strip
from vidistill.models.plain_gru import PlainRecurrent
from vidistill.models.stacked_frames import StackedFrames
from vidistill.models.weights import misfit

Prefixes = dict[str, str | None]
"""Published prefix -> our prefix; None drops the keys on purpose."""

PUBLISHED: Registry[Callable[[Network], KeyMap]] = Registry("published system")
"""By system: our network -> key map of the published checkpoints that fit it."""

RESNET = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")


def published_keys(system: str, network: Network, where: str | None = None) -> KeyMap:
    """The key map from checkpoints of `system` to `network`.

    Raises:
        RecipeError: no such system (the nearest is named), or it published no checkpoints for such a network.
    """
    return PUBLISHED.get(system, where)(network)


def load_published(network: Network, system: str, state: Mapping[str, Tensor], where: str | None = None) -> None:
    """Loads a published state dict, head included; every key and shape must fit.

    Raises:
        RecipeError: see `published_keys`.
        CheckpointError: the first missing, unexpected and misshapen keys.
    """
    keys = published_keys(system, network, where)
    tensors = rename({strip(key): value for key, value in state.items()}, keys, where)
    problem = misfit(network.state_dict(), tensors)
    if problem:
        raise CheckpointError(f"the checkpoint of {system!r} does not fit network {network.name!r}: {problem}")
    network.load_state_dict(tensors)


def classifier_prefix(network: Network) -> str | None:
    """Where the classifier of a one-headed checkpoint goes; None, which drops it, for a network of several heads."""
    keys = list(network.head.keys_of.values())
    return f"head.{keys[0]}." if len(keys) == 1 else None


@PUBLISHED.register("graph")
def graph_keys(network: Network) -> KeyMap:
    """Graph distillation (Luo et al. 2018): `stacked_resnet18`, `gru_mean`, and `detector` over either.

    The classifier of a detector's encoder, which was never trained, is dropped by its name `embed.fc`.

    Raises:
        RecipeError: another network.
    """
    backbone = network.backbone
    prefixes: Prefixes = {"fc.": classifier_prefix(network)}
    if isinstance(backbone, StepSequence):
        encoder = _graph_encoder(backbone.encoder, network)
        prefixes |= {f"embed.{old}": f"backbone.encoder.{new}" for old, new in encoder.items()}
        prefixes |= {"embed.fc.": None, "rnn.": "backbone.recurrent."}
    else:
        prefixes |= {old: f"backbone.{new}" for old, new in _graph_encoder(backbone, network).items()}
    return prefix_map(prefixes)


def _graph_encoder(encoder: Backbone, network: Network) -> dict[str, str]:
    """Published prefixes of an encoder -> ours within its backbone."""
    if isinstance(encoder, StackedFrames):
        return {prefix: f"trunk.{prefix}" for prefix in RESNET}
    if isinstance(encoder, PlainRecurrent):
        return {"gru.": "recurrent."}
    raise RecipeError(
        f"'graph' published no checkpoints for network {network.name!r} as built here",
        todo="It has some for stacked_resnet18, gru_mean, and detector over either.",
    )
