from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip
from vidistill.data.manifest import (
    Manifest,
    Problem,
    carve_validation,
    check,
    read_manifest,
    resolve,
    write_manifest,
)

ROOT = Path("media")


def make(*rows: tuple[str, str, str], **more: object) -> Manifest:
    """Clips (id, split, action), each with its own source."""
    clips = [Clip(name, split, {"action": label}, {"rgb": f"{name}.mp4"}, **more) for name, split, label in rows]
    return Manifest(ROOT, tuple(clips))


GOOD = (("a1", "train", "a"), ("b1", "train", "b"), ("a2", "test", "a"), ("b2", "test", "b"))

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
seconds = st.floats(0, 1e6, allow_nan=False)
clips = st.builds(
    lambda name, split, labels, sources, start, length, fps, frames, group, checksum: Clip(
        name, split, labels, sources, start, None if length is None else start + length, fps, frames, group, checksum
    ),
    names,
    st.sampled_from(["train", "val", "test", ""]),
    st.dictionaries(st.sampled_from(["verb", "noun"]), names, min_size=1),
    st.dictionaries(st.sampled_from(["rgb", "depth"]), names, min_size=1),
    seconds,
    st.none() | st.floats(1.0, 1e4),
    st.none() | st.floats(0.01, 1e3),
    st.none() | st.integers(0, 10**9),
    st.none() | names,
    st.none() | names,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(st.lists(clips, min_size=1, max_size=5))
def test_a_manifest_written_and_read_is_the_same(tmp_path: Path, rows: list[Clip]) -> None:
    manifest = Manifest(tmp_path, tuple(rows))
    write_manifest(manifest, tmp_path / "manifest.csv")
    again = read_manifest(tmp_path / "manifest.csv")
    assert again == manifest
    assert again.split_hash == manifest.split_hash


def test_writing_leaves_nothing_beside(tmp_path: Path) -> None:
    write_manifest(make(*GOOD), tmp_path / "m.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_properties_are_sorted_and_complete() -> None:
    manifest = make(*GOOD)
    extra = Clip("c", "train", {"action": "c", "verb": "v"}, {"rgb": "c.mp4", "depth": "c.npz#c"})
    manifest = replace(manifest, clips=(*manifest.clips, extra))
    assert manifest.heads == ("action", "verb")
    assert manifest.classes == {"action": ("a", "b", "c"), "verb": ("v",)}
    assert manifest.modalities == ("rgb", "depth")
    assert [clip.id for clip in manifest.split("test")] == ["a2", "b2"]


def test_split_hash_follows_splits_and_labels_but_not_row_order() -> None:
    manifest = make(*GOOD)
    assert replace(manifest, clips=manifest.clips[::-1]).split_hash == manifest.split_hash
    moved = (replace(manifest.clips[0], split="test"), *manifest.clips[1:])
    assert replace(manifest, clips=moved).split_hash != manifest.split_hash
    renamed = (replace(manifest.clips[0], labels={"action": "b"}), *manifest.clips[1:])
    assert replace(manifest, clips=renamed).split_hash != manifest.split_hash


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the manifest is empty"),
        ("id,split,action,path:rgb\na,train,x,a.mp4\n", "unknown column 'action'. Write label:action"),
        ("id,split,lable:action,path:rgb\na,train,x,a.mp4\n", "unknown column 'lable:action'. Did you mean 'label:"),
        ("id,split,label:,path:rgb\n", "unknown column 'label:'"),
        ("id,label:action,path:rgb\na,x,a.mp4\n", "column 'split' is missing"),
        ("id,split,path:rgb\na,train,a.mp4\n", "no label:* column. Name one, such as label:action"),
        ("id,split,label:action\na,train,x\n", "no path:* column"),
        ("id,id,split,label:action,path:rgb\n", "column 'id' is there 2 times"),
        ("id,split,label:action,path:rgb\na,train,x\n", "row 2: 3 cells, but the header has 4"),
        ("id,split,fps,label:action,path:rgb\na,train,fast,x,a.mp4\n", "row 2: column 'fps' holds 'fast'"),
        ("id,split,frames,label:action,path:rgb\na,train,-1,x,a.mp4\n", "row 2: column 'frames' holds '-1'"),
        ("id,split,end,label:action,path:rgb\na,train,nan,x,a.mp4\n", "column 'end' holds 'nan'"),
        ("id,split,start,end,label:action,path:rgb\na,train,3,2,x,a.mp4\n", "row 2: the clip ends at 2.0 s"),
        ("id,split,label:action,path:rgb\n,train,x,a.mp4\n", "row 2: column 'id' is empty"),
    ],
)
def test_a_wrong_table_is_one_line_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    line = str(caught.value)
    assert str(path) in line
    assert says in line
    assert "\n" not in line


def test_byte_order_mark_and_blank_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("\ufeffid,split,label:action,path:rgb\n\né 1,train,x,é 1.mp4\n", encoding="utf-8")
    assert [clip.id for clip in read_manifest(tmp_path / "m.csv").clips] == ["é 1"]


def test_a_missing_manifest_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.csv"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("source", "path", "key"),
    [
        ("a/b.mp4", "a/b.mp4", None),
        ("poses.npz#walk/a b", "poses.npz", "walk/a b"),
        ("f.HDF5#x#y", "f.HDF5", "x#y"),
        ("#437_ride.avi", "#437_ride.avi", None),
        ("a#b/c.mp4", "a#b/c.mp4", None),
    ],
)
def test_only_containers_have_keys(source: str, path: str, key: str | None) -> None:
    assert resolve(ROOT, source) == (ROOT / path, key)


@pytest.mark.parametrize("source", ["/etc/passwd", "../secret.mp4", "a/../../b.mp4", "../p.npz#k", ""])
def test_sources_cannot_leave_the_root(source: str) -> None:
    with pytest.raises(DataError):
        resolve(ROOT, source)


def test_a_good_manifest_has_no_warnings() -> None:
    assert check(make(*GOOD), heads=["action"]) == []


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (make(), "no usable clips"),
        (replace(make(), problems=(Problem("a", "missing", "a.mp4 is gone"),)), "a.mp4 is gone"),
        (make(*GOOD, GOOD[0]), "'a1' is given more than once"),
        (make(("a1", "train", "a"), ("a2", "train", "a")), "head 'action' has 1 class, 1 of them in train"),
        (make(("a1", "train", "a"), ("b1", "test", "b")), "has 2 classes, 1 of them in train"),
        (make(("a1", "test", "a"), ("b1", "test", "b")), "no clip has split 'train'"),
        (Manifest(ROOT, (*make(*GOOD).clips, Clip("u", "train", {}, {"rgb": "u.mp4"}))), "clip 'u': the clip has no l"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(manifest: Manifest, says: str) -> None:
    with pytest.raises(DataError) as caught:
        check(manifest)
    assert says in str(caught.value)


def test_a_label_column_that_the_task_needs_must_be_there() -> None:
    with pytest.raises(DataError, match=r"label column 'label:verb' is missing. Have: label:action"):
        check(make(*GOOD), heads=["verb"])


def overlap(start: float, end: float | None, source: str = "a1.mp4") -> Manifest:
    other = Clip("other", "test", {"action": "a"}, {"rgb": source}, start, end)
    first = replace(make(*GOOD).clips[0], start=2.0, end=5.0)
    return Manifest(ROOT, (first, *make(*GOOD).clips[1:], other))


@pytest.mark.parametrize(("start", "end"), [(2.0, 5.0), (4.9, 9.0), (0.0, None), (0.0, 2.1)])
@pytest.mark.parametrize("source", ["a1.mp4", "./a1.mp4"])
def test_the_same_seconds_in_train_and_test_are_refused(start: float, end: float | None, source: str) -> None:
    with pytest.raises(DataError, match=r"share a1\.mp4"):
        check(overlap(start, end, source))


@pytest.mark.parametrize(("start", "end"), [(5.0, None), (0.0, 2.0)])
def test_other_seconds_of_one_source_may_be_in_other_splits(start: float, end: float | None) -> None:
    assert check(overlap(start, end)) == []


def test_a_copy_with_the_same_checksum_is_an_overlap() -> None:
    rows = make(*GOOD).clips
    same = (replace(rows[0], checksum="c"), rows[1], replace(rows[2], checksum="c"), rows[3])
    with pytest.raises(DataError, match="share checksum c"):
        check(Manifest(ROOT, same))


def test_likely_mistakes_are_warned_of() -> None:
    more = (("c1", "train", "c"), ("B3", "train", "B "), ("x", "trian", "a"), ("d1", "test", "d"), ("d2", "test", "d"))
    text = "\n".join(check(make(*GOOD, *more, group="g")))
    assert "class 'c' of 'action' has one clip" in text
    assert "class 'd' of 'action' is absent from train" in text
    assert "look alike: ['B ', 'b']" in text
    assert "split 'trian' is used by nothing. Did you mean 'train'?" in text
    assert "1 groups have clips in train and in test, e.g. 'g'" in text


def counts(manifest: Manifest, split: str) -> Counter[str]:
    return Counter(clip.labels["action"] for clip in manifest.split(split))


sizes = st.lists(st.integers(1, 25), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sizes, st.floats(0.05, 0.9), st.integers(0, 1000), st.sampled_from(["auto", "clip"]), st.randoms())
def test_carving_by_clip_is_deterministic_stratified_and_empties_no_class(
    sizes: list[int], fraction: float, seed: int, by: str, random: object
) -> None:
    rows = [(f"{label}-{i}", "train", str(label)) for label, size in enumerate(sizes) for i in range(size)]
    manifest = make(*rows, ("t", "test", "0"))
    carved = carve_validation(manifest, fraction, seed, by)
    assert [clip.id for clip in carved.clips] == [clip.id for clip in manifest.clips]
    assert carved.split("test") == manifest.split("test")
    for label, size in enumerate(sizes):
        wanted = min(max(1, round(fraction * size)), size - 1)
        assert counts(carved, "val")[str(label)] == wanted
        assert counts(carved, "train")[str(label)] == size - wanted >= 1
    shuffled = list(manifest.clips)
    random.shuffle(shuffled)
    again = carve_validation(replace(manifest, clips=tuple(shuffled)), fraction, seed, by)
    assert {clip.id for clip in again.split("val")} == {clip.id for clip in carved.split("val")}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 3)), min_size=2, max_size=120),
    st.floats(0.05, 0.5),
    st.integers(0, 50),
)
def test_carving_by_group_tears_none_apart_and_empties_no_class(
    pairs: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    rows = [
        Clip(str(i), "train", {"action": str(label)}, {"rgb": f"{i}.mp4"}, group=f"g{group}")
        for i, (group, label) in enumerate(pairs)
    ]
    manifest = Manifest(ROOT, tuple(rows))
    try:
        carved = carve_validation(manifest, fraction, seed, by="group")
    except DataError:
        return
    assert not {c.group for c in carved.split("val")} & {c.group for c in carved.split("train")}
    assert set(counts(carved, "train")) == set(counts(manifest, "train"))
    assert carve_validation(manifest, fraction, seed, by="group") == carved


def test_auto_uses_groups_only_where_there_are_enough() -> None:
    def grouped(number: int) -> Manifest:
        rows = [
            Clip(f"{g}-{i}", "train", {"action": str(i % 2)}, {"rgb": f"{g}-{i}.mp4"}, group=f"g{g}")
            for g in range(number)
            for i in range(8)
        ]
        return Manifest(ROOT, tuple(rows))

    few, many = (carve_validation(grouped(number), 0.2, 0) for number in (4, 20))
    assert {c.group for c in few.split("val")} & {c.group for c in few.split("train")}
    assert not {c.group for c in many.split("val")} & {c.group for c in many.split("train")}
    assert len(many.split("val")) == 32


def test_seeds_carve_differently() -> None:
    manifest = make(*[(f"{i}", "train", str(i % 3)) for i in range(60)])
    first, second = (carve_validation(manifest, 0.2, seed) for seed in (0, 1))
    assert first.split("val") != second.split("val")


def test_a_manifest_with_validation_clips_is_left_alone() -> None:
    manifest = make(*GOOD, ("v", "val", "a"))
    assert carve_validation(manifest, 0.5, 0) is manifest
    assert carve_validation(make(*GOOD), 0.0, 0) == make(*GOOD)


@pytest.mark.parametrize(("fraction", "by"), [(1.0, "auto"), (-0.1, "auto"), (float("nan"), "auto"), (0.1, "groups")])
def test_wrong_carving_options_are_recipe_errors(fraction: float, by: str) -> None:
    with pytest.raises(RecipeError):
        carve_validation(make(*GOOD), fraction, 0, by)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [(("walk",), "the label 'run' is no class of 'action'"), (("run", "walk", "run"), "two classes of one name")],
)
def test_fixed_classes_hold_every_label_once(tmp_path: Path, fixed: tuple[str, ...], message: str) -> None:
    labels = ("walk", "run", "walk", "run")
    clips = tuple(
        Clip(str(number), ("train", "test")[number // 2], {"action": label}, {"rgb": f"{number}.mp4"})
        for number, label in enumerate(labels)
    )
    check(Manifest(tmp_path, clips, fixed_classes={"action": ("run", "sit", "walk")}))
    with pytest.raises(DataError, match=message):
        check(Manifest(tmp_path, clips, fixed_classes={"action": fixed}))
