from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Segment
from vidistill.data.decoding import open_frames
from vidistill.data.formats.fir_room import merged, read_fir_room
from vidistill.data.manifest import Manifest, check, labels_of


def read(root: Path, **options: object) -> Manifest:
    return read_fir_room(root, **check_options(read_fir_room, options, where="data", skip=1))


def room(root: Path, *rows: Any, **entry: Any) -> Path:
    (root / "video").mkdir(exist_ok=True)
    videos = {}
    for name in "abcdefg":
        (root / "video" / f"{name}.mp4").write_bytes(b"x")
        videos[name] = {"frames": 250, "fps": 25, "annotations": [{"label": "walk", "segment": [1, 2.5]}]}
    videos["b"]["annotations"] += rows
    videos["b"] |= entry
    (root / "annotations.json").write_text(json.dumps({"videos": videos}))
    return root


def test_every_third_recording_tests_and_all_have_segments(tmp_path) -> None:
    manifest = read(room(tmp_path))
    assert [clip.id for clip in manifest.split("test")] == ["c", "f"]
    assert manifest.clips[0].segments == {"action": (Segment(1.0, 2.5, "walk"),)}
    assert (manifest.clips[0].fps, manifest.clips[0].frames, manifest.clips[0].labels) == (25.0, 250, {})
    chosen = read(tmp_path, test_videos=["a", "g"])
    assert [clip.id for clip in chosen.split("test")] == ["a", "g"]
    with pytest.raises(RecipeError, match="test_videos names 'x'"):
        read(tmp_path, test_videos=["x"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"label": "sit", "segment": [5, 3]}, "the segment 5.0 to 3.0 s is reversed"),
        ({"label": "sit", "segment": [3, 3]}, "the segment 3.0 to 3.0 s is empty"),
        ({"label": "sit", "segment": [3, 10.5]}, "is beyond the video's 0 to 10 s"),
        ({"label": "sit", "segment": [-1, 3]}, "is beyond the video's 0 to 10 s"),
        ({"label": "sit", "segment": ["1.0", "3.0"]}, "are not numbers of seconds. Write them without quotes"),
        ({"label": "sit", "segment": [True, 3]}, "are not numbers"),
        ({"label": "sit", "segment": [1, float("nan")]}, "are not numbers"),
        ({"label": "sit", "segment": [1]}, "not {"),
        ({"label": "sit"}, "not {"),
        ("sit", "not {"),
        ({"label": "", "segment": [1, 2]}, "the label '' is no text"),
        ({"label": 3, "segment": [1, 2]}, "the label 3 is no text"),
    ],
)
def test_wrong_segments_name_video_and_row(tmp_path, row, says) -> None:
    with pytest.raises(DataError) as caught:
        read(room(tmp_path, row))
    assert "annotations.json: video 'b': row 2: " in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"fps": 0}, "'fps' is 0"),
        ({"frames": "many"}, "'frames' is 'many'"),
        ({"annotations": None}, "no list of annotations"),
    ],
)
def test_wrong_recordings_are_named(tmp_path, entry, says) -> None:
    with pytest.raises(DataError, match=f"video 'b': {says}"):
        read(room(tmp_path, **entry))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"videos": {}}', "[" * 100_000])
def test_a_listing_that_is_none_is_a_data_error(tmp_path, text) -> None:
    (room(tmp_path) / "annotations.json").write_text(text)
    with pytest.raises(DataError, match=r"annotations.json"):
        read(tmp_path)


def test_an_end_within_the_last_frame_is_the_end_and_a_missing_video_is_a_problem(tmp_path) -> None:
    room(tmp_path, {"label": "sit", "segment": [9, 10.03]})
    (tmp_path / "video" / "a.mp4").unlink()
    manifest = read(tmp_path)
    assert [problem.clip for problem in manifest.problems] == ["a"]
    assert manifest.clips[0].segments["action"][-1] == Segment(9.0, 10.0, "sit")


times = st.integers(0, 100)
segments = st.lists(st.tuples(times, st.integers(1, 20), st.sampled_from("abc")), max_size=8).map(
    lambda rows: tuple(Segment(float(start), float(start + length), label) for start, length, label in rows)
)


@given(found=segments)
def test_merging_covers_the_same_time_under_the_new_label(found) -> None:
    result = merged(found, {"b": "a"}, 0.04)

    def covered(rows, labels) -> set[int]:
        return {t for row in rows if row.label in labels for t in range(int(row.start), int(row.end))}

    assert covered(result, "a") == covered(found, "ab") and covered(result, "c") == covered(found, "c")
    assert not any(segment.label == "b" for segment in result)
    assert merged(found, {}, 0.04) == tuple(sorted(found, key=lambda s: (s.start, s.end)))


def test_touching_segments_that_become_alike_are_joined() -> None:
    rows = (Segment(0.0, 1.0, "lying"), Segment(1.0, 2.0, "sleeping"), Segment(2.5, 3.0, "lying"))
    assert merged(rows, {"sleeping": "lying"}, 0.04) == (Segment(0.0, 2.0, "lying"), Segment(2.5, 3.0, "lying"))


def test_the_real_recordings_have_all_labels_in_both_parts(shared_data: Path) -> None:
    manifest = read(shared_data / "fir_room")
    assert manifest.problems == () and check(manifest, ["action"]) == []
    assert sum(len(labels_of(clip, "action")) for clip in manifest.clips) == 230
    for part, count in (("train", 11), ("test", 5)):
        clips = manifest.split(part)
        assert len(clips) == count
        assert {label for clip in clips for label in labels_of(clip, "action")} == set(manifest.classes["action"])
        assert {clip.id.split("_")[3] for clip in clips} == {"01", "02"}, "both sensors"
        assert len({clip.id.split("_")[0] for clip in clips}) == 4, "all days"
    one = read(shared_data / "fir_room", merge={"sleeping": "lying", "falled": "lying"})
    assert len(one.classes["action"]) == 7
    with pytest.raises(RecipeError, match="Did you mean 'sleeping'"):
        read(shared_data / "fir_room", merge={"sleping": "lying"})
    clip = manifest.clips[0]
    with open_frames(shared_data / "fir_room" / clip.sources["rgb"]) as video:
        assert video.frames == clip.frames and video.rate == pytest.approx(clip.fps)
