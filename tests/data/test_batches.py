from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidistill.data.batches import epoch_batches, fixed_batches


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.integers(0, 9))
def test_every_clip_comes_once_an_epoch(count: int, size: int, seed: int, epoch: int) -> None:
    indices = np.arange(count) * 3
    batches = epoch_batches(indices, epoch, [7], seed, size)
    assert sorted(i for batch in batches for i, _ in batch) == indices.tolist()
    assert {view for batch in batches for _, view in batch} == {7}
    assert all(len(batch) >= min(size / 2, count) for batch in batches)
    assert all(len(batch) < 1.5 * size + 1 for batch in batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    indices = np.arange(50)
    assert epoch_batches(indices, 1, [0], 0, 8) == epoch_batches(indices, 1, [0], 0, 8)
    assert epoch_batches(indices, 1, [0], 0, 8) != epoch_batches(indices, 2, [0], 0, 8)
    assert epoch_batches(indices, 1, [0], 0, 8) != epoch_batches(indices, 1, [0], 1, 8)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 20), st.integers(1, 4))
def test_processes_share_the_test_views_without_repeats(count: int, views: int, size: int, processes: int) -> None:
    keys = [
        key
        for rank in range(processes)
        for batch in fixed_batches(np.arange(count), views, size, rank, processes)
        for key in batch
    ]
    assert sorted(keys) == [(i, v) for i in range(count) for v in range(views)]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 7), st.integers(1, 3))
def test_every_clip_has_its_own_number_of_test_views(views: list[int], size: int, processes: int) -> None:
    counts = np.array(views)
    parts = [fixed_batches(np.arange(len(views)), counts, size, rank, processes) for rank in range(processes)]
    keys = [key for batches in parts for batch in batches for key in batch]
    assert sorted(keys) == [(i, v) for i, count in enumerate(views) for v in range(count)]


def test_several_views_an_epoch_are_all_there() -> None:
    keys = [key for batch in epoch_batches(np.array([3, 5]), 0, [4, 5, 6], 0, 4) for key in batch]
    assert sorted(keys) == [(i, v) for i in (3, 5) for v in (4, 5, 6)]
