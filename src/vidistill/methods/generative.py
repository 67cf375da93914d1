"""Generative feature distillation: a student's feature map is taught through what autoencoders make of it.

Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644, and its code.

    phase "representation": the student's CVAE learns, the student does not
    L_cvae = mean (F - F^_s)^2 + 0.1 * KL( N(mu, exp lv) || N(A_s, 1) )       F^_s, mu, lv = CVAE_s(F, A_s, eps_1)
    L_G    = mean ( F^_s - F^_t )^2                                            F^_t        = CVAE_t(F, A_s, eps_2)
    phase "distillation": the student learns, the CVAEs do not
    L_A    = mean ( A_s - A_t )^2
    L_R    = mean ( D_s(A_s + eps_3, A_s) - F )^2
    total  = L_cvae + 0.01 * L_G + 0.1 * L_A + w * L_R + labels

    symbol     here                  meaning
    F          feature               the student's map (B, C, T, H, W); both CVAEs see it
    A_s, A_t   attention             channel-time attention (B, C, T) of student and teacher, each of its own map
    CVAE_s     cvae                  the student's, one a map, trained with it and discarded after training
    CVAE_t     parts(., "method")    the teacher's, trained before by the method `cvae`, frozen
    D_s        decoder               of CVAE_s
    eps        noise                 standard normal (B, T, C), drawn by torch, independent
    w          warmed                min(epoch, 20) / 20 * 0.5, epochs counted from 1

So L_G teaches the student's CVAE, and that the student: through L_R, from which CVAE_s gets no gradient. Several maps
give sums of terms.

Deviations: both phases are one pass (`phases: merged`): F and A_s are detached for the first two terms, the weights of
CVAE_s for the last, so that everything gets the gradients it gets when the phases alternate, from the same map;
`phases: alternating` runs them in turn, an epoch each, as published, at twice the cost. The target F of L_R carries no
gradient, or F would shrink to what the decoder gives; `variant: released` lets it. Attentions of different numbers of
steps are compared at the student's. L_A is 0 for clips that the teacher cannot see.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Weight, masked, module_key
from vidistill.methods.cvae import (
    WARMUP,
    AttendedMap,
    Attentions,
    Epochs,
    Hidden,
    Positive,
    Variant,
    build_cvaes,
    draw_noise,
    find_maps,
    reconstruction_loss,
    warmed,
)
from vidistill.methods.generative_losses import LATENT_WEIGHT, attention_loss, cvae_loss, mean_squares
from vidistill.models.attended import ATTENTION

REPRESENTATION, DISTILLATION = "representation", "distillation"


@METHODS.register("generative")
class Generative(Method):
    """A student's maps, taught by one teacher's CVAE and attention. Weights of 0 leave parts out.

    Args:
        context: the networks; `context.parts(teacher, "method")` is the teacher's trained method `cvae`.
        weight: factor of all terms.
        teacher: one teacher's name; may be left out where there is one teacher only.
        maps: the student's features by name; none named means the deepest.
        teacher_maps: the teacher's, one for each of `maps`; none named means those of the same names, or the deepest.
        attention: the student's feature that is the attention of its maps, or one a map; "" makes it of the map.
        teacher_attention: the teacher's; none: as `attention`.
        generative_weight: of L_G.
        attention_weight: of L_A (beta). Published: 0.1 for recognition, 10 for detection.
        reconstruction_weight: of L_R. With this and `generative_weight` 0 no CVAE is made.
        reconstruction_warmup: epochs over which the weight of L_R grows.
        latent_weight: factor of the divergence from the prior within L_cvae.
        hidden: width of the student's CVAE; none: the map's channels, as published.
        learning_rate_scale: the CVAE's learning rate as a factor of the student's.
        phases: "merged" in one pass, or "alternating" epochs of CVAE and of student.
        variant: "released" lets the gradient of L_R into its target.

    Raises:
        RecipeError: no such teacher, map or attention, maps of other channels or pixels than the teacher's, or
            nothing left to learn from.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        teacher: str | None = None,
        maps: tuple[str, ...] = (),
        teacher_maps: tuple[str, ...] = (),
        attention: Attentions = ATTENTION,
        teacher_attention: Attentions | None = None,
        generative_weight: Weight = 0.01,
        attention_weight: Weight = 0.1,
        reconstruction_weight: Weight = 0.5,
        reconstruction_warmup: Epochs = WARMUP,
        latent_weight: Weight = LATENT_WEIGHT,
        hidden: Hidden | None = None,
        learning_rate_scale: Positive = 1.0,
        phases: Literal["merged", "alternating"] = "merged",
        variant: Variant = "default",
    ) -> None:
        super().__init__(context)
        if teacher is None and len(context.teacher_dims) != 1:
            raise RecipeError(
                f"generative learns from one teacher's CVAE and there are {len(context.teacher_dims)} teachers",
                todo=f"Set 'teacher' to one of: {', '.join(context.teacher_dims) or 'none'}.",
            )
        self.teacher = self.check_teacher(teacher or next(iter(context.teacher_dims)), ensemble=False)
        self.weight, self.latent_weight = weight, latent_weight
        self.generative_weight, self.attention_weight = generative_weight, attention_weight
        self.reconstruction_weight, self.warmup = reconstruction_weight, reconstruction_warmup
        self.learning_rate_scale, self.released = learning_rate_scale, variant == "released"
        self.warmth = warmed(0, reconstruction_warmup)
        self.generates = generative_weight > 0 or reconstruction_weight > 0
        self.phases = (REPRESENTATION, DISTILLATION) if phases == "alternating" else ()
        self.phase, self.student_learns = "", True
        self._check_weights()
        self.maps = find_maps(maps, attention, context.student_shapes, "the student")
        self.teacher_maps = find_maps(
            teacher_maps or maps,
            attention if teacher_attention is None else teacher_attention,
            context.teacher_shapes.get(self.teacher, {}),
            f"teacher {self.teacher!r}",
        )
        self._check_shapes()
        self.student_features = _features(self.maps, maps=self.generates)
        if attention_weight:
            self.teacher_features = {self.teacher: _features(self.teacher_maps, maps=False)}
        self.cvae = build_cvaes(self.maps if self.generates else (), hidden)
        # A tuple, which a module does not look into: the teacher's weights are no parameters of this method.
        self.targets = self._teacher_cvaes() if generative_weight else ()

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Sets the weight of L_R."""
        super().start_epoch(epoch, epochs)
        self.warmth = warmed(epoch, self.warmup)

    def start_phase(self, name: str) -> None:
        """Which terms are given from now on, and whether the student learns; none in another method's phase.

        Before the first call, and where phases are merged, all terms are given.
        """
        if self.phases:
            self.phase, self.student_learns = name, name != REPRESENTATION

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "cvae", "generative", "attention" and "reconstruction", as far as weights and phase ask for them.

        One value a clip, also where the batch has several rows a clip.
        """
        attentions = [each.attention(student) for each in self.maps]
        represents, distils = self.phase in ("", REPRESENTATION), self.phase in ("", DISTILLATION)
        losses: Losses = {}
        if self.generates and represents:
            losses |= self._represent(student, attentions)
        if self.attention_weight and distils:
            values = self._imitate(attentions, teachers[self.teacher], batch)
            losses["attention"] = Loss(values, self.weight * self.attention_weight)
        if self.reconstruction_weight and distils:
            terms = [
                reconstruction_loss(self._own(each), each.feature(student), attention, self.released)
                for each, attention in zip(self.maps, attentions, strict=True)
            ]
            factor = self.weight * self.reconstruction_weight * self.warmth
            losses["reconstruction"] = Loss(torch.stack(terms).sum(0), factor)
        return losses

    def _represent(self, student: Outputs, attentions: list[Tensor]) -> Losses:
        """L_cvae and L_G: gradient to the student's CVAE only."""
        own, towards = [], []
        for number, (each, attention) in enumerate(zip(self.maps, attentions, strict=True)):
            feature, condition = each.feature(student).detach(), attention.detach()
            made, mean, log_variance = self._own(each)(feature, condition, draw_noise(feature))
            own.append(cvae_loss(made, feature, mean, log_variance, condition, self.latent_weight))
            if self.targets:
                with torch.no_grad():
                    target = self.targets[number](feature, condition, draw_noise(feature))[0]
                towards.append(mean_squares(made, target))
        losses = {"cvae": Loss(torch.stack(own).sum(0), self.weight)}
        if towards:
            losses["generative"] = Loss(torch.stack(towards).sum(0), self.weight * self.generative_weight)
        return losses

    def _imitate(self, attentions: list[Tensor], teacher: Outputs, batch: Batch) -> Tensor:
        """L_A (B,)."""
        pairs = zip(attentions, self.teacher_maps, strict=True)
        values = torch.stack([attention_loss(ours, theirs.attention(teacher)) for ours, theirs in pairs]).sum(0)
        # Where a clip is several rows, they see it or not together.
        return masked(values, self.teacher_mask(self.teacher, batch).reshape(len(values), -1)[:, 0])

    def _own(self, each: AttendedMap) -> Any:
        return self.cvae[module_key(each.name)]

    def _teacher_cvaes(self) -> tuple[nn.Module, ...]:
        """The teacher's CVAE of each of its maps.

        Raises:
            RecipeError: it has none of one; the teacher's method had other maps.
        """
        cvaes: Any = self.context.parts(self.teacher, "method").get_submodule("cvae")
        for each in self.teacher_maps:
            if module_key(each.name) not in cvaes:
                raise RecipeError(
                    f"teacher {self.teacher!r} has no CVAE of its map {each.name!r}",
                    todo="Name that map in the options of the teacher's method 'cvae'.",
                )
        return tuple(cvaes[module_key(each.name)] for each in self.teacher_maps)

    def _check_weights(self) -> None:
        if not self.generates and not self.attention_weight:
            raise RecipeError("all weights are 0 and nothing is left to learn from", todo="Give one of them a weight.")
        if self.phases and not self.generates:
            raise RecipeError(
                "'phases: alternating' needs a CVAE, and generative_weight and reconstruction_weight are 0",
                todo="Leave 'phases' out.",
            )

    def _check_shapes(self) -> None:
        """The teacher's CVAE takes the student's map, and attentions are compared channel by channel."""
        if len(self.maps) != len(self.teacher_maps):
            raise RecipeError(
                f"{len(self.maps)} maps and {len(self.teacher_maps)} teacher_maps", todo="Name one for each."
            )
        for ours, theirs in zip(self.maps, self.teacher_maps, strict=True):
            pair = (
                f"the student's map {ours.name!r} is {ours.shape} and {theirs.name!r} of teacher {self.teacher!r} is "
                f"{theirs.shape} (channels, steps, height, width)"
            )
            if self.generative_weight and (ours.shape[0], *ours.shape[2:]) != (theirs.shape[0], *theirs.shape[2:]):
                raise RecipeError(
                    f"{pair}: the teacher's CVAE needs its own channels, height and width",
                    todo="Name maps that have the same, or set generative_weight to 0.",
                )
            if self.attention_weight and ours.shape[0] != theirs.shape[0]:
                raise RecipeError(
                    f"{pair}: attention is compared channel by channel",
                    todo="Name maps of as many channels, or set attention_weight to 0.",
                )


def _features(found: tuple[AttendedMap, ...], maps: bool) -> tuple[str, ...]:
    """Names to ask a network for: attentions or what they are made of, and the maps themselves if `maps`."""
    names = [each.attention_name or each.name for each in found]
    return tuple(dict.fromkeys([*names, *(each.name for each in found if maps)]))
