"""`strm`: frames enriched over time and compared as TRX does, and tuples of plain frames compared by distance.

Thatipelli, Narayan, Khan, Anwer, Khan, Ghanem: Spatio-temporal Relation Modeling for Few-shot Action Recognition, CVPR
2022, arXiv 2112.05132, in the form of Lite-MKD (ACM MM 2023). Two enrichments and a loss:

- `PatchAttention`: the patches of a frame attend to each other; networks apply it to their maps before pooling.
- `FrameMixer`: the frames of a clip are mixed over time, then each over its features.
- `TupleDistance`: -mean over the query's tuples of the distance to the nearest tuple of the class.

The head gives TRX(mixed frames) + 0.1 x TupleDistance(frames); while training each learns by itself. In the published
teacher the distance's layer is kept outside of the network's parameters: never trained, never saved, new at every
start. Here it is a part like others.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.models.episode_heads import (
    EPISODE_HEADS,
    FLOAT_BYTES,
    PATCH_LEVEL,
    WHOLE,
    EpisodeHead,
    Projected,
    check_frames,
    distance,
)
from vidistill.models.positions import SinusoidalPositions
from vidistill.models.trx import KEPT, Cardinalities, Dropout, Trx, TupleParts, check_cardinalities


class PatchAttention(nn.Module):
    """Patches of one frame attend to each other.

    Attention is not divided by the root of the width, as published (it is that of a self-attention GAN). Its share
    `gamma` starts at 0.

    Args:
        width: C.
        patches: positions a frame.
        dropout: on patches with their positions, while training.
    """

    def __init__(self, width: int, patches: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(patches, width, 0.1, dropout)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.zeros(1))
        hidden = width // 2
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Enriched patches, in the shape of `x`: patches (N, P, C), or maps (N, C, H, W), whose patches go by rows.

        Raises:
            ModelError: another number of patches than it was made for.
        """
        if x.dim() == 4:
            enriched: Tensor = self(x.flatten(2).transpose(1, 2))
            return enriched.transpose(1, 2).reshape(x.shape)
        patches = len(self.positions.table)
        if x.shape[1] != patches:
            raise ModelError(f"patch attention was built for {patches} patches a frame, not {x.shape[1]}")
        placed = self.positions(x)
        # With an axis of heads, of which there is one: ONNX has no attention without it.
        query, key, value = (layer(placed)[:, None] for layer in (self.query, self.key, self.value))
        answers = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
        attended = self.gamma * answers + placed
        enriched = attended + self.mlp(attended)
        return enriched


class FrameMixer(nn.Module):
    """Frames of a clip are mixed over time, then each over its features, both with a shortcut.

    Args:
        width: D.
        length: L; the mixer is made for one number of frames.
        dropout: on frames with their positions, while training.
    """

    def __init__(self, width: int, length: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(length, width, 0.1, dropout)
        self.over_time = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, length))
        self.over_features = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, frames: Tensor) -> Tensor:
        """(N, L, D) of frames (N, L, D)."""
        placed = self.positions(frames)
        mixed = placed + self.over_time(placed.transpose(1, 2)).transpose(1, 2)
        enriched: Tensor = mixed + self.over_features(mixed)
        return enriched


class TupleEmbedding(nn.Module):
    """Ordered tuples of `size` frames to D / 2 features each, by a linear layer and a ReLU."""

    def __init__(self, length: int, width: int, size: int) -> None:
        super().__init__()
        self.parts = TupleParts(length, size)
        self.linear = nn.Linear(size * width, width // 2)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, tuples, D / 2) of frames (N, L, D)."""
        return torch.relu(self.parts.add(self.parts.project(frames, self.linear)))


class TupleDistance(EpisodeHead):
    """Distance of each of a query's tuples to the nearest tuple of the class, over all shots.

    Args:
        length: L.
        width: D.
        cardinalities: frames of the tuples; the mean of their logits is taken.
        dropout: on frames, while training.

    Raises:
        ModelError: cardinalities that clips of `length` frames do not have.
    """

    def __init__(self, length: int, width: int, cardinalities: tuple[int, ...] = (2,), dropout: float = 0.1) -> None:
        super().__init__()
        check_cardinalities("strm", cardinalities, length)
        self.length, self.width = length, width
        self.dropout = nn.Dropout(dropout)
        self.branches = nn.ModuleList(TupleEmbedding(length, width, size) for size in cardinalities)

    def project(self, frames: Tensor) -> Projected:
        """Embedded tuples (N, tuples, D / 2) by cardinality."""
        check_frames("strm", frames, self.length, self.width)
        frames = self.dropout(frames)
        return tuple(branch(frames) for branch in self.branches)

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way), 0 or less."""
        pairs = zip(support, queries, strict=True)
        return torch.stack([-nearest_distance(known, asked) for known, asked in pairs]).mean(0)

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """The larger of the distances of all pairs of tuples and the nearest tuples."""
        return max(
            FLOAT_BYTES * asked[0, ..., 0].numel() * max(known[0, ..., 0].numel(), known.shape[1] * known.shape[-1])
            for known, asked in zip(support, queries, strict=True)
        )


def nearest_distance(support: Tensor, queries: Tensor) -> Tensor:
    """Mean over a query's tuples of the Euclidean distance to the nearest tuple of a class.

    Which tuple is nearest is found by a matrix product; its distance is then taken by differences. So it is exact near
    0, where the product's rounding is as large as the distance, and only nearest tuples get a gradient.

    Args:
        support: (E, way, shot, T, C).
        queries: (E, Q, T, C).

    Returns:
        (E, Q, way).
    """
    known, asked = support.flatten(2, 3), queries.flatten(1, 2)[:, None]
    with torch.no_grad():
        squares = known.square().sum(-1)[:, :, None] - 2 * asked @ known.transpose(-1, -2)
        nearest = squares.argmin(dim=-1)
    chosen = known.gather(2, nearest[..., None].expand(-1, -1, -1, known.shape[-1]))
    distances = distance(asked, chosen)
    return distances.reshape(*distances.shape[:2], *queries.shape[1:3]).mean(dim=-1).transpose(1, 2)


@EPISODE_HEADS.register("strm")
class Strm(EpisodeHead):
    """TRX on enriched frames plus a share of the tuple distances of plain frames.

    Args:
        length: L.
        width: D.
        cardinalities: frames of the tuples, in both parts.
        projection: width of TRX's keys and values.
        distance_weight: of the tuple distances; 0.1 in the published sum.
        dropout: on frames, while training.

    Raises:
        ModelError: cardinalities that clips of `length` frames do not have, or a width below 2.
    """

    def __init__(
        self,
        length: int,
        width: int,
        cardinalities: Cardinalities = (2,),
        projection: Annotated[int, Field(ge=1)] = 1152,
        distance_weight: Annotated[float, Field(ge=0)] = 0.1,
        dropout: Dropout = 0.1,
    ) -> None:
        super().__init__()
        if width < 2:
            raise ModelError("episode head 'strm' embeds tuples in half the frames' width, which must be 2 or more")
        self.mixer = FrameMixer(width, length, dropout)
        self.trx = Trx(length, width, cardinalities, projection, dropout)
        self.distance = TupleDistance(length, width, cardinalities, dropout)
        self.distance_weight = distance_weight
        self.kept = KEPT * len(cardinalities)

    def project(self, frames: Tensor) -> Projected:
        """What TRX keeps of mixed frames, then what the distances keep of the frames themselves."""
        check_frames("strm", frames, self.trx.length, self.trx.width)
        return *self.trx.project(self.mixer(frames)), *self.distance.project(frames)

    def classifiers(self, frames: Tensor, support_index: Tensor, query_index: Tensor) -> dict[str, Tensor]:
        """While training, TRX's logits as `WHOLE` and those of the tuple distances as `PATCH_LEVEL`."""
        if not self.training:
            return super().classifiers(frames, support_index, query_index)
        projected = self.project(frames)
        return {
            WHOLE: self.trx.episodes(projected[: self.kept], support_index, query_index),
            PATCH_LEVEL: self.distance.episodes(projected[self.kept :], support_index, query_index),
        }

    def compare(self, support: Projected, queries: Projected) -> Tensor:
        """Logits (E, Q, way); each part minds its own memory."""
        alike = self.trx.compare(support[: self.kept], queries[: self.kept])
        near = self.distance.compare(support[self.kept :], queries[self.kept :])
        return alike + self.distance_weight * near
