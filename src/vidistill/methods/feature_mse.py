"""Projected-feature regression: the student's features, through a learned linear map, approach a teacher's.

Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets, ICLR 2015, arXiv 1412.6550, equation 3.

    L_b = mean over teachers of  mean_d ( (W f_s[b] + c)[d] - f_t[b, d] )^2                   normalise = false
    L_b = mean over teachers of  | unit(W f_s[b] + c) - unit(f_t[b]) |^2  =  2 - 2 cos        normalise = true

    symbol      here          meaning
    f_s, f_t    student, teacher   embeddings (B, D), or named features (B, C, ...)
    W, c        projections   a learned linear map a teacher (over channels, a 1x1 convolution)

Deviations: named features whose positions differ between the networks (other strides, other numbers of frames) are
averaged over positions first; where they agree each position is compared. The published regressor is a 3x3
convolution. A clip counts for the teachers that could see it only.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Weight, frozen, mean_present, precise

EMBEDDING = "embedding"


def feature_loss(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    """Squared difference of features for each clip.

    Args:
        student: projected features (B, P, D): P positions of D channels.
        teacher: features (B, P, D).
        normalise: compare directions (sum over D of unit vectors) instead of values (mean over D).

    Returns:
        (B,), averaged over positions; in [0, 4] with `normalise`.
    """
    ours, theirs = precise(student), frozen(teacher)
    if normalise:
        difference = functional.normalize(ours, dim=2) - functional.normalize(theirs, dim=2)
        return difference.square().sum(2).mean(1)
    return (ours - theirs).square().mean((1, 2))


def as_positions(feature: Tensor) -> Tensor:
    """(B, C, ...) as (B, P, C), or (B, D) as (B, 1, D)."""
    return feature[:, None, :] if feature.ndim == 2 else feature.flatten(2).transpose(1, 2)


@METHODS.register("feature_mse")
class FeatureMSE(Method):
    """Regression of teachers' features.

    Args:
        context: the networks.
        weight: factor of the term.
        normalise: compare directions instead of values.
        projection: "linear" learns a map from the student's features to each teacher's; "none" compares them as they
            are, and then sizes must agree.
        student: the student's feature by name, or "embedding".
        teacher: the teachers' feature by name, or "embedding".
        teachers: which teachers; none named means all. The loss is averaged over them.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        normalise: bool = False,
        projection: Literal["linear", "none"] = "linear",
        student: str = EMBEDDING,
        teacher: str = EMBEDDING,
        teachers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(context)
        self.weight = weight
        self.normalise = normalise
        self.student = student
        self.teacher = teacher
        self.teachers = self.check_teachers(teachers)
        self.student_features = () if student == EMBEDDING else (student,)
        self.teacher_features = {} if teacher == EMBEDDING else dict.fromkeys(self.teachers, (teacher,))
        source = _channels(student, context.student_dim, context.student_shapes, "the student")
        self.projections = nn.ModuleDict()
        for name in self.teachers:
            shapes = context.teacher_shapes.get(name, {})
            target = _channels(teacher, context.teacher_dims[name], shapes, f"teacher {name!r}")
            if projection == "none" and source != target:
                raise RecipeError(
                    f"'projection: none' needs features of one size; the student has {source}, {name!r} has {target}",
                    todo="Use 'projection: linear'.",
                )
            # A teacher's name may hold a dot, which a module's name may not.
            self.projections[_key(name)] = nn.Linear(source, target) if projection == "linear" else nn.Identity()

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The term "feature_mse"."""
        values = []
        ours = _feature(student, self.student)
        for name in self.teachers:
            theirs = frozen(_feature(teachers[name], self.teacher))
            source, target = as_positions(ours), as_positions(theirs)
            if ours.shape[2:] != theirs.shape[2:]:
                source, target = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
            values.append(feature_loss(self.projections[_key(name)](source), target, self.normalise))
        masks = [self.teacher_mask(name, batch) for name in self.teachers]
        return {"feature_mse": Loss(mean_present(values, masks), self.weight)}


def _key(teacher: str) -> str:
    return "to_" + teacher.replace(".", "_dot_")


def _feature(outputs: Outputs, name: str) -> Tensor:
    return outputs.embedding if name == EMBEDDING else outputs.features[name]


def _channels(name: str, embedding_dim: int, shapes: dict[str, tuple[int, ...]], owner: str) -> int:
    """Number of channels of a feature: the first entry of its shape (C, ...), or the embedding's size."""
    if name == EMBEDDING:
        return embedding_dim
    if name not in shapes:
        raise RecipeError(f"{owner} has no feature {name!r}", todo=nearest(name, [EMBEDDING, *shapes]))
    return shapes[name][0]
