"""Masks of spectrograms depend on (seed, clip, view number) alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.modalities.audio_masks import SILENCE, masked, spans


def test_masks_are_the_same_for_the_same_view_and_differ_otherwise() -> None:
    level = torch.randn(8, 32, 40)
    first = masked(level, 1, "clip", 3, time=0.5, bands=0.5)
    assert torch.equal(first, masked(level, 1, "clip", 3, time=0.5, bands=0.5))
    assert not any(
        torch.equal(first, masked(level, *other, time=0.5, bands=0.5))
        for other in ((2, "clip", 3), (1, "clap", 3), (1, "clip", 4))
    )
    assert torch.equal(masked(level, 1, "clip", 3), level)
    assert bool(((first == level) | (first == SILENCE)).all()) and bool((first == SILENCE).any())


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_spans_are_connected_within_the_axis_and_at_most_as_wide_as_allowed(
    seed: int, length: int, widest: float, probability: float
) -> None:
    found = spans(np.random.default_rng(seed), 16, length, widest, probability).numpy()
    assert found.shape == (16, length) and found.sum(1).max() <= widest * length
    assert (np.abs(np.diff(np.pad(found.astype(int), ((0, 0), (1, 1))), axis=1)).sum(1) <= 2).all()


def test_about_the_stated_part_of_windows_is_masked_and_every_place_is_reached() -> None:
    found = spans(np.random.default_rng(0), 4000, 20, 0.5, 0.5).numpy()
    # Of the half that is drawn, a tenth has width 0.
    assert abs(found.any(1).mean() - 0.45) < 0.03 and found.any(0).all()
