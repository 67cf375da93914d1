from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Signal, View
from vidistill.modalities.boxes import Boxes
from vidistill.modalities.layout import CLASS, COLUMNS, SIDE, fix_box

HAND = [0.5, 0.25, 0.75, 0.5, 0.9, 2, 1, 4]
OBJECT = [0.0, 0.0, 0.25, 0.25, 0.8, 1, 0, 0]


def signal_of(*boxes: list[float], frames: int = 2) -> Signal:
    return Signal(np.repeat(np.array(boxes, np.float32)[None], frames, 0), 30.0)


def encoded(signal: Signal, count: int = 3, follow: bool = True, **view) -> torch.Tensor:
    """Slots of the first frame."""
    look = View("a", 0, np.arange(2) / 30.0, **view)
    encoding = Boxes(frames=2, count=count, kind="layout", follow=follow)
    values = encoding.encode(signal, look)
    assert tuple(values.shape) == encoding.shape == (2, count * COLUMNS)
    return values.unflatten(1, (count, COLUMNS))[0]


def test_slots_hold_box_score_class_side_and_state_and_padding_is_zero() -> None:
    slots = encoded(signal_of(HAND, OBJECT))
    torch.testing.assert_close(slots[:2], torch.tensor([HAND, OBJECT], dtype=torch.float32))
    assert not slots[2].any()


def test_a_box_outside_of_the_crop_leaves_no_gap() -> None:
    slots = encoded(signal_of(OBJECT, HAND), box=(0.5, 0.0, 1.0, 0.5))
    torch.testing.assert_close(slots[0, :4], torch.tensor([0.0, 0.5, 0.5, 1.0]))
    assert slots[:, CLASS].tolist() == [2, 0, 0]


def test_a_mirrored_hand_is_the_other_hand() -> None:
    slots = encoded(signal_of(HAND, OBJECT), flip=True)
    torch.testing.assert_close(slots[0, :4], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    assert slots[:, SIDE].tolist() == [2, 0, 0]


@pytest.mark.parametrize("kind", ["boxes", "layout"])
def test_boxes_that_do_not_follow_stay_where_they_are(kind: str) -> None:
    views = [View("a", 0, np.arange(2) / 30.0), View("a", 0, np.arange(2) / 30.0, (0.5, 0.0, 1.0, 0.5), True)]
    encoding = Boxes(frames=2, kind=kind, follow=False)
    one, other = (encoding.encode(signal_of(HAND, OBJECT), view) for view in views)
    assert torch.equal(one, other) and one.any()


def test_more_boxes_than_slots_are_cut_after_what_is_out_of_view() -> None:
    slots = encoded(signal_of(OBJECT, HAND, HAND), count=1, box=(0.5, 0.0, 1.0, 0.5))
    assert slots[0, CLASS] == 2


def test_scored_boxes_without_a_class_are_objects() -> None:
    slots = encoded(signal_of(OBJECT[:5], [0.0] * 5))
    assert slots[:, CLASS].tolist() == [1, 0, 0]


def test_classes_of_a_detector_are_refused_with_what_to_set() -> None:
    with pytest.raises(DataError, match=r"class 44.*prepare\.sources\.boxes\.hands"):
        encoded(signal_of([*OBJECT[:5], 44]))


def test_a_layout_needs_no_category() -> None:
    with pytest.raises(RecipeError, match="Leave category out"):
        Boxes(kind="layout", category=True)


@given(arrays(np.float32, (5, 4), elements=st.floats(-50, 150, width=32)), st.integers(2, 90), st.integers(2, 90))
@settings(max_examples=60, deadline=None)
def test_repaired_boxes_are_whole_pixels_in_the_frame_with_an_extent(boxes, width, height) -> None:
    fixed = fix_box(boxes, width, height)
    assert (fixed == np.round(fixed)).all() and (fixed >= 0).all()
    assert (fixed[:, 2:] <= [width - 1, height - 1]).all() and (fixed[:, :2] < fixed[:, 2:]).all()
    np.testing.assert_array_equal(fix_box(fixed, width, height), fixed)


def test_a_flat_box_grows_down_where_it_can() -> None:
    np.testing.assert_array_equal(fix_box(np.array([[7.0, 0.0, 7.9, 0.5]]), 20, 20), [[6, 0, 7, 1]])
