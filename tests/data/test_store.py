from __future__ import annotations

import errno
import io
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidistill.core.errors import StoreError
from vidistill.core.types import Clip, Signal
from vidistill.data import shards
from vidistill.data.manifest import Manifest, Problem
from vidistill.data.prepare import ModalitySource
from vidistill.data.prepare_index import build_index
from vidistill.data.shards import ALIGNMENT, Record, read_shard, shard_path, write_shard
from vidistill.data.store import Store
from vidistill.data.store_index import decode_texts, encode_texts


def unused(*args: object) -> None:
    raise AssertionError


SOURCES = {name: ModalitySource(name, unused, provenance={"tool": name}) for name in ("rgb", "audio", "depth")}


def make_store(folder: Path) -> tuple[Store, list[dict[str, Signal]]]:
    random = np.random.default_rng(1)
    rgb = Signal(random.integers(0, 255, (7, 5, 3, 3), np.uint8), 29.97, start=0.25)
    sound = Signal(random.normal(size=1600).astype(np.float32), 16000.0)
    times = np.array([0.0, 0.1, 0.4])
    depth = Signal(random.normal(size=(3, 4, 4, 1)).astype(np.float16), 5.0, times=times)
    signals = [{"rgb": rgb, "audio": sound}, {}, {"depth": depth, "audio": sound}, {"audio": sound}]
    clips = tuple(
        Clip(f"clip {n} é", split, labels, {"rgb": f"{n}.mp4"}, start=0.1 * n, fps=25.0, group="g")
        for n, (split, labels) in enumerate(
            [
                ("train", {"verb": "take"}),
                ("train", {"verb": "cut"}),
                ("test", {"verb": "put", "noun": "cup"}),
                ("test", {}),
            ]
        )
    )
    problem = Problem(clips[1].id, "corrupt", "rgb: truncated")
    records = [
        Record(clip.id, values, frozenset({"depth"}), problem if not values else None)
        for clip, values in zip(clips, signals, strict=True)
    ]
    write_shard(folder, 0, records[:3], key="k")
    write_shard(folder, 1, records[3:], key="k")
    listed = Problem("never there", "missing", "no file")
    build_index(Manifest(folder, clips, (listed,)), folder, SOURCES, "k", "whole", 2)
    return Store.open(folder), [values for values in signals if values]


def test_signals_come_back_bit_for_bit_and_are_not_copied(tmp_path: Path) -> None:
    store, expected = make_store(tmp_path)
    assert len(store) == 3
    for number, signals in enumerate(expected):
        assert {name for name in store.modalities if store.has(number, name)} == set(signals)
        for name, wanted in signals.items():
            got = store.signal(number, name)
            assert got.values.dtype == wanted.values.dtype
            np.testing.assert_array_equal(got.values, wanted.values)
            assert (got.rate, got.start, got.duration) == (wanted.rate, wanted.start, wanted.duration)
            assert (got.times is None) == (wanted.times is None)
            assert not got.values.flags.owndata and not got.values.flags.writeable
            assert got.values.ctypes.data % ALIGNMENT == 0
    depth = store.signal(1, "depth")
    assert depth.times is not None
    np.testing.assert_array_equal(depth.times, [0.0, 0.1, 0.4])


def test_frames_rate_and_duration_are_those_of_rgb_then_depth_then_what_is_there(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    assert [store.frames(n) for n in range(3)] == [7, 3, 1600]
    assert [store.rate(n) for n in range(3)] == [29.97, 5.0, 16000.0]
    assert store.duration(0) == pytest.approx(0.25 + 7 / 29.97)
    assert store.duration(1) == pytest.approx(0.6)


def test_clips_labels_splits_and_problems_are_those_of_the_manifest(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    assert store.ids == ("clip 0 é", "clip 2 é", "clip 3 é")
    assert [clip.id for clip in store.clips] == list(store.ids)
    assert store.clips[1].labels == {"verb": "put", "noun": "cup"} and store.clips[1].start == pytest.approx(0.2)
    assert store.classes == {"verb": ("cut", "put", "take"), "noun": ("cup",)}
    assert list(store.classes) == ["verb", "noun"]
    assert store.labels("verb").tolist() == [2, 1, -1]
    assert store.labels("noun").tolist() == [-1, 0, -1]
    assert store.indices("test").tolist() == [1, 2] and store.indices("train").tolist() == [0]
    assert store.indices("val").tolist() == [] and store.indices("val").dtype == np.int64
    assert [problem.clip for problem in store.problems] == ["never there", "clip 1 é"]
    summary = store.manifest_summary
    assert (summary["listed"], summary["prepared"], summary["splits"]) == (5, 3, {"train": 1, "test": 2})
    assert summary["problems"] == {"missing": 1, "corrupt": 1}
    assert store.provenance["depth"] == {"tool": "depth", "clips": 1, "derived": 1}
    assert store.present("rgb").tolist() == [True, False, False]
    with pytest.raises(StoreError, match="no labels 'action'.*verb, noun"):
        store.labels("action")


def test_an_absent_modality_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    assert not store.has(1, "rgb") and not store.has(0, "skeleton")
    with pytest.raises(StoreError, match="'clip 2 é' has no rgb"):
        store.signal(1, "rgb")


def total(store: Store) -> int:
    return int(store.signal(0, "rgb").values.sum())


def test_a_store_travels_to_other_processes_as_its_folder(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    expected = total(store)
    assert len(pickle.dumps(store)) < 500
    copy = pickle.loads(pickle.dumps(store))
    assert total(copy) == expected and copy.hash == store.hash
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert int(pool.apply(Store.frames, (store, 0))) == 7


def test_stale_damaged_and_absent_stores_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no prepared data here"):
        Store.open(tmp_path)
    store, _ = make_store(tmp_path)
    with pytest.raises(StoreError, match="other data than expected"):
        Store.open(tmp_path, expected="something else")
    shard_path(tmp_path, 1).write_bytes(b"cut")
    assert not store.complete()
    with pytest.raises(StoreError, match="shard-00001.bin: .*absent or cut"):
        store.signal(2, "audio")
    original = (tmp_path / "index.npz").read_bytes()
    (tmp_path / "index.npz").write_bytes(original[:100])
    with pytest.raises(StoreError, match="unreadable index"):
        Store.open(tmp_path)
    (tmp_path / "index.npz").write_bytes(original)
    header = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(header | {"hash": "other"}))
    with pytest.raises(StoreError, match="belongs to other data"):
        Store.open(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps(header | {"format": 99}))
    with pytest.raises(StoreError, match="format version 99"):
        Store.open(tmp_path)


def test_a_shard_counts_only_when_it_is_whole_and_of_the_same_key(tmp_path: Path) -> None:
    header = write_shard(tmp_path, 3, [Record("a", {"rgb": Signal(np.ones((2, 3), np.int16), 1.0)})], key="k")
    assert read_shard(tmp_path, 3, "k") == header
    assert read_shard(tmp_path, 3, "other") is None and read_shard(tmp_path, 4, "k") is None
    shard_path(tmp_path, 3).write_bytes(b"")
    assert read_shard(tmp_path, 3, "k") is None
    shard_path(tmp_path, 3, ".json").write_text("{")
    assert read_shard(tmp_path, 3, "k") is None


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "open", lambda path, mode: Full(path, "w"), raising=False)
    record = Record("a", {"rgb": Signal(np.ones((2, 3), np.int16), 1.0)})
    with pytest.raises(StoreError, match="shard-00000.bin: the disk is full. Free some space") as caught:
        write_shard(tmp_path, 0, [record], key="k")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_shard_is_written_leaves_nothing(tmp_path: Path) -> None:
    def records():  # type: ignore[no-untyped-def]
        yield Record("a", {"rgb": Signal(np.ones((2, 3), np.int16), 1.0)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, records(), key="k")
    assert list(tmp_path.iterdir()) == []


@given(
    hnp.arrays(
        st.sampled_from(["u1", "<i2", ">i4", "f2", ">f8", "?"]), hnp.array_shapes(min_dims=1, max_dims=5, max_side=4)
    ),
    st.booleans(),
)
def test_any_number_type_shape_and_order_of_memory_is_stored(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, turned: bool
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    values = values.T if turned else values
    write_shard(folder, 0, [Record("a", {"x": Signal(values, 2.0)})], key="k")
    clip = Clip("a", "train", {"action": "x"}, {"x": "a.npy"})
    build_index(Manifest(folder, (clip,)), folder, {"x": ModalitySource("x", unused)}, "k", "w", 1)
    got = Store.open(folder).signal(0, "x").values
    assert got.dtype == values.dtype.newbyteorder("<") and got.shape == values.shape
    np.testing.assert_array_equal(got, values)


def test_objects_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        write_shard(tmp_path, 0, [Record("a", {"x": Signal(np.array([{}]), 1.0)})], key="k")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text()))
def test_texts_survive_the_index(texts: list[str]) -> None:
    assert decode_texts(*encode_texts(texts)) == tuple(texts)
