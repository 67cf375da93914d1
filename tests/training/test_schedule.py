from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.recipe import Schedule
from vidistill.training.schedule import build_optimizer, rate_factor


@given(
    st.sampled_from(["cosine", "linear", "step", "constant"]),
    st.floats(0, 0.9),
    st.integers(1, 500),
    st.integers(0, 499),
)
def test_the_rate_stays_between_zero_and_its_maximum(decay: str, warmup: float, total: int, step: int) -> None:
    factor = rate_factor(Schedule(decay=decay, warmup=warmup), min(step, total - 1), total)
    assert 0 <= factor <= 1


def test_the_rate_rises_then_falls() -> None:
    schedule = Schedule(decay="cosine", warmup=0.2)
    factors = [rate_factor(schedule, step, 100) for step in range(100)]
    peak = factors.index(max(factors))
    assert peak == 20
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_step_decay_falls_at_its_milestones() -> None:
    schedule = Schedule(decay="step", warmup=0, milestones=(0.5, 0.75), gamma=0.1)
    assert [rate_factor(schedule, s, 100) for s in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])


def test_vectors_are_not_decayed() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    decayed, free = build_optimizer(Schedule(weight_decay=0.1), network).param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert all(p.ndim == 1 for p in free["params"])
    assert free["weight_decay"] == 0
