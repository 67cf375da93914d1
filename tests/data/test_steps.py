from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.types import Segment, Signal
from vidistill.data.steps import UNKNOWN, Steps, step_labels, step_spans
from vidistill.data.views import ClipShape, ViewPolicy
from vidistill.modalities.rgb import Rgb

NUMBERS = {"run": 1, "sit": 2}


def test_a_step_shows_the_segment_that_covers_most_of_it() -> None:
    spans = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 3.0]])
    segments = [Segment(0.4, 1.3, "run"), Segment(1.3, 2.5, "sit")]
    assert step_labels(spans, segments, NUMBERS).tolist() == [1, 2, 0, UNKNOWN]


def test_a_step_covered_by_just_half_is_background() -> None:
    assert step_labels(np.array([[0.0, 1.0]]), [Segment(0.5, 2.0, "run")], NUMBERS).tolist() == [0]


def test_without_segments_all_is_background() -> None:
    assert step_labels(np.array([[0.0, 1.0], [1.0, 2.0]]), [], NUMBERS).tolist() == [0, 0]


@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 3), st.integers(2, 8), st.integers(0, 9))
def test_steps_past_the_end_have_no_length(frames: int, each: int, stride: int, steps: int, number: int) -> None:
    policy, shape = ViewPolicy(frames=each, stride=stride, steps=steps), ClipShape(frames, 25.0)
    spans = step_spans(policy.train(0, "c", number, shape), policy, shape)
    assert spans.shape == (steps, 2)
    assert (spans[:, 1] >= spans[:, 0]).all() and spans.max() <= frames / 25 + 1e-9
    assert spans[0, 1] > spans[0, 0]


def test_a_window_is_encoded_step_by_step() -> None:
    signal = Signal(np.random.default_rng(0).integers(0, 255, (40, 12, 16, 3)).astype(np.uint8), 10.0)
    policy = ViewPolicy(frames=3, stride=2, steps=4)
    view = policy.train(0, "c", 0, ClipShape(40, 10.0, 16 / 12))
    encoding = Rgb(frames=3, size=(6, 8))
    window = Steps(encoding, 4).encode(signal, view)
    whole = Rgb(frames=12, size=(6, 8)).encode(signal, view)
    assert window.shape == Steps(encoding, 4).shape == (4, 3, 3, 6, 8)
    torch.testing.assert_close(window.transpose(0, 1).flatten(1, 2), whole)
