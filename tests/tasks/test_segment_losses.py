from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.tasks.segment_losses import focal_loss, giou_loss, ioa, iou, linear_iou_loss, mean_boundary_bce
from vidistill.tasks.temporal_iou import tiou

lengths = st.floats(0.01, 300)
pairs = st.lists(st.tuples(lengths, lengths, lengths, lengths), min_size=1, max_size=8).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


@given(pairs, st.floats(-50, 50))
def test_iou_of_distances_is_that_of_the_segments_they_span(rows, centre) -> None:
    first, second = rows[:, :2], rows[:, 2:]
    bounds = [torch.stack([centre - each[:, 0], centre + each[:, 1]], 1).numpy() for each in (first, second)]
    np.testing.assert_allclose(iou(first, second), tiou(*bounds), rtol=1e-6)
    np.testing.assert_allclose(linear_iou_loss(first, second), 1 - tiou(*bounds), atol=1e-6)


@given(pairs)
def test_generalised_iou_is_iou_where_both_segments_hold_the_point(rows) -> None:
    first, second = rows[:, :2], rows[:, 2:]
    torch.testing.assert_close(giou_loss(first, second), linear_iou_loss(first, second))


@given(pairs)
def test_losses_are_zero_at_equality_and_positive_elsewhere(rows) -> None:
    first, second = rows[:, :2], rows[:, 2:]
    assert (giou_loss(first, second) >= -1e-9).all()
    torch.testing.assert_close(giou_loss(first, first), torch.zeros(len(rows), dtype=torch.float64))
    torch.testing.assert_close(ioa(first, first), torch.ones(len(rows), dtype=torch.float64))


def test_segments_apart_cost_the_more_the_further_they_are_apart() -> None:
    target = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    near, far = giou_loss(torch.tensor([[-2.0, 3.0], [-7.0, 8.0]]), target)
    assert iou(torch.tensor([[-2.0, 3.0]]), target[:1]) < 0 and 1 < near < far


def test_the_covered_share_is_of_the_predicted_segment() -> None:
    assert ioa(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 5.0])).item() == pytest.approx(0.75)


def test_segments_of_no_length_overlap_by_zero_and_stay_finite() -> None:
    nothing = torch.zeros(1, 2)
    assert iou(nothing, nothing).item() == 0 and ioa(nothing, nothing).item() == 0
    assert giou_loss(nothing, nothing).item() == 1


def test_the_focal_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    ours = focal_loss(logits, torch.tensor([0, 1]))
    expected = [-0.25 * 0.75**2 * math.log(0.25), -0.75 * 0.25**2 * math.log(0.75)]
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_factor_for_each_class_is_taken_from_the_tensor() -> None:
    logits, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    by_class = focal_loss(logits, label, alpha=torch.tensor([0.25, 0.75, 0.0]))
    assert (by_class[label == 2] == 0).all()
    torch.testing.assert_close(by_class[label < 2], focal_loss(logits, label)[label < 2])


@pytest.mark.parametrize("size", [30.0, 300.0])
def test_the_focal_loss_is_nothing_when_sure_and_right_and_finite_when_sure_and_wrong(size) -> None:
    logits = torch.tensor([[size, 0.0], [0.0, size]], requires_grad=True)
    right, wrong = focal_loss(logits, torch.tensor([0, 0]))
    assert abs(right.item()) < 1e-9
    assert 0 < wrong.item() < 4
    (right + wrong).backward()
    assert logits.grad.isfinite().all()


def test_boundary_features_that_equal_the_map_cost_little_and_a_wrong_map_much() -> None:
    maps = torch.zeros(2, 16)
    maps[:, 4:7] = 1
    features = 8.0 * maps[:, None, ::4].expand(-1, 3, -1)
    right, wrong = mean_boundary_bce(features, maps), mean_boundary_bce(features, 1 - maps)
    assert right.shape == (2,)
    assert (right < 1e-5).all() and (wrong > 5).all()


def test_features_below_zero_are_harmless() -> None:
    features = torch.full((1, 2, 4), -1.0, requires_grad=True)
    mean_boundary_bce(features, torch.ones(1, 4)).sum().backward()
    assert features.grad.isfinite().all()


def test_half_precision_is_computed_in_single() -> None:
    half = torch.rand(2, 3, 8, dtype=torch.bfloat16)
    assert mean_boundary_bce(half, torch.zeros(2, 8)).dtype == torch.float32
    with torch.autocast("cpu"):
        assert mean_boundary_bce(half, torch.zeros(2, 8)).dtype == torch.float32
    assert giou_loss(torch.rand(3, 2, dtype=torch.float16), torch.rand(3, 2)).dtype == torch.float32
