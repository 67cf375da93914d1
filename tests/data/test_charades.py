from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Segment
from vidistill.data.formats.charades import read_actions, read_charades
from vidistill.data.manifest import Manifest, check

NAMES = {0: "holding", 92: "opening", 147: "sitting"}
TRAIN = ["AAAAA,c092 11.90 21.20;c147 0.00 12.60,30.5", "BBBBB,,12.0", "BBBBBEGO,c000 0 5,10"]
TEST = ["CCCCC,c000 3.00 40.00,20"]


def write(root: Path, train: list[str] = TRAIN, test: list[str] = TEST, header: str = "id,actions,length") -> Path:
    for part, rows in (("train", train), ("test", test)):
        (root / f"Charades_v1_{part}.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "Charades_v1_classes.txt").write_text("\n".join(f"c{n:03d} {name}" for n, name in NAMES.items()))
    (root / "videos").mkdir(exist_ok=True)
    for row in (*TRAIN, *TEST):
        (root / "videos" / f"{row.split(',')[0]}.mp4").write_bytes(b"x")
    return root


def read(root: Path, **options: object) -> Manifest:
    return read_charades(root, **check_options(read_charades, options, where="data", skip=1))


def test_videos_are_untrimmed_clips_with_overlapping_segments_in_order(tmp_path: Path) -> None:
    manifest = read(write(tmp_path))
    assert [clip.id for clip in manifest.clips] == ["AAAAA", "BBBBB", "BBBBBEGO", "CCCCC"]
    assert manifest.clips[0].segments == {"action": (Segment(0.0, 12.6, "sitting"), Segment(11.9, 21.2, "opening"))}
    assert manifest.clips[1].segments == {"action": ()} and manifest.clips[1].labels == {}
    assert manifest.clips[1].group == manifest.clips[2].group == "BBBBB"
    assert manifest.clips[3].segments["action"][0].end == 20.0
    check(manifest, ["action"])
    assert read(tmp_path, labels="number").classes["action"] == ("000", "092", "147")


def test_skipped_and_missing_videos_are_left_out(tmp_path: Path) -> None:
    (write(tmp_path) / "videos/AAAAA.mp4").unlink()
    manifest = read(tmp_path, skip=["BBBBB"])
    assert [clip.id for clip in manifest.clips] == ["BBBBBEGO", "CCCCC"]
    assert [problem.clip for problem in manifest.problems] == ["AAAAA"]
    with pytest.raises(RecipeError, match="is not below"):
        read(tmp_path, videos="/")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("DDDDD,c092 11.9,30", "the action 'c092 11.9' is not"),
        ("DDDDD,c092 5 2,30", "the action 'c092 5 2' is reversed"),
        ("DDDDD,c092 32 40,30", "is beyond the video's 30 s"),
        ("DDDDD,c001 1 2,30", "the class of 'c001 1 2' is not listed"),
    ],
)
def test_wrong_actions_are_a_problem_of_their_video_with_file_and_row(tmp_path: Path, row: str, says: str) -> None:
    problems = read(write(tmp_path, [*TRAIN, row])).problems
    assert [(problem.clip, problem.kind) for problem in problems] == [("DDDDD", "unreadable")]
    assert "Charades_v1_train.csv: row 5: " in problems[0].message and says in problems[0].message


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("DDDDD,c092 1 2,long", "row 5: column 'length' holds 'long'"),
        ("DDDDD,c092 1 2,-1", "row 5: column 'length' holds '-1'"),
        ("AAAAA,,30", "row 5: the video 'AAAAA' is listed twice"),
        ("../x,,30", "row 5: '../x' is not a video's id"),
        ("CCCCC,,30", "1 videos are in both lists"),
        (",,30", "row 5: column 'id' is empty|column 'id' is empty"),
    ],
)
def test_wrong_lists_are_told_by_file_and_row(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(write(tmp_path, [*TRAIN, row]))


def test_a_list_without_actions_and_wrong_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'actions' is missing"):
        read(write(tmp_path, header="id,labels,length"))
    for text, says in (("000 holding", "line 1: .* is not 'c<number> <class>'"), ("c000 a\nc000 b", "line 2: .*twice")):
        (write(tmp_path) / "Charades_v1_classes.txt").write_text(text)
        with pytest.raises(DataError, match=says):
            read(tmp_path)


rows = st.lists(st.tuples(st.sampled_from(list(NAMES)), st.integers(0, 1000), st.integers(0, 1000)), max_size=6)


@given(rows=rows, length=st.integers(1, 1100))
def test_what_is_read_lies_within_the_video_in_order_of_time(rows: list[tuple[int, int, int]], length: int) -> None:
    cell = ";".join(f"c{number:03d} {min(a, b) / 10:.2f} {max(a, b) / 10:.2f}" for number, a, b in rows)
    seconds = length / 10
    if any(min(a, b) / 10 > seconds + 1 for _, a, b in rows):
        with pytest.raises(DataError, match="beyond the video"):
            read_actions(cell, seconds, NAMES, "list")
        return
    found = read_actions(cell, seconds, NAMES, "list")
    assert len(found) == sum(min(a, b) / 10 < min(max(a, b) / 10, seconds) for _, a, b in rows)
    assert all(0 <= segment.start < segment.end <= seconds for segment in found)
    assert list(found) == sorted(found, key=lambda segment: (segment.start, segment.end, segment.label))
