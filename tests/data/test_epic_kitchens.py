from __future__ import annotations

import csv
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.data.formats.epic_kitchens import read_epic_kitchens
from vidistill.data.formats.epic_rows import frame_rate, listed, read_rows, seconds, subsets, tail_classes
from vidistill.data.manifest import Manifest, check, resolve
from vidistill.modalities.boxes import Boxes, BoxesSource
from vidistill.modalities.flow import Flow, FlowSource

COLUMNS = [
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
]
TRAIN = [
    "P01_11_0,P01,P01_11,,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,['plate'],[2]",
    "P01_11_1,P01,P01_11,,00:00:01.56,00:00:02.45,93,147,put down plate,put-down,1,plate,2,['plate'],[2]",
    "P02_101_0,P02,P02_101,,00:00:10.00,00:00:12.00,500,600,wash pan,wash,2,pan,1,['pan'],[1]",
]
TEST = [
    "P03_01_0,P03,P03_01,,01:02:03.50,01:02:04.50,223410,223470,take pan,take,0,pan,1,['pan'],[1]",
    "P18_01_0,P18,P18_01,,00:00:01.00,00:00:02.00,60,120,wash plate,wash,2,plate,2,['plate'],[2]",
]


def lists(folder: Path, train: list[str] = TRAIN, test: list[str] = TEST, columns: list[str] = COLUMNS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", test)):
        (folder / f"EPIC_100_{name}.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    for head, names in (("verb", ("take", "put", "wash")), ("noun", ("tap", "pan", "plate"))):
        rows = [f'{number},{name},"[]",any' for number, name in enumerate(names)]
        (folder / f"EPIC_100_{head}_classes.csv").write_text("\n".join(["id,key,instances,category", *rows]))
    (folder / "EPIC_100_tail_verbs.csv").write_text("verb\n2\n")
    (folder / "EPIC_100_tail_nouns.csv").write_text("noun\n1\n")
    return folder


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    lists(tmp_path / "annotations")
    for video in ("P01_11", "P02_101", "P03_01", "P18_01"):
        path = tmp_path / video[:3] / "videos" / f"{video}.MP4"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    return tmp_path


def read(root: Path, **options: object) -> Manifest:
    return read_epic_kitchens(root, **check_options(read_epic_kitchens, options, where="data", skip=1))


def test_an_action_is_a_stretch_of_its_video_with_a_verb_and_a_noun(kitchen: Path) -> None:
    manifest = read(kitchen)
    assert [(clip.id, clip.split) for clip in manifest.clips] == [
        *((row.partition(",")[0], "train") for row in TRAIN),
        *((row.partition(",")[0], "test") for row in TEST),
    ]
    clip = manifest.clips[3]
    assert (clip.start, clip.end, clip.group) == (3723.5, 3724.5, "P03_01")
    assert clip.labels == {"verb": "take", "noun": "pan"}
    assert clip.sources == dict.fromkeys(("rgb", "audio"), "P03/videos/P03_01.MP4")
    check(manifest, ["verb", "noun"])


def test_heads_may_be_the_pair_and_numbers_keep_the_published_order(kitchen: Path) -> None:
    pairs = read(kitchen, heads=["action"])
    assert pairs.heads == ("action",) and pairs.clips[0].labels == {"action": "take plate"}
    (kitchen / "annotations/EPIC_100_verb_classes.csv").unlink()
    assert read(kitchen, labels="number").classes["verb"] == ("000", "001", "002")
    with pytest.raises(DataError, match="list of classes is missing. Add it, or set 'labels: number'"):
        read(kitchen)
    with pytest.raises(RecipeError, match="heads is empty"):
        read(kitchen, heads=[])


def test_classes_are_all_of_the_lists_in_the_order_of_their_numbers(kitchen: Path) -> None:
    for video in ("P01_11", "P03_01"):
        (kitchen / video[:3] / "videos" / f"{video}.MP4").unlink()
    part = read(kitchen, heads=["verb", "noun", "action"])
    assert {clip.labels["verb"] for clip in part.clips} == {"wash"}
    assert part.classes["verb"] == ("take", "put", "wash") and part.classes["noun"] == ("tap", "pan", "plate")
    assert part.classes["action"] == ("take pan", "take plate", "put plate", "wash pan", "wash plate")
    assert read(kitchen, labels="number").classes["noun"] == ("000", "001", "002")


def test_the_lists_beside_name_the_subsets(kitchen: Path) -> None:
    assert read(kitchen).subsets == {
        "tail_verb": {"P02_101_0", "P18_01_0"},
        "tail_noun": {"P02_101_0", "P03_01_0"},
        "tail_both": {"P02_101_0"},
        "tail_either": {"P02_101_0", "P18_01_0", "P03_01_0"},
    }
    (kitchen / "annotations/EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP18\n")
    (kitchen / "annotations/EPIC_100_tail_nouns.csv").unlink()
    assert read(kitchen, labels="number").subsets == {"unseen": {"P18_01_0"}}


def test_participants_are_chosen_for_all_or_for_the_test_alone(kitchen: Path) -> None:
    assert [clip.id for clip in read(kitchen, test_participants=["P18"]).split("test")] == ["P18_01_0"]
    assert len(read(kitchen, test_participants=["P18"]).split("train")) == 3
    assert [clip.id for clip in read(kitchen, participants=["P01", "P03"]).clips] == [
        "P01_11_0",
        "P01_11_1",
        "P03_01_0",
    ]
    with pytest.raises(DataError, match="no action is of the participants P99"):
        read(kitchen, test_participants=["P99"])
    with pytest.raises(DataError, match="of these participants"):
        read(kitchen, participants=["P99"])


def test_a_missing_video_makes_problems_of_its_actions(kitchen: Path) -> None:
    (kitchen / "P01/videos/P01_11.MP4").unlink()
    manifest = read(kitchen)
    assert [(problem.clip, problem.kind) for problem in manifest.problems] == [
        ("P01_11_0", "missing"),
        ("P01_11_1", "missing"),
    ]
    assert len(manifest.clips) == 3


def test_frames_are_cut_by_their_numbers_at_the_rate_of_their_extraction(tmp_path: Path) -> None:
    lists(tmp_path / "annotations")
    for video in ("P01_11", "P02_101", "P03_01"):
        (tmp_path / video[:3] / "rgb_frames" / video).mkdir(parents=True)
    first, second, slow, _ = read(tmp_path, media="frames").clips
    assert (first.start, first.end, first.fps, first.frames) == (0.0, 113 / 60, 60.0, 113)
    assert second.start == pytest.approx(92 / 60) and second.sources == {"rgb": "P01/rgb_frames/P01_11"}
    assert (slow.start, slow.end, slow.fps, slow.frames) == (499 / 50, 12.0, 50.0, 101)


def test_published_flow_is_taken_where_it_is_there_at_its_own_rate(tmp_path: Path) -> None:
    lists(tmp_path / "annotations")
    for video in ("P01_11", "P02_101", "P03_01"):
        (tmp_path / video[:3] / "rgb_frames" / video).mkdir(parents=True)
    for video, count in (("P01_11", 80), ("P02_101", 605)):
        for side, level in (("u", 0), ("v", 100)):
            folder = tmp_path / video[:3] / "flow_frames" / video / side
            folder.mkdir(parents=True)
            for number in range(1, count + 1):
                cv2.imwrite(str(folder / f"frame_{number:010d}.png"), np.full((2, 2), level + number % 100, np.uint8))
    first, second, slow, without = read(tmp_path, media="frames").clips
    assert second.sources == {"rgb": "P01/rgb_frames/P01_11", "flow": "P01/flow_frames/P01_11"}
    assert "flow" not in without.sources
    for clip, rate, begin in ((second, 30.0, 46), (slow, 50.0, 499)):
        signal = Flow.load(tmp_path / clip.sources["flow"], None, clip, FlowSource(zero=0.0))
        assert signal.rate == rate and signal.start == pytest.approx(begin / rate - clip.start, abs=1e-9)
        assert abs(signal.duration - (clip.end - clip.start)) <= 1 / rate + 1e-9
        levels = (begin + 1 + np.arange(len(signal))) % 100
        np.testing.assert_array_equal(signal.values[:, 0, 0], np.stack((levels, 100 + levels), 1))


def test_hdf5_files_have_frames_by_action_and_sound_by_video(tmp_path: Path) -> None:
    lists(tmp_path / "annotations")
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        for row in (*TRAIN[:2], TEST[0]):
            name, _, video = row.split(",")[:3]
            file[f"{video}/{name}"] = np.zeros(3, "S4")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["P01_11"] = np.zeros(9, np.float32)
    manifest = read(tmp_path, media="hdf5", files={"rgb": "v.hdf5", "audio": "a.hdf5"})
    assert [clip.id for clip in manifest.clips] == ["P01_11_0", "P01_11_1", "P03_01_0"]
    assert manifest.clips[1].sources == {"rgb": "v.hdf5#P01_11/P01_11_1", "audio": "a.hdf5#P01_11[1.56:2.45]"}
    assert (manifest.clips[1].start, manifest.clips[1].end, manifest.clips[1].frames) == (0.0, None, 55)
    assert "audio" not in manifest.clips[2].sources and len(manifest.problems) == 2
    with pytest.raises(DataError, match=r"the HDF5 file of rgb is missing"):
        read(tmp_path, media="hdf5")


def test_boxes_of_hdf5_files_are_those_of_the_actions_seconds(tmp_path: Path) -> None:
    lists(tmp_path / "annotations")
    box = "[{'box': [0.1, 0.2, 0.3, 0.4], 'category': 'object', 'score': %s}]"
    with h5py.File(tmp_path / "v.hdf5", "w") as frames, h5py.File(tmp_path / "b.hdf5", "w") as detections:
        for row in TRAIN[:2]:
            name, _, video = row.split(",")[:3]
            frames[f"{video}/{name}"] = np.zeros(3, "S4")
        frames["P18_01/P18_01_0"] = np.zeros(3, "S4")
        for number in range(200):
            detections[f"P01_11/{number}"] = (box % (number / 1000)).encode()
    manifest = read(tmp_path, media="hdf5", files={"rgb": "v.hdf5", "boxes": "b.hdf5"})
    first, second, third = manifest.clips
    assert second.sources["boxes"] == "b.hdf5#P01_11[1.56:2.45]" and "boxes" not in third.sources
    for clip, begin, frames_there in ((first, 0, 113), (second, round(1.56 * 60), 53)):
        path, key = resolve(tmp_path, clip.sources["boxes"])
        signal = Boxes.load(path, key, clip, BoxesSource())
        assert signal.rate == 60.0 and signal.start == pytest.approx(begin / 60 - (1.56 if begin else 0.0))
        np.testing.assert_allclose(signal.values[:, 0, 4], (begin + np.arange(frames_there)) / 1000, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"media": "hdf5", "files": {"audio": "a.hdf5"}}, "Name the file of rgb"),
        ({"media": "videos", "files": {"flow": "f.hdf5"}}, "Set 'media: hdf5', or leave flow out"),
    ],
)
def test_files_that_do_not_fit_the_media_are_refused(kitchen: Path, options: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        read(kitchen, **options)


def test_detections_and_waveforms_lie_beside_videos_by_video(kitchen: Path) -> None:
    with h5py.File(kitchen / "a.hdf5", "w") as sounds, h5py.File(kitchen / "b.hdf5", "w") as detections:
        sounds["P01_11"] = np.zeros(9, np.float32)
        detections["P01_11/5"] = b"[]"
    manifest = read(kitchen, files={"audio": "a.hdf5", "boxes": "b.hdf5"})
    assert [sorted(clip.sources) for clip in manifest.clips[2:]] == [["rgb"]] * 3 and not manifest.problems
    clip = manifest.clips[1]
    assert clip.sources == {"rgb": "P01/videos/P01_11.MP4", "audio": "a.hdf5#P01_11", "boxes": "b.hdf5#P01_11"}
    assert (clip.start, clip.end, clip.fps, clip.frames) == (1.56, 2.45, 60.0, None)


def test_epic_55_has_one_list_whose_test_participants_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    columns = ["uid", *COLUMNS[1:]]
    rows = [row.replace(row.split(",")[0], str(36786 + n), 1) for n, row in enumerate((*TRAIN, *TEST))]
    folder.mkdir()
    (folder / "EPIC_train_action_labels.csv").write_text("\n".join([",".join(columns), *rows]))
    for row in (*TRAIN, *TEST):
        (tmp_path / f"{row.split(',')[2]}.mp4").write_bytes(b"x")
    options = {"version": 55, "labels": "number"}
    with pytest.raises(RecipeError, match="nothing says what tests"):
        read(tmp_path, **options)
    manifest = read(tmp_path, test_participants=["P18"], **options)
    assert {clip.id: clip.split for clip in manifest.clips} == {
        **{str(number): "train" for number in range(36786, 36790)},
        "36790": "test",
    }
    released = read(tmp_path, test_participants=["P18"], variant="released", **options)
    assert {clip.id for clip in manifest.clips} - {clip.id for clip in released.clips} == {"36787", "36788"}


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a pickle can run code and is not read"):
        read_rows(tmp_path / "EPIC_train_action_labels.pkl", 55)


@pytest.mark.parametrize(
    ("cell", "value", "says"),
    [
        ("start_timestamp", "0:00:01", "'0:00:01' is no time. Write HH:MM:SS.ff"),
        ("stop_timestamp", "00:00:00.00", "the action 0.0 to 0.0 s is empty"),
        ("start_frame", "0", "the frames 0 to 113 are none, or do not count from 1"),
        ("stop_frame", "-3", "column 'stop_frame' holds '-3', not a whole number"),
        ("verb_class", "", "column 'verb_class' is empty"),
        ("video_id", "../P01", "'../P01' is not a video's name"),
        ("participant_id", "P02", "the video 'P01_11' is not of the participant 'P02'"),
    ],
)
def test_wrong_rows_are_told_by_file_and_row(tmp_path: Path, cell: str, value: str, says: str) -> None:
    cells = TRAIN[0].split(",", len(COLUMNS) - 1)
    cells[COLUMNS.index(cell)] = value
    path = lists(tmp_path, [TRAIN[1], ",".join(cells)]) / "EPIC_100_train.csv"
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert f"{path}: row 3: " in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


def test_an_action_listed_twice_and_a_class_that_is_none_are_refused(kitchen: Path) -> None:
    lists(kitchen / "annotations", [TRAIN[0], TRAIN[0]])
    with pytest.raises(DataError, match="row 3: the action 'P01_11_0' is listed twice"):
        read(kitchen)
    lists(kitchen / "annotations", test=[*TEST, TRAIN[0]])
    with pytest.raises(DataError, match="1 actions are in both lists, e.g. 'P01_11_0'"):
        read(kitchen)
    lists(kitchen / "annotations", [TRAIN[0].replace("take,0,", "take,7,")])
    with pytest.raises(DataError, match="'P01_11_0' has the verb class 7, which the list of classes lacks"):
        read(kitchen)


@given(hundredths=st.integers(0, 10 * 360_000 - 1))
def test_time_stamps_are_read_as_they_are_written(hundredths: int) -> None:
    whole, rest = divmod(hundredths, 100)
    stamp = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{rest:02d}"
    assert seconds(stamp) == pytest.approx(hundredths / 100, abs=1e-9)


@pytest.mark.parametrize(("video", "rate"), [("P01_11", 60.0), ("P01_101", 50.0), ("P37_103", 50.0)])
def test_frames_are_counted_at_sixty_or_fifty_by_the_videos_number(video: str, rate: float) -> None:
    assert frame_rate(video) == rate


def test_subsets_are_of_rare_classes_and_of_new_people(kitchen: Path) -> None:
    clips = read(kitchen).clips
    tail = tail_classes(kitchen / "annotations")
    assert tail == {"verb": {"wash"}, "noun": {"pan"}}
    found = {name: mask.tolist() for name, mask in subsets(clips, tail, ("P18",)).items()}
    assert found == {
        "tail_verb": [False, False, True, False, True],
        "tail_noun": [False, False, True, True, False],
        "tail_both": [False, False, True, False, False],
        "tail_either": [False, False, True, True, True],
        "unseen": [False, False, False, False, True],
    }
    (kitchen / "annotations/EPIC_100_tail_nouns.csv").write_text("noun\n9\n")
    with pytest.raises(DataError, match="names the class 9"):
        tail_classes(kitchen / "annotations")


def test_the_real_validation_list_has_its_published_counts(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations" / "epic100"
    rows = read_rows(folder / "EPIC_100_validation.csv")
    assert len(rows) == 9668 and len({row.video for row in rows}) == 138
    assert len({row.participant for row in rows}) == 32 and len({(row.verb, row.noun) for row in rows}) == 1352
    # Two-digit videos: lists count 60 frames a second, whatever the video's own rate is.
    assert all(abs(row.first - max(int(60 * row.start + 1e-6), 1)) <= 1 for row in rows)
    with (folder / "EPIC_100_video_info.csv").open(newline="") as file:
        assert all((frame_rate(row["video_id"]) == 50) == (float(row["fps"]) == 50) for row in csv.DictReader(file))


def test_the_real_tail_and_unseen_subsets_have_their_published_sizes(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations" / "epic100"
    rows = read_rows(folder / "EPIC_100_validation.csv")
    for video in {row.video for row in rows}:
        (tmp_path / f"{video}.mp4").write_bytes(b"x")
    header, *lines = (folder / "EPIC_100_validation.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([header, lines[0]]))
    (tmp_path / "test.csv").write_text("\n".join([header, *lines[1:]]))
    options = {"annotations": str(folder), "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    clips = read(tmp_path, **options).clips
    unseen = listed(folder / "EPIC_100_unseen_participant_ids_validation.csv", "participants")
    sizes = {name: int(mask.sum()) for name, mask in subsets(clips, tail_classes(folder), unseen).items()}
    of_people = sum(row.participant in ("P18", "P32") for row in rows)
    assert sizes == {"tail_verb": 1760, "tail_noun": 1900, "tail_both": 555, "tail_either": 3105, "unseen": of_people}
