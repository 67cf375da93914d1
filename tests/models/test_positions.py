"""Encodings of position."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.models.positions import SinusoidalPositions, TrainablePositions, sinusoids


@given(st.integers(1, 20), st.integers(1, 17), st.data())
def test_waves_are_those_of_the_formula(length: int, width: int, data: st.DataObject) -> None:
    position, index = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, width - 1))
    angle = position * 10000 ** (-2 * (index // 2) / width)
    expected = 0.1 * (math.cos(angle) if index % 2 else math.sin(angle))
    assert abs(sinusoids(length, width, 0.1)[position, index].item() - expected) < 1e-5


def test_waves_are_added_to_as_many_positions_as_there_are_and_are_not_saved() -> None:
    positions = SinusoidalPositions(9, 6).eval()
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(positions(x) - x, sinusoids(4, 6, 0.1).expand(2, 4, 6), atol=1e-6, rtol=0)
    assert positions.state_dict() == {}
    assert (SinusoidalPositions(9, 6, dropout=0.5).train()(torch.ones(2, 9, 6)) == 0).any()


def test_learned_positions_are_normalised_and_learn() -> None:
    positions = TrainablePositions(5, 6).eval()
    y = positions(torch.randn(2, 3, 6))
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    (y * torch.arange(6)).square().sum().backward()
    gradient = positions.embedding.weight.grad
    assert gradient is not None and (gradient[:3].abs().sum(1) > 0).all() and not gradient[3:].any()
