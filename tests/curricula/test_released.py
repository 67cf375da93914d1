from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import VidistillError
from vidistill.curricula.released import ReleasedMemory, batch_kernel, select_batches

BATCHES = torch.arange(12).reshape(4, 3)


def memory(rate: float = 0.0) -> ReleasedMemory:
    kept = ReleasedMemory(12, 2)
    kept.finish_round(BATCHES, torch.tensor([1.0, 3.0, 2.0, 1.5]), rate)
    return kept


def test_only_the_last_batch_gets_a_strength() -> None:
    kept = memory()
    assert kept.strength.tolist() == [0.0] * 9 + [0.25] * 3
    kept.finish_round(BATCHES.flip(0), torch.tensor([1.0, 3.0, 2.0, 1.5]), 0.5)
    expected = 0.0
    for difficulty in (0.0, 1.0, 0.5, 0.25):
        expected = 0.1 * expected + 0.9 * 0.5 * difficulty
    torch.testing.assert_close(kept.strength[:3], torch.full((3,), expected))
    assert kept.strength[9:].tolist() == [0.25] * 3


def test_a_training_batch_has_one_strength() -> None:
    labels, taught = memory().factors(torch.tensor([0, 9]))
    assert taught.tolist() == [0.25, 0.25] and labels.tolist() == [1.75, 1.75]


def test_features_fade_under_dropout_and_rest_under_shuffle() -> None:
    kept, rows = memory(), torch.tensor([1, 2])
    kept.remember(rows, torch.ones(2, 2), "dropout")
    torch.testing.assert_close(kept.bank[rows], torch.full((2, 2), 0.9))
    kept.remember(rows, torch.zeros(2, 2), "shuffle")
    torch.testing.assert_close(kept.bank[rows], torch.full((2, 2), 0.9))


def test_counts_hold_duplicates() -> None:
    kept = memory()
    kept.selected(BATCHES[[0, 0, 2]])
    assert kept.counts.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_equally_difficult_batches_are_an_error_not_nan() -> None:
    with pytest.raises(VidistillError, match="equal difficulty"):
        ReleasedMemory(12, 2).finish_round(BATCHES, torch.ones(4), 0.0)


def test_the_same_batch_is_picked_twice_as_published() -> None:
    torch.manual_seed(0)
    kernel = batch_kernel(torch.randn(9, 3, 8))
    weights: list[torch.Tensor] = []
    picks, barred = select_batches(kernel, torch.rand(8), 3, lambda _, __: 2, weights.append)
    assert picks == [2, 2, 2] and [len(w) for w in weights] == [8, 7, 6]
    assert barred == [1, 1, 1]
    assert all(0.99 < float(w.sum()) < 1 for w in weights)


def test_a_selection_that_bars_everything_is_told() -> None:
    with pytest.raises(VidistillError, match="after 1 of 2 picks"):
        select_batches(torch.eye(2), torch.ones(2), 2)


def test_a_memory_that_is_taken_up_is_the_same() -> None:
    old, new = memory(), ReleasedMemory(12, 2)
    new.load_state_dict(old.state_dict())
    for kept in (old, new):
        kept.finish_round(BATCHES, torch.tensor([2.0, 3.0, 2.0, 9.0]), 0.4)
    assert torch.equal(old.strength, new.strength) and new.rounds == 2
