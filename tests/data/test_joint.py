"""Inputs of several modalities as one row: what goes in comes out, and who was there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import ModelError
from vidistill.data.joint import join, split, width

SHAPES = {"rgb": (3, 2, 4), "audio": (5, 2), "boxes": (1, 3)}


@given(st.lists(st.tuples(*[st.booleans()] * len(SHAPES)), min_size=1, max_size=4))
def test_rows_split_into_what_was_joined(clips: list[tuple[bool, ...]]) -> None:
    torch.manual_seed(0)
    made: list[dict[str, Any]] = [
        {name: torch.randn(shape) if there else None for (name, shape), there in zip(SHAPES.items(), clip, strict=True)}
        for clip in clips
    ]
    parts, present = split(torch.stack([join(tensors, SHAPES) for tensors in made]), SHAPES)
    assert present.tolist() == [list(clip) for clip in clips]
    for name, shape in SHAPES.items():
        expected = [torch.zeros(shape) if each[name] is None else each[name] for each in made]
        assert torch.equal(parts[name], torch.stack(expected))


def test_a_row_of_other_parts_is_named() -> None:
    with pytest.raises(ModelError, match="rgb, audio, boxes"):
        split(torch.zeros(2, width(SHAPES) + 1), SHAPES)
