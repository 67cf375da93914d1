from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.interruption import Interrupted, apply_interruption


@st.composite
def interruptions(draw) -> Interrupted:
    order = draw(st.permutations(range(draw(st.integers(1, 9)))))
    return Interrupted(tuple(draw(st.sets(st.sampled_from(order)))), tuple(order))


@settings(deadline=None)
@given(interruptions())
def test_each_place_shows_its_frame_or_zero(interrupted) -> None:
    frames = torch.arange(1.0, len(interrupted) + 1)
    shown = apply_interruption(frames, 0, interrupted)
    expected = [0 if i in interrupted.dropped else 1 + source for i, source in enumerate(interrupted.order)]
    assert shown.tolist() == expected


@settings(deadline=None)
@given(interruptions(), st.sampled_from([(0, (0,)), (1, (3, 0, 2, 4)), (2, (2, 3, 0, 2, 1)), (-1, (2, 0))]))
def test_time_may_be_any_axis_and_the_input_stays(interrupted, place) -> None:
    axis, sizes = place
    shape = list(sizes)
    shape[axis] = len(interrupted)
    values = torch.rand(shape)
    before = values.clone()
    shown = apply_interruption(values, axis, interrupted)
    along_first = apply_interruption(values.movedim(axis, 0), 0, interrupted)
    assert torch.equal(shown.movedim(axis, 0), along_first)
    assert torch.equal(values, before)


@settings(deadline=None)
@given(interruptions(), st.integers(1, 4))
def test_finer_encodings_move_and_blank_whole_blocks(interrupted, factor) -> None:
    coarse = torch.arange(1.0, len(interrupted) + 1)
    fine = apply_interruption(coarse.repeat_interleave(factor), 0, interrupted)
    assert torch.equal(fine, apply_interruption(coarse, 0, interrupted).repeat_interleave(factor))


@settings(deadline=None)
@given(interruptions(), st.integers(0, 30))
def test_encodings_of_any_length_keep_it(interrupted, count) -> None:
    sources, blank = interrupted.places(count)
    assert sources.shape == blank.shape == (count,)
    assert ((sources >= 0) & (sources < max(count, 1))).all()


def test_nothing_is_copied_where_nothing_changes() -> None:
    values = torch.rand(2, 4)
    assert apply_interruption(values, 1, None) is values
    assert apply_interruption(values, 1, Interrupted((), (0, 1, 2, 3))) is values
    assert apply_interruption(values, 1, Interrupted((), ())) is values


@pytest.mark.parametrize(("dropped", "order"), [((), (0, 2)), ((), (1, 1)), ((2,), (1, 0)), ((0, 0), (0, 1))])
def test_what_is_no_order_or_no_position_is_refused(dropped, order) -> None:
    with pytest.raises(DataError):
        Interrupted(dropped, order)


def test_gradient_passes_to_frames_that_are_shown() -> None:
    values = torch.rand(4, requires_grad=True)
    apply_interruption(values, 0, Interrupted((1,), (2, 3, 0, 1))).sum().backward()
    assert values.grad.tolist() == [1, 1, 1, 0]
    assert np.array_equal(Interrupted((1,), (2, 3, 0, 1)).places(4)[0], [2, 3, 0, 1])
