from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.tasks.detections_file import (
    OtherSetError,
    read_detections,
    subtitles,
    write_detections,
    write_subtitles,
)
from vidistill.tasks.segments import Detections

FOUND = Detections(
    np.array(["b", "a", "a"]),
    [0.1, 3, 1],
    [2.5, 4, 3.5],
    np.array(["run, fast", 'say "hi"', "run, fast"]),
    [0.5, 0.2, 1 / 3],
)


def rows_of(found: Detections) -> set[tuple]:
    return set(zip(*(values.tolist() for values in vars(found).values()), strict=True))


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_what_is_written_is_read_again_to_the_last_bit(tmp_path, kind) -> None:
    path = tmp_path / f"found.{kind}"
    write_detections(FOUND, path, version="demo", videos=["a", "b", "c"])
    assert rows_of(read_detections(path, videos=["a", "b", "c"])) == rows_of(FOUND)
    write_detections(FOUND.take(np.zeros(0, int)), path)
    assert len(read_detections(path)) == 0


def test_json_has_the_form_of_activitynet(tmp_path) -> None:
    path = tmp_path / "found.json"
    write_detections(FOUND, path, version="demo", videos=["c"])
    tree = json.loads(path.read_text())
    assert list(tree) == ["version", "results", "external_data"]
    assert tree["results"]["c"] == []
    assert [entry["score"] for entry in tree["results"]["a"]] == [1 / 3, 0.2]
    assert tree["results"]["b"] == [{"label": "run, fast", "score": 0.5, "segment": [0.1, 2.5]}]


def test_numbers_of_classes_are_written_as_names(tmp_path) -> None:
    path = tmp_path / "found.csv"
    found = Detections([7], [0], [1], [2], [0.5])
    write_detections(found, path, classes=("background", "sit", "stand"))
    assert read_detections(path).label.tolist() == ["stand"]
    with pytest.raises(DataError, match="label 2 has no name"):
        write_detections(found, path, classes=("background", "sit"))


def test_detections_of_another_set_are_an_error_of_their_own(tmp_path) -> None:
    path = tmp_path / "found.csv"
    write_detections(FOUND, path)
    with pytest.raises(OtherSetError, match="another set: it has no video 'a'"):
        read_detections(path, videos=["video_1", "video_2"])
    with pytest.raises(OtherSetError, match="no class"):
        read_detections(path, videos=["a", "b"], classes=["jump"])


@pytest.mark.parametrize(("kind", "place"), [("json", "results, a, entry 0"), ("csv", "line 3")])
def test_some_detections_of_no_video_or_class_of_the_set_are_counted_and_the_first_is_placed(
    tmp_path, kind, place
) -> None:
    path = tmp_path / f"found.{kind}"
    write_detections(FOUND, path)
    with pytest.raises(DataError) as caught:
        read_detections(path, videos=["b", "aa"])
    assert str(caught.value) == (
        f"{path}, {place}: the set has no video 'a'; 2 of 3 detections are of such ones. Did you mean 'aa'?"
    )
    with pytest.raises(DataError, match="the set has no class 'say \"hi\"'; 1 of 3 detections"):
        read_detections(path, videos=["a", "b"], classes=["run, fast"])
    assert len(read_detections(path, videos=["b"], classes=["run, fast"], unknown="ignore")) == 3


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path) -> None:
    (tmp_path / "f.csv").write_text("video,label,start,end,score\nv,x,1,2,0.5\n", encoding="utf-8-sig")
    assert read_detections(tmp_path / "f.csv").clip.tolist() == ["v"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.json", "{", "not JSON"),
        ("f.json", "[" * 100_000, "not JSON"),
        ("f.json", "9" * 5000, "not JSON"),
        ("f.json", "[]", "no entry 'results'"),
        ("f.json", '{"results": {"v": 3}}', "results, v"),
        ("f.json", '{"results": {"v": [3]}}', "entry 0"),
        ("f.json", '{"results": {"v": [{"label": "x", "score": 1, "segment": [1]}]}}', "segment must be"),
        ("f.json", '{"results": {"v": [{"label": "x", "score": null, "segment": [1, 2]}]}}', "must be numbers"),
        ("f.json", '{"results": {"v": [{"label": "x", "score": 1, "segment": [3, 2]}]}}', "not a segment"),
        ("f.json", '{"results": {"v": [{"score": 1, "segment": [1, 2]}]}}', "label must be"),
        (
            "f.json",
            '{"results": {"v": [{"label": "x", "score": 1, "segment": [1, 1%s]}]}}' % ("0" * 400),
            "must be numbers",
        ),
        ("f.csv", "video,label,start,end,score\n" + "v" * 200_000 + ",x,1,2,1\n", "not CSV"),
        ("f.csv", "video,label,start,end\n", "no column 'score'"),
        ("f.csv", "video,label,start,end,score\nv,x,1,2,nan\n", "line 2: not a segment"),
        ("f.csv", "video,label,start,end,score\nv,x,1\n", "line 2: start, end and score"),
        ("f.txt", "", "json or .csv"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_detections(tmp_path / name)


def test_a_file_that_is_not_there_or_of_another_kind_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_detections(tmp_path / "none.json")
    with pytest.raises(DataError, match="json or .csv"):
        write_detections(FOUND, tmp_path / "found.xml")


def test_a_cue_a_segment_in_order_of_time(tmp_path) -> None:
    found = FOUND.take(np.array([1, 2]))
    write_subtitles(found, tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_text() == (
        '1\n00:00:01,000 --> 00:00:03,500\nrun, fast 33%\n\n2\n00:00:03,000 --> 00:00:04,000\nsay "hi" 20%\n'
    )
    with pytest.raises(DataError, match="several"):
        subtitles(FOUND)


@given(st.text(max_size=30), st.floats(-5, 1e5), st.floats(0, 100))
def test_whatever_the_label_a_cue_stays_a_cue(label, start, length) -> None:
    found = Detections(np.array(["v"]), [start], [start + length], np.array(["x"]), [0.5])
    text = subtitles(Detections(found.clip, found.start, found.end, [0], found.score), classes=[label])
    lines = text.split("\n")
    assert len(lines) == len(text.splitlines()) + 1 == 4
    assert lines[1].count("-->") == 1 and "-->" not in lines[2] and not set("<>{}") & set(lines[2].replace("->", ""))
    first, last = lines[1].split(" --> ")
    assert first < last
