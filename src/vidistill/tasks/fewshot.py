"""Few-shot recognition: which of `way` new classes a query clip shows, each known by `shot` support clips.

A batch is episodes one after another, each `way * shot` support clips class by class and then `way * queries` queries
class by class, so that the place of a clip says its part. Rows are queries: a network's episode head compares them
with the support, and its logits (Q, way) are what losses and methods see under the head "episode". A network with two
streams of frame vectors gives "episode_distilled" too; at test time the logits of its streams are summed. While STRM's
head learns, "episode" is its TRX alone and "episode_patches" its classifier of plain frames; their sum is tested.

Vinyals et al.: Matching Networks for One Shot Learning, NeurIPS 2016, arXiv 1606.04080 (episodes). Deviations: models
are selected on validation classes and tested on the same episodes, drawn from (seed, number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, FilePath
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.data.batches import Key
from vidistill.data.episode_files import read_episodes
from vidistill.data.episodes import Episodes, EpisodeSampler
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.models.episode_heads import PATCH_LEVEL, WHOLE
from vidistill.models.episode_network import DISTILLED, FRAMES
from vidistill.tasks.base import TASKS, Look, Predictions
from vidistill.tasks.episode_metrics import by_episode, episode_statistics
from vidistill.tasks.metrics import Statistic

EPISODE, PATCHES = "episode", "episode_patches"
STREAMS = {EPISODE: FRAMES, "episode_distilled": DISTILLED}
"""Heads, and the streams of frame vectors that give them."""
SUPPORTS = {"support": FRAMES, "support_distilled": DISTILLED}


def nothing(way: int, queries: int) -> Episodes:
    """No episodes."""
    return Episodes(
        np.zeros((0, way, 1), np.int64),
        np.zeros((0, way * queries), np.int64),
        np.zeros((0, way * queries), np.int64),
        np.zeros((0, way), np.int64),
    )


Count = Annotated[int, Field(ge=1)]
Split = Literal["val", "test"]


@TASKS.register("fewshot")
class FewShot:
    """Episodes of classes that are never trained on; splits are disjoint in classes.

    Args:
        classes: number of the data's classes by head; episodes are drawn of the one head.
        way: classes an episode.
        shot: support clips a class.
        queries: queries a class while training.
        episodes: episodes an epoch; 0 makes as many as show about every clip once.
        test_queries: queries a class at test time.
        val_way: classes an episode of validation classes, for data with fewer of them than `way`; 0: `way`.
        val_episodes: episodes of validation classes, by which networks are selected.
        test_episodes: episodes of test classes.
        episode_files: of "val", "test" or both, a file whose episodes are used instead of drawn ones, all of them; see
            `data.episode_files`. Their way, shot and queries a class are those of this task.
        patch_weight: of the label loss of STRM's classifier of plain frames, where the network has one.
        seed: of the validation and test episodes.
    """

    name = "fewshot"
    primary = "top1"
    features: tuple[str, ...] = ()

    def __init__(
        self,
        classes: dict[str, int],
        *,
        way: Annotated[int, Field(ge=2)] = 5,
        shot: Count = 5,
        queries: Count = 5,
        episodes: Annotated[int, Field(ge=0)] = 0,
        test_queries: Count = 1,
        val_way: Annotated[int, Field(ge=0)] = 0,
        val_episodes: Count = 1000,
        test_episodes: Count = 10000,
        episode_files: dict[Split, FilePath] | None = None,
        patch_weight: Annotated[float, Field(ge=0)] = 0.1,
        seed: int = 0,
    ) -> None:
        if len(classes) > 1:
            raise RecipeError(f"few-shot has one head, the data has {', '.join(classes)}", todo="Choose: task.heads")
        self.head = next(iter(classes), "")
        self.classes = {EPISODE: way}
        self.way, self.shot, self.queries, self.episodes_an_epoch = way, shot, queries, episodes
        self.ways = {"val": val_way or way, "test": way}
        self.test_queries, self.seed = test_queries, seed
        self.drawn = {"val": val_episodes, "test": test_episodes}
        self.files = {str(split): path for split, path in (episode_files or {}).items()}
        self._read: dict[str, Episodes] = {}
        self.patch_weight = patch_weight
        self.unit = way * (shot + queries)
        self.rows_a_unit = way * queries

    def described(self) -> dict[str, Any]:
        """The name: classes come with the support."""
        return {"name": "fewshot"}

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Places of the classes in an episode."""
        return {EPISODE: tuple(f"class {number}" for number in range(1, self.way + 1))}

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> None:
        """The clips' own labels, which only say what is drawn."""

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """An epoch's episodes, as many a batch as `size` clips hold; all clips of an episode have one view number.

        Raises:
            DataError: there are none to draw, or a file of episodes is wrong: it is told before any training.
        """
        for split in self.files:
            self._of_file(store, split)
        sampler = EpisodeSampler(
            store.labels(self.head)[clips],
            clips,
            self.way,
            self.shot,
            self.queries,
            seed,
            names=store.classes[self.head],
        )
        count = self.episodes_an_epoch or max(1, round(len(clips) * len(views) / self.unit))
        together = min(max(1, size // self.unit), count)
        count -= count % together  # every batch is whole, so that processes have equal parts
        episodes = sampler.batch(epoch * count + np.arange(count))
        support = episodes.support.reshape(count, -1)
        keys = np.concatenate([support, episodes.queries], axis=1).tolist()
        named = [[(int(clip), views[number % len(views)]) for clip in row] for number, row in enumerate(keys)]
        return [sum(named[i : i + together], []) for i in range(0, count, together)]

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> Episodes:
        """The episodes of a split as it is tested, of the clips (N,) that a network can see.

        A network that cannot see all clips has episodes of its own: fewer shots where its classes have fewer clips,
        and none at all where fewer classes are left than an episode has. Of a file, they are those that it can see.

        Raises:
            DataError: there are none to draw, or the file's are wrong.
        """
        if split in self.files:
            found = self._of_file(store, split)
            clips = np.concatenate([found.support.reshape(len(found), -1), found.queries], axis=1)
            return found.take(np.flatnonzero(have[clips].all(axis=1)))
        every = store.indices(split)
        indices = every[have[every]]
        labels = store.labels(self.head)[indices]
        shot, way = self.shot, self.ways[split]
        if len(indices) < len(every):
            counts = np.bincount(labels[labels >= 0], minlength=1)
            indices, labels = (
                values[np.isin(labels, np.flatnonzero(counts > self.test_queries))] for values in (indices, labels)
            )
            if len(np.unique(labels)) < way:
                return nothing(way, self.test_queries)
            shot = min(shot, int(counts[counts > self.test_queries].min()) - self.test_queries)
        names = store.classes[self.head]
        sampler = EpisodeSampler(labels, indices, way, shot, self.test_queries, self.seed, names=names)
        return sampler.batch(np.arange(self.drawn[split]))

    def _of_file(self, store: ClipStore, split: str) -> Episodes:
        """All episodes of a split's file, read once.

        Raises:
            DataError: as `read_episodes`, or they are of other sizes than the task's.
        """
        if split not in self._read:
            path, names = self.files[split], store.classes[self.head]
            found = read_episodes(path, store.ids, store.labels(self.head), names, store.indices(split))
            wanted = np.repeat(np.arange(self.ways[split]), self.test_queries)
            size, asked = (*found.support.shape[1:], found.queries.shape[1]), (self.ways[split], self.shot, len(wanted))
            if size != asked or (found.query_labels != wanted).any():
                raise DataError(
                    "its episodes have {} way, {} shot, {} queries; the task has {} way, {} shot and "
                    "{} queries, as many of each class".format(*size, *asked),
                    where=str(path),
                    todo="Set task.way (of val: val_way), shot and test_queries to those of the file.",
                )
            self._read[split] = found
        return self._read[split]

    def _places(self, clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions in a batch of `clips`: of the support (E, way, shot) and of the queries (E, Q)."""
        places = torch.arange(clips, device=device).reshape(-1, self.unit)
        known = self.way * self.shot
        return places[:, :known].reshape(-1, self.way, self.shot), places[:, known:]

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """Every query a row: logits (Q, way) by stream, embedding (Q, D), features of the queries (Q, …).

        Logits "episode_patches" are there while a head of STRM learns, the mean over streams.
        Features "support" and "support_distilled" are frames of the support by stream (E, way, shot, L, D).
        """
        support, queries = self._places(len(batch), batch.clip.device)
        asked = queries.flatten()
        found = outputs.features
        if head is None or FRAMES not in found:
            raise RecipeError(
                "few-shot compares vectors of frames and this network gives none",
                todo="Use network frame_embedder or sequence_embedder.",
            )
        learners = {
            name: head.classifiers(found[stream], support, queries)  # type: ignore[operator]
            for name, stream in STREAMS.items()
            if stream in found
        }
        logits = {name: each[WHOLE].flatten(0, 1) for name, each in learners.items()}
        patches = [each[PATCH_LEVEL] for each in learners.values() if PATCH_LEVEL in each]
        if patches:
            logits[PATCHES] = torch.stack(patches).mean(0).flatten(0, 1)
        features = {name: values[asked] for name, values in found.items()}
        features |= {name: found[stream][support] for name, stream in SUPPORTS.items() if stream in found}
        return Outputs(logits, outputs.embedding[asked], {**features, "queries": found[FRAMES][asked]})

    def row_batch(self, batch: Batch) -> Batch:
        """The queries: labels in 0..way-1; a modality is present where the query and all its support have it."""
        support, queries = self._places(len(batch), batch.clip.device)
        asked = queries.flatten()
        labels = torch.arange(self.way, device=batch.clip.device).repeat_interleave(self.queries).repeat(len(queries))

        def whole(present: Tensor) -> Tensor:
            known = present[support].flatten(1).all(1)
            return (present[queries] & known[:, None]).flatten()

        return replace(
            batch,
            labels={EPISODE: labels},
            clip=batch.clip[asked],
            view=batch.view[asked],
            present={name: whole(values) for name, values in batch.present.items()},
        )

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """A row is a query clip."""
        _, queries = self._places(len(batch), batch.clip.device)
        return losses, batch.clip[queries.flatten()]

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """Cross-entropy of the queries, "label_episode"; a second stream learns from labels where nobody teaches it.

        STRM's classifier of plain frames always does: "label_episode_patches", a term of weight `patch_weight`.
        """
        labels = batch.labels[EPISODE]
        weights = dict.fromkeys((EPISODE,) if taught else STREAMS, 1.0) | {PATCHES: self.patch_weight}
        return {
            f"label_{name}": Loss(
                functional.cross_entropy(outputs.logits[name].float(), labels, reduction="none"),
                weight,
                distillation=False,
            )
            for name, weight in weights.items()
            if name in outputs.logits
        }

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """Every clip is looked at once."""
        return {}

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """Labels of the queries of a split's episodes."""
        labels = np.repeat(np.arange(self.ways.get(split, self.way)), self.test_queries)
        count = len(self._of_file(store, split)) if split in self.files else self.drawn.get(split, 1)
        return {EPISODE: np.tile(labels, count)}

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """As they are."""
        return predictions

    def judged(self, predictions: Predictions) -> Predictions:
        """All of them."""
        return predictions

    def statistics(self, predictions: Predictions) -> dict[str, Statistic]:
        """The queries' "episode/top1" and "episode/nll", as functions of how often each episode is drawn."""
        if not predictions.units:
            return {f"{EPISODE}/{name}": lambda counts: np.full(len(counts), np.nan) for name in ("top1", "nll")}
        logits = by_episode(predictions.logits[EPISODE], predictions.clip)
        labels = by_episode(predictions.labels[EPISODE], predictions.clip)
        return {f"{EPISODE}/{name}": value for name, value in episode_statistics(logits, labels).items()}
