"""A network's own CVAE, trained beside it on labels: what makes a network a teacher for generative distillation.

Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644, feature representation. The script
that trained the published teachers was not released.

    F^, mu, lv = CVAE(F, A, eps)
    L_cvae     = mean (F - F^)^2 + 0.1 * KL( N(mu, exp lv) || N(A, 1) )
    L_R        = w * mean ( D(A + eps, A) - F )^2                     only where it is asked for

    symbol    here              meaning
    F         map               a feature map (B, C, T, H, W) of the network that is trained
    A         attention         its channel-time attention (B, C, T)
    CVAE, D   cvae[key]         encoder and decoder, and the decoder alone; one a map
    eps       noise             standard normal (B, T, C), drawn by torch
    w         warmed            min(epoch, 20) / 20 * reconstruction_weight, epochs counted from 1

The network learns from labels (the task's part) and from L_R; the CVAE learns from L_cvae on F and A without gradient.
Deviation: the target F of L_R carries no gradient, or F would shrink to what the decoder gives; `variant: released`
lets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Weight, module_key
from vidistill.methods.generative_losses import LATENT_WEIGHT, cvae_loss, mean_squares
from vidistill.models.attended import ATTENTION
from vidistill.models.attention import as_map, map_shape, plain_attention
from vidistill.models.cvae import FeatureCVAE

WARMUP = 20
Attentions = str | tuple[str, ...]
Epochs = Annotated[int, Field(ge=0)]
Hidden = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Variant = Literal["default", "released"]


@dataclass(frozen=True)
class AttendedMap:
    """A feature map of a network and its attention: another feature, or "" for one without weights, made of the map.

    `shape` is (C, T, H, W).
    """

    name: str
    attention_name: str
    shape: tuple[int, int, int, int]

    def feature(self, outputs: Outputs) -> Tensor:
        """F (B, C, T, H, W)."""
        return as_map(outputs.features[self.name])

    def attention(self, outputs: Outputs) -> Tensor:
        """A (B, C, T)."""
        if not self.attention_name:
            return plain_attention(self.feature(outputs))
        return outputs.features[self.attention_name]


def find_maps(
    names: tuple[str, ...], attention: Attentions, shapes: Mapping[str, tuple[int, ...]], owner: str
) -> tuple[AttendedMap, ...]:
    """The named maps of a network, or its deepest, each with its attention.

    Args:
        names: maps by name; none: the last map that the network makes, attention apart.
        attention: of all of them, or one a map; "" for attention without weights.
        shapes: what the network can give.
        owner: what errors call the network.

    Raises:
        RecipeError: a map or an attention that the network does not make, or that do not fit together.
    """
    candidates = {name: map_shape(shape) for name, shape in shapes.items() if name != ATTENTION}
    maps = {name: shape for name, shape in candidates.items() if shape is not None}
    if not maps:
        raise RecipeError(f"{owner} names no feature map", todo="Choose a network that does, e.g. compact3d.")
    chosen = names or (list(maps)[-1],)
    attentions = (attention,) * len(chosen) if isinstance(attention, str) else attention
    if len(attentions) != len(chosen):
        raise RecipeError(f"{len(attentions)} attentions for {len(chosen)} maps", todo="Name one a map.")
    found = []
    for name, attention_name in zip(chosen, attentions, strict=True):
        if name not in maps:
            raise RecipeError(f"{owner} has no map {name!r}", todo=nearest(name, maps))
        _check_attention(attention_name, name, maps[name], shapes, owner)
        found.append(AttendedMap(name, attention_name, maps[name]))
    return tuple(found)


def _check_attention(
    attention: str, name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], owner: str
) -> None:
    todo = "Use network 'attended', or set attention to '' to make it of the map."
    if attention and attention not in shapes:
        raise RecipeError(f"{owner} has no attention {attention!r}", todo=todo)
    if attention and shapes[attention] != shape[:2]:
        raise RecipeError(
            f"attention {attention!r} of {owner} is {shapes[attention]} and does not fit its map {name!r} of {shape}",
            todo=todo,
        )


def build_cvaes(maps: tuple[AttendedMap, ...], hidden: int | None) -> nn.ModuleDict:
    """A CVAE for each map, by `module_key` of its name."""
    return nn.ModuleDict({module_key(each.name): FeatureCVAE(each.shape[0], each.shape[2:], hidden) for each in maps})


def draw_noise(feature: Tensor) -> Tensor:
    """Standard normal noise (B, T, C) for a map (B, C, T, H, W), at least float32."""
    batch, channels, steps = feature.shape[:3]
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return torch.randn(batch, steps, channels, device=feature.device, dtype=dtype)


def frozen_call(module: nn.Module, *inputs: Tensor) -> Any:
    """`module(*inputs)` with gradient into the inputs and none into the module's parameters."""
    state = {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}
    return torch.func.functional_call(module, state, inputs)


def reconstruction_loss(cvae: FeatureCVAE, feature: Tensor, attention: Tensor, released: bool) -> Tensor:
    """L_R (B,) of the file's head, without w: what the prior of the attention decodes to, against the map.

    Args:
        cvae: gets no gradient.
        feature: F (B, C, T, H, W); gets a gradient only if `released`.
        attention: A (B, C, T), with gradient.
        released: whether the target carries a gradient.
    """
    latent = attention.transpose(1, 2) + draw_noise(feature)
    return mean_squares(frozen_call(cvae.decoder, latent, attention), feature if released else feature.detach())


def warmed(epoch: int, warmup: int) -> float:
    """Factor of L_R in an epoch (from 0), in (0, 1]: grows over the first `warmup` epochs."""
    return min(epoch + 1, warmup) / warmup if warmup else 1.0


@METHODS.register("cvae")
class CVAE(Method):
    """A CVAE for each map of the network that is trained. It needs no teachers.

    Args:
        context: the network, as the student.
        weight: factor of all terms.
        maps: features by name; none named means the deepest.
        attention: the feature that is their attention, or one a map; "" makes it of the map, without weights.
        latent_weight: factor of the divergence from the prior within L_cvae.
        reconstruction_weight: of L_R, which teaches the network; 0 leaves it out.
        reconstruction_warmup: epochs over which the weight of L_R grows.
        hidden: width of the CVAE; none: the map's channels, as published.
        learning_rate_scale: the CVAE's learning rate as a factor of the network's.
        variant: "released" lets the gradient of L_R into its target.

    Raises:
        RecipeError: a map or an attention that the network does not make.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        maps: tuple[str, ...] = (),
        attention: Attentions = ATTENTION,
        latent_weight: Weight = LATENT_WEIGHT,
        reconstruction_weight: Weight = 0.0,
        reconstruction_warmup: Epochs = WARMUP,
        hidden: Hidden | None = None,
        learning_rate_scale: Positive = 1.0,
        variant: Variant = "default",
    ) -> None:
        super().__init__(context)
        self.weight, self.latent_weight, self.reconstruction_weight = weight, latent_weight, reconstruction_weight
        self.warmup, self.released = reconstruction_warmup, variant == "released"
        self.learning_rate_scale = learning_rate_scale
        self.warmth = warmed(0, reconstruction_warmup)
        self.maps = find_maps(maps, attention, context.student_shapes, "the network")
        names = [name for each in self.maps for name in (each.name, each.attention_name) if name]
        self.student_features = tuple(dict.fromkeys(names))
        self.cvae = build_cvaes(self.maps, hidden)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Sets the weight of L_R."""
        super().start_epoch(epoch, epochs)
        self.warmth = warmed(epoch, self.warmup)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "cvae" and, where it is asked for, "reconstruction"; sums over the maps."""
        representation, reconstruction = [], []
        for each in self.maps:
            cvae: Any = self.cvae[module_key(each.name)]
            feature, attention = each.feature(student), each.attention(student)
            seen, condition = feature.detach(), attention.detach()
            made, mean, log_variance = cvae(seen, condition, draw_noise(seen))
            representation.append(cvae_loss(made, seen, mean, log_variance, condition, self.latent_weight))
            if self.reconstruction_weight:
                reconstruction.append(reconstruction_loss(cvae, feature, attention, self.released))
        losses = {"cvae": Loss(torch.stack(representation).sum(0), self.weight, distillation=False)}
        if reconstruction:
            factor = self.weight * self.reconstruction_weight * self.warmth
            losses["reconstruction"] = Loss(torch.stack(reconstruction).sum(0), factor, distillation=False)
        return losses
