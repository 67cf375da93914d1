"""The second look at windows with a moved part: which frames are seen where, what it teaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidistill.core.types import Outputs, View
from vidistill.models import build_network
from vidistill.tasks.boundary_consistency import FOUND, ORDER, PARTS, consistency, moved_labels

FRAMES, STEPS = 64, 2
SEGMENTS = np.array([[0.2, 0.6, 1], [0.7, 0.8, 2]], np.float32)


def view(seed: int) -> View:
    return View("clip", 3, np.arange(4.0), seed=seed)


def labels(
    seed: int = 0, segments: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = SEGMENTS
) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value)[None] for name, value in moved_labels(segments, view(seed), FRAMES).items()}


def test_a_view_is_always_moved_alike_and_views_differ() -> None:
    assert torch.equal(labels(0)[ORDER], labels(0)[ORDER])
    assert len({tuple(labels(seed)[ORDER][0].tolist()) for seed in range(8)}) > 4
    assert sorted(labels(0)[ORDER][0].tolist()) == list(range(FRAMES))


def test_the_network_sees_the_frames_in_the_order_that_labels_say() -> None:
    x = (
        torch.arange(FRAMES, dtype=torch.float32)
        .reshape(1, STEPS, 1, FRAMES // STEPS, 1, 1)
        .expand(1, STEPS, 3, -1, 2, 2)
    )
    seen = []

    class Enough(Exception):
        pass

    def look(moved: torch.Tensor) -> Outputs:
        seen.append(moved)
        raise Enough

    wanted = labels()
    with pytest.raises(Enough):
        consistency(look, x, wanted)
    assert seen[0].shape == x.shape
    assert seen[0][0, :, 1, :, 0, 0].flatten().tolist() == wanted[ORDER][0].tolist()


def test_it_teaches_a_detector_and_says_nothing_of_windows_without_background() -> None:
    torch.manual_seed(0)
    options = {"trunk": "i3d_topheavy", "trunk_options": {"width": 0.0625}, "maps": ["mixed_4f", "mixed_5c"]}
    network = build_network(
        "anchor_detector",
        (STEPS, 3, FRAMES // STEPS, 32, 32),
        {"action": 3},
        {**options, "width": 16, "levels": 3, "attention": "none"},
    ).train()
    x = torch.randn(2, STEPS, 3, FRAMES // STEPS, 32, 32)
    full = np.array([[0.0, 1.0, 1]], np.float32)
    here, nothing = labels(), labels(segments=full)
    both = {name: torch.cat([here[name], nothing[name]]) for name in (ORDER, PARTS, FOUND)}
    assert both[FOUND].tolist() == [True, False]
    values = consistency(network, x, both)
    assert values.shape == (2,) and (values.detach() > 0).tolist() == [True, False]
    values.sum().backward()
    grads = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("trunk" in name for name in grads)
