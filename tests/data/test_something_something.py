from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.registry import check_options
from vidistill.data.formats import FORMATS
from vidistill.data.formats.something_something import read_labels, read_videos, template_class
from vidistill.data.manifest import Manifest, check

LABELS = {"Holding something next to something": "1", "Moving something up": "0", "Folding something": "10"}
TRAIN = [{"id": "78687", "template": "Holding [something] next to [something]", "label": "holding potato"}]
TRAIN += [{"id": "2", "template": "Moving [something] up"}]
TEST = [{"id": "3", "template": "Folding [something]"}]


def write(folder: Path, names: dict[str, str], train: Any = TRAIN, test: Any = TEST, labels: Any = LABELS) -> None:
    for part, content in (("train", train), ("validation", test), ("labels", labels)):
        path = folder / names[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


SOMETHING = {part: f"something-something-v2-{part}.json" for part in ("train", "validation", "labels")}
ELSE = {part: f"compositional/{part}.json" for part in ("train", "validation", "labels")}


def read(root: Path, name: str = "something_something", **options: object) -> Manifest:
    reader = FORMATS.get(name)
    return reader(root, **check_options(reader, options, where="data", skip=1))


@pytest.fixture
def something(tmp_path: Path) -> Path:
    write(tmp_path / "annotations", SOMETHING)
    (tmp_path / "videos").mkdir()
    for name in ("78687", "2", "3"):
        (tmp_path / "videos" / f"{name}.webm").write_bytes(b"x")
    return tmp_path


def test_the_class_is_the_template_without_brackets(something: Path) -> None:
    manifest = read(something)
    assert [(clip.id, clip.split, clip.labels["action"], clip.sources["rgb"]) for clip in manifest.clips] == [
        ("78687", "train", "Holding something next to something", "videos/78687.webm"),
        ("2", "train", "Moving something up", "videos/2.webm"),
        ("3", "test", "Folding something", "videos/3.webm"),
    ]
    check(manifest, ["action"])
    assert read(something, labels="number").classes["action"] == ("00", "01", "10")
    assert template_class("Pouring [something] into [something] until it overflows").count("[") == 0


def test_a_part_of_the_set_has_all_classes_in_the_order_of_their_numbers(something: Path) -> None:
    (something / "videos" / "2.webm").unlink()
    part = read(something)
    assert len(part.clips) == 2
    assert part.classes["action"] == tuple(sorted(LABELS, key=lambda name: int(LABELS[name])))
    assert set(part.classes["action"]) > {clip.labels["action"] for clip in part.clips}


def test_boxes_that_an_hdf5_file_does_not_hold_are_absent_or_a_problem(something: Path) -> None:
    with h5py.File(something / "b.hdf5", "w") as file:
        file["2"], file["3"] = np.zeros((4, 2, 5)), np.zeros((4, 2, 5))
    beside = read(something, boxes="b.hdf5")
    assert {clip.id: sorted(clip.sources) for clip in beside.clips} == {
        "78687": ["rgb"],
        "2": ["boxes", "rgb"],
        "3": ["boxes", "rgb"],
    }
    alone = read(something, media="none", boxes="b.hdf5")
    assert [clip.id for clip in alone.clips] == ["2", "3"]
    assert [(problem.clip, problem.kind) for problem in alone.problems] == [("78687", "missing")]


def test_something_else_has_the_same_form_in_other_files(something: Path) -> None:
    write(something / "annotations", ELSE, train=TEST, test=TRAIN, labels={key: int(n) for key, n in LABELS.items()})
    splits = {clip.id: clip.split for clip in read(something, "something_else").clips}
    assert splits == {"3": "train", "78687": "test", "2": "test"}


def test_videos_that_are_not_there_are_problems(something: Path) -> None:
    (something / "videos/2.webm").unlink()
    manifest = read(something)
    assert [problem.clip for problem in manifest.problems] == ["2"] and len(manifest.clips) == 2
    (something / "videos/3.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"3\.mp4 and 3\.webm are one clip"):
        read(something)


def test_frames_datasets_and_boxes_are_sources_too(tmp_path: Path) -> None:
    write(tmp_path / "annotations", SOMETHING)
    (tmp_path / "frames" / "2").mkdir(parents=True)
    clip = read(tmp_path, media="frames", boxes="detections.json", fps=10).clips[0]
    assert clip.sources == {"rgb": "frames/2", "boxes": "detections.json#2"} and clip.fps == 10
    with h5py.File(tmp_path / "dataset.hdf5", "w") as file:
        file["3"] = np.zeros(2, "S4")
    packed = read(tmp_path, media="hdf5")
    assert [(clip.id, clip.sources) for clip in packed.clips] == [("3", {"rgb": "dataset.hdf5#3"})]
    assert len(packed.problems) == 2
    boxes = read(tmp_path, media="none", boxes="detections.json")
    assert [clip.sources for clip in boxes.clips] == [{"boxes": f"detections.json#{n}"} for n in ("78687", "2", "3")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"media": "none"}, "there are no boxes"),
        ({"files": {"rgb": "a.hdf5"}}, "files do not fit 'media: videos'"),
        ({"media": "hdf5", "folder": "videos"}, "folder does not fit"),
        ({"fps": 0}, "must be above 0"),
        ({"folder": "/"}, "is not below"),
    ],
)
def test_options_that_do_not_fit_are_refused(something: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        read(something, **options)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ([*TRAIN, {"id": "5", "template": "Moving [something] upp"}], "entry 3: the template .* is no class. Did you"),
        ([{"id": "5"}], "entry 1: has no id or no template"),
        (["5"], "entry 1: has no id or no template"),
        ([{"id": "../5", "template": "Folding [something]"}], "entry 1: '../5' is not a video's id"),
        ([TRAIN[0], TRAIN[0]], "entry 2: the video '78687' is there twice"),
        ({"id": "5"}, "is not a list of videos"),
        ([], "is not a list of videos"),
        (TEST, "1 videos are in both lists, e.g. '3'"),
    ],
)
def test_wrong_entries_are_told_by_file_and_number(something: Path, train: Any, says: str) -> None:
    write(something / "annotations", SOMETHING, train=train)
    with pytest.raises(DataError, match=says) as caught:
        read(something)
    assert str(something) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[], {}, {"a": "x"}, {"a": True}, {"a": 1.5}, {"a": "1", "b": 1}])
def test_wrong_lists_of_classes_are_refused(tmp_path: Path, labels: Any) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match=r"labels\.json"):
        read_labels(tmp_path / "labels.json")


def test_the_real_lists_of_something_else_agree(shared_data: Path) -> None:
    folder = shared_data / "annotations" / "something_else"
    classes = read_labels(folder / "compositional" / "labels.json")
    assert sorted(classes.values()) == list(range(174))
    videos = read_videos(folder / "finetune_5shot_training.json", classes)
    counts = {label: list(videos.values()).count(label) for label in set(videos.values())}
    assert set(counts.values()) == {5} and len(videos) == 5 * len(counts)
