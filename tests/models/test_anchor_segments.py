"""Where anchors are and where their boundaries are looked for."""

from __future__ import annotations

import pytest
import torch

from vidistill.models.anchor_segments import (
    anchor_centres,
    boundary_windows,
    coarse_segments,
    frame_windows,
    level_windows,
    pool_proposals,
)
from vidistill.models.boundary_pooling import boundary_max_pool


def test_anchors_are_the_middles_of_equal_parts_of_the_window() -> None:
    assert anchor_centres(4).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_windows_reach_a_tenth_out_and_a_quarter_in_but_at_least_a_step() -> None:
    long = boundary_windows(*(torch.tensor(value) for value in (100.0, 140.0, 40.0)))
    short = boundary_windows(*(torch.tensor(value) for value in (10.0, 12.0, 2.0)))
    assert long.tolist() == [96.0, 110.0, 130.0, 144.0]
    assert short.tolist() == [9.0, 11.0, 11.0, 13.0]


def test_halves_are_rounded_to_even() -> None:
    assert boundary_windows(*(torch.tensor(value) for value in (1.5, 3.5, 2.0))).tolist() == [0.0, 2.0, 2.0, 4.0]


def test_a_level_and_the_frames_look_around_the_same_segment() -> None:
    loc = torch.full((1, 4, 2), 20.0)  # 64 frames, 4 steps of 16 frames
    assert coarse_segments(loc, 64)[0, 1].tolist() == [4.0, 44.0]
    assert frame_windows(coarse_segments(loc, 64))[0, 1].tolist() == [0.0, 14.0, 34.0, 48.0]
    # In steps: the anchor is step 1, 1.25 steps from either end.
    assert level_windows(loc, 64)[0, 1].tolist() == [-1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_distances_are_placed_in_whole_frames(kind: torch.dtype) -> None:
    loc = torch.full((1, 64, 2), 3.0, dtype=kind)
    assert torch.equal(coarse_segments(loc, 1024), coarse_segments(loc.float(), 1024))
    assert torch.equal(level_windows(loc, 1024), level_windows(loc.float(), 1024))


def test_no_gradient_reaches_the_distances_through_windows() -> None:
    loc = torch.ones(1, 4, 2, requires_grad=True)
    assert not level_windows(loc, 16).requires_grad
    assert not frame_windows(coarse_segments(loc, 16)).requires_grad


def test_proposals_are_pooled_at_every_rate_around_the_same_boundaries() -> None:
    features = {name: torch.randn(2, 3, 16) for name in ("start", "end")}
    features |= {f"{end}_{part}_prop": torch.randn(2, 6, 4) for end in ("start", "end") for part in ("loc", "conf")}
    proposals = torch.tensor([[[2.0, 9.0], [5.0, 15.0], [0.0, 3.0]]] * 2)
    frames, loc, conf = pool_proposals(features, proposals)
    windows = frame_windows(proposals)
    both = torch.cat([features["start"], features["end"]], dim=1)
    assert torch.equal(frames, boundary_max_pool(both, windows))
    for part, pooled in (("loc", loc), ("conf", conf)):
        both = torch.cat([features[f"start_{part}_prop"], features[f"end_{part}_prop"]], dim=1)
        assert torch.equal(pooled, boundary_max_pool(both, windows / 4))
