"""Episode heads: how alike query clips are to classes that are known by a few support clips each.

Shapes: E episodes of `way` classes with `shot` support clips each and Q queries; N clips of L frames of D features.
A head works in two steps, so that a clip which occurs in many episodes is projected once: `project` takes each clip
alone, `compare` sets projected clips against each other, all episodes, classes and shots in one batched operation.

Here: the frame of it, and the heads that average a clip's frames. `trx`, `otam` and `strm` have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.core.registry import Registry, check_options

Projected = tuple[Tensor, ...]
"""What a head keeps of clips: tensors (N, …); arranged in episodes, (E, way, shot, …) of support and (E, Q, …)."""

CHUNK_BYTES = 2**28
"""What intermediate results of `compare` may take at a time; more episodes are compared one chunk after another."""

FLOAT_BYTES = 4

WHOLE, PATCH_LEVEL = "whole", "patch_level"
"""Classifiers of a head: all of it (or its main part, where the others learn apart), and STRM's of plain frames."""


class EpisodeHead(nn.Module):
    """Compares clips of an episode; a subclass gives `project`, `logits` and, where it differs, `episode_bytes`."""

    @property
    def learned(self) -> bool:
        """Whether the head has parameters."""
        return any(True for _ in self.parameters())

    def project(self, frames: Tensor) -> Projected:
        """What is needed of each clip of `frames` (N, L, D); support clips and queries alike.

        Raises:
            ModelError: clips of other shape than the head was made for.
        """
        raise NotImplementedError

    def compare(self, support: Projected, queries: Projected) -> Tensor:
        """Logits (E, Q, way), higher where more alike, at least float32.

        Args:
            support: projected clips (E, way, shot, …), class by class.
            queries: projected clips (E, Q, …).
        """
        # Logits are differences of large, nearly equal distances: half precision would leave noise of them.
        support, queries = tuple(map(precise, support)), tuple(map(precise, queries))
        step = max(1, CHUNK_BYTES // max(1, self.episode_bytes(support, queries)))
        with _full_precision(queries[0].device):
            return _joined([self.logits(known, asked) for known, asked in _chunks(support, queries, step)])

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """`compare` of episodes few enough for the memory."""
        raise NotImplementedError

    def episode_bytes(self, support: Projected, queries: Projected) -> int:
        """Bytes of the largest intermediate result of `logits` for one episode: here, every query beside every clip."""
        return FLOAT_BYTES * queries[0].shape[1] * max(part[0].numel() for part in support)

    def episodes(self, projected: Projected, support_index: Tensor, query_index: Tensor) -> Tensor:
        """Logits (E, Q, way) of episodes of clips that are already projected.

        Args:
            projected: what `project` gave for N clips.
            support_index: (E, way, shot) positions among the N.
            query_index: (E, Q) positions among the N.
        """
        clips = support_index[0].numel() + query_index[0].numel()
        step = max(1, CHUNK_BYTES // max(1, sum(clips * part[0].numel() * part.element_size() for part in projected)))
        pairs = zip(torch.split(support_index, step), torch.split(query_index, step), strict=True)
        return _joined([self.compare(gather(projected, known), gather(projected, asked)) for known, asked in pairs])

    def classifiers(self, frames: Tensor, support_index: Tensor, query_index: Tensor) -> dict[str, Tensor]:
        """Logits (E, Q, way) of all that labels teach by itself; `WHOLE` is there always. Arguments as of `forward`.

        A head that adds up several classifiers gives them apart while training, and its sum otherwise.
        """
        return {WHOLE: self(frames, support_index, query_index)}

    def forward(self, frames: Tensor, support_index: Tensor, query_index: Tensor) -> Tensor:
        """Logits (E, Q, way) of episodes drawn from clips `frames` (N, L, D); indices as in `episodes`."""
        return self.episodes(self.project(frames), support_index, query_index)


HeadBuilder = Callable[..., EpisodeHead]
"""`(length, width, **options) -> EpisodeHead`; the options are the builder's remaining parameters."""


class HeadRegistry(Registry[HeadBuilder]):
    """Episode heads by name. Their files import this one, so they are imported when the registry is first asked."""

    def get(self, name: str, where: str | None = None) -> HeadBuilder:
        """The builder of head `name`.

        Raises:
            RecipeError: no such head; the nearest known name is given.
        """
        self._complete()
        return super().get(name, where)

    def names(self) -> list[str]:
        """All names, sorted."""
        self._complete()
        return super().names()

    def __contains__(self, name: object) -> bool:
        self._complete()
        return super().__contains__(name)

    @staticmethod
    def _complete() -> None:
        from vidistill.models import otam, strm, trx  # noqa: F401


EPISODE_HEADS = HeadRegistry("episode head")


def build_episode_head(
    name: str, length: int, width: int, options: Mapping[str, Any] | None = None, where: str | None = None
) -> EpisodeHead:
    """The episode head `name` for clips of `length` frames of `width` features.

    Raises:
        RecipeError: unknown name or options (the nearest known one is given), or wrong types; `where` names the place.
        ModelError: options that do not go together or do not fit such clips.
    """
    builder = EPISODE_HEADS.get(name, where)
    checked = check_options(builder, options or {}, where or f"episode head {name!r}", skip=2)
    return builder(length, width, **checked)


def gather(projected: Projected, index: Tensor) -> Projected:
    """Projected clips (N, …) arranged as `index` (E, way, shot) or (E, Q) says."""
    return tuple(part[index] for part in projected)


def check_frames(head: str, frames: Tensor, length: int, width: int) -> None:
    """Checks that clips are (N, `length`, `width`).

    Raises:
        ModelError: they are not.
    """
    if frames.dim() != 3 or tuple(frames.shape[1:]) != (length, width):
        raise ModelError(
            f"episode head {head!r} was built for clips of {length} frames of {width} features, "
            f"not for frames of shape {tuple(frames.shape)}"
        )


def precise(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance over the last axis, by differences: exact near 0, where its gradient is 0 and not infinite."""
    lengths: Tensor = torch.linalg.vector_norm(first - second, dim=-1)
    return lengths


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    if torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _chunks(support: Projected, queries: Projected, step: int) -> Iterator[tuple[Projected, Projected]]:
    for start in range(0, len(queries[0]), step):
        part = slice(start, start + step)
        yield tuple(values[part] for values in support), tuple(values[part] for values in queries)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class FrameMean(EpisodeHead):
    """Base of heads that see a clip as the mean of its frames."""

    name: str

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length, self.width = length, width

    def project(self, frames: Tensor) -> Projected:
        """The mean frame (N, D)."""
        check_frames(self.name, frames, self.length, self.width)
        return (frames.mean(dim=1),)


@EPISODE_HEADS.register("prototype")
class Prototype(FrameMean):
    """Euclidean distance of the mean frames, negated.

    `mean_of_distances` averages a query's distances to the clips of a class, as the published baselines do (`e_dist`
    and, in spite of its name, `cos`). `distance_to_mean` is the distance to the class mean, the prototype of Snell et
    al. 2017 (not squared). With one shot they are the same.

    Args:
        length: L.
        width: D.
        distance: see above.
    """

    name = "prototype"

    def __init__(
        self,
        length: int,
        width: int,
        distance: Literal["mean_of_distances", "distance_to_mean"] = "mean_of_distances",
    ) -> None:
        super().__init__(length, width)
        self.to_mean = distance == "distance_to_mean"

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way), 0 or less."""
        asked = queries[0][:, :, None]
        if self.to_mean:
            return -distance(asked, support[0].mean(dim=2)[:, None])
        return -distance(asked[:, :, None], support[0][:, None]).mean(dim=-1)


@EPISODE_HEADS.register("cosine")
class Cosine(FrameMean):
    """Cosine of the query's mean frame and the class mean, times a scale (Chen et al. 2021, Meta-Baseline, section 3).

    The published baseline `cos` is no cosine: it is a Euclidean distance, here `prototype`.

    Args:
        length: L.
        width: D.
        scale: of the cosine, so that a softmax over classes can be sharp.
        learn_scale: train it along.
    """

    name = "cosine"
    scale: Tensor

    def __init__(
        self, length: int, width: int, scale: Annotated[float, Field(gt=0)] = 10.0, learn_scale: bool = True
    ) -> None:
        super().__init__(length, width)
        if learn_scale:
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        else:
            self.register_buffer("scale", torch.tensor(float(scale)))

    def logits(self, support: Projected, queries: Projected) -> Tensor:
        """(E, Q, way), within -scale and scale; 0 for a clip or a class mean that is 0."""
        means = functional.normalize(support[0].mean(dim=2), dim=-1)
        return self.scale * functional.normalize(queries[0], dim=-1) @ means.transpose(1, 2)
