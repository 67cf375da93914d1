from __future__ import annotations

from pathlib import Path

import pytest

from vidistill.core.errors import DataError
from vidistill.data.formats import FORMATS
from vidistill.data.formats.frame_lists import read_frame_list, read_frame_lists

TRAIN = ["v_Archery_g01_c01 3 0", "v_HandStandPushups_g02_c01 2 1"]
TEST = ["v_Archery_g03_c01 2 0"]


def make(root: Path, train: list[str] = TRAIN, test: list[str] = TEST, folders: dict[str, str] | None = None) -> Path:
    (root / "train_rgb_split1.txt").write_text("\n".join(train))
    (root / "val_rgb_split1.txt").write_text("\n".join(test))
    for line in (*train, *test):
        name, frames, _ = line.split()
        label = name.split("_")[1]
        place = root / "frames" / (folders or {}).get(label, label) / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(1, int(frames) + 1):
            (place / f"image_{number:05d}.jpg").touch()
    return root


def test_lists_and_folders_make_clips_in_the_lists_order(tmp_path) -> None:
    manifest = read_frame_lists(make(tmp_path))
    assert [(clip.id, clip.split, clip.frames, clip.end) for clip in manifest.clips] == [
        ("v_Archery_g01_c01", "train", 3, None),
        ("v_HandStandPushups_g02_c01", "train", 2, None),
        ("v_Archery_g03_c01", "test", 2, None),
    ]
    assert manifest.clips[0].labels == {"action": "Archery"} and manifest.clips[0].group == "g01"
    assert manifest.clips[0].sources == {"rgb": "Archery/v_Archery_g01_c01"}
    assert manifest.root == tmp_path / "frames" and not manifest.problems
    assert FORMATS.get("frame_lists") is read_frame_lists


def test_the_archives_spelling_of_handstand_pushups_is_found(tmp_path) -> None:
    manifest = read_frame_lists(make(tmp_path, folders={"HandStandPushups": "HandstandPushups"}))
    assert manifest.clips[1].sources["rgb"] == "HandstandPushups/v_HandStandPushups_g02_c01"
    assert manifest.clips[1].labels["action"] == "HandStandPushups"


def test_a_missing_frame_or_folder_is_a_problem_that_is_named(tmp_path) -> None:
    make(tmp_path)
    (tmp_path / "frames/Archery/v_Archery_g01_c01/image_00002.jpg").unlink()
    (tmp_path / "frames/Archery/v_Archery_g03_c01").rename(tmp_path / "gone")
    manifest = read_frame_lists(tmp_path)
    assert [clip.id for clip in manifest.clips] == ["v_HandStandPushups_g02_c01"]
    assert [(problem.clip, problem.kind) for problem in manifest.problems] == [
        ("v_Archery_g01_c01", "short"),
        ("v_Archery_g03_c01", "missing"),
    ]
    assert "frame 2 of the 3 listed ones" in manifest.problems[0].message


def test_frames_beyond_the_listed_number_are_cut_off(tmp_path) -> None:
    make(tmp_path)
    (tmp_path / "frames/Archery/v_Archery_g01_c01/image_00004.jpg").touch()
    assert read_frame_lists(tmp_path, fps=10.0).clips[0].end == pytest.approx(0.3)


def test_numbers_as_classes_keep_their_order(tmp_path) -> None:
    manifest = read_frame_lists(make(tmp_path, test=["v_Archery_g03_c01 2 100"]), labels="number")
    assert manifest.classes["action"] == ("000", "001", "100")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["v_A_g01_c01 3"], TEST, "line 1: .* is not 'name frames label'"),
        (["v_A_g01_c01 x 0"], TEST, "line 1"),
        ([*TRAIN, "v_B_g01_c01 0 2"], TEST, "line 3: .*at least one frame"),
        (["../x_y 3 0"], TEST, "line 1"),
        ([TRAIN[0], TRAIN[0]], TEST, "line 2: .*there twice"),
        ([], TEST, "empty"),
        (TRAIN, [TRAIN[0]], "in both lists"),
        (TRAIN, ["v_Archery_g03_c01 2 5"], "'v_Archery_g03_c01' has class 5"),
        (TRAIN, ["v_Bowling_g03_c01 2 0"], "'v_Bowling_g03_c01' has class 0"),
        (TRAIN, ["plain 2 0"], "no class is in the name 'plain'"),
    ],
)
def test_wrong_lists_are_told_in_one_line(tmp_path, train, test, message) -> None:
    (tmp_path / "train_rgb_split1.txt").write_text("\n".join(train))
    (tmp_path / "val_rgb_split1.txt").write_text("\n".join(test))
    with pytest.raises(DataError, match=message) as caught:
        read_frame_lists(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_video_there_is_an_error(tmp_path) -> None:
    (tmp_path / "train_rgb_split1.txt").write_text(TRAIN[0])
    (tmp_path / "val_rgb_split1.txt").write_text(TEST[0])
    with pytest.raises(DataError, match="none of the 2 listed videos is there"):
        read_frame_lists(tmp_path)
    with pytest.raises(DataError, match="list of videos is missing"):
        read_frame_list(tmp_path / "no.txt")
