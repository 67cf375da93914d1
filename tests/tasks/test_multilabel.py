"""Several labels a clip: pairs as rows, what they teach, and what is measured of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Outputs
from vidistill.tasks import MultiLabel, Predictions

CLASSES = {"action": 3}
LABELS = torch.tensor([[1, 0, 1], [0, 0, 0]])


def batch() -> Batch:
    two = torch.arange(2)
    return Batch(
        {}, {"action": LABELS}, two, torch.zeros(2, dtype=torch.int64), {"rgb": torch.ones(2, dtype=torch.bool)}
    )


def outputs(logits: torch.Tensor) -> Outputs:
    return Outputs({"action": logits}, torch.zeros(len(logits), 4))


def test_the_loss_is_binary_cross_entropy_a_class() -> None:
    task, logits = MultiLabel(CLASSES), torch.tensor([[2.0, -1.0, 0.5], [0.1, -3.0, 1.0]], requires_grad=True)
    rows, labels = task.rows(outputs(logits), batch()), task.row_batch(batch())
    folded, clips = task.fold(task.loss(rows, labels), batch())
    expected = functional.binary_cross_entropy_with_logits(logits, LABELS.float(), reduction="none").mean(1)
    assert clips.tolist() == [0, 1]
    torch.testing.assert_close(folded["label_action"].values, expected)
    folded["label_action"].values.sum().backward()
    assert logits.grad is not None and ((logits.grad > 0) == (LABELS == 0)).all()


def test_shown_classes_weigh_as_much_as_they_are_said_to() -> None:
    task, logits = MultiLabel(CLASSES, positive_weight=5.0), torch.zeros(2, 3)
    found = task.fold(task.loss(task.rows(outputs(logits), batch()), task.row_batch(batch())), batch())[0]
    ratio = found["label_action"].values[0] / found["label_action"].values[1]
    assert float(ratio) == pytest.approx((5 + 1 + 5) / 3)


def test_distillation_is_of_every_answer_and_nothing_where_student_and_teacher_agree() -> None:
    task, logits = MultiLabel(CLASSES), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    rows = task.rows(outputs(logits), batch())
    other = task.rows(outputs(logits + 1.0), batch())
    same, differ = (
        float(
            functional.kl_div(rows.logits["action"].log_softmax(1), each.logits["action"].softmax(1), reduction="sum")
        )
        for each in (rows, other)
    )
    assert same == pytest.approx(0.0, abs=1e-6)
    assert differ > 0.01
    torch.testing.assert_close(rows.logits["action"].softmax(1)[:, 1], logits.sigmoid().flatten())


def predictions(logits: list[list[float]], labels: list[list[int]]) -> Predictions:
    clip = np.arange(len(logits))
    raw = Predictions({"action": np.array(logits, np.float32)}, {"action": np.array(labels)}, clip)
    return MultiLabel(CLASSES).tested(raw, None)  # type: ignore[arg-type]


def test_metrics_of_known_answers() -> None:
    task = MultiLabel(CLASSES)
    rows = predictions([[3.0, 1.0, 2.0], [1.0, 2.0, -5.0], [-1.0, -4.0, 0.0]], [[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert len(rows.clip) == 9 and rows.units == 3
    found = {name: float(each(np.ones((1, 3)))[0]) for name, each in task.statistics(rows).items()}
    # Class 0 is ranked 3, 1, -1 and shown in the first two; class 1 never; class 2 is ranked 2, 0, -5: the first.
    assert found["action/map"] == pytest.approx(1.0)
    assert found["action/top1"] == pytest.approx(0.5), "of two clips that show something, one's likeliest is shown"
    assert found["action/top5"] == 1.0
    z, y = np.array([3, 1, 2, 1, 2, -5, -1, -4, 0.0]), np.array([1, 0, 1, 1, 0, 0, 0, 0, 0])
    assert found["action/nll"] == pytest.approx(np.log1p(np.exp(np.where(y, -z, z))).mean(), abs=1e-6)


def test_a_draw_counts_clips_not_pairs() -> None:
    task = MultiLabel(CLASSES)
    rows = predictions([[3.0, 1.0, 2.0], [1.0, 2.0, -5.0]], [[1, 0, 1], [1, 0, 0]])
    top1 = task.statistics(rows)["action/top1"]
    assert top1(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])).tolist() == [1.0, 0.0, 0.5]


def test_several_heads_are_refused() -> None:
    with pytest.raises(RecipeError, match="one head"):
        MultiLabel({"verb": 2, "noun": 3})
