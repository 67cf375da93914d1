from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.tasks.temporal_iou import pairwise_tiou, tiou

segments = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(0.1, 1e3)).map(lambda pair: (pair[0], sum(pair))), min_size=1, max_size=6
).map(np.array)


def test_overlap_by_hand() -> None:
    ours = pairwise_tiou(np.array([[2, 5]]), np.array([[1, 3], [2, 5], [6, 7], [5, 9], [0, 10]]))
    np.testing.assert_allclose(ours, [[0.25, 1, 0, 0, 0.3]])


def test_the_published_overlap_is_minus_the_gaps_share_where_segments_are_apart() -> None:
    assert tiou([0, 2], [6, 10], signed=True) == pytest.approx(-0.4)
    assert tiou([0, 2], [1, 3], signed=True) == tiou([0, 2], [1, 3])


def test_one_instant_twice_overlaps_by_zero() -> None:
    assert tiou([3, 3], [3, 3]) == 0


@given(segments, segments)
def test_overlap_is_symmetric_bounded_and_one_with_itself(a, b) -> None:
    ours = pairwise_tiou(a, b)
    assert ours.shape == (len(a), len(b))
    assert ((ours >= 0) & (ours <= 1)).all()
    np.testing.assert_array_equal(ours, pairwise_tiou(b, a).T)
    np.testing.assert_array_equal(np.diag(pairwise_tiou(a, a)), 1)
    signed = pairwise_tiou(a, b, signed=True)
    np.testing.assert_array_equal(np.maximum(signed, 0), ours)
