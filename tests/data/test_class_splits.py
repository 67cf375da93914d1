from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Clip
from vidistill.data.class_splits import by_class, check_disjoint, read_lists, video_key
from vidistill.data.formats import FORMATS
from vidistill.data.manifest import Manifest

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "fewshot"


def write(folder: Path, **lists: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def read(root: Path, **options: object) -> Manifest:
    reader = FORMATS.get("fewshot_lists")
    return reader(root, **check_options(reader, options, where="data", skip=1))


def clip(name: str, label: str | None, split: str = "train") -> Clip:
    return Clip(name, split, {"action": label} if label else {}, {"rgb": f"{name}.mp4"})


MANIFEST = Manifest(Path("x"), tuple(clip(f"{label}{i}", label) for label in ("a", "b", "c", "d") for i in range(3)))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("air drumming/-VtLx-mcPds_000012_000022", "-vtlx-mcpds_000012_000022"),
        ("brush_hair/(Rad) Bürste!_x_0.AVI", "(rad)_bürste!_x_0"),
        ("train8/78687", "78687"),
        ("a/Mr._Smith", "mr._smith"),
        (" v.webm ", "v"),
    ],
)
def test_videos_meet_by_name_in_lower_case_with_underscores(name, key) -> None:
    assert video_key(name) == key


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not on this machine")
@pytest.mark.parametrize(
    ("name", "clips", "classes"),
    [
        ("hmdb_ARN", (4280, 1194, 1292), (31, 10, 10)),
        ("ucf_ARN", (9154, 1421, 2745), (70, 10, 21)),
        ("kinetics_CMN", (6400, 1200, 2400), (64, 12, 24)),
        ("ssv2_OTAM", (0, 1926, 2857), (0, 12, 24)),
    ],
)
def test_published_lists_have_their_official_counts(name, clips, classes) -> None:
    entries = read_lists(PUBLISHED / name).values()
    counts = Counter(entry.part for entry in entries)
    labels = Counter(part for part, _ in {(entry.part, entry.label) for entry in entries})
    assert tuple(counts[part] for part in ("train", "val", "test")) == clips
    assert tuple(labels[part] for part in ("train", "val", "test")) == classes


def test_videos_in_class_folders_get_the_part_of_their_list(tmp_path: Path) -> None:
    write(
        tmp_path / "lists",
        trainlist03="air drumming/AbC_1\nair drumming/AbC_2\n",
        vallist03="jog/x 1\n",
        testlist03="wave/w1\nwave/gone\n",
    )
    touch(tmp_path / "videos", "air_drumming/abc_1.mp4", "air_drumming/ABC_2.avi", "jog/x_1.webm", "wave/w1.mp4")
    touch(tmp_path / "videos", "wave/extra.mp4", "wave/notes.txt", "wave/.hidden.mp4")
    manifest = read(tmp_path)
    assert {c.id: (c.split, c.labels["action"]) for c in manifest.clips} == {
        "air_drumming/abc_1": ("train", "air_drumming"),
        "air_drumming/ABC_2": ("train", "air_drumming"),
        "jog/x_1": ("val", "jog"),
        "wave/w1": ("test", "wave"),
    }
    assert {(p.clip, p.kind) for p in manifest.problems} == {("wave/extra", "unlisted"), ("wave/gone", "missing")}
    assert all((manifest.root / c.sources["rgb"]).is_file() for c in manifest.clips)


def test_videos_in_one_folder_get_the_class_of_their_list(tmp_path: Path) -> None:
    write(tmp_path / "splits", trainlist07="Pouring something/5\n", testlist07="Turning it/7\nTurning it/8")
    manifest = read(touch(tmp_path, "5.webm", "7.webm", "8.webm", "9.webm"))
    assert [(c.id, c.split, c.labels["action"]) for c in manifest.clips] == [
        ("5", "train", "Pouring_something"),
        ("7", "test", "Turning_it"),
        ("8", "test", "Turning_it"),
    ]
    assert [(p.clip, p.kind) for p in manifest.problems] == [("9", "unlisted")]


def test_folders_of_images_are_clips(tmp_path: Path) -> None:
    write(tmp_path / "lists", trainlist01="a/v.1\n", testlist01="b/v2")
    touch(tmp_path / "rgb_l8", "a/v.1/00000001.jpg", "a/v.1/00000002.jpg", "b/v2/00000001.jpg")
    manifest = read(tmp_path, videos="rgb_l8")
    assert [(c.id, c.split, c.sources["rgb"]) for c in manifest.clips] == [
        ("a/v.1", "train", "a/v.1"),
        ("b/v2", "test", "b/v2"),
    ]


def test_of_two_videos_of_one_name_the_one_in_the_listed_class_counts(tmp_path: Path) -> None:
    write(tmp_path / "lists", trainlist01="a a/v\na a/u\n", testlist01="b/w")
    touch(tmp_path / "videos", "a_a/v.mp4", "a_a/u.mp4", "b/v.mp4", "b/w.mp4")
    assert [(c.id, c.split) for c in read(tmp_path).clips] == [("a_a/u", "train"), ("a_a/v", "train"), ("b/w", "test")]
    touch(tmp_path / "videos", "a_a/v.avi")
    with pytest.raises(DataError, match="video 'v' is there 3 times"):
        read(tmp_path)


def test_the_split_is_chosen_where_there_are_several(tmp_path: Path) -> None:
    write(tmp_path / "lists", trainlist01="a/v", testlist01="b/w", trainlist02="b/w", testlist02="a/v")
    touch(tmp_path / "videos", "a/v.mp4", "b/w.mp4")
    assert {c.id: c.split for c in read(tmp_path, split=2).clips} == {"a/v": "test", "b/w": "train"}
    with pytest.raises(DataError, match=r"splits \[1, 2\].*Choose one with: split"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no lists of split 3.*Have: \[1, 2\]"):
        read(tmp_path, split=3)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"trainlist01": "a/v\n", "testlist01": "b/w\na/V"}, r"trainlist01.txt: line 1: video 'v' is in the lists of"),
        ({"trainlist01": "a/v\nw\n"}, r"trainlist01.txt: line 2: 'w' is not 'class/video'"),
        ({"trainlist01": "c/other"}, "none of the 3 clips is in the lists, which name 1 videos"),
        ({"trainlist01": "a/v", "testlist01": "a/u"}, r"class 'a' is in .* Few-shot parts may not share classes"),
        ({"notes": ""}, "there is no {train,val,test}listNN.txt.*with: lists"),
    ],
)
def test_wrong_lists_are_told_in_one_line(tmp_path: Path, lists, message) -> None:
    write(tmp_path / "lists", **lists)
    touch(tmp_path / "videos", "a/v.mp4", "a/u.mp4", "b/w.mp4")
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.lists(st.sampled_from(["train", "val", "test"]), min_size=4, max_size=4))
def test_every_class_is_in_one_part_and_no_clip_is_lost(parts) -> None:
    named = {part: [label for label, own in zip("abcd", parts, strict=True) if own == part] for part in parts}
    if not named.get("test") or "train" not in named:
        with pytest.raises(RecipeError):
            by_class(MANIFEST, val=named.get("val", []), test=named.get("test", []))
        return
    manifest = by_class(MANIFEST, val=named.get("val", []), test=named["test"])
    check_disjoint(manifest)
    assert [c.id for c in manifest.clips] == [c.id for c in MANIFEST.clips]
    assert {c.labels["action"]: c.split for c in manifest.clips} == dict(zip("abcd", parts, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": ["jmup"], "val": ["a"]}, "test names an unknown class 'jmup'"),
        ({"test": ["a", "b"], "val": ["b"]}, "class 'b' is named for val and test"),
        ({"test": ["a", "a"]}, "class 'a' is named for test and test"),
        ({"test": []}, "no class is named for test"),
        ({"test": ["a", "b"], "val": ["c", "d"]}, "all 4 classes are named.*Leave some for train"),
    ],
)
def test_wrong_classes_are_told_in_one_line(options, message) -> None:
    with pytest.raises(RecipeError, match=message):
        by_class(MANIFEST, **options)


def test_a_clip_of_no_class_is_a_problem() -> None:
    manifest = by_class(Manifest(Path("x"), (*MANIFEST.clips, clip("e", None))), test=["a"])
    assert [(p.clip, p.kind) for p in manifest.problems] == [("e", "unlabelled")]
    assert len(manifest.clips) == 12


def test_a_class_in_two_parts_is_refused_with_a_clip_of_each() -> None:
    torn = Manifest(Path("x"), (clip("a0", "a"), clip("a1", "a", "test")))
    with pytest.raises(DataError, match=r"class 'a' is in train \('a0'\) and in test \('a1'\)"):
        check_disjoint(torn)
