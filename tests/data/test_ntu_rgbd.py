from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.data.formats import FORMATS
from vidistill.data.formats.ntu_rgbd import (
    TRAIN_PERFORMERS,
    NtuName,
    oversampled,
    parse_name,
    read_ntu_rgbd,
    subsampled,
    trains,
)
from vidistill.data.manifest import Manifest, check

NAMES = [
    f"S001C{camera:03d}P{performer:03d}R{repetition:03d}A{action:03d}"
    for camera, performer, repetition, action in itertools.product((1, 2, 3), (1, 3), (1, 2), (1, 2, 55))
]


def read(root: Path, **options: object) -> Manifest:
    return read_ntu_rgbd(root, **check_options(read_ntu_rgbd, options, where="data", skip=1))


def raw(root: Path) -> Path:
    for folder, ending in (("nturgb+d_rgb", "_rgb.avi"), ("nturgb+d_skeletons", ".skeleton")):
        (root / folder).mkdir()
        for name in NAMES:
            (root / folder / (name + ending)).write_bytes(b"x")
    (root / "nturgb+d_depth_masked" / NAMES[0]).mkdir(parents=True)
    return root


@given(parts=st.tuples(*(st.integers(1, most) for most in (999, 3, 40, 999, 60))))
def test_a_name_is_read_as_it_is_written(parts) -> None:
    name = "S{:03d}C{:03d}P{:03d}R{:03d}A{:03d}".format(*parts)
    assert parse_name(name) == NtuName(*parts)


@pytest.mark.parametrize(
    "name",
    ["", "S001C002P003R002A13", "s001C002P003R002A013", "S001C002P003R002A013 ", "S001C002P003R002A01٣",
     "S001C002P003R002A061", "S001C002P003R002A000", "S018C002P041R002A013", "S001C004P003R002A013"],
)  # fmt: skip
def test_what_is_no_name_is_refused(name) -> None:
    with pytest.raises(DataError, match="here: "):
        parse_name(name, "here")


def test_half_of_the_performers_or_two_of_the_cameras_train() -> None:
    assert len(TRAIN_PERFORMERS) == 20
    assert trains(parse_name("S001C001P038R001A001"), "cross_subject")
    assert not trains(parse_name("S001C001P038R001A001"), "cross_view")
    assert trains(parse_name("S001C003P040R001A001"), "cross_view")


def test_raw_files_give_clips_with_what_is_there_for_each(tmp_path) -> None:
    manifest = read(raw(tmp_path))
    assert Counter(clip.split for clip in manifest.clips) == {"train": 18, "test": 18}
    assert manifest.classes == {"action": ("A001", "A002", "A055")}
    first = next(clip for clip in manifest.clips if clip.id == NAMES[0])
    assert first.sources == {
        "rgb": f"nturgb+d_rgb/{NAMES[0]}_rgb.avi",
        "depth": f"nturgb+d_depth_masked/{NAMES[0]}",
        "skeleton": f"nturgb+d_skeletons/{NAMES[0]}.skeleton",
    }
    assert (first.group, first.fps) == ("P001", 30.0)
    assert {clip.group for clip in manifest.split("test")} == {"P003"}
    check(manifest)
    assert Counter(clip.split for clip in read(tmp_path, protocol="cross_view").clips) == {"train": 24, "test": 12}


def test_the_published_layout_is_folders_of_frames_and_features(tmp_path) -> None:
    for folder in ("rgb", "oflow", "depth"):
        (tmp_path / folder / NAMES[0]).mkdir(parents=True)
        (tmp_path / folder / "notes.txt").touch()
    for kind in ("jjd", "jjv"):
        (tmp_path / "skeleton" / kind).mkdir(parents=True)
        np.save(tmp_path / "skeleton" / kind / f"{NAMES[1]}.npy", np.zeros((3, 4)))
    one, two = read(tmp_path, features="jjv").clips
    assert one.sources == {"rgb": f"rgb/{NAMES[0]}", "flow": f"oflow/{NAMES[0]}", "depth": f"depth/{NAMES[0]}"}
    assert two.sources == {"skeleton": f"skeleton/jjv/{NAMES[1]}.npy"}


def test_clips_of_defective_skeletons_lack_them(tmp_path) -> None:
    (raw(tmp_path) / "missing.txt").write_text(f"2 samples have no\nskeletons:\n{NAMES[0]}\n{NAMES[5]}.skeleton\n")
    lacking = [c.id for c in read(tmp_path, missing_skeletons="missing.txt").clips if "skeleton" not in c.sources]
    assert sorted(lacking) == sorted([NAMES[0], NAMES[5]])
    for text, says in ((f"{NAMES[0]}\nS001\n", "line 2: 'S001'"), ("nothing\n", "names no clip")):
        (tmp_path / "missing.txt").write_text(text)
        with pytest.raises(DataError, match=says):
            read(tmp_path, missing_skeletons="missing.txt")
    with pytest.raises(DataError, match="is missing"):
        read(tmp_path, missing_skeletons="absent.txt")


def test_a_subset_is_of_train_only_and_repeats_nothing_unless_released(tmp_path) -> None:
    raw(tmp_path)
    some = read(tmp_path, subsample=4)
    assert Counter((c.split, c.labels["action"]) for c in some.clips if c.split == "train") == {
        ("train", label): 4 for label in ("A001", "A002", "A055")
    }
    assert len(some.split("test")) == 18
    assert len(read(tmp_path, subsample=100).clips) == 36
    released = read(tmp_path, subsample=8, variant="released")
    assert Counter(clip.split for clip in released.clips) == {"train": 24, "test": 24}
    assert len({clip.id for clip in released.clips}) == 48
    assert len({clip.sources["rgb"] for clip in released.clips}) == 36
    check(released)


def test_two_person_classes_are_repeated_in_train_when_asked(tmp_path) -> None:
    raw(tmp_path)
    manifest = read(tmp_path, oversample=True)
    assert Counter(clip.split for clip in manifest.clips) == {"train": 19, "test": 18}
    assert [clip.id for clip in manifest.clips if "~" in clip.id] == ["S001C001P001R001A055~2"]
    with pytest.raises(RecipeError, match="without oversample"):
        read(tmp_path, oversample=True, subsample=2)
    with pytest.raises(RecipeError, match="subsample"):
        read(tmp_path, subsample=-1)


@given(count=st.integers(0, 40), wanted=st.integers(1, 50))
def test_subsets_are_spread_from_the_first_to_the_last(count, wanted) -> None:
    names = [f"S{number:03d}C001P001R001A007" for number in range(count)]
    some = subsampled(names, wanted)
    assert len(some) == len(set(some)) == min(wanted, count)
    if count:
        assert some[0] == names[0] and (wanted == 1 or some[-1] == names[-1])
        assert set(subsampled(names, wanted, "released")) <= set(names)
        assert len(subsampled(names, wanted, "released")) == wanted


def test_oversampling_adds_after_the_sorted_names() -> None:
    names = [f"S{number:03d}C001P001R001A060" for number in range(6)]
    assert oversampled(names[::-1])[:6] == names
    assert len(oversampled(names)) == 6 + 6 + 3 + 2


def test_stray_files_and_wrong_class_names_are_named(tmp_path) -> None:
    raw(tmp_path)
    (tmp_path / "names.txt").write_text("drink\n" * 60)
    with pytest.raises(DataError, match="'drink' is there twice"):
        read(tmp_path, class_names="names.txt")
    (tmp_path / "names.txt").write_text("".join(f"action {n}\n" for n in range(60)))
    assert read(tmp_path, class_names="names.txt").classes["action"] == ("action 0", "action 1", "action 54")
    (tmp_path / "nturgb+d_skeletons" / "copy of S001.skeleton").touch()
    with pytest.raises(DataError, match=r"copy of S001.skeleton: 'copy of S001' is not a clip's name"):
        read(tmp_path)
    assert "ntu_rgbd" in FORMATS
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(DataError, match=str(root)):
            read(root)
