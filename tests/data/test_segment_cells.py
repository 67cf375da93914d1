"""Cells of segments: what is no segment is one line that names file, row, column and which segment it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Segment
from vidistill.data.manifest import Manifest, check, read_manifest, write_manifest
from vidistill.data.segment_cells import read_segments

times = st.tuples(st.floats(0, 1e4), st.floats(1e-3, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
segments = st.lists(st.builds(lambda pair, label: Segment(*pair, label), times, st.text(min_size=1, max_size=8)))


@given(segments)
def test_segments_are_read_in_order_of_time_to_the_last_bit(found: list[Segment]) -> None:
    cell = json.dumps([[each.start, each.end, each.label] for each in found])
    assert read_segments(cell, "segments:a", "here") == tuple(sorted(found, key=lambda each: (each.start, each.end)))


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.integers(), st.lists, max_leaves=9)
)
def test_any_json_gives_segments_or_one_line(tree: object) -> None:
    try:
        assert all(0 <= each.start < each.end for each in read_segments(json.dumps(tree), "c", "here", 50.0))
    except DataError as error:
        assert str(error).startswith("here: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("walk", "column 'segments:action' holds 'walk', not [[start, end, label], ...] as JSON"),
        ('{"12a": 1}', "not [[start, end, label], ...] as JSON"),
        ('"12a"', "not [[start, end, label], ...] as JSON"),
        ("[" * 100_000, "not [[start, end, label], ...] as JSON"),
        ('["12a"]', "column 'segments:action', segment 1: \"12a\" is not [start, end, label]"),
        ('[[1, 2, "a"], ["3", "4", "a"]]', 'segment 2: ["3", "4", "a"] is not [start, end, label]'),
        ('[[false, true, "a"]]', 'segment 1: [false, true, "a"] is not [start, end, label]'),
        ("[[1, 2]]", "segment 1: [1, 2] is not [start, end, label]"),
        ("[[1, 2, 3]]", "segment 1: the label 3 is no text"),
        ('[[1, 2, ""]]', "segment 1: the label '' is no text"),
        ('[[2, 1, "a"]]', "segment 1: 2.0 to 1.0 s is empty, reversed or before the start"),
        ('[[NaN, 1, "a"]]', "segment 1: nan to 1.0 s is empty"),
        (f'[[0, 1{"0" * 400}, "a"]]', "segment 1: inf to inf s is empty"),
        ('[[1, 2, "a"], [10, 12, "a"]]', "segment 2: it begins at 10 s, the clip ends after 10 s"),
    ],
)
def test_a_wrong_cell_names_file_row_and_segment(tmp_path: Path, cell: str, says: str) -> None:
    path = tmp_path / "manifest.csv"
    quoted = '"' + cell.replace('"', '""') + '"'
    header = "id,split,start,end,fps,frames,segments:action,path:rgb\n"
    for clip in ("v,train,5,15,,,", "v,train,,,10,100,"):  # both have 10 s
        path.write_text(f"{header}u,train,,,,,[],u.mp4\n{clip}{quoted},v.mp4\n")
        with pytest.raises(DataError) as caught:
            read_manifest(path)
        line = str(caught.value)
        assert line.startswith(f"{path}: row 3: ") and says in line and "\n" not in line and len(line) < 400


def video(name: str, split: str, *labels: str) -> Clip:
    found = tuple(Segment(2.0 * number, 2.0 * number + 1, label) for number, label in enumerate(labels))
    return Clip(name, split, {}, {"rgb": f"{name}.mp4"}, segments={"action": found})


def test_annotations_that_are_all_empty_are_refused_and_those_of_the_test_part_are_told(tmp_path: Path) -> None:
    clips = (video("a", "train"), video("b", "test"))
    manifest = Manifest(tmp_path, clips)
    with pytest.raises(DataError, match="head 'action' has 0 classes, 0 of them in train. Learning needs"):
        check(manifest, ["action"])
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv").clips == clips
    trained = replace(manifest, clips=(video("a", "train", "walk", "sit", "walk", "sit"), clips[1]))
    assert check(trained, ["action"]) == ["no clip of test has a segment of 'action': results cannot be measured"]


def test_a_label_that_only_the_test_part_has_is_told(tmp_path: Path) -> None:
    clips = (video("a", "train", "walk", "sit"), video("b", "test", "walk", "sit", "wlak", "wlak"))
    assert check(Manifest(tmp_path, clips), ["action"]) == ["class 'wlak' of 'action' is absent from train"]
