from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import RecipeError
from vidistill.teachers.ensemble import (
    any_present,
    combine,
    cross_entropies,
    held_out_weights,
    per_sample_weights,
    present_weights,
    softmin_weights,
    uniform_weights,
)

LOGITS = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 3, 4)).astype(np.float32))
LABELS = torch.tensor([0, 3, 1, 2, -1, 1])


def test_cross_entropy_is_minus_the_log_probability_of_the_label() -> None:
    powers = np.exp(LOGITS.numpy())
    shares = powers / powers.sum(2, keepdims=True)
    expected = [[-np.log(shares[b, m, y]) if y >= 0 else 0.0 for m in range(3)] for b, y in enumerate(LABELS)]
    np.testing.assert_allclose(cross_entropies(LOGITS, LABELS), expected, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=6), st.floats(0.01, 100))
def test_weights_sum_to_one_and_fall_with_the_loss(losses, gamma) -> None:
    weights = softmin_weights(torch.tensor(losses, dtype=torch.float64), gamma)
    assert weights.sum().item() == pytest.approx(1.0)
    order = np.argsort(losses, kind="stable")
    assert (np.diff(weights.numpy()[order]) <= 1e-12).all()
    torch.testing.assert_close(weights, softmin_weights(torch.tensor(losses, dtype=torch.float64) + 3.0, gamma))


def test_small_gamma_trusts_the_best_teacher_alone_and_large_gamma_all_alike() -> None:
    losses = torch.tensor([0.5, 0.4, 3.0])
    torch.testing.assert_close(softmin_weights(losses, 1e-3), torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(softmin_weights(losses, 1e6), uniform_weights(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_be_positive(gamma) -> None:
    with pytest.raises(RecipeError, match="gamma"):
        softmin_weights(torch.ones(2), gamma)


def test_held_out_weights_use_the_mean_over_labelled_clips() -> None:
    mean = cross_entropies(LOGITS, LABELS).sum(0) / 5
    torch.testing.assert_close(held_out_weights(LOGITS, LABELS, 0.7), softmin_weights(mean, 0.7))


def test_held_out_weights_count_only_clips_that_a_teacher_saw() -> None:
    present = torch.ones(6, 3, dtype=torch.bool)
    present[0, 1] = False
    spoilt = LOGITS.clone()
    spoilt[0, 1] = torch.nan
    losses = cross_entropies(LOGITS, LABELS)
    mean = torch.stack([losses[:, 0].sum() / 5, losses[1:, 1].sum() / 4, losses[:, 2].sum() / 5])
    torch.testing.assert_close(held_out_weights(spoilt, LABELS, 1.0, present), softmin_weights(mean, 1.0))


def test_a_teacher_that_saw_nothing_counts_like_the_average_teacher() -> None:
    present = torch.ones(6, 3, dtype=torch.bool)
    present[:, 1] = False
    weights = held_out_weights(LOGITS, LABELS, 1.0, present)
    mean = cross_entropies(LOGITS, LABELS)[:, [0, 2]].sum(0) / 5
    torch.testing.assert_close(weights, softmin_weights(torch.stack([mean[0], mean.mean(), mean[1]]), 1.0))
    torch.testing.assert_close(held_out_weights(LOGITS, -torch.ones(6).long(), 1.0), uniform_weights(3))


def test_per_sample_weights_are_uniform_for_clips_without_a_label() -> None:
    weights = per_sample_weights(LOGITS, LABELS, 0.5)
    assert weights.shape == (6, 3)
    torch.testing.assert_close(weights[4], uniform_weights(3))
    torch.testing.assert_close(weights[0], softmin_weights(cross_entropies(LOGITS, LABELS)[0], 0.5))


def test_the_ensemble_is_the_weighted_sum_of_logits() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2])
    expected = (LOGITS.numpy() * weights.numpy()[None, :, None]).sum(1)
    np.testing.assert_allclose(combine(LOGITS, weights), expected, rtol=1e-5, atol=1e-6)
    everything = torch.ones(6, 3, dtype=torch.bool)
    np.testing.assert_allclose(combine(LOGITS, weights.expand(6, 3), everything), expected, rtol=1e-5, atol=1e-6)


def test_an_absent_teacher_says_nothing_and_the_others_share_its_weight() -> None:
    present = torch.tensor([[True, False, True]] * 3 + [[False, False, False]] + [[False, True, False]] * 2)
    spoilt = LOGITS.clone()
    spoilt[~present] = torch.nan
    weights = torch.tensor([0.6, 0.3, 0.1])
    result = combine(spoilt, weights, present)
    torch.testing.assert_close(result[:3], (0.6 * LOGITS[:3, 0] + 0.1 * LOGITS[:3, 2]) / 0.7)
    torch.testing.assert_close(result[4:], LOGITS[4:, 1])
    assert (result[3] == 0).all()
    assert any_present(present).tolist() == [True, True, True, False, True, True]


def test_present_teachers_that_weigh_nothing_share_equally() -> None:
    present = torch.tensor([[True, True, False]])
    torch.testing.assert_close(present_weights(torch.tensor([0.0, 0.0, 1.0]), present), torch.tensor([[0.5, 0.5, 0.0]]))


def test_half_precision_logits_can_be_combined() -> None:
    present = torch.ones(6, 3, dtype=torch.bool)
    result = combine(LOGITS.bfloat16(), uniform_weights(3), present)
    torch.testing.assert_close(result.float(), LOGITS.mean(1), rtol=0.05, atol=0.05)
