from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.core.types import Clip, Segment
from vidistill.data.containers import ArrayFrames
from vidistill.data.decoding import open_frames
from vidistill.data.formats.thumos14 import read_thumos14
from vidistill.data.formats.thumos14_annotations import CLASS_FILE, CLASSES, class_numbers, read_rows
from vidistill.data.manifest import Manifest, check, labels_of
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.rgb import Rgb, RgbSource

VAL, TEST = "video_validation_0000051", "video_test_0000004"
COLUMNS = "video,type,type_idx,start,end,startFrame,endFrame"
ROWS = {
    "val": [f"{VAL},Billiards,12,67.5,75.9,2025,2277", f"{VAL},Diving,26,5.0,6.5,150,195"],
    "test": [
        f"{TEST},CricketBowling,23,0.2,1.1,6,33",
        f"{TEST},Ambiguous,0,3.0,4.0,90,120",
        "video_test_0001292,Ambiguous,0,78.4,113.2,2352,3396",
    ],
}


def read(root: Path, **options: object) -> Manifest:
    return read_thumos14(root, **check_options(read_thumos14, options, where="data", skip=1))


def write_csv(root: Path, part: str, *more: str, rows: list[str] | None = None, columns: str = COLUMNS) -> Path:
    lines = [columns, *(ROWS[part] if rows is None else rows), *more]
    (root / f"{part}_Annotation.csv").write_text("\n".join(lines) + "\n")
    return root


def entry(subset: str, *rows: tuple[object, object, object]) -> dict[str, object]:
    return {"subset": subset, "annotations": [{"segment": [start, end], "label": label} for start, end, label in rows]}


def write_json(root: Path, **more: object) -> Path:
    videos = {
        TEST: entry("test", ("0.2", "1.1", "CricketBowling")),
        VAL: entry("train", ("67.5", "75.9", "Billiards"), (5, 6.5, "Diving")),
        **more,
    }
    (root / "thumos_gt.json").write_text(json.dumps({"database": videos}))
    return root


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Both listings, lists of videos and empty media files of one validation and one test video."""
    for part in ROWS:
        write_csv(tmp_path, part)
    (tmp_path / "val_video_info.csv").write_text(f"video,fps,sample_fps,count,sample_count\n{VAL},25.0,10.0,2300,920\n")
    touch(tmp_path, f"validation_npy/{VAL}.npy", f"test_npy/{TEST}.npy", f"validation_flow_npy/{VAL}.npy")
    return write_json(tmp_path)


@pytest.mark.parametrize("listing", ["json", "csv"])
def test_both_listings_give_segments_in_seconds_without_ambiguous_ones(room: Path, listing: str) -> None:
    clips = {clip.id: clip for clip in read(room, listing=listing).clips}
    assert clips.keys() == {VAL, TEST}
    assert clips[VAL].segments == {"action": (Segment(5.0, 6.5, "Diving"), Segment(67.5, 75.9, "Billiards"))}
    assert clips[TEST].segments == {"action": (Segment(0.2, 1.1, "CricketBowling"),)}
    assert (clips[VAL].split, clips[TEST].split) == ("train", "test")
    assert clips[VAL].sources == {"rgb": f"validation_npy/{VAL}.npy", "flow": f"validation_flow_npy/{VAL}.npy"}
    assert clips[TEST].sources == {"rgb": f"test_npy/{TEST}.npy"}
    assert (clips[VAL].fps, clips[VAL].frames, clips[VAL].labels) == (10.0, 920, {})
    assert (clips[TEST].fps, clips[TEST].frames) == (10.0, None)


def test_raw_videos_have_their_own_rate_and_folders_can_be_named(room: Path, tmp_path: Path) -> None:
    touch(room, f"media/a/{VAL}.mp4", f"media/b/{TEST}.MKV", f"media/c/{TEST}.npy")
    folders = {"media": "media", "rgb": {"train": "a", "test": "b"}, "flow": {"test": "c"}}
    manifest = read(room, **folders, rate=5.0)
    found = {clip.id: clip for clip in manifest.clips}
    assert manifest.root == room / "media"
    assert (found[VAL].sources, found[VAL].fps, found[VAL].frames) == ({"rgb": f"a/{VAL}.mp4"}, 25.0, 2300)
    assert found[TEST].sources == {"rgb": f"b/{TEST}.MKV", "flow": f"c/{TEST}.npy"} and found[TEST].fps is None
    only = read(room, rgb={"train": "media/a", "test": "media/a"}, flow={"train": "media/a", "test": "media/c"}, rate=5)
    assert next(clip.fps for clip in only.clips if clip.id == TEST) == 5.0
    with pytest.raises(DataError, match="does not exist"):
        read(room, rgb={"train": "nowhere"})
    with pytest.raises(RecipeError, match="should be .train. or .test."):
        read(room, rgb={"val": "a"})
    with pytest.raises(RecipeError, match="rate is 0"):
        read(room, rate=0)


def test_an_array_goes_before_a_video_of_the_same_name(room: Path) -> None:
    touch(room, f"validation_npy/{VAL}.avi", "validation_npy/notes.txt")
    assert read(room).clips[1].sources["rgb"].endswith(".npy")


def test_a_listed_video_that_is_absent_is_a_problem_and_none_at_all_an_error(room: Path) -> None:
    write_json(room, video_validation_0000052=entry("train", (1, 2, "Diving")))
    manifest = read(room)
    assert [(problem.clip, problem.kind) for problem in manifest.problems] == [("video_validation_0000052", "missing")]
    assert len(manifest.clips) == 2
    with pytest.raises(DataError, match="none of the 3 listed videos is there"):
        read(room, media="test_npy")


def test_a_video_without_actions_is_background_and_one_of_ambiguous_ones_is_left_out(room: Path) -> None:
    names = ("video_validation_0000001", "video_validation_0000002")
    touch(room, *(f"validation_npy/{name}.npy" for name in names))
    write_json(room, **{names[0]: entry("train"), names[1]: entry("train", (1, 2, "Ambiguous"))})
    with (room / "val_video_info.csv").open("a") as file:
        file.write(f"{names[0]},30.0,10.0,300,100\n")
    for listing in ("json", "csv"):
        clips = {clip.id: clip for clip in read(room, listing=listing).clips}
        assert clips[names[0]].segments == {"action": ()} and names[1] not in clips


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((5, 3, "Diving"), "the segment 5.0 to 3.0 s is reversed"),
        (("3.0", 3, "Diving"), "the segment 3.0 to 3.0 s is empty"),
        (("three", 5, "Diving"), "the start is 'three', not a number"),
        ((1, True, "Diving"), "the end is 'True', not a number"),
        ((1, "nan", "Diving"), "the end is 'nan'"),
        ((-1, 5, "Diving"), "the start is '-1'"),
        ((1, 5, "Divng"), "unknown class 'Divng'. Did you mean 'Diving'?"),
        ((1, 5, None), "unknown class 'None'"),
    ],
)
def test_wrong_segments_name_video_and_row(room: Path, row: tuple, says: str) -> None:
    write_json(room, **{VAL: entry("train", (1, 2, "Diving"), row)})
    with pytest.raises(DataError) as caught:
        read(room)
    assert f"thumos_gt.json: video '{VAL}': row 2: {says}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("Diving,26,5,3,150,90", "row 4: the segment 5.0 to 3.0 s is reversed"),
        ("Divng,26,1,2,30,60", "row 4: unknown class 'Divng'"),
        ("Diving,7,1,2,30,60", "row 4: class 7 is BaseballPitch, not Diving"),
        ("Diving,8,1,2,30,60", "row 4: class 8 is unknown, not Diving"),
        ("Diving,26,1,2,x,60", "row 4: startFrame is 'x'"),
        ("Diving,26,1,2", "row 4: 5 cells, but the header has 7"),
    ],
)
def test_wrong_rows_are_named(room: Path, cells: str, says: str) -> None:
    write_csv(room, "val", f"{VAL},{cells}")
    with pytest.raises(DataError, match=f"val_Annotation.csv: {says}"):
        read(room, listing="csv")


def test_empty_and_missing_annotations_are_named(room: Path) -> None:
    write_csv(room, "val", rows=[])
    with pytest.raises(DataError, match=r"val_Annotation.csv: the list of annotations has no rows"):
        read(room, listing="csv")
    write_csv(room, "val", columns="video,label,start,end")
    with pytest.raises(DataError, match="column 'type' is missing"):
        read(room, listing="csv")
    (room / "val_Annotation.csv").unlink()
    with pytest.raises(DataError, match="the list of annotations is missing"):
        read(room, listing="csv")
    for text in ("", "[]", "{", '{"database": {}}', "[" * 100_000):
        (room / "thumos_gt.json").write_text(text)
        with pytest.raises(DataError, match=r"thumos_gt.json"):
            read(room)
    for wrong, says in (({"subset": "test"}, "no list of annotations"), (entry("dev"), "the subset is 'dev'")):
        write_json(room, **{VAL: wrong})
        with pytest.raises(DataError, match=says):
            read(room)
    (room / "thumos_gt.json").unlink()
    with pytest.raises(DataError, match="listing: csv"):
        read(room)


def test_classes_and_lists_of_videos_are_checked(room: Path) -> None:
    (room / "val_video_info.csv").write_text(f"video,fps,sample_fps,count,sample_count\n{VAL},0,10.0,2300,920\n")
    with pytest.raises(DataError, match="row 2: .*a number is 0"):
        read(room)
    (room / "val_video_info.csv").unlink()
    for text, says in (("7 A\n7 B\n", "line 2: .*twice"), ("A\n", "line 1"), ("\n", "empty")):
        (room / CLASS_FILE).write_text(text)
        with pytest.raises(DataError, match=says):
            read(room)
    (room / CLASS_FILE).write_text("12 Billiards\n")
    with pytest.raises(DataError, match="unknown class 'CricketBowling'"):
        read(room)


def test_published_arrays_are_mapped_not_read_and_have_ten_frames_a_second(room: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 12, 12, 3)).astype(np.uint8)
    np.save(room / f"validation_npy/{VAL}.npy", frames)
    np.save(room / f"validation_flow_npy/{VAL}.npy", np.full((40, 12, 12, 2), 255, np.uint8))
    manifest = read(room)
    clip = next(clip for clip in manifest.clips if clip.id == VAL)
    with open_frames(manifest.root / clip.sources["rgb"], rate=clip.fps) as source:
        assert isinstance(source, ArrayFrames) and isinstance(source.values, np.memmap) and source.rate == 10.0
    rgb = Rgb.load(manifest.root / clip.sources["rgb"], None, clip, RgbSource())
    assert rgb.rate == 10.0 and (np.asarray(rgb.values) == frames).all()
    options = FlowSource(pixels_per_level=0.156863, zero=127.5)
    flow = Flow.load(manifest.root / clip.sources["flow"], None, clip, options)
    assert flow.rate == 10.0 and float(flow.values[0, 0, 0, 0]) == pytest.approx(20.0, abs=0.02)


spans = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 90), st.sampled_from(sorted(CLASSES))), max_size=12)


@given(rows=spans)
def test_rows_that_are_written_are_read(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines = [
        f"v{n % 3},{CLASSES[k]},{k},{s / 10},{(s + d) / 10},{3 * s},{3 * s + 3 * d}" for n, (s, d, k) in enumerate(rows)
    ]
    write_csv(folder, "val", *lines, rows=["v0,Ambiguous,0,1,2,30,60"])
    found = read_rows(folder / "val_Annotation.csv", CLASSES)
    for number in range(3):
        ours = [(row.label, row.start, row.end, row.first, row.last) for row in found.get(f"v{number}") or []]
        assert ours == [(CLASSES[k], s / 10, (s + d) / 10, 3 * s, 3 * s + 3 * d) for s, d, k in rows[number::3]]


def test_the_real_annotations_have_their_published_counts(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations" / "thumos14"
    if not folder.is_dir():
        pytest.skip(f"THUMOS14's annotations are not at {folder}")
    assert class_numbers(folder / CLASS_FILE) == CLASSES
    names = {part: (folder / f"{part}_video_info.csv").read_text().split()[1:] for part in ("val", "test")}
    for part, place in (("val", "validation_npy"), ("test", "test_npy")):
        touch(tmp_path, *(f"{place}/{line.split(',')[0]}.npy" for line in names[part]))
    for listing, videos, actions in (("json", 210, 3311), ("csv", 212, 3358)):
        manifest = read(tmp_path, annotations=str(folder), listing=listing)
        assert not manifest.problems and len(manifest.classes["action"]) == 20
        assert manifest.classes["action"] == tuple(CLASSES.values())
        for split, count, rows in (("train", 200, 3007), ("test", videos, actions)):
            clips: tuple[Clip, ...] = manifest.split(split)
            assert len(clips) == count and sum(len(labels_of(clip, "action")) for clip in clips) == rows
        assert check(manifest, ["action"]) == []
    first = next(clip for clip in manifest.clips if clip.id == TEST)
    assert (first.frames, first.segments["action"][0]) == (337, Segment(0.2, 1.1, "CricketBowling"))
