from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.curricula.dpp import pick_count, select


def world(clips: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(clips, size)), random.random(clips)


def greedy_by_hand(features: np.ndarray, quality: np.ndarray, count: int, gamma: float, ridge: float) -> list[int]:
    """Greedy search by determinants of the whole kernel L; ties within rounding go to the first."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    scale = np.exp(gamma * quality / (2 * (1 - gamma)))
    kernel = scale[:, None] * (unit @ unit.T + ridge * np.eye(len(unit))) * scale
    picks: list[int] = []
    for _ in range(count):
        volumes = {
            i: np.linalg.slogdet(kernel[np.ix_([*picks, i], [*picks, i])])[1].round(9)
            for i in range(len(kernel))
            if i not in picks
        }
        picks.append(max(volumes, key=volumes.__getitem__))
    return picks


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.sampled_from([0.0, 0.1]))
def test_picks_are_those_of_greedy_determinants(seed, gamma, ridge) -> None:
    features, quality = world(12, 8, seed)
    picks = select(features, quality, 6, gamma=gamma, ridge=ridge, precision="float64")
    assert picks.tolist() == greedy_by_hand(features, quality, 6, gamma, ridge)


@settings(deadline=None, max_examples=100)
@given(
    clips=st.integers(1, 60),
    size=st.integers(1, 6),
    share=st.floats(0, 1),
    gamma=st.floats(0, 1),
    ridge=st.sampled_from([0.0, 1e-2]),
    shard=st.integers(1, 70),
    seed=st.integers(0, 99),
    alike=st.booleans(),
)
def test_exactly_so_many_different_clips_are_picked(clips, size, share, gamma, ridge, shard, seed, alike) -> None:
    features, quality = world(clips, size, seed)
    if alike:  # many equal clips, clips of zeros, equal qualities
        features, quality = np.round(features), np.round(quality)
    count = int(share * clips)
    picks = select(features, quality, count, gamma=gamma, ridge=ridge, shard=shard, seed=seed)
    assert picks.shape == (count,) and picks.dtype == np.int64
    assert len(set(picks.tolist())) == count
    assert set(picks.tolist()) <= set(range(clips))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]))
def test_permuting_clips_permutes_picks(seed, gamma) -> None:
    features, quality = world(30, 12, seed)
    order = np.r_[0, 1 + np.random.default_rng(seed + 1).permutation(29)]  # the first keeps its place: it wins ties
    before = select(features, quality, 10, gamma=gamma, precision="float64")
    after = select(features[order], quality[order], 10, gamma=gamma, precision="float64")
    assert order[after].tolist() == before.tolist()


def test_quality_alone_takes_the_best_in_order() -> None:
    features, quality = world(40, 5)
    assert select(features, quality, 12, gamma=1.0).tolist() == np.argsort(-quality)[:12].tolist()
    assert select(np.zeros((4, 2)), np.array([1.0, 3, 3, 2]), 3, gamma=1.0).tolist() == [1, 2, 3]


def test_diversity_alone_ignores_quality_and_takes_every_direction_once() -> None:
    features = np.repeat(np.eye(6), 5, axis=0) * np.arange(1, 31)[:, None]
    quality = np.linspace(0, 1, 30)
    picks = select(features, quality, 6, gamma=0.0)
    assert sorted((picks // 5).tolist()) == list(range(6))
    assert picks.tolist() == select(features, -quality, 6, gamma=0.0).tolist()


def test_between_equal_directions_the_better_clip_is_taken() -> None:
    features = np.repeat(np.eye(4), 3, axis=0)
    quality = np.tile([0.1, 0.9, 0.5], 4)
    assert sorted(select(features, quality, 4, gamma=0.5).tolist()) == [1, 4, 7, 10]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_beyond_the_rank_of_the_kernel_the_best_remaining_follow(precision) -> None:
    features, quality = world(300, 4)
    picks = select(features, quality, 50, precision=precision)
    rest = [i for i in np.argsort(-quality) if i not in picks[:4]]
    assert picks[4:].tolist() == rest[:46]


def test_a_ridge_goes_on_to_spread_picks_over_directions() -> None:
    features = np.repeat(np.eye(3), (100, 10, 10), axis=0)
    quality = np.zeros(120)
    count = lambda picks: np.bincount(np.searchsorted([100, 110], picks, side="right"), minlength=3).tolist()  # noqa: E731
    assert count(select(features, quality, 15, ridge=0.1)) == [5, 5, 5]
    assert count(select(features, quality, 15)) == [13, 1, 1]


def test_equal_clips_are_picked_in_the_order_of_their_index() -> None:
    assert select(np.ones((7, 3)), np.full(7, 0.5), 5).tolist() == [0, 1, 2, 3, 4]
    assert select(np.eye(7), np.full(7, 0.5), 5).tolist() == [0, 1, 2, 3, 4]
    assert select(np.zeros((7, 3)), np.full(7, 0.5), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_length_of_features_does_not_matter(size) -> None:
    features, quality = world(40, 8)
    expected = select(features, quality, 8)
    assert select((features * size).astype(np.float32), quality, 8).tolist() == expected.tolist()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 60), st.floats(0, 1))
def test_each_shard_gives_its_share(clips, shard, share) -> None:
    features, quality = world(clips, 3)
    count = int(share * clips)
    picks = select(features, quality, count, shard=shard, seed=5)
    assert len(set(picks.tolist())) == count
    assert picks.tolist() == select(features, quality, count, shard=shard, seed=5).tolist()


def test_other_seeds_cut_other_shards_and_one_shard_needs_none() -> None:
    features, quality = world(100, 8)
    cut = {tuple(sorted(select(features, quality, 20, shard=25, seed=seed))) for seed in range(5)}
    whole = {tuple(select(features, quality, 20, shard=100, seed=seed)) for seed in range(5)}
    assert len(cut) > 1 and len(whole) == 1


def test_memory_grows_with_clips_times_picks_never_with_clips_squared() -> None:
    features, quality = world(4000, 16)
    features = features.astype(np.float32)
    tracemalloc.start()
    try:
        select(features, quality, 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4000 * 4000  # a quarter of N x N in float32


@pytest.mark.parametrize(
    ("ratio", "clips", "count"),
    [(0.1, 44, 4), (0.1, 45, 5), (0.001, 20, 1), (0.5, 1, 1), (1.0, 7, 7), (0.3, 0, 0), (2, 5, 5)],
)
def test_a_ratio_gives_a_rounded_count_and_at_least_one(ratio, clips, count) -> None:
    assert pick_count(ratio, clips) == count


@pytest.mark.parametrize(
    ("features", "quality", "count", "message"),
    [
        (np.ones((3, 2)), np.ones(2), 1, "quality must be 3"),
        (np.ones((3, 2)), np.array([1, np.nan, 1]), 1, "quality must be 3"),
        (np.full((3, 2), np.inf), np.ones(3), 1, "finite"),
        (np.ones(3), np.ones(3), 1, "a matrix"),
        (np.ones((3, 2)), np.ones(3), 4, "4 of 3 clips"),
        (np.ones((3, 2)), np.ones(3), -1, "-1 of 3 clips"),
    ],
)
def test_wrong_input_is_told(features, quality, count, message) -> None:
    with pytest.raises(DataError, match=message):
        select(features, quality, count)


def test_greedy_is_close_to_the_best_set_of_all() -> None:
    features, quality = world(10, 6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    volume = {s: np.linalg.slogdet(unit[list(s)] @ unit[list(s)].T)[1] for s in itertools.combinations(range(10), 3)}
    ours = volume[tuple(sorted(select(features, quality, 3, gamma=0.0)))]
    assert ours >= np.quantile(list(volume.values()), 0.8)
