"""What every task is: what a view's labels are, what a network's outputs are compared as, and how answers are judged.

A task names the **rows** that losses, methods and metrics see: clips in recognition, time steps or anchors in
detection, queries in few-shot recognition. Everything downstream handles rows alike, so a method need not know the
task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.registry import Registry
from vidistill.core.types import Batch, Losses, Outputs
from vidistill.data.batches import Key, Labeller
from vidistill.data.episodes import Episodes
from vidistill.data.store import ClipStore
from vidistill.data.views import ViewPolicy
from vidistill.tasks.metrics import Statistic

Look = Callable[[Tensor], Outputs]
"""A network in training: its input for a batch -> its outputs, with the features that the task's loss asks for."""


@dataclass(frozen=True)
class Predictions:
    """Answers for a split, row by row.

    Attributes:
        logits: by head (N, C), averaged over the views that show a row.
        labels: by head (N,), -1 where unknown.
        clip: what a row belongs to (N,), increasing: the clip's store index, or the episode's number. Intervals
            resample these.
        spans: start and end in seconds (N, 2) of rows that are time steps of untrimmed clips, or of what anchors
            propose; None for clips and queries.
        truth: of untrimmed clips, the annotated segments (M, 4): clip, start, end in seconds, class number.
    """

    logits: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.int64]]
    clip: NDArray[np.int64]
    spans: NDArray[np.float64] | None = None
    truth: NDArray[np.float64] | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """A number (N,) for every row, increasing, the same for all networks: its clip's, and its place in the clip."""
        first = np.searchsorted(self.clip, self.clip)
        return (self.clip << ROW_BITS) + np.arange(len(self.clip)) - first

    @property
    def units(self) -> int:
        """How many clips (or episodes) there are."""
        return len(np.unique(self.clip))

    def save(self, path: Path) -> None:
        """Write as .npz, beside and renamed."""
        beside = path.with_suffix(".tmp.npz")
        arrays: dict[str, NDArray[Any]] = {f"logits:{head}": values for head, values in self.logits.items()}
        arrays |= {f"label:{head}": values for head, values in self.labels.items()}
        more = {"spans": self.spans, "truth": self.truth}
        arrays |= {name: values for name, values in more.items() if values is not None}
        np.savez(beside, clip=self.clip, **arrays)  # type: ignore[arg-type]
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            part = {p: {k.split(":", 1)[1]: file[k] for k in file if k.startswith(p)} for p in ("logits:", "label:")}
            return cls(part["logits:"], part["label:"], file["clip"], file.get("spans"), file.get("truth"))


ROW_BITS = 24
"""Rows of one clip are numbered in this many bits: 16 million time steps."""


class Task(Protocol):
    """The interface of every task.

    Attributes:
        classes: number of classes by head, as networks give logits.
        name: as recipes name it.
        primary: the metric by which networks are judged, under each head: `<head>/<primary>`.
        unit: how many clips of a batch belong together (an episode's), in their order.
        rows_a_unit: how many folded losses they become.
        features: what the task's own loss asks of networks that can give it, beside their outputs.
    """

    classes: dict[str, int]
    name: str
    primary: str
    unit: int
    rows_a_unit: int
    features: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """What whoever decodes an exported model must know, as JSON values: `name` and what decides decoding."""

    def names(self, classes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Names of the classes by head, of the data's class names."""

    def labeller(self, store: ClipStore, policy: ViewPolicy) -> Labeller | None:
        """What a view's labels are; None: the clip's own."""

    def plan(
        self, store: ClipStore, clips: NDArray[np.int64], epoch: int, views: Sequence[int], seed: int, size: int
    ) -> list[list[Key]]:
        """The batches of an epoch over `clips` under the view numbers `views`, of about `size` clips each."""

    def rows(self, outputs: Outputs, batch: Batch, head: nn.Module | None = None) -> Outputs:
        """A network's outputs for a batch, a row each; `head` is the network's."""

    def row_batch(self, batch: Batch) -> Batch:
        """The batch, a row each."""

    def fold(self, losses: Losses, batch: Batch) -> tuple[Losses, Tensor]:
        """Losses of rows as losses of clips, and which clips (store indices) those are."""

    def loss(self, outputs: Outputs, batch: Batch, taught: bool = False) -> Losses:
        """What labels teach, from rows; `taught`: a method teaches as well."""

    def again(self, look: Look, x: Tensor, batch: Batch) -> Losses:
        """What labels teach from further looks at changed clips, one value a clip; x is what the network sees of it."""

    def row_labels(self, store: ClipStore, policy: ViewPolicy, split: str) -> dict[str, NDArray[np.int64]]:
        """Labels by head (N,) of all rows of a split as it is tested, without any network."""

    def episodes(self, store: ClipStore, split: str, have: NDArray[np.bool_]) -> Episodes | None:
        """The episodes that a split is tested by, of the clips (N,) that a network can see; None: clips themselves."""

    def tested(self, predictions: Predictions, store: ClipStore) -> Predictions:
        """A network's answers as they are kept: in rows, with what they are compared to."""

    def judged(self, predictions: Predictions) -> Predictions:
        """The answers whose accuracy, agreement and confusion are told: of these rows, among these classes."""

    def statistics(self, predictions: Predictions) -> dict[str, Statistic]:
        """All metrics as functions of how often each clip (or episode) counts."""


TASKS: Registry[Callable[..., Task]] = Registry("task")
"""Builders `(classes: number of the data's classes by head, **options)`."""
