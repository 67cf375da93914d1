"""The losses of generative distillation against their equations, written out in NumPy with loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidistill.methods.generative_losses import (
    attention_loss,
    cvae_loss,
    double_softmax_loss,
    latent_divergence,
    mean_squares,
    summed_probabilities,
)

RANDOM = np.random.default_rng(7)
CLIPS, CHANNELS, STEPS = 3, 4, 5
MADE, FEATURE = RANDOM.normal(size=(2, CLIPS, CHANNELS, STEPS, 2, 3))
MEAN, LOG_VARIANCE = RANDOM.normal(size=(2, CLIPS, STEPS, CHANNELS))
ATTENTION = RANDOM.uniform(size=(CLIPS, CHANNELS, STEPS))
GIVEN = (MADE, FEATURE, MEAN, LOG_VARIANCE, ATTENTION)


def tensors(*values: np.ndarray, grad: bool = False) -> list[torch.Tensor]:
    return [torch.from_numpy(value).requires_grad_(grad) for value in values]


def divergence(mean: float, variance: float, prior: float) -> float:
    """Of two normal distributions, the second with variance 1."""
    return 0.5 * (variance + (mean - prior) ** 2 - 1 - np.log(variance))


def test_the_cvae_loss_is_squares_and_a_tenth_of_the_divergence_clip_by_clip() -> None:
    expected = []
    for b in range(CLIPS):
        parts = [
            divergence(MEAN[b, t, c], np.exp(LOG_VARIANCE[b, t, c]), ATTENTION[b, c, t])
            for t in range(STEPS)
            for c in range(CHANNELS)
        ]
        expected.append(np.mean((MADE[b] - FEATURE[b]) ** 2) + 0.1 * np.mean(parts))
    np.testing.assert_allclose(cvae_loss(*tensors(*GIVEN)), expected, rtol=1e-10)


def test_it_is_zero_where_the_map_comes_back_and_the_latent_is_the_prior() -> None:
    feature, attention = tensors(FEATURE, ATTENTION)
    mean = attention.transpose(1, 2)
    assert (cvae_loss(feature, feature, mean, torch.zeros_like(mean), attention) == 0).all()


def test_the_divergence_is_least_at_the_prior() -> None:
    attention = torch.from_numpy(ATTENTION)
    mean = attention.transpose(1, 2).clone().requires_grad_()
    log_variance = torch.zeros_like(mean).requires_grad_()
    values = latent_divergence(mean, log_variance, attention)
    values.sum().backward()
    assert (values == 0).all()
    assert mean.grad.abs().max() == log_variance.grad.abs().max() == 0
    assert (latent_divergence(mean + 0.1, log_variance, attention) > 0).all()
    assert (latent_divergence(mean, log_variance - 0.1, attention) > 0).all()


def test_all_of_it_is_differentiable() -> None:
    given = tensors(*GIVEN, grad=True)
    cvae_loss(*given).sum().backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in given)


def test_losses_of_a_permuted_batch_are_permuted() -> None:
    order = [2, 0, 1]
    for loss, given in (
        (cvae_loss, GIVEN),
        (mean_squares, (MADE, FEATURE)),
        (attention_loss, (ATTENTION, ATTENTION[:, ::-1].copy())),
    ):
        straight, permuted = loss(*tensors(*given)), loss(*tensors(*(values[order] for values in given)))
        torch.testing.assert_close(permuted, straight[order])


def test_attentions_are_compared_by_mean_squares_and_the_teacher_gets_no_gradient() -> None:
    ours, theirs = tensors(ATTENTION, ATTENTION[::-1].copy(), grad=True)
    values = attention_loss(ours, theirs)
    np.testing.assert_allclose(values.detach(), ((ATTENTION - ATTENTION[::-1]) ** 2).mean((1, 2)))
    values.sum().backward()
    assert ours.grad.abs().sum() > 0
    assert theirs.grad is None
    assert (attention_loss(ours, ours) == 0).all()


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
def test_a_teacher_of_another_number_of_steps_is_brought_to_the_students(steps: int) -> None:
    constant = torch.full((2, 3, steps), 0.3)
    torch.testing.assert_close(attention_loss(torch.full((2, 3, 5), 0.5), constant), torch.full((2,), 0.04))


def test_of_a_teacher_with_twice_the_steps_pairs_are_averaged() -> None:
    theirs = torch.rand(2, 3, 8)
    assert attention_loss(theirs.unflatten(2, (4, 2)).mean(3), theirs).max() < 1e-12


def test_summed_probabilities_are_as_many_as_there_are_steps() -> None:
    logits = torch.randn(2, 6, 7)
    expected = sum(torch.softmax(logits[:, :, t], dim=1) for t in range(7))
    torch.testing.assert_close(summed_probabilities(logits), expected)
    torch.testing.assert_close(summed_probabilities(logits).sum(1), torch.full((2,), 7.0))


def test_the_released_label_loss_takes_probabilities_for_logits() -> None:
    logits, labels = torch.randn(2, 6, 7), torch.tensor([5, 0])
    summed = summed_probabilities(logits)
    expected = -torch.log_softmax(summed, dim=1)[torch.arange(2), labels]
    torch.testing.assert_close(double_softmax_loss(logits, labels), expected)
    sure = torch.zeros(1, 6, 7)
    sure[:, 2] = 100.0
    bound = np.log(np.exp(7) + 5) - 7  # however sure the network is
    assert double_softmax_loss(sure, torch.tensor([2])).item() == pytest.approx(bound, rel=1e-3)
