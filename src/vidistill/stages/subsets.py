"""Subsets that the data format names (rare classes, people that train never shows), as masks over a run's clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidistill.core.seeds import digest
from vidistill.stages.run import Run
from vidistill.tasks import Predictions, Recognition
from vidistill.tasks.metrics import Statistic
from vidistill.tasks.subsets import rows_of, subset_statistics


def masks_of(run: Run) -> dict[str, NDArray[np.bool_]]:
    """Which of the store's clips each subset counts, by name; without those that have no test clip."""
    if not isinstance(run.task, Recognition) or run.recipe.data.streams is not None:
        return {}
    ids, test = run.store.ids, run.store.indices("test")
    masks = {
        name: np.array([each in members for each in ids], np.bool_) for name, members in run.manifest.subsets.items()
    }
    return {name: mask for name, mask in masks.items() if mask[test].any()}


def subset_clips(run: Run) -> dict[str, int]:
    """How many test clips each subset has."""
    test = run.store.indices("test")
    return {name: int(mask[test].sum()) for name, mask in masks_of(run).items()}


def subset_key(run: Run) -> tuple[str, ...]:
    """What results depend on beside predictions: who is in the subsets; empty where there are none."""
    subsets = run.manifest.subsets
    return (digest([[name, sorted(subsets[name])] for name in sorted(subsets)]),) if subsets else ()


def statistics(run: Run, predictions: Predictions) -> dict[str, Statistic]:
    """The task's metrics, and accuracy on the subsets as `<head>/top1@<subset>`."""
    found = run.task.statistics(predictions)
    masks = masks_of(run)
    if masks and isinstance(run.task, Recognition):
        found |= subset_statistics(run.task, predictions, rows_of(masks, predictions))
    return found
