"""OTAM: equal to its recursion, cell by cell; near the hard minimum; differentiable."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from vidistill.models.episode_heads import build_episode_head
from vidistill.models.otam import alignment, frame_distances

VARIANTS = ("default", "released")


def by_recursion(distances: list[list[float]], smoothing: float) -> float:
    """The cost of one alignment, as the recursion is written."""
    padded = [[0.0, *row, 0.0] for row in distances]
    last = len(padded[0]) - 1
    costs = [[sum(padded[0][: m + 1]) for m in range(last + 1)]]
    for row in padded[1:]:
        cells = [0.0]
        for m in range(1, last + 1):
            ways = [costs[-1][m - 1], cells[m - 1], *([costs[-1][m]] if m in (1, last) else [])]
            least = min(ways)
            soft = least - smoothing * math.log(sum(math.exp((least - way) / smoothing) for way in ways))
            cells.append(row[m] + soft)
        costs.append(cells)
    return costs[-1][-1]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.02, 2.0), st.integers(0, 99))
def test_costs_are_those_of_the_recursion(rows: int, columns: int, smoothing: float, seed: int) -> None:
    distances = 2 * random(rows, columns, seed=seed)
    assert alignment(distances, smoothing).item() == pytest.approx(by_recursion(distances.tolist(), smoothing))


def test_all_pairs_at_once_equal_one_by_one_in_single_precision() -> None:
    distances = 2 * random(3, 4, 8, 8)
    costs = alignment(distances.float(), 0.1)
    expected = [[by_recursion(pair.tolist(), 0.1) for pair in row] for row in distances]
    torch.testing.assert_close(costs, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_costs() -> None:
    distances = (2 * random(2, 4, 3)).requires_grad_()
    assert gradcheck(lambda x: alignment(x, 0.1), distances)


def test_frame_distances_are_one_minus_the_cosine_of_each_pair() -> None:
    queries, support = random(2, 3, 4, 5), random(2, 2, 6, 5, seed=1)
    ours = frame_distances((queries, queries.norm(dim=-1)), (support, support.norm(dim=-1)))
    assert ours.shape == (2, 3, 2, 4, 6)
    x, y = queries[1, 2, 3], support[1, 0, 5]
    assert ours[1, 2, 0, 3, 5].item() == pytest.approx(1 - (x @ y / (x.norm() * y.norm() + 0.01)).item())


def test_frames_in_the_right_order_cost_less() -> None:
    frames = torch.eye(6)[None]
    head = build_episode_head("otam", 6, 6)
    clips = torch.cat([frames, frames.flip(1)])
    logits = head(clips, torch.tensor([[[0], [1]]]), torch.tensor([[0, 1]]))[0]
    assert logits.argmax(-1).tolist() == [0, 1]
    assert logits[0, 0] - logits[0, 1] > 1


def test_the_released_variant_gives_probabilities_of_the_negated_costs() -> None:
    clips = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0))
    episode = torch.arange(6).reshape(1, 3, 2), torch.tensor([[6, 7]])
    plain, released = (build_episode_head("otam", 4, 5, {"variant": name})(clips, *episode) for name in VARIANTS)
    torch.testing.assert_close(released, plain.softmax(-1))
    torch.testing.assert_close(released.sum(-1), torch.ones(1, 2))
