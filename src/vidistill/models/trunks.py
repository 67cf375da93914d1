"""What torchvision's image and video networks need to become trunks: channels, momentum, pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.core.registry import nearest
from vidistill.models.import_ import import_checkpoint
from vidistill.models.weights import misfit

CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.")
"""Where torchvision's networks keep their classifiers: keys of a weights file that a trunk leaves unread."""


def first_convolution(trunk: nn.Module) -> tuple[str, nn.Conv2d | nn.Conv3d]:
    """Path and module of the convolution that sees the input's channels."""
    for path, module in trunk.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            return path, module
    raise ModelError(f"{type(trunk).__name__} has no convolution")


def set_channels(trunk: nn.Module, channels: int) -> None:
    """Replaces the first convolution by one for `channels` channels; new kernels keep the variance of its outputs."""
    path, old = first_convolution(trunk)
    if old.in_channels == channels:
        return
    kind = type(old)
    new = kind(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.normal_(0.0, float(old.weight.std()) * (old.in_channels / channels) ** 0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = path.rpartition(".")
    setattr(trunk.get_submodule(parent), child, new)


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """First-layer kernels (O, I, ...) for another number of channels: their mean over I, repeated, times I / channels.

    A grey clip repeated over all channels then gives the same responses before and after (Wang et al. 2016, TSN,
    cross-modality initialisation, with the scale kept).
    """
    inputs = kernel.shape[1]
    if inputs == channels:
        return kernel
    repeated = kernel.mean(dim=1, keepdim=True).expand(-1, channels, *kernel.shape[2:])
    return (repeated * (inputs / channels)).contiguous()


def set_momentum(trunk: nn.Module, momentum: float) -> None:
    """One momentum for all batch normalisations. Some trunks' own 0.01 and 0.001 need longer schedules than ours."""
    for module in trunk.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.momentum = momentum


def load_pretrained(trunk: nn.Module, name: str, weights: str) -> None:
    """Loads torchvision's weights, or a file of such weights, into a trunk of any number of channels.

    Args:
        trunk: without its classifier.
        name: torchvision's name of the network.
        weights: "DEFAULT", a name such as "IMAGENET1K_V1", or a path (.pth, .pt, .safetensors); a file saved by
            `save_weights` from a network on the same trunk serves too, its heads left out.

    Raises:
        ModelError: unknown weights; weights not on this machine and not to be had from the network.
        CheckpointError: weights of another architecture.
    """
    state = dict(_read(name, weights))
    own = trunk.state_dict()
    first = f"{first_convolution(trunk)[0]}.weight"
    if first in state and state[first].dim() == own[first].dim():
        state[first] = adapt_channels(state[first], own[first].shape[1])
    state = {key: value for key, value in state.items() if key in own or not key.startswith(CLASSIFIERS)}
    problem = misfit(own, state)
    if problem:
        raise CheckpointError(f"weights {weights!r} do not fit {name!r}: {problem}")
    trunk.load_state_dict(state)


def _read(name: str, weights: str) -> Mapping[str, Tensor]:
    members = torchvision.models.get_model_weights(name)
    if weights in members.__members__:
        return _from_hub(name, members[weights])
    if Path(weights).is_file():
        state = import_checkpoint(weights)
        inside = "backbone.trunk."
        if any(key.startswith(inside) for key in state):
            state = {key.removeprefix(inside): value for key, value in state.items() if key.startswith(inside)}
        return state
    known = list(members.__members__)
    raise ModelError(f"{name!r} has no weights {weights!r} and there is no such file", todo=nearest(weights, known))


def _from_hub(name: str, member: Any) -> Mapping[str, Tensor]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(urlparse(member.url).path).name
    try:
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            prefix = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(member.url, str(file), prefix, progress=False)
        state: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"pretrained weights of {name!r} could not be had ({error})",
            todo=f"Put the file {file.name} ({member.url}) in the folder {folder}, or set weights to null.",
        ) from None
    return state
