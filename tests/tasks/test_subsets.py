from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks import Predictions, Recognition
from vidistill.tasks.metrics import intervals
from vidistill.tasks.subsets import rows_of, subset_statistics

CLASSES = {"verb": 3, "noun": 6}
RANDOM = np.random.default_rng(4)
LOGITS = {head: RANDOM.normal(size=(40, count)).astype(np.float32) for head, count in CLASSES.items()}
LABELS = {head: np.where(RANDOM.random(40) < 0.6, LOGITS[head].argmax(1), 0) for head in CLASSES}
PREDICTIONS = Predictions(LOGITS, LABELS, np.arange(10, 50))
TASK = Recognition(CLASSES)
RIGHT = {head: LOGITS[head].argmax(1) == LABELS[head] for head in CLASSES}


@given(bits=st.lists(st.booleans(), min_size=40, max_size=40).filter(any))
def test_a_part_counts_its_own_clips_alone(bits) -> None:
    mask = np.array(bits)
    found = intervals(subset_statistics(TASK, PREDICTIONS, {"tail": mask}), 40, 0)
    assert list(found) == ["verb/top1@tail", "noun/top1@tail", "all/top1@tail"]
    for head in CLASSES:
        assert found[f"{head}/top1@tail"].value == pytest.approx(RIGHT[head][mask].mean())
    assert found["all/top1@tail"].value == pytest.approx((RIGHT["verb"] & RIGHT["noun"])[mask].mean())


def test_the_part_of_all_clips_has_the_values_and_intervals_of_all() -> None:
    found = intervals(subset_statistics(TASK, PREDICTIONS, {"any": np.ones(40, bool)}), 40, 200)
    whole = TASK.metrics(LOGITS, LABELS, bootstrap=200)
    assert {name: found[f"{name}@any"] for name in ("verb/top1", "all/top1")} == {
        name: whole[name] for name in ("verb/top1", "all/top1")
    }


def test_a_part_without_clips_has_no_accuracy() -> None:
    found = intervals(subset_statistics(TASK, PREDICTIONS, {"none": np.zeros(40, bool)}), 40, 10)
    assert all(np.isnan(interval.value) for interval in found.values())


def test_clips_without_a_label_do_not_count_in_any_part() -> None:
    labels = {**LABELS, "verb": np.where(np.arange(40) < 20, -1, LABELS["verb"])}
    some = Predictions(LOGITS, labels, PREDICTIONS.clip)
    found = intervals(subset_statistics(TASK, some, {"all": np.ones(40, bool)}), 40, 0)
    assert found["verb/top1@all"].value == pytest.approx(RIGHT["verb"][20:].mean())


def test_masks_over_a_store_become_masks_over_the_rows_of_its_tested_clips() -> None:
    mask = np.arange(60) % 7 == 0
    assert (rows_of({"a": mask}, PREDICTIONS)["a"] == mask[10:50]).all()
    for wrong in (mask[:49], mask.astype(np.int64), mask[None]):
        with pytest.raises(DataError, match=r"subset 'a' is .*, not a bool for every clip"):
            rows_of({"a": wrong}, PREDICTIONS)


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("a", np.ones(39, bool), r"of shape \(39,\), not bool of shape \(40,\)"),
        ("a", np.ones(40), "subset 'a' is float64"),
        ("a/b", np.ones(40, bool), "'a/b' cannot be a subset's name"),
        ("", np.ones(40, bool), "cannot be"),
    ],
)
def test_wrong_masks_and_names_are_refused(name, mask, says) -> None:
    with pytest.raises(DataError, match=says):
        subset_statistics(TASK, PREDICTIONS, {name: mask})
