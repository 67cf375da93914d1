from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.data.episode_files import read_episodes, write_episodes
from vidistill.data.episodes import Episodes, EpisodeSampler, without_replacement

NAMES = ("catch", "jump", "kick", "run", "wave")


def world(counts=(4, 5, 6, 7, 4), offset: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Labels and store indices of clips; store indices are not 0, 1, 2, ..."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels, offset + np.random.default_rng(0).permutation(len(labels))


def sampler(way=3, shot=2, queries=2, seed=7, **options) -> EpisodeSampler:
    return EpisodeSampler(*world(), way, shot, queries, seed, **options)


def same(one, other) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in vars(one))


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(3, 9), min_size=2, max_size=8),
    way=st.integers(2, 8),
    shot=st.integers(1, 4),
    queries=st.integers(1, 4),
    seed=st.integers(-5, 5),
    number=st.integers(0, 10**9),
    variant=st.sampled_from(["default", "released"]),
)
def test_an_episode_has_its_sizes_no_clip_twice_and_each_clip_under_its_class(
    counts, way, shot, queries, seed, number, variant
) -> None:
    labels, clips = world(counts)
    class_of = dict(zip(clips.tolist(), labels.tolist(), strict=True))
    if way > len(counts) or min(counts) < shot + queries:
        with pytest.raises(DataError):
            EpisodeSampler(labels, clips, way, shot, queries, seed, variant=variant)
        return
    drawn = EpisodeSampler(labels, clips, way, shot, queries, seed, variant=variant)
    episode = drawn.episode(number if variant == "default" else number % 5)
    assert episode.support.shape == (way, shot)
    assert episode.queries.shape == episode.query_labels.shape == (way * queries,)
    everything = [*episode.support.ravel().tolist(), *episode.queries.tolist()]
    assert len(set(everything)) == len(everything)
    assert len(set(episode.classes.tolist())) == way
    assert [[class_of[clip] for clip in row] for row in episode.support.tolist()] == [
        [number] * shot for number in episode.classes
    ]
    assert [class_of[clip] for clip in episode.queries.tolist()] == episode.classes[episode.query_labels].tolist()
    assert np.bincount(episode.query_labels, minlength=way).tolist() == [queries] * way


@pytest.mark.parametrize("variant", ["default", "released"])
def test_an_episode_depends_on_seed_and_number_alone(variant) -> None:
    first = sampler(variant=variant)
    late = first.episode(9)
    early = first.episode(2)
    again = sampler(variant=variant)
    assert same(again.episode(2), early) and same(again.episode(9), late)
    assert same(again.batch(np.array([9, 2, 9]))[2], late)
    assert not same(early, late)
    assert not same(sampler(variant=variant, seed=8).episode(2), early)


def test_the_order_of_the_clips_changes_nothing() -> None:
    labels, clips = world()
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = EpisodeSampler(labels[order], clips[order], 3, 2, 2, 7)
    assert same(shuffled.batch(np.arange(5)), sampler().batch(np.arange(5)))


def test_clips_without_a_class_are_never_drawn() -> None:
    labels, clips = world()
    labels = np.append(labels, [-1] * 50)
    clips = np.append(clips, np.arange(1000, 1050))
    drawn = EpisodeSampler(labels, clips, 5, 2, 2, 0).batch(np.arange(20))
    assert max(drawn.support.max(), drawn.queries.max()) < 1000


def test_classes_and_clips_are_drawn_evenly_and_are_support_as_often_as_query() -> None:
    labels, clips = world((6, 4, 5, 6, 7))
    drawn = EpisodeSampler(labels, clips, 2, 2, 2, 0).batch(np.arange(4000))
    classes = np.bincount(drawn.classes.ravel(), minlength=5) / 8000
    np.testing.assert_allclose(classes, 0.2, atol=0.02)
    of_first = drawn.support[drawn.classes == 0].ravel()
    share = np.array([(of_first == clip).mean() for clip in clips[labels == 0]])
    np.testing.assert_allclose(share, 1 / 6, atol=0.03)


def test_ten_thousand_episodes_take_less_than_a_second() -> None:
    labels = np.repeat(np.arange(24), 100)
    drawn = EpisodeSampler(labels, np.arange(2400), 5, 5, 1, 0)
    start = time.process_time()
    episodes = drawn.batch(np.arange(10_000))
    assert time.process_time() - start < 1.0
    assert len(episodes) == 10_000


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_samples_without_replacement_repeat_nothing(count, size, seed) -> None:
    sizes = np.full(20, max(size, count))
    chosen = without_replacement(np.random.default_rng(seed).random((20, count)), sizes)
    assert chosen.min() >= 0 and chosen.max() < sizes[0]
    assert all(len(set(row)) == count for row in chosen.tolist())


def test_all_orders_of_a_sample_are_equally_likely() -> None:
    uniform = np.random.default_rng(0).random((24_000, 3))
    chosen = without_replacement(uniform, np.full(24_000, 4))
    counts = np.unique(chosen, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    np.testing.assert_allclose(counts / 24_000, 1 / 24, rtol=0.12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"way": 6}, DataError, "6-way episodes need 6 classes and there are 5"),
        ({"way": 1}, RecipeError, "way of an episode must be 2 or more"),
        ({"shot": 0}, RecipeError, "shot of an episode must be 1 or more"),
        (
            {"shot": 3, "names": NAMES},
            DataError,
            r"3 \+ 2 clips of a class; too few are in catch \(4\), wave \(4\)",
        ),
        ({"shot": 6}, DataError, r"too few are in 0 \(4\), 1 \(5\), 2 \(6\) and 2 more"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(options, error, message) -> None:
    with pytest.raises(error, match=message):
        sampler(**options)


@pytest.fixture
def store() -> dict:
    """Clips by store index as `read_episodes` asks for them, of which the last three are of another split."""
    labels = np.repeat(np.arange(5), 6)
    ids = [f"{NAMES[label]}/é {index}" for index, label in enumerate(labels)]
    return {"clip_ids": ids, "labels": labels, "class_names": NAMES, "clips": np.arange(27)}


def drawn_from(store: dict, **options) -> Episodes:
    clips = store["clips"][store["labels"][store["clips"]] < 4]
    return EpisodeSampler(store["labels"][clips], clips, 3, 2, 2, 1, **options).batch(np.arange(6))


@pytest.mark.parametrize("variant", ["default", "released"])
def test_episodes_come_back_from_a_file_as_they_were(tmp_path: Path, store: dict, variant) -> None:
    episodes = drawn_from(store, variant=variant)
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, episodes, store["clip_ids"], NAMES)
    assert same(read_episodes(path, **store), episodes)
    assert [file.name for file in tmp_path.iterdir()] == ["episodes.jsonl"]


def test_a_file_means_the_same_clips_in_a_store_of_another_order(tmp_path: Path, store: dict) -> None:
    episodes = drawn_from(store)
    write_episodes(tmp_path / "e", episodes, store["clip_ids"], NAMES)
    turned = {
        "clip_ids": store["clip_ids"][::-1],
        "labels": 4 - store["labels"][::-1],
        "class_names": NAMES[::-1],
        "clips": np.arange(3, 30),
    }
    other = read_episodes(tmp_path / "e", **turned)
    assert (29 - other.support == episodes.support).all()
    assert (4 - other.classes == episodes.classes).all()


def row(**changes) -> dict:
    record = {
        "classes": ["catch", "jump"],
        "support": {"catch": ["catch/é 0"], "jump": ["jump/é 6"]},
        "queries": {"catch": ["catch/é 1"], "jump": ["jump/é 7"]},
    }
    return record | changes


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (row(support={"catch": ["catch/é 99"], "jump": ["jump/é 6"]}), "unknown clip 'catch/é 99'"),
        (row(support={"catch": ["jump/é 8"], "jump": ["jump/é 6"]}), "'jump/é 8' is of 'jump', not of 'catch'"),
        (row(support={"catch": [], "jump": ["jump/é 6"]}), "class 'catch' has 0 support clips, others have 1"),
        (row(support={"catch": ["catch/é 1"], "jump": ["jump/é 6"]}), "a clip is there twice"),
        (row(queries={"catch": [], "jump": []}), "there are no queries"),
        (row(queries={"catch": ["catch/é 1"]}), "'queries' must hold a list of clips for each"),
        (row(queries={"catch": ["catch/é 1"], "jump": [3]}), "'queries' holds something else"),
        (row(queries={"catch": ["catch/é 1"], "jump": []}), "2 way, 1 shot, 1 queries differs from 2 way, 1 shot, 2"),
        (row(classes=["catch", "catch"]), "two different classes"),
        (["catch"], "an episode has 'classes'"),
        (
            row(
                classes=["catch", "jmup"],
                support={"catch": ["catch/é 0"], "jmup": ["jump/é 6"]},
                queries={"catch": ["catch/é 1"], "jmup": []},
            ),
            "unknown class 'jmup'. Did you mean 'jump'",
        ),
        (
            row(
                classes=["catch", "wave"],
                support={"catch": ["catch/é 0"], "wave": ["wave/é 29"]},
                queries={"catch": ["catch/é 1"], "wave": ["wave/é 24"]},
            ),
            "'wave/é 29' is not in this split",
        ),
    ],
)
def test_a_wrong_row_is_named_with_its_file(tmp_path: Path, store: dict, record, message) -> None:
    path = tmp_path / "fixed.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=rf"fixed.jsonl: row 3: .*{message}"):
        read_episodes(path, **store)


def test_files_that_hold_no_episodes_are_refused(tmp_path: Path, store: dict) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_episodes(tmp_path / "no", **store)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="no episode"):
        read_episodes(tmp_path / "empty", **store)
    (tmp_path / "text").write_text("{")
    with pytest.raises(DataError, match="text: row 1: no JSON"):
        read_episodes(tmp_path / "text", **store)
    with pytest.raises(DataError, match="no episodes to stack"):
        Episodes.stack([])
