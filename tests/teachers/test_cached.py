from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import StoreError, TeacherError
from vidistill.core.types import Batch, Outputs
from vidistill.data.batches import Key
from vidistill.teachers import cached
from vidistill.teachers.cached import CachedTeacher, cache_folder, fill_cache
from vidistill.teachers.live import LiveTeacher

CLIPS = np.array([1, 4, 6, 9, 11])
KEY = {"weights": "abc", "views": 3}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        return Outputs({"action": self.head(x)}, x * 2, {name: x.unsqueeze(2) for name in features})


class Views(torch.utils.data.Dataset):
    """Inputs that say which clip and view they are of; counts what is asked for."""

    def __init__(self) -> None:
        self.asked: list[Key] = []

    def __getitem__(self, key: Key) -> Key:
        self.asked.append(key)
        return key

    def collate(self, keys: list[Key]) -> Batch:
        clip, view = torch.tensor(keys).T
        return Batch({"rgb": torch.stack([clip, view], 1).float()}, {}, clip, view, {})


def live() -> LiveTeacher:
    torch.manual_seed(0)
    return LiveTeacher("rgb", Tiny(), "rgb", ("map",))


def filled(folder: Path, views: Views | None = None) -> CachedTeacher:
    teacher = live()
    path = fill_cache(folder, KEY, teacher, views or Views(), CLIPS, 3)
    return CachedTeacher("rgb", "rgb", path, KEY, CLIPS, lambda: teacher.network)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "SHARD_ROWS", 4)
    monkeypatch.setattr(cached, "BATCH", 3)


@pytest.mark.parametrize("shards", ["one", "several"])
def test_a_cached_teacher_says_what_the_live_one_says(
    tmp_path: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shards == "several":
        monkeypatch.setattr(cached, "SHARD_ROWS", 4)
    batch = Views().collate([(9, 2), (1, 0), (11, 1), (9, 0)])
    said, expected = filled(tmp_path)(batch), live()(batch)
    torch.testing.assert_close(said.logits["action"], expected.logits["action"])
    torch.testing.assert_close(said.embedding, expected.embedding)
    torch.testing.assert_close(said.features["map"], expected.features["map"])


def test_a_complete_cache_is_not_filled_again(tmp_path: Path) -> None:
    filled(tmp_path)
    views = Views()
    filled(tmp_path, views)
    assert views.asked == []


def test_an_interrupted_fill_goes_on_where_it_stopped(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cached._Writer.write

    def stop_late(self: cached._Writer, start: int, outputs: dict[str, Tensor]) -> None:
        write(self, start, outputs)
        self.flush(start + len(outputs["embedding"]))
        if start >= 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cached._Writer, "write", stop_late)
        with pytest.raises(KeyboardInterrupt):
            filled(tmp_path)
    assert not cache_folder(tmp_path, KEY).exists()
    views = Views()
    teacher = filled(tmp_path, views)
    assert len(views.asked) == 15 - 9
    batch = Views().collate([(int(c), v) for v in range(3) for c in CLIPS])
    torch.testing.assert_close(teacher(batch).logits["action"], live()(batch).logits["action"])


def test_a_clip_or_view_that_was_not_cached_is_an_error(tmp_path: Path) -> None:
    teacher = filled(tmp_path)
    for key in [(2, 0), (50, 0), (1, 3)]:
        with pytest.raises(TeacherError, match="not in the cache"):
            teacher(Views().collate([key]))


def test_a_cache_under_another_key_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(StoreError, match="weights differ"):
        CachedTeacher("rgb", "rgb", cache_folder(tmp_path, KEY), {**KEY, "weights": "x"}, CLIPS, Tiny)


def test_the_spot_check_finds_rows_that_changed(tmp_path: Path) -> None:
    teacher = filled(tmp_path)
    assert teacher.spot_check(live(), Views(), 1.0, 1e-5) <= 1e-5
    changed = live()
    with torch.no_grad():
        changed.network.head.bias += 1
    with pytest.raises(StoreError, match="differ from the live teacher"):
        teacher.spot_check(changed, Views(), 1.0, 1e-5)
