"""`trx`: a query's ordered tuples of frames attend to those of each class.

Perrett, Masullo, Burghardt, Mirmehdi, Damen: Temporal-Relational CrossTransformers for Few-Shot Action Recognition,
CVPR 2021, arXiv 2101.06184, section 3, with the sizes of Lite-MKD (ACM MM 2023). For every cardinality s:

    t = (i < j < …), s frames;   f_t = frames i, j, … with positions added, side by side
    k_t = LayerNorm(K f_t),      v_t = V f_t                                         (O numbers each)
    p_c(t) = sum over tuples t' of all shots of class c of  softmax(k_t . k_t' / sqrt(O)) v_t'
    logit_c = -mean over the query's tuples t of |v_t - p_c(t)|^2;   cardinalities: the mean of their logits

K f_t is a sum of one part a place in the tuple, so each frame is projected once a place, and tuples add what they need:
2 x 7 projections of frames instead of 2 x 28 for pairs of 8. A clip is kept as these parts, and compared as such:
- values: attention is summed over the tuples that share a part, and multiplies 14 vectors instead of 28;
- keys: parts are centred, so that their sum is, and LayerNorm is left with a factor a tuple; a query's products with
  parts are added for tuples. LayerNorm's bias adds the same to all scores of a query and is left out of support keys.

The published module has a second LayerNorm, `norm_v`, that nothing uses; it is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.models.episode_heads import (
    EPISODE_HEADS,
    FLOAT_BYTES,
    EpisodeHead,
    Projected,
    check_frames,
    precise,
)
from vidistill.models.positions import SinusoidalPositions

Cardinalities = Annotated[tuple[int, ...], Field(min_length=1)]

Dropout = Annotated[float, Field(ge=0, lt=1)]

KEPT = 3
"""Tensors that are kept of a clip for a cardinality."""


def check_cardinalities(head: str, cardinalities: Sequence[int], length: int) -> None:
    """Checks that there are tuples of each cardinality.

    Raises:
        ModelError: a cardinality below 1, above the number of frames, or given twice.
    """
    wrong = [size for size in cardinalities if not 1 <= size <= length]
    if wrong or len(set(cardinalities)) < len(cardinalities):
        problem = f"{wrong[0]} is not within 1 and the {length} frames of a clip" if wrong else "one is given twice"
        raise ModelError(f"episode head {head!r}: cardinalities {list(cardinalities)}: {problem}")


class TupleParts(nn.Module):
    """Which frames stand where in the ordered tuples of `size` out of `length` frames, lexicographic.

    Only frames that can stand at a place are projected for it: `length - size + 1` at each, its part of the result.

    Attributes:
        places: (tuples, size) row, among the parts of all places, that each tuple takes from each place.
        membership: (tuples, size x span) 1 where a tuple takes a part, else 0.
    """

    places: Tensor
    membership: Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.size, self.span = size, length - size + 1
        tuples = torch.tensor(list(combinations(range(length), size)))
        # At place j the first possible frame is j, and the rows of a place follow those of the place before.
        self.register_buffer("places", tuples + torch.arange(size) * (self.span - 1), persistent=False)
        membership = functional.one_hot(self.places, size * self.span).sum(1).float()
        self.register_buffer("membership", membership, persistent=False)

    @property
    def count(self) -> int:
        """The number of tuples."""
        return len(self.places)

    def project(self, frames: Tensor, linear: nn.Linear) -> Tensor:
        """Parts (N, size x span, O) of `linear` (size x D -> O), applied to tuples of frames (N, L, D).

        The bias is in the parts of the first place, so that each tuple has it once.
        """
        parts = []
        for place, weight in enumerate(linear.weight.chunk(self.size, dim=1)):
            # As a matrix: a slice of a batch of a frozen network would become a product a clip, three times as slow.
            rows = frames[:, place : place + self.span].reshape(-1, frames.shape[2])
            projected = functional.linear(rows, weight, None if place else linear.bias)
            parts.append(projected.reshape(len(frames), self.span, linear.out_features))
        return torch.cat(parts, dim=1)

    def add(self, parts: Tensor) -> Tensor:
        """Tuples (…, tuples, O) of parts (…, size x span, O)."""
        tuples = parts.index_select(-2, self.places[:, 0])
        for place in range(1, self.size):
            tuples = tuples + parts.index_select(-2, self.places[:, place])
        return tuples

    def fold(self, weights: Tensor) -> Tensor:
        """Weights of parts (…, size x span) such that they sum parts as `weights` (…, tuples) sum tuples."""
        return weights @ self.membership.to(weights.dtype)

    def unfold(self, products: Tensor) -> Tensor:
        """Products with tuples (…, tuples) of products with parts (…, size x span)."""
        return products @ self.membership.to(products.dtype).T


class TupleAttention(nn.Module):
    """TRX of one cardinality.

    Args:
        length: L.
        width: D.
        size: frames of a tuple.
        projection: O, the width of keys and values.
        dropout: on frames, after positions are added, while training.
    """

    def __init__(self, length: int, width: int, size: int, projection: int, dropout: float) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(length, width, 0.1, dropout)
        self.parts = TupleParts(length, size)
        self.key = nn.Linear(size * width, projection)
        self.value = nn.Linear(size * width, projection)
        self.key_normalisation = nn.LayerNorm(projection)

    def project(self, frames: Tensor) -> Projected:
        """Centred parts of keys (N, size x span, O), their factors (N, tuples), parts of values (N, size x span, O)."""
        placed = self.positions(frames)
        keys = precise(self.parts.project(placed, self.key))
        keys = keys - keys.mean(dim=-1, keepdim=True)
        variance = self.parts.add(keys).square().mean(dim=-1)
        factors = torch.rsqrt(variance + self.key_normalisation.eps)
        return keys * self.key_normalisation.weight, factors, self.parts.project(placed, self.value)

    def prototypes(self, support: Projected, queries: Projected) -> Tensor:
        """What every class answers to every tuple of the queries: (E, way, Q, tuples, O)."""
        episodes, way, shot, tuples = support[1].shape
        wide = support[0].shape[-1]
        asked = self.parts.add(queries[0]) * queries[1][..., None] + self.key_normalisation.bias
        products = asked.flatten(1, 2) @ support[0].flatten(1, 3).transpose(1, 2)
        factors = support[1].flatten(1, 2)[:, None] / wide**0.5
        scores = (
            self.parts.unfold(products.reshape(*products.shape[:2], way * shot, support[0].shape[3])) * factors
        ).flatten(2)
        attention = scores.unflatten(2, (way, shot * tuples)).softmax(dim=-1)
        folded = self.parts.fold(attention.unflatten(3, (shot, tuples))).flatten(3).transpose(1, 2)
        answers = folded @ support[2].flatten(2, 3)
        return answers.reshape(episodes, way, queries[0].shape[1], tuples, wide)

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way), 0 or less."""
        differences = self.parts.add(queries[2])[:, None] - self.prototypes(support, queries)
        # A norm, squared: one pass over the largest tensor here, and no copy of it.
        lengths = torch.linalg.vector_norm(differences.flatten(3), dim=-1)
        logits: Tensor = -lengths.square().transpose(1, 2) / self.parts.count
        return logits

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """The larger of the attention and the prototypes."""
        way, shot, tuples = support[1].shape[1:]
        wide = support[0].shape[-1]
        return FLOAT_BYTES * queries[0].shape[1] * tuples * way * max(shot * tuples, wide)


@EPISODE_HEADS.register("trx")
class Trx(EpisodeHead):
    """Temporal-relational cross-transformers.

    Args:
        length: L.
        width: D.
        cardinalities: frames of the tuples; (2,) in Lite-MKD, (2, 3) in TRX.
        projection: width of keys and values.
        dropout: on frames with their positions, while training.

    Raises:
        ModelError: cardinalities that clips of `length` frames do not have.
    """

    def __init__(
        self,
        length: int,
        width: int,
        cardinalities: Cardinalities = (2,),
        projection: Annotated[int, Field(ge=1)] = 1152,
        dropout: Dropout = 0.1,
    ) -> None:
        super().__init__()
        check_cardinalities("trx", cardinalities, length)
        self.length, self.width = length, width
        self.cardinalities, self.projection = tuple(cardinalities), projection
        self.branches = nn.ModuleList(
            TupleAttention(length, width, size, projection, dropout) for size in self.cardinalities
        )

    def project(self, frames: Tensor) -> Projected:
        """For each cardinality in turn, what is kept of keys and values; see `TupleAttention.project`."""
        check_frames("trx", frames, self.length, self.width)
        return tuple(part for branch in self.branches for part in branch.project(frames))  # type: ignore[operator]

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way), 0 or less."""
        return torch.stack([branch.logits(*parts) for branch, parts in self._by_branch(support, queries)]).mean(0)

    def prototypes(self, support: Projected, queries: Projected) -> list[Tensor]:
        """Query-specific prototypes of the classes, (E, way, Q, tuples, O) by cardinality; arguments as of `compare`.

        All episodes at once, unlike `compare`.
        """
        return [branch.prototypes(*parts) for branch, parts in self._by_branch(support, queries)]

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """The most that a cardinality takes."""
        return max(branch.episode_bytes(*parts) for branch, parts in self._by_branch(support, queries))

    def _by_branch(
        self, support: Projected, queries: Projected
    ) -> list[tuple[TupleAttention, tuple[Projected, Projected]]]:
        pairs = [(support[at : at + KEPT], queries[at : at + KEPT]) for at in range(0, len(support), KEPT)]
        return list(zip(self.branches, pairs, strict=True))  # type: ignore[arg-type]
