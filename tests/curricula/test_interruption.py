from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.curricula.interruption import Interruption, drop, exchange, interruption_at, interruption_rate

forms = st.sampled_from(["poly", "linear", "cosine"])


@settings(deadline=None)
@given(forms, st.integers(1, 60), st.floats(0, 1))
def test_the_rate_starts_at_zero_and_grows_to_its_cap(form, epochs, eta) -> None:
    rates = [interruption_rate(epoch, epochs, form=form, eta=eta) for epoch in range(epochs + 1)]
    assert rates[0] <= 1e-9
    assert all(a <= b for a, b in zip(rates, rates[1:], strict=False))
    assert rates[-1] == eta
    assert all(0 <= rate <= eta for rate in rates)


@pytest.mark.parametrize(("form", "first"), [("poly", 27), ("linear", 25), ("cosine", 25)])
def test_frames_are_dropped_until_the_cap_and_shuffled_from_there(form, first) -> None:
    kinds = [interruption_at(epoch, 50, form=form).kind for epoch in range(50)]
    assert kinds == ["none"] + ["dropout"] * (first - 1) + ["shuffle"] * (50 - first)


def test_a_cap_of_zero_shuffles_from_the_start_and_of_one_never() -> None:
    assert {interruption_at(epoch, 10, eta=0.0).kind for epoch in range(10)} == {"shuffle"}
    assert "shuffle" not in {interruption_at(epoch, 10, eta=1.0).kind for epoch in range(10)}


@settings(deadline=None)
@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 99))
def test_dropout_blanks_the_rounded_down_share_and_moves_nothing(length, rate, seed) -> None:
    interrupted = drop(np.random.default_rng(seed).permutation(length), rate)
    assert len(interrupted.dropped) == math.floor(rate * length + 1e-9)
    assert interrupted.order == tuple(range(length))


def test_a_rate_that_rounding_puts_below_a_whole_number_still_is_that_number() -> None:
    assert 0.29 * 100 < 29
    assert len(drop(np.arange(100), 0.29).dropped) == 29


@settings(deadline=None)
@given(st.integers(0, 41), st.integers(0, 99))
def test_shuffle_moves_all_frames_but_one_of_an_odd_number_and_undoes_itself(length, seed) -> None:
    order = np.array(exchange(np.random.default_rng(seed).permutation(length)).order, int)
    assert (order == np.arange(length)).sum() == length % 2
    assert (order[order] == np.arange(length)).all()


@settings(deadline=None)
@given(st.integers(0, 20))
def test_the_released_shuffle_refuses_odd_numbers_and_equals_ours_for_even_ones(half) -> None:
    order = np.random.default_rng(half).permutation(2 * half)
    assert exchange(order, "released") == exchange(order)
    with pytest.raises(DataError, match="cannot exchange the halves"):
        exchange(np.arange(2 * half + 1), "released")


@pytest.mark.parametrize("kind", ["dropout", "shuffle"])
def test_one_frame_is_left_alone(kind) -> None:
    interrupted = Interruption(kind, 0.5).for_clip(1, 0, "a", 0)
    assert (interrupted.dropped, interrupted.order) == ((), (0,))


@pytest.mark.parametrize("kind", ["dropout", "shuffle"])
def test_clips_and_views_differ_and_repeat_exactly(kind) -> None:
    interruption = Interruption(kind, 0.5)
    keys = [(seed, clip, view) for seed in (0, 1) for clip in "abc" for view in range(3)]
    first = [interruption.for_clip(32, *key) for key in keys]
    assert [interruption.for_clip(32, *key) for key in reversed(keys)] == first[::-1]
    assert len(set(first)) == len(keys)
    batches = [interruption.for_batch(32, 0, epoch, number) for epoch in (0, 5) for number in range(3)]
    assert len(set(batches)) == 6


def test_no_interruption_is_none() -> None:
    assert Interruption("none", 0.0).for_clip(8, 0, "a", 0) is None
    assert Interruption("none", 0.0).for_batch(8, 0, 0, 0) is None
