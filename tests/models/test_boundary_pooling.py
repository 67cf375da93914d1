"""Boundary max pooling against its definition, its gradient, and the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.models.boundary_pooling import Variant, boundary_max_pool, pool_sequences, pool_sets


def draw(seed: int, channels: int, steps: int, windows: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, steps, generator=random, dtype=torch.float64)
    segments = (torch.rand(2, windows, 4, generator=random, dtype=torch.float64) - 0.3) * 1.8 * steps
    return (x.mul(2).round() if ties else x), segments


def defined(x: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradient of their sum, window by window."""
    batch, channels, steps = x.shape
    pooled, grad = torch.zeros(batch, channels, segments.shape[1], dtype=x.dtype), torch.zeros_like(x)
    for b, c, k in np.ndindex(*pooled.shape):
        column = 0 if c < channels // 2 else 2
        first, last = (min(max(int(value), 0), steps - 1) for value in segments[b, k, column : column + 2])
        window = x[b, c, first : max(first, last) + 1].tolist()
        pooled[b, c, k] = max(window)
        grad[b, c, first + window.index(max(window))] += 1
    return pooled, grad


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 21), st.integers(1, 5), st.booleans())
def test_values_and_gradient_are_those_of_the_definition(
    seed: int, channels: int, steps: int, windows: int, ties: bool
) -> None:
    x, segments = draw(seed, channels, steps, windows, ties)
    pooled, grad = defined(x, segments)
    ours = boundary_max_pool(x.requires_grad_(), segments)
    assert torch.equal(ours, pooled)
    ours.sum().backward()
    assert torch.equal(x.grad, grad)


def test_the_gradient_is_that_of_finite_differences_and_bounds_get_none() -> None:
    x, segments = draw(1, 4, 9, 3)
    assert torch.autograd.gradcheck(lambda values: boundary_max_pool(values, segments), x.requires_grad_())
    bounds = segments.clone().requires_grad_()
    boundary_max_pool(x, bounds).sum().backward()
    assert bounds.grad is None


def test_bounds_are_cut_toward_zero_clamped_and_a_reversed_window_is_its_first_step() -> None:
    x = torch.tensor([[[5.0, 1.0, 2.0, 0.0, 9.0]]]).expand(1, 2, 5)
    windows = {(-0.9, 0.9): 5.0, (1.9, 2.9): 2.0, (3.0, 1.0): 0.0, (-7.0, 99.0): 9.0, (8.0, 9.0): 9.0}
    segments = torch.tensor([[[*window, *window] for window in windows]])
    assert torch.equal(boundary_max_pool(x, segments)[0], torch.tensor([[*windows.values()]] * 2))


def test_bounds_that_are_not_finite_stay_within_the_sequence() -> None:
    x = torch.arange(4.0).reshape(1, 1, 4).expand(1, 2, 4)
    bounds = torch.tensor([[[float("nan"), float("inf"), -float("inf"), float("nan")]]])
    assert boundary_max_pool(x, bounds).flatten().tolist() == [3.0, 0.0]


@pytest.mark.parametrize("first", [0.0, -torch.inf])
def test_a_value_that_is_not_a_number_is_found_wherever_it_lies_in_a_window(first: float) -> None:
    for place in range(7):
        x = torch.zeros(1, 2, 7)
        x[..., 0], x[..., place] = first, float("nan")
        pooled = boundary_max_pool(x, torch.tensor([[[0.0, 6.0, 0.0, 6.0], [place + 1, 6.0, 0.0, place - 1]]]))
        assert pooled[..., 0].isnan().all()
        assert pooled[0, 0, 1].isnan().item() == (place == 6)  # no window behind the last step, none before the first
        assert pooled[0, 1, 1].isnan().item() == (place == 0)


def test_the_sequence_stays_as_it_was() -> None:
    for shape in ((1, 2, 5), (2, 2, 1), (1, 3, 4)):  # some are laid out for look-ups already
        x = torch.full(shape, float("nan"))
        boundary_max_pool(x, torch.zeros(shape[0], 1, 4))
        assert x.isnan().all()


@pytest.mark.parametrize(("batch", "windows"), [(0, 3), (2, 0)])
def test_no_clips_and_no_windows_give_nothing(batch: int, windows: int) -> None:
    pooled = boundary_max_pool(torch.zeros(batch, 4, 5), torch.zeros(batch, windows, 4))
    assert pooled.shape == (batch, 4, windows)


def test_a_clip_is_pooled_as_it_would_be_alone() -> None:
    x, segments = draw(3, 4, 13, 5)
    alone = torch.cat([boundary_max_pool(x[row : row + 1], segments[row : row + 1]) for row in range(2)])
    assert torch.equal(boundary_max_pool(x, segments), alone)


@pytest.mark.parametrize("variant", ["default", "released"])
def test_several_sets_and_several_sequences_are_pooled_as_each_alone(variant: Variant) -> None:
    drawn = [draw(seed, 4, steps, windows) for seed, steps, windows in ((1, 9, 3), (2, 4, 4), (3, 1, 1))]
    drawn[0][1][0, 0] = float("nan")
    sequences, sets = ([pair[part] for pair in drawn] for part in (0, 1))
    together = pool_sequences(sequences, sets, variant)
    alone = [boundary_max_pool(*pair, variant) for pair in drawn]
    assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    x = sequences[0]
    alone = [boundary_max_pool(x, segments, variant) for segments in sets]
    assert all(torch.equal(*pair) for pair in zip(pool_sets(x, sets, variant), alone, strict=True))


def gradient(variant: Variant, windows: int) -> Tensor:
    x, segments = draw(4, 4, 8, windows)
    boundary_max_pool(x.requires_grad_(), segments, variant).sum().backward()
    return x.grad


def test_the_released_gradient_is_right_only_for_as_many_windows_as_steps() -> None:
    x, segments = draw(4, 4, 8, 3)
    assert torch.equal(boundary_max_pool(x, segments, "released"), boundary_max_pool(x, segments))
    assert torch.equal(gradient("released", 8), gradient("default", 8))
    wrong = gradient("released", 3)
    assert not torch.equal(wrong, gradient("default", 3))
    assert wrong.flatten()[2 * 4 * 3 :].abs().sum() == 0  # it takes rows of 3 steps for rows of 8
    assert wrong.sum() == 2 * 4 * 3


def test_more_windows_than_steps_have_no_released_gradient() -> None:
    with pytest.raises(ModelError, match="no gradient for 3 windows of 2 steps"):
        boundary_max_pool(torch.zeros(1, 2, 2), torch.zeros(1, 3, 4), "released")


@pytest.mark.parametrize("shapes", [((1, 2, 3), (2, 3, 4)), ((1, 2, 3), (1, 3, 2)), ((2, 3), (2, 3, 4))])
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ModelError, match=r"takes sequences \(B, C, T\) and segments \(B, K, 4\)"):
        boundary_max_pool(*(torch.zeros(shape) for shape in shapes))


class Pooling(nn.Module):
    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        return boundary_max_pool(x, segments)


@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_values_for_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x, segments = (value.float() for value in draw(5, 4, 9, 3))
    segments[0, 0, 0] = float("nan")
    batch = torch.export.Dim("batch", min=1)
    shapes = {"x": {0: batch}, "segments": {0: batch}}
    program = torch.onnx.export(Pooling(), (x, segments), dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(tmp_path / "pooling.onnx")
    session = runtime.InferenceSession(tmp_path / "pooling.onnx", providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    for rows in (1, 2):
        given = [value[:rows].numpy() for value in (x, segments)]
        (found,) = session.run(None, dict(zip(names, given, strict=True)))
        np.testing.assert_array_equal(found, boundary_max_pool(x[:rows], segments[:rows]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_values_and_gradient() -> None:
    x, segments = draw(6, 8, 40, 11, ties=True)
    for variant in ("default", "released"):
        found = []
        for device in ("cpu", "cuda"):
            leaf = x.to(device).requires_grad_()
            pooled = boundary_max_pool(leaf, segments.to(device), variant)
            pooled.sum().backward()
            found.append((pooled.cpu(), leaf.grad.cpu()))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
