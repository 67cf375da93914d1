from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.seeds import generator
from vidistill.data.sampling import grid_indices, step_indices, step_targets

sizes = {"length": st.integers(1, 200), "frames": st.integers(1, 12), "stride": st.integers(1, 4)}


@settings(deadline=None, max_examples=200)
@given(**sizes, clips=st.one_of(st.none(), st.integers(1, 5)), seed=st.one_of(st.none(), st.integers(0, 99)))
def test_views_on_a_grid_are_neighbours_and_in_range(length, frames, stride, clips, seed) -> None:
    indices = grid_indices(length, frames, stride, clips, generator=None if seed is None else generator(seed))
    assert indices.shape[1] == frames and len(indices) == (clips or len(indices))
    assert indices.min() >= 0 and indices.max() < length and (indices % stride == 0).all()
    assert set(np.diff(indices, axis=1).ravel()) <= ({stride} if (frames - 1) * stride < length else {0, stride})


def test_drawn_views_reach_both_ends_and_even_ones_span_the_clip() -> None:
    starts = {int(grid_indices(20, 3, 2, generator=generator(seed))[0, 0]) for seed in range(200)}
    assert starts == set(range(0, 16, 2))
    assert grid_indices(20, 3, 2, 3)[:, 0].tolist() == [0, 6, 14]
    assert grid_indices(20, 3, 2, None)[:, 0].tolist() == list(range(0, 16, 2))


def test_the_released_grid_leaves_out_the_last_frame() -> None:
    assert grid_indices(7, 3, 3).tolist() == [[0, 3, 6]]
    assert grid_indices(7, 3, 3, variant="released").tolist() == [[0, 3, 3]]
    assert grid_indices(2, 3, 3).tolist() == [[0, 0, 0]]
    with pytest.raises(DataError, match="3 frames are too few"):
        grid_indices(3, 3, 3, variant="released")


@settings(deadline=None, max_examples=200)
@given(**sizes, step=st.integers(1, 12), steps=st.one_of(st.none(), st.integers(1, 6)), seed=st.integers(0, 9))
def test_steps_follow_each_other_or_say_how_many_frames_they_need(length, frames, stride, step, steps, seed) -> None:
    for variant in ("default", "released"):
        try:
            indices = step_indices(
                length, frames, stride, step, steps, generator=generator(seed) if steps else None, variant=variant
            )
        except DataError as error:
            if "are needed" in str(error):
                needed = int(str(error).split(": ")[-1].split()[0])
                assert needed > length
                assert len(step_indices(needed, frames, stride, step, steps, variant=variant)) == (steps or 1)
                with pytest.raises(DataError):
                    step_indices(max(needed - 1, 1), frames, stride, step, steps, variant=variant)
            continue
        assert indices.min() >= 0 and indices.max() < length
        assert (np.diff(indices[:, 0]) == step * stride).all()
        assert (np.diff(indices, axis=1) == stride).all()


def overlap_by_hand(first, last, starts, ends, labels, ratio) -> list[int]:
    result = []
    for a, b in zip(first, last, strict=True):
        covers = [max(0.0, min(b, e) - max(a, s)) / (b - a) for s, e in zip(starts, ends, strict=True)]
        best = max(range(len(covers)), key=covers.__getitem__, default=None)
        result.append(int(labels[best]) if best is not None and covers[best] > ratio else 0)
    return result


@settings(deadline=None, max_examples=100)
@given(rows=st.integers(0, 5), seed=st.integers(0, 999), ratio=st.sampled_from([0.0, 0.3, 0.5]))
def test_a_step_shows_the_segment_that_covers_most_of_it(rows, seed, ratio) -> None:
    random = np.random.default_rng(seed)
    starts = random.uniform(0, 90, rows)
    ends = starts + random.uniform(1, 40, rows)
    labels = random.integers(1, 52, rows)
    first = np.arange(0.0, 100.0, 10.0)
    ours = step_targets(first, first + 10, starts, ends, labels, ratio)
    assert ours.tolist() == overlap_by_hand(first, first + 10, starts, ends, labels, ratio)


def test_the_released_target_is_the_last_row_that_covers_half() -> None:
    first, last = np.array([0]), np.array([27])
    starts, ends, labels = np.array([0, 12]), np.array([27, 40]), np.array([3, 4])
    assert step_targets(first, last, starts, ends, labels).tolist() == [3]
    assert step_targets(first, last, starts, ends, labels, variant="released").tolist() == [4]
    assert step_targets(first, last, starts[:1], np.array([14]), labels[:1]).tolist() == [3]
    assert step_targets(first, last, starts[:1], np.array([14]), labels[:1], variant="released").tolist() == [0]
    assert step_targets(first, last, starts[:0], ends[:0], labels[:0], variant="released").tolist() == [0]
