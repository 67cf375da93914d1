from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidistill.core.errors import StoreError, VidistillError
from vidistill.curricula.difficulty import ClipMemory, min_max, selection_probability, teachability

losses = arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 2.0**100, width=32)).map(torch.from_numpy)


@settings(deadline=None)
@given(losses)
def test_difficulty_spans_zero_to_one_in_the_order_of_losses(values) -> None:
    difficulty = min_max(values)
    assert ((difficulty >= 0) & (difficulty <= 1)).all()
    if values.min() == values.max():
        assert (difficulty == 0.5).all()
    else:
        assert difficulty.min() == 0 and difficulty.max() == 1
        assert (difficulty[values.argsort()].diff() >= 0).all()


def test_one_clip_and_no_clip_have_a_difficulty() -> None:
    assert min_max(torch.tensor([3.0])).tolist() == [0.5]
    assert min_max(torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_losses_that_are_not_finite_are_told_not_ranked(bad) -> None:
    with pytest.raises(VidistillError, match="1 of 3 clips"):
        min_max(torch.tensor([1.0, bad, 2.0]))


@settings(deadline=None)
@given(losses)
def test_easy_and_hard_are_opposites(values) -> None:
    torch.testing.assert_close(
        teachability(values, "easy") + teachability(values, "hard"), torch.ones(len(values)).double()
    )


def test_easy_clips_are_worth_more_by_default() -> None:
    assert teachability(torch.tensor([1.0, 3.0, 2.0])).tolist() == [1.0, 0.0, 0.5]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_selection_probability_falls_with_each_selection_and_sums_to_one(counts) -> None:
    chance = selection_probability(torch.tensor(counts))
    assert abs(float(chance.sum()) - 1) < 1e-12
    for i, a in enumerate(counts):
        for j, b in enumerate(counts):
            assert (chance[i] > chance[j]) == (a < b)


def memory(**options) -> ClipMemory:
    return ClipMemory(np.array([7, 3, 11, 4]), **options)


def test_the_first_round_sets_strengths_and_later_ones_average() -> None:
    kept = memory(smoothing=0.25)
    kept.learn(torch.tensor([0.0, 1.0, 2.0, 4.0]), rate=0.0)
    assert kept.strength.tolist() == [1.0, 0.75, 0.5, 0.0]
    kept.learn(torch.tensor([4.0, 0.0, 2.0, 4.0]), rate=0.5)
    np.testing.assert_allclose(kept.strength, [0.25, 0.1875 + 0.375, 0.125 + 0.1875, 0.0], rtol=1e-6)


def test_strengths_go_to_the_clips_they_belong_to() -> None:
    kept = memory()
    kept.learn(torch.tensor([0.0, 1.0, 2.0, 4.0]))
    labels, taught = kept.factors(torch.tensor([4, 7, 7, 11]))
    assert taught.tolist() == [0.0, 2.0, 2.0, 1.0]
    assert labels.tolist() == [2.0, 0.0, 0.0, 1.0]


def test_of_equally_easy_clips_the_one_seldom_selected_is_better() -> None:
    kept = memory()
    kept.selected(np.array([3, 3, 11]))
    assert kept.counts.tolist() == [0, 2, 1, 0]
    quality = kept.learn(torch.full((4,), 2.0))
    assert quality[0] == quality[3] == 1.0 and quality[1] == 0.0 and 0 < quality[2] < 1


def test_equal_losses_give_everyone_one_half() -> None:
    kept = memory()
    assert kept.learn(torch.zeros(4)).tolist() == [0.5] * 4
    assert kept.strength.tolist() == [0.5] * 4


def test_a_memory_that_is_taken_up_goes_on_as_the_old_one_would() -> None:
    old = memory()
    old.learn(torch.tensor([0.0, 1.0, 2.0, 4.0]))
    old.selected(np.array([3, 4]))
    new = memory()
    new.load_state_dict({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in old.state_dict().items()})
    for kept in (old, new):
        kept.quality = kept.learn(torch.tensor([3.0, 1.0, 2.0, 0.0]), rate=0.3)
    assert torch.equal(old.quality, new.quality)
    assert torch.equal(old.strength, new.strength) and torch.equal(old.counts, new.counts)


def test_a_memory_of_other_clips_is_refused() -> None:
    with pytest.raises(StoreError, match="other clips"):
        memory().load_state_dict(ClipMemory(np.array([7, 3, 11, 5])).state_dict())
