from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Clip
from vidistill.data.decoding import open_frames
from vidistill.data.formats import FORMATS, MADE
from vidistill.data.formats.base import source_video, table
from vidistill.data.manifest import Manifest, carve_validation, check, resolve, write_manifest


def read(name: str, root: Path, **options: object) -> Manifest:
    """Options go through the same check as a recipe's."""
    reader = FORMATS.get(name)
    return reader(root, **check_options(reader, options, where="data", skip=1))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def splits(manifest: Manifest) -> dict[str, int]:
    return dict(Counter(clip.split for clip in manifest.clips))


def test_all_formats_are_registered_and_take_checked_options() -> None:
    names = ["fir_room", "folder", "hmdb51", "jhmdb", "manifest", "ntu_rgbd", "pku_mmd", "ucf101", "utd_mhad"]
    assert set(names) <= set(FORMATS.names())
    with pytest.raises(RecipeError, match="Did you mean 'split'"):
        read("jhmdb", Path(), splitt=2)
    with pytest.raises(RecipeError, match="train_subjects"):
        read("utd_mhad", Path(), train_subjects="all")


@pytest.mark.parametrize("name", sorted(set(FORMATS.names()) - set(MADE)))  # those make their set there
def test_absent_and_empty_folders_are_data_errors(tmp_path: Path, name: str) -> None:
    for root in (tmp_path / "no", tmp_path):
        with pytest.raises(DataError) as caught:
            read(name, root)
        assert str(tmp_path) in str(caught.value)


def test_class_folders_are_divided_in_proportion_by_a_hash(tmp_path: Path) -> None:
    names = [
        f"{label}/clip {i} é.mp4" for label, size in (("gehen", 10), ("走る 1", 7), ("one", 1)) for i in range(size)
    ]
    manifest = read("folder", touch(tmp_path, *names, "gehen/Thumbs.db", "gehen/.hidden.mp4", ".git/x/a.mp4"))
    assert len(manifest.clips) == 18
    counts = Counter((clip.labels["action"], clip.split) for clip in manifest.clips)
    assert counts == {
        ("gehen", "train"): 7,
        ("gehen", "test"): 3,
        ("走る 1", "train"): 5,
        ("走る 1", "test"): 2,
        ("one", "train"): 1,
    }
    assert read("folder", tmp_path) == manifest
    assert read("folder", tmp_path, seed=1).split_hash != manifest.split_hash
    assert check(manifest) == ["class 'one' of 'action' has one clip"]
    assert all(resolve(manifest.root, clip.sources["rgb"])[0].is_file() for clip in manifest.clips)
    assert manifest.clips[0].id == "gehen/clip 0 é"


def test_a_new_clip_moves_no_other_class(tmp_path: Path) -> None:
    names = [f"{label}/{i}.mp4" for label in "ab" for i in range(10)]
    before = read("folder", touch(tmp_path, *names))
    after = read("folder", touch(tmp_path, "b/new.mp4"))
    assert {c.id: c.split for c in before.clips if c.id[0] == "a"} == {
        c.id: c.split for c in after.clips if c.id[0] == "a"
    }


def test_split_folders_are_the_splits(tmp_path: Path) -> None:
    root = touch(tmp_path, "Train/a/1.mp4", "Train/b/1.mov", "validation/a/2.mp4", "test/b/3.avi", "lists/all.txt")
    manifest = read("folder", root)
    assert [(clip.id, clip.split) for clip in manifest.clips] == [
        ("Train/a/1", "train"),
        ("Train/b/1", "train"),
        ("test/b/3", "test"),
        ("validation/a/2", "val"),
    ]
    touch(tmp_path, "extra/4.mp4")
    with pytest.raises(DataError, match="'extra' lies beside"):
        read("folder", root)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    manifest = read("folder", touch(tmp_path, "train/1.mp4", "train/2.mp4", "bus/1.mp4", "bus/2.mp4"))
    assert manifest.classes == {"action": ("bus", "train")}
    assert splits(manifest) == {"train": 2, "test": 2}


def test_clips_that_differ_by_extension_only_have_their_own_ids(tmp_path: Path) -> None:
    manifest = read("folder", touch(tmp_path, "a/1.mp4", "a/1.avi", "b/1.mp4", "b/v1.2.mp4"))
    assert [clip.id for clip in manifest.clips] == ["a/1.avi", "a/1.mp4", "b/1", "b/v1.2"]


def test_frame_folders_and_other_extensions_are_clips_too(tmp_path: Path) -> None:
    manifest = read("folder", touch(tmp_path, "a/clip.1/0001.jpg", "a/clip.2/0001.png", "b/x/readme.txt"))
    assert [clip.id for clip in manifest.clips] == ["a/clip.1", "a/clip.2"]
    only = read("folder", touch(tmp_path, "b/1.NPY", "b/2.mp4"), extensions=("npy",))
    assert [clip.id for clip in only.clips if clip.labels["action"] == "b"] == ["b/1"]


def test_loose_clips_and_wrong_fractions_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lie in no class folder. Put them in FOLDER/<class>/<clip>\.mp4"):
        read("folder", touch(tmp_path, "1.mp4", "2.mp4"))
    with pytest.raises(RecipeError, match="test_fraction"):
        read("folder", tmp_path, test_fraction=1.0)


def test_one_class_only_is_refused_by_the_check(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 class"):
        check(read("folder", touch(tmp_path, "a/1.mp4", "a/2.mp4")))


def test_the_manifest_format_reads_a_file_or_its_folder_and_names_missing_sources(tmp_path: Path) -> None:
    touch(tmp_path, "é 1.mp4", "poses.npz", "frames/0.jpg")
    rows = (
        Clip("a", "train", {"action": "x"}, {"rgb": "é 1.mp4", "pose": "poses.npz#a b"}),
        Clip("b", "train", {"action": "y"}, {"rgb": "frames"}),
        Clip("c", "test", {"action": "y"}, {"rgb": "gone.mp4"}),
        Clip("d", "test", {"action": "y"}, {}),
    )
    write_manifest(Manifest(tmp_path, rows), tmp_path / "manifest.csv")
    manifest = read("manifest", tmp_path)
    assert manifest.clips == rows[:2]
    assert [(p.clip, p.kind) for p in manifest.problems] == [("c", "missing"), ("d", "missing")]
    assert "gone.mp4" in manifest.problems[0].message
    assert read("manifest", tmp_path / "manifest.csv") == manifest


@pytest.mark.parametrize(("split", "train", "test"), [(1, 660, 268), (2, 658, 270), (3, 663, 265)])
def test_jhmdb_has_the_official_splits(shared_data: Path, split: int, train: int, test: int) -> None:
    manifest = read("jhmdb", shared_data / "jhmdb", split=split)
    assert splits(manifest) == {"train": train, "test": test}
    assert len(manifest.classes["action"]) == 21
    assert manifest.problems == ()
    assert check(manifest) == []
    posed = [clip for clip in manifest.clips if "pose" in clip.sources]
    assert len(posed) == 430
    path, key = resolve(manifest.root, posed[7].sources["pose"])
    with open_frames(path, key) as poses:
        assert poses.values.shape[1:] == (15, 2)
        assert poses.frames == posed[7].frames


def test_jhmdb_frames_are_as_listed_and_validation_tears_no_recording(shared_data: Path) -> None:
    manifest = read("jhmdb", shared_data / "jhmdb")
    for clip in manifest.clips[::100]:
        with open_frames(resolve(manifest.root, clip.sources["rgb"])[0]) as source:
            assert source.frames == clip.frames
            assert source.rate == pytest.approx(30.0)
    carved = carve_validation(manifest, 0.15, seed=0)
    groups = {part: {clip.group for clip in carved.split(part)} for part in ("train", "val", "test")}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test"]
    assert {clip.labels["action"] for clip in carved.split("val")} == set(manifest.classes["action"])
    assert 80 <= len(carved.split("val")) <= 120


def test_jhmdb_tables_with_wrong_cells_name_file_row_and_column(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="splits 1, 2 and 3"):
        read("jhmdb", tmp_path, split=4)
    header = "video,label,frames,split1\n"
    for rows, says in (
        ("video,label,split1\n", "column 'frames' is missing"),
        (header + "video/a/1.mp4,a,many,train\n", "row 2: column 'frames' holds 'many'"),
        (header + "video/a/1.mp4,a,9,maybe\n", "row 2: column 'split1' holds 'maybe'"),
        (header + "video/a/1.mp4,,9,train\n", "row 2: column 'label' is empty"),
        (header + "video/a/1.mp4,a,9,train\n", "none of the 1 listed clips is there"),
        (header + "../a/1.mp4,a,9,train\n", "leaves the manifest's folder"),
    ):
        (tmp_path / "manifest.csv").write_text(rows)
        with pytest.raises(DataError, match=says):
            read("jhmdb", tmp_path)


def test_a_table_in_another_encoding_or_with_null_bytes_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    for content in ("video,label,frames,split1\nvideo/a/1.mp4,caf\xe9,9,train\n".encode("latin-1"), b"\0", b"a,\0\n"):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read("jhmdb", tmp_path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    path.write_text("video,label,frames,split1\nvideo/a/1.mp4,a," + "9" * 5000 + ",train\n")
    with pytest.raises(DataError, match="row 2: column 'frames' holds '9{40}', not a whole number"):
        read("jhmdb", tmp_path)


def test_cells_that_a_row_lacks_are_empty_and_those_too_many_are_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffa,b,c\n1\n\n2,3,4,5\n", encoding="utf-8")
    assert table(tmp_path / "t.csv", ("a",)) == [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]
    with pytest.raises(DataError, match="t.csv: row 2: column 'b' is empty"):
        table(tmp_path / "t.csv", ("a", "b"))


def test_a_missing_clip_is_a_problem_by_name_and_the_rest_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "video/a/1.mp4")
    rows = "video,label,frames,split1\nvideo/a/1.mp4,a,9,train\nvideo/a/2.mp4,a,9,test\n"
    (tmp_path / "manifest.csv").write_text(rows)
    manifest = read("jhmdb", tmp_path)
    assert [clip.id for clip in manifest.clips] == ["a/1"]
    assert [(p.clip, p.kind) for p in manifest.problems] == [("a/2", "missing")]


def test_utd_mhad_has_the_usual_protocol(shared_data: Path) -> None:
    manifest = read("utd_mhad", shared_data / "utd_mhad")
    assert splits(manifest) == {"train": 431, "test": 430}
    assert len(manifest.classes["action"]) == 27
    assert manifest.modalities == ("depth", "skeleton", "inertial")
    assert {clip.group for clip in manifest.split("train")} == {"s1", "s3", "s5", "s7"}
    assert check(manifest) == []
    clip = manifest.clips[100]
    path, key = resolve(manifest.root, clip.sources["skeleton"])
    with open_frames(path, key) as skeleton, open_frames(resolve(manifest.root, clip.sources["depth"])[0]) as depth:
        assert skeleton.values.shape == (clip.frames, 20, 3)
        assert abs(depth.frames - skeleton.frames) <= 1


def test_utd_mhad_subjects_can_be_chosen(shared_data: Path) -> None:
    manifest = read("utd_mhad", shared_data / "utd_mhad", train_subjects=[1, 2, 3, 4, 5, 6, 7])
    assert {clip.group for clip in manifest.split("test")} == {"s8"}
    with pytest.raises(RecipeError, match="s9, who is in no clip"):
        read("utd_mhad", shared_data / "utd_mhad", train_subjects=(1, 9))


def test_ucf101_has_the_official_split(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "annotations" / "ucf101"
    lines = [(lists / f"{part}list01.txt").read_text().split() for part in ("train", "test")]
    names = [name for part in lines for name in part if name.endswith(".avi")]
    media = tmp_path / "UCF-101"
    for label in {name.split("/")[0] for name in names}:
        (media / label).mkdir(parents=True)
    for name in names:
        (media / name).touch()
    manifest = read("ucf101", tmp_path, lists=str(lists))
    assert splits(manifest) == {"train": 9537, "test": 3783}
    assert len(manifest.classes["action"]) == 101
    assert {clip.group for clip in manifest.split("test")} == {f"g{number:02d}" for number in range(1, 8)}
    assert check(manifest) == []
    carved = carve_validation(manifest, 0.1, seed=0)
    assert {clip.labels["action"] for clip in carved.split("val")} == set(manifest.classes["action"])
    assert len(carved.split("val")) == pytest.approx(954, rel=0.2)


def test_hmdb51_has_70_train_and_30_test_clips_a_class(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "annotations" / "hmdb51"
    for path in lists.glob("*_test_split1.txt"):
        label = path.name.removesuffix("_test_split1.txt")
        (tmp_path / label).mkdir()
        for line in path.read_text().splitlines():
            if line.strip():
                (tmp_path / label / line.split()[0]).touch()
    manifest = read("hmdb51", tmp_path, lists=str(lists))
    assert splits(manifest) == {"train": 3570, "test": 1530}
    counts = Counter((clip.labels["action"], clip.split) for clip in manifest.clips)
    assert set(counts.values()) == {70, 30}
    assert len(manifest.classes["action"]) == 51
    assert manifest.problems == ()
    assert check(manifest) == []


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_official_lists_with_wrong_lines_name_file_and_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="splits 1, 2 and 3"):
        read(name, tmp_path, split=0)
    touch(tmp_path, "walk/a.avi")
    (tmp_path / "classInd.txt").write_text("1 walk\n")
    (tmp_path / "trainlist01.txt").write_text("walk/a.avi 1\nrun/b.avi 2\n")
    (tmp_path / "walk_test_split1.txt").write_text("a.avi 1 \nb.avi 3 \n")
    with pytest.raises(DataError, match=r"(trainlist01|walk_test_split1)\.txt: line 2"):
        read(name, tmp_path)


def test_the_recording_of_a_clip_is_in_its_name() -> None:
    assert source_video("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair") == "April_09"
    assert source_video("my walk_12", "run") == "my walk"


def test_containers_named_by_readers_exist_as_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "jhmdb_pose_world_confident.npz", **{"a/1 é": np.zeros((4, 15, 2), np.float32)})
    touch(tmp_path, "video/a/1 é.mp4", "video/a/2.mp4")
    rows = "video,label,frames,split1\nvideo/a/1 é.mp4,a,4,train\nvideo/a/2.mp4,a,4,test\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8")
    first, second = read("jhmdb", tmp_path).clips
    assert second.sources == {"rgb": "video/a/2.mp4"}
    with open_frames(*resolve(tmp_path, first.sources["pose"])) as poses:
        assert poses.frames == 4
