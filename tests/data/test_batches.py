from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidistill.data.batches import epoch_batches, fixed_batches


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.integers(0, 9))
def test_every_clip_comes_once_an_epoch(count: int, size: int, seed: int, epoch: int) -> None:
    indices = np.arange(count) * 3
    batches = epoch_batches(indices, epoch, 7, seed, size)
    assert sorted(i for batch in batches for i, _ in batch) == indices.tolist()
    assert {view for batch in batches for _, view in batch} == {7}
    assert all(len(batch) >= min(size / 2, count) for batch in batches)
    assert all(len(batch) < 1.5 * size + 1 for batch in batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    indices = np.arange(50)
    assert epoch_batches(indices, 1, 0, 0, 8) == epoch_batches(indices, 1, 0, 0, 8)
    assert epoch_batches(indices, 1, 0, 0, 8) != epoch_batches(indices, 2, 0, 0, 8)
    assert epoch_batches(indices, 1, 0, 0, 8) != epoch_batches(indices, 1, 0, 1, 8)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 20), st.integers(1, 4))
def test_processes_share_the_test_views_without_repeats(count: int, views: int, size: int, processes: int) -> None:
    keys = [
        key
        for rank in range(processes)
        for batch in fixed_batches(np.arange(count), views, size, rank, processes)
        for key in batch
    ]
    assert sorted(keys) == [(i, v) for i in range(count) for v in range(views)]
