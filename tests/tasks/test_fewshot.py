"""The few-shot task: which logits labels teach, and which episodes a split is tested by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import DataError
from vidistill.core.types import Batch, Outputs
from vidistill.data.episode_files import write_episodes
from vidistill.methods.litemkd import PATCHES
from vidistill.models.episode_heads import EpisodeHead, build_episode_head
from vidistill.models.episode_network import DISTILLED, FRAMES
from vidistill.tasks.fewshot import FewShot

WAY, SHOT, QUERIES, LENGTH, WIDTH = 3, 2, 2, 4, 8
CLIPS = WAY * (SHOT + QUERIES)


class FiveClasses:
    """Classes c0 to c4 of six clips each; the first two classes are of validation, the others of the test."""

    ids = tuple(f"clip{number}" for number in range(30))
    classes = {"action": tuple(f"c{number}" for number in range(5))}

    def labels(self, head: str) -> np.ndarray:
        return np.arange(30) // 6

    def indices(self, split: str) -> np.ndarray:
        return np.arange(*{"train": (0, 0), "val": (0, 12), "test": (12, 30)}[split])


STORE: Any = FiveClasses()
EVERYTHING = np.ones(30, np.bool_)


def task(**options: Any) -> FewShot:
    sizes = {"way": WAY, "shot": SHOT, "queries": QUERIES, "val_way": 2, "test_episodes": 7}
    return FewShot({"action": 5}, **{**sizes, **options})


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def episode_outputs(streams: tuple[str, ...]) -> tuple[Outputs, Batch]:
    """Frames of one episode."""
    frames = {name: random(CLIPS, LENGTH, WIDTH, seed=place) for place, name in enumerate(streams)}
    clip = torch.arange(CLIPS)
    return Outputs({}, frames[FRAMES].mean(1), frames), Batch({}, {}, clip, torch.zeros_like(clip), {})


def head(name: str) -> EpisodeHead:
    torch.manual_seed(0)
    return build_episode_head(name, LENGTH, WIDTH, {"projection": 6, "dropout": 0.0})


@pytest.mark.parametrize("streams", [(FRAMES,), (FRAMES, DISTILLED)])
def test_both_classifiers_of_strm_learn_apart_and_answer_together(streams: tuple[str, ...]) -> None:
    outputs, batch = episode_outputs(streams)
    few, strm = task(), head("strm")
    learning = few.rows(outputs, batch, strm.train()).logits
    tested = few.rows(outputs, batch, strm.eval()).logits
    names = {"episode", "episode_distilled"} if DISTILLED in streams else {"episode"}
    assert set(tested) == names and set(learning) == names | {PATCHES}, "as litemkd asks for it"
    apart = sum(learning[name] for name in names) + 0.1 * len(streams) * learning[PATCHES]
    torch.testing.assert_close(apart, sum(tested[name] for name in names))


@pytest.mark.parametrize(("taught", "streams"), [(True, {"episode"}), (False, {"episode", "episode_distilled"})])
def test_the_classifier_of_plain_frames_learns_from_labels_with_its_own_weight(taught: bool, streams: set[str]) -> None:
    outputs, batch = episode_outputs((FRAMES, DISTILLED))
    few = task(patch_weight=0.3)
    rows, row_batch = few.rows(outputs, batch, head("strm").train()), few.row_batch(batch)
    losses = few.loss(rows, row_batch, taught)
    assert {name: loss.weight for name, loss in losses.items()} == {
        **{f"label_{name}": 1.0 for name in streams},
        "label_episode_patches": 0.3,
    }
    expected = functional.cross_entropy(
        rows.logits["episode_patches"], row_batch.labels["episode"], reduction="none"
    )  # fmt: skip
    torch.testing.assert_close(losses["label_episode_patches"].values, expected)
    assert not any(loss.distillation for loss in losses.values())


def test_a_head_of_one_classifier_has_no_other_term() -> None:
    outputs, batch = episode_outputs((FRAMES,))
    few = task()
    assert set(few.loss(few.rows(outputs, batch, head("trx").train()), few.row_batch(batch))) == {"label_episode"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "test episodes.jsonl"
    write_episodes(path, task().episodes(STORE, "test", EVERYTHING), STORE.ids, STORE.classes["action"])
    return path


def test_a_split_with_a_file_is_tested_by_all_of_its_episodes(file: Path) -> None:
    drawn = task().episodes(STORE, "test", EVERYTHING)
    other = task(seed=9, test_episodes=3, episode_files={"test": file})
    read = other.episodes(STORE, "test", EVERYTHING)
    for name in ("support", "queries", "query_labels", "classes"):
        np.testing.assert_array_equal(getattr(read, name), getattr(drawn, name))
    assert len(other.row_labels(STORE, None, "test")["episode"]) == 7 * WAY  # type: ignore[arg-type]
    assert len(other.episodes(STORE, "val", EVERYTHING)) == 1000, "drawn as ever"


def test_a_network_is_tested_by_those_episodes_of_a_file_that_it_can_see(file: Path) -> None:
    other = task(episode_files={"test": file})
    everyone = other.episodes(STORE, "test", EVERYTHING)
    blind = int(everyone.support[2, 0, 0])
    own = other.episodes(STORE, "test", np.arange(30) != blind)
    clips = np.concatenate([everyone.support.reshape(7, -1), everyone.queries], 1)
    np.testing.assert_array_equal(own.queries, everyone.queries[(clips != blind).all(1)])
    assert len(own) < 7


@pytest.mark.parametrize("change", [{"way": 2}, {"shot": 1}, {"test_queries": 2}])
def test_a_file_of_other_sizes_is_told_before_anything_is_trained(file: Path, change: dict[str, int]) -> None:
    few = task(**change, episode_files={"test": file})
    with pytest.raises(DataError, match=r"test episodes.jsonl: its episodes have 3 way, 2 shot, 3 queries; the task"):
        few.plan(STORE, STORE.indices("test"), 0, [0], 0, 30)


def test_queries_of_a_file_are_as_many_of_each_class(file: Path) -> None:
    first = json.loads(file.read_text().splitlines()[0])
    one, two, three = first["classes"]
    label = int(two[1])
    used = {clip for part in ("support", "queries") for clip in first[part][two]}
    spare = next(f"clip{n}" for n in range(6 * label, 6 * label + 6) if f"clip{n}" not in used)
    first["queries"][one], first["queries"][two] = [], [*first["queries"][two], spare]
    file.write_text(json.dumps(first))
    with pytest.raises(DataError, match="as many of each class"):
        task(episode_files={"test": file}).episodes(STORE, "test", EVERYTHING)


def test_a_clip_that_the_data_does_not_have_is_named_with_its_row(file: Path) -> None:
    lines = file.read_text().splitlines()
    lines[4] = lines[4].replace(json.loads(lines[4])["queries"][json.loads(lines[4])["classes"][0]][0], "no such clip")
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"row 5: unknown clip 'no such clip'"):
        task(episode_files={"test": file}).episodes(STORE, "test", EVERYTHING)
