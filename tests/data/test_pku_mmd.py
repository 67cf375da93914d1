from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Segment
from vidistill.data.formats.pku_mmd import LabelRow, read_labels, read_pku_mmd, split_names, thinned
from vidistill.data.manifest import Manifest, carve_validation, check, read_manifest, write_manifest

SPLIT = "Training videos: \n0002-M, 0002-L, 0004-L, 0005-R, \nValidataion videos:\n0003-M, 0003-L, "


def read(root: Path, **options: object) -> Manifest:
    return read_pku_mmd(root, **check_options(read_pku_mmd, options, where="data", skip=1))


def raw(root: Path) -> Path:
    for folder, ending in (("RGB_VIDEO", ".avi"), ("PKU_Skeleton_Renew", ".txt"), ("Label_PKU_Final", ".txt")):
        (root / folder).mkdir()
        for name in ("0002-M", "0002-L", "0004-L", "0005-R", "0003-M", "0003-L"):
            (root / folder / (name + ending)).write_text("24,60,90,2\n7,0,30,1\n" if "Label" in folder else "x")
    (root / "Split").mkdir()
    (root / "Split" / "cross-subject.txt").write_text(SPLIT)
    return root


def test_raw_files_give_untrimmed_clips_with_segments_in_seconds(tmp_path) -> None:
    manifest = read(raw(tmp_path))
    assert [clip.id for clip in manifest.split("train")] == ["0002-L", "0002-M", "0004-L", "0005-R"]
    assert [clip.id for clip in manifest.split("test")] == ["0003-L", "0003-M"]
    clip = manifest.clips[0]
    assert clip.labels == {} and clip.group == "0002" and clip.frames is None
    assert clip.segments == {"action": (Segment(0.0, 1.0, "07"), Segment(2.0, 3.0, "24"))}
    assert clip.sources == {"rgb": "RGB_VIDEO/0002-L.avi", "skeleton": "PKU_Skeleton_Renew/0002-L.txt"}
    assert check(manifest, ["action"]) == []
    write_manifest(manifest, tmp_path / "all.csv")
    assert read_manifest(tmp_path / "all.csv").clips == manifest.clips
    carve_validation(manifest, 0.3, seed=0)


def test_class_names_sort_as_the_published_numbers(tmp_path) -> None:
    raw(tmp_path)
    rows = "".join(f"{label},{40 * label},{40 * label + 30},2\n" for label in range(1, 52))
    (tmp_path / "Label_PKU_Final" / "0002-L.txt").write_text(rows)
    assert read(tmp_path).classes["action"] == tuple(f"{label:02d}" for label in range(1, 52))
    (tmp_path / "names.txt").write_text("".join(f"does {label}\n" for label in range(1, 52)))
    assert "does 24" in read(tmp_path, class_names="names.txt").classes["action"]
    (tmp_path / "names.txt").write_text("bow\n")
    with pytest.raises(DataError, match="1 class names, but there are 51"):
        read(tmp_path, class_names="names.txt")


def test_the_published_layout_is_counted_in_frames(tmp_path) -> None:
    raw(tmp_path)
    for folder in ("RGB_VIDEO", "PKU_Skeleton_Renew"):
        (tmp_path / folder).rename(tmp_path / f"old {folder}")
    for name in ("0002-M", "0002-L", "0003-M"):
        (tmp_path / "rgb" / name).mkdir(parents=True)
        for frame in range(1, 81):
            (tmp_path / "rgb" / name / f"RGB-{frame:08d}.jpg").touch()
    (tmp_path / "skeleton" / "jld").mkdir(parents=True)
    (tmp_path / "skeleton" / "jld" / "0002-M.npy").touch()
    manifest = read(tmp_path, features="jld")
    assert {clip.id: clip.frames for clip in manifest.clips} == dict.fromkeys(("0002-L", "0002-M", "0003-M"), 80)
    assert manifest.clips[1].sources == {"rgb": "rgb/0002-M", "skeleton": "skeleton/jld/0002-M.npy"}
    assert "skeleton" not in manifest.clips[0].sources, "a modality may be missing"
    assert manifest.clips[0].segments["action"][-1].end == 80 / 30, "an end a little beyond the frames is cut"
    assert {problem.clip for problem in manifest.problems} == {"0004-L", "0005-R", "0003-L"}


def test_train_is_thinned_and_test_never(tmp_path) -> None:
    manifest = read(raw(tmp_path), subsample=2)
    assert [clip.id for clip in manifest.clips] == ["0002-L", "0004-L", "0003-L", "0003-M"]
    assert thinned(["a", "b"], 0) == thinned(["a", "b"], 1) == ["a", "b"]
    with pytest.raises(RecipeError, match="subsample"):
        read(tmp_path, subsample=-2)


names = st.lists(st.from_regex(r"[0-9]{4}-[LMR]", fullmatch=True), min_size=2, max_size=12, unique=True)


@given(listed=names, data=st.data(), trailing=st.booleans(), newline=st.sampled_from(["\n", "\r\n"]))
def test_a_split_list_loses_nobody_with_or_without_a_last_separator(listed, data, trailing, newline) -> None:
    cut = data.draw(st.integers(1, len(listed) - 1))
    end = ", " if trailing else ""
    lines = ["Training videos: ", ", ".join(listed[:cut]) + end, "Validataion videos: ", ", ".join(listed[cut:]) + end]
    assert split_names(newline.join(lines), "s") == {"train": listed[:cut], "test": listed[cut:]}


def test_the_released_reading_of_a_split_list_needs_the_last_separator() -> None:
    text = "Training videos: \n0002-M, 0002-L, \nValidataion videos: \n0003-M, 0003-L"
    assert split_names(text, "s", "released") == {"train": ["0002-M", "0002-L"], "test": ["0003-M"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0002-M\n", "line 1: '0002-M' stands before any heading"),
        ("Training videos:\n0002-M\n", "lists no videos of test"),
        ("", "lists no videos of train"),
        ("Training videos:\n0002-M, 2-M\nValidation videos:\n0003-M", "line 2: '2-M' is not a recording's name"),
        ("Training videos:\n0002-M\nValidation videos:\n0002-M", "line 4: '0002-M' is listed twice"),
        ("Some videos:\n0002-M", "line 1: 'Some videos:' is no known heading"),
    ],
)
def test_wrong_split_lists_name_file_and_line(tmp_path, text, says) -> None:
    (raw(tmp_path) / "other.txt").write_text(text)
    with pytest.raises(DataError, match=f"other.txt: .*{says}|other.txt: {says}"):
        read(tmp_path, split_file="other.txt")


def test_a_protocol_without_its_split_file_says_which(tmp_path) -> None:
    with pytest.raises(DataError, match=r"cross-view.txt: the split file is missing"):
        read(raw(tmp_path), protocol="cross_view")


rows = st.tuples(st.integers(1, 51), st.integers(0, 9999), st.integers(1, 500), st.integers(0, 2)).map(
    lambda row: LabelRow(row[0], row[1], row[1] + row[2], row[3])
)


@given(listed=st.lists(rows, max_size=8), newline=st.sampled_from(["", "\n", "\n\n", "\r\n"]))
def test_a_label_file_of_any_number_of_rows_is_read_back(listed, newline) -> None:
    text = "\n".join(",".join(map(str, row)) for row in listed) + newline
    assert read_labels(text, "l") == listed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("24,1,2,2\n0,1,2,2\n", "line 2: class 0 is not one of 1 to 51"),
        ("52,1,2,2\n", "line 1: class 52"),
        ("24,9,9,2\n", "line 1: the segment 9 to 9 is empty or reversed"),
        ("24,9,3,2\n", "line 1: the segment 9 to 3"),
        ("24,-1,3,2\n", "line 1: the field start holds '-1'"),
        ("24,1.5,3,2\n", "line 1: the field start holds '1.5'"),
        ("24,1,x,2\n", "line 1: the field end holds 'x'"),
        ("24,1,2\n", "line 1: 3 fields, not 4"),
        ("24 1 2 2\n", "line 1: 1 fields, not 4"),
        ("24,1,99999999999999999999,2\n", "line 1: the field end"),
        ("24,100,101,2\n", "line 1: the segment 100 to 101 is beyond the 100 frames"),
        ("24,1,131,2\n", "line 1: the segment 1 to 131 is beyond"),
    ],
)
def test_wrong_labels_name_line_and_field(text, says) -> None:
    with pytest.raises(DataError, match=f"l: {says}"):
        read_labels(text, "l", frames=100)


def test_one_recording_with_wrong_labels_is_a_problem_and_the_rest_is_read(tmp_path) -> None:
    labels = raw(tmp_path) / "Label_PKU_Final"
    (labels / "0002-L.txt").write_text("")
    (labels / "0002-M.txt").write_text("24,60\n")
    (labels / "0003-L.txt").unlink()
    (labels / "0004-L.txt").write_bytes(b"\xff\xfe\x00")
    manifest = read(tmp_path)
    assert manifest.clips[0].segments == {"action": ()}, "nothing is done in it"
    found = {problem.clip: problem.message for problem in manifest.problems}
    assert found.keys() == {"0002-M", "0003-L", "0004-L"}
    assert "0002-M.txt: line 1: 2 fields" in found["0002-M"] and "is missing" in found["0003-L"]
    for path in labels.iterdir():
        path.write_text("?")
    with pytest.raises(DataError, match="no listed recording can be used"):
        read(tmp_path)
