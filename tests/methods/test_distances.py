from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidistill.methods.distances import row_distance
from vidistill.methods.kd import kd_loss

METRICS = ("cosine", "l1", "l2", "kl")
every_metric = pytest.mark.parametrize("metric", METRICS)


@every_metric
def test_equal_rows_have_distance_zero_and_no_gradient(metric) -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 5, requires_grad=True)
    values = row_distance(student, student.detach(), metric)
    values.sum().backward()
    torch.testing.assert_close(values, torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros(4, 5), rtol=0, atol=1e-6)


def test_values_are_those_of_the_formulas() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    torch.testing.assert_close(row_distance(student, teacher, "cosine"), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(row_distance(student, teacher, "l1"), torch.tensor([5.0, 0.0]))
    torch.testing.assert_close(row_distance(student, teacher, "l2"), torch.tensor([13.0, 0.0]))
    torch.testing.assert_close(row_distance(student, teacher, "kl"), kd_loss(student, teacher, 8.0))


def test_the_released_kl_is_the_mean_over_classes() -> None:
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    by_sum = row_distance(student, teacher, "kl", temperature=2.0)
    by_mean = row_distance(student, teacher, "kl", temperature=2.0, element_mean=True)
    torch.testing.assert_close(by_mean * 6, by_sum)


@every_metric
def test_the_teacher_gets_no_gradient(metric) -> None:
    student, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    row_distance(student, teacher, metric).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_a_row_without_direction_is_at_cosine_distance_one_with_no_gradient() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]], requires_grad=True)
    values = row_distance(student, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), "cosine")
    values.sum().backward()
    torch.testing.assert_close(values, torch.ones(3))
    assert (student.grad[:2] == 0).all()
    torch.testing.assert_close(student.grad[2], torch.tensor([0.0, -1.0]))


@every_metric
@settings(deadline=None, max_examples=30)
@given(values=arrays("float32", (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_any_finite_rows_have_a_finite_distance_and_gradient(metric, values) -> None:
    student, teacher = torch.from_numpy(values.copy())
    student.requires_grad_()
    distance = row_distance(student, teacher, metric)
    distance.sum().backward()
    assert distance.shape == (3,)
    assert distance.isfinite().all() and (distance >= -1e-5).all()
    assert student.grad.isfinite().all()


@every_metric
def test_half_precision_comes_out_as_float32(metric) -> None:
    assert row_distance(torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16(), metric).dtype == torch.float32
