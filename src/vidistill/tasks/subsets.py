"""Accuracy on named parts of the test clips, such as those of rare classes or of people that train never shows.

EPIC-KITCHENS is told so: each head on its own tail classes, and both heads right on clips whose verb and noun are (or
verb or noun is) of the tail (Damen et al., IJCV 2022, section 4). Who is in a part is the data format's to say, e.g.
`data.formats.epic_rows.subsets(store.clips, ...)`, one mask over all clips; `rows_of` makes it one over predictions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.tasks.base import Predictions
from vidistill.tasks.metrics import Statistic
from vidistill.tasks.recognition import Recognition

Masks = Mapping[str, NDArray[np.bool_]]
"""Which rows (N,) each part counts, by its name."""


def rows_of(masks: Masks, predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
    """Masks over the clips of a store (all splits, in its order) as masks over the rows (N,) of predictions.

    Raises:
        DataError: a mask that is not over the store's clips.
    """
    last = int(predictions.clip.max(initial=-1))
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.ndim != 1 or len(mask) <= last:
            raise DataError(f"subset {name!r} is {mask.dtype} of shape {mask.shape}, not a bool for every clip")
    return {name: mask[predictions.clip] for name, mask in masks.items()}


def subset_statistics(task: Recognition, predictions: Predictions, masks: Masks) -> dict[str, Statistic]:
    """Top-1 accuracy of each head, and of all heads together where there are several, on each part.

    Args:
        task: whose heads count.
        predictions: rows, in the masks' order.
        masks: over the rows.

    Returns:
        "<head>/top1@<part>" and "all/top1@<part>", as functions of how often each of the N clips is drawn, like
        `Recognition.statistics`: intervals, seeds and gains are made of them alike. NaN where none of a part is drawn.

    Raises:
        DataError: a mask that is not a bool for every row, or a name that cannot be part of a metric's.
    """
    found: dict[str, Statistic] = {}
    rows = len(predictions.clip)
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != (rows,):
            raise DataError(f"subset {name!r} is {mask.dtype} of shape {mask.shape}, not bool of shape {(rows,)}")
        if not name or {"/", "@"} & set(name):
            raise DataError(f"{name!r} cannot be a subset's name", todo="Leave out / and @")
        statistics = task.statistics_of(predictions.logits, predictions.labels, subset=mask)
        found |= {f"{key}@{name}": value for key, value in statistics.items() if key.endswith("/top1")}
    return found
