"""Files of detections: both JSON forms, HDF5 of literals; hostile ones give one line."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.core.types import Clip, Signal
from vidistill.data.manifest import resolve
from vidistill.modalities import box_epic, box_files
from vidistill.modalities.base import SignalAbsent
from vidistill.modalities.boxes import Boxes, BoxesSource
from vidistill.modalities.layout import CLASS, COLUMNS

HAND = {"category": "left hand", "x1": 20.0, "y1": 10.0, "x2": 40.0, "y2": 30.0, "score": 0.5}
CUP = {"category": "cup", "x1": 50.5, "y1": 0.0, "x2": 25.0, "y2": 25.0, "score": 0.75}


def clip_of(**changes) -> Clip:
    return Clip(**{"id": "a", "split": "train", "labels": {}, "sources": {}, **changes})


def entry_of(*frames, video: str = "7", **more) -> dict:
    return {"id": video, "template": "Moving [something] up", "size": [100, 50], "frames": list(frames), **more}


def written(folder: Path, content, name: str = "boxes.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def load(path: Path, key: str | None = "7", clip: Clip | None = None, **options) -> Signal:
    return Boxes.load(path, key, clip or clip_of(), BoxesSource(**options))


def test_a_manifest_names_a_video_of_a_file(tmp_path) -> None:
    assert resolve(tmp_path, "train.json#78687") == (tmp_path / "train.json", "78687")


def test_boxes_become_fractions_best_first_with_their_class(tmp_path) -> None:
    path = written(tmp_path, [entry_of([HAND, CUP], [], [CUP])])
    signal = load(path, clip=clip_of(fps=12.0))
    assert signal.values.shape == (3, 2, COLUMNS) and signal.values.dtype == np.float32 and signal.rate == 12.0
    np.testing.assert_allclose(signal.values[0, 0], [0.25, 0, 0.505, 0.5, 0.75, 1, 0, 0])
    np.testing.assert_allclose(signal.values[0, 1], [0.2, 0.2, 0.4, 0.6, 0.5, 2, 0, 0])
    assert signal.values[1].any() == np.False_ and signal.values[2, :, CLASS].tolist() == [1, 0]
    assert load(path, count=1).values[..., CLASS].ravel().tolist() == [1, 0, 1]


def test_released_keeps_the_order_and_cuts_off_fractions(tmp_path) -> None:
    values = load(written(tmp_path, [entry_of([HAND, CUP])]), variant="released").values
    np.testing.assert_allclose(values[0, :, CLASS], [2, 1])
    np.testing.assert_allclose(values[0, 1, :4], [0.25, 0, 0.5, 0.5])


def test_the_older_form_has_its_sizes_beside_it(tmp_path) -> None:
    frames = [{"frame_objects": [{**HAND, "score": None}]}, {"frame_objects": []}]
    path = written(tmp_path, [{"id": 7, "frames": frames}])
    with pytest.raises(DataError, match=r"boxes\.json#7.*videoid2size\.json.*frame_size"):
        load(path)
    np.testing.assert_allclose(load(path, frame_size=(50, 100)).values[0, 0], [0.2, 0.2, 0.4, 0.6, 1, 2, 0, 0])
    written(tmp_path, {"7": [200, 100]}, "videoid2size.json")
    np.testing.assert_allclose(load(path).values[0, 0, :4], [0.1, 0.1, 0.2, 0.3])
    written(tmp_path, {"7": "12"}, "other.json")
    with pytest.raises(DataError, match="its size"):
        load(path, sizes="other.json")


def test_a_video_alone_needs_no_list_and_no_id(tmp_path) -> None:
    entry = entry_of([HAND])
    del entry["id"]
    assert load(written(tmp_path, entry, "7.json")).values[0, 0, CLASS] == 2


def test_a_clip_of_a_video_is_cut_from_it_and_is_named_by_its_id(tmp_path) -> None:
    path = written(tmp_path, [entry_of(*[[{**CUP, "x1": float(n)}] for n in range(40)], video="a")])
    signal = load(path, None, clip_of(start=1.0, end=1.1))
    np.testing.assert_allclose(signal.values[:, 0, 0], [0.25, 0.25, 0.25], err_msg="x2 is the smaller corner")
    np.testing.assert_allclose(signal.values[:, 0, 2], [0.30, 0.31, 0.32])


def test_a_file_is_scanned_once(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, [entry_of([HAND], video=str(n)) for n in range(5)])
    reads = []
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **more: reads.append(self) or read(self, **more))
    for video in "01234":
        load(path, video)
    assert reads == [path]
    written(tmp_path, [entry_of([CUP], [CUP], video="0")])
    assert len(load(path, "0")) == 2, "another file under the name is noticed"


def test_boxes_with_impossible_numbers_are_no_boxes(tmp_path) -> None:
    path = written(tmp_path, [entry_of([{**HAND, "x1": float("nan")}, {**HAND, "y2": 1e300}, CUP])])
    assert load(path).values[0, :, CLASS].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a list"),
        ("[" * 100_000, "recursion"),
        ('[{"id": 1, "frames": []}', "a comma or the list's end"),
        ('[{"id": 1, "frames": []}] x', "more after its end"),
        ([entry_of(), entry_of()], "'7' is listed twice"),
        ([{"id": "7"}], "not a video with frames"),
        ([entry_of(video="8")], "holds no video '7'"),
        ([entry_of()], "has no frames"),
        ([entry_of("x")], "a frame should be a list"),
        ([entry_of(["x"])], "'?x'? is not a box|x is not a box"),
        ([entry_of([{**HAND, "category": 3}])], "is not a box"),
        ([entry_of([{**HAND, "x1": None}])], "is not a box"),
        ([entry_of([{**HAND, "side": 2}])], "side 2"),
        ([entry_of([HAND], size=[0, 5])], "is not .width, height."),
        ([entry_of([HAND], size=[5])], "is not .width, height."),
    ],
)
def test_what_is_no_file_of_detections_is_one_line_that_names_it(tmp_path, content, says: str) -> None:
    with pytest.raises(DataError, match=rf"boxes\.json.*({says})") as error:
        load(written(tmp_path, content))
    assert "\n" not in str(error.value)


numbers = st.one_of(st.floats(width=64), st.integers(-(10**9), 10**9))
items = st.fixed_dictionaries(
    {"category": st.sampled_from(["hand", "cup"]), **dict.fromkeys(("x1", "y1", "x2", "y2"), numbers)},
    optional={"score": st.floats(0, 1)},
)


@given(st.lists(st.lists(items, max_size=4), min_size=1, max_size=4), st.integers(1, 3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_whatever_the_boxes_are_the_best_are_kept_in_order(tmp_path_factory, frames, count, released) -> None:
    path = written(tmp_path_factory.mktemp("boxes"), [entry_of(*frames)])
    values = load(path, count=count, variant="released" if released else "default").values
    assert values.shape[0] == len(frames) and values.shape[1] <= count and np.isfinite(values).all()
    assert (values[..., :2] <= values[..., 2:4]).all()
    there = values[..., CLASS] > 0
    assert (there[:, :-1] >= there[:, 1:]).all(), "boxes first"
    if not released:
        assert (np.diff(values[..., 4], axis=1) <= 0).all()


LITERAL = [{"box": [0.4, 0.2, 0.2, 0.6], "category": "hand", "score": 0.5, "side": 1, "state": 3}]


def hdf5_of(folder: Path, frames: dict[str, object], video: str = "P01_11") -> Path:
    path = folder / "boxes.hdf5"
    with h5py.File(path, "w") as file:
        for name, content in frames.items():
            file[f"{video}/{name}"] = content
    return path


@pytest.mark.parametrize("kind", [np.bytes_, bytes, str, lambda text: np.frombuffer(bytes(text), np.uint8)])
def test_a_literal_of_any_text_type_is_read(tmp_path, kind) -> None:
    text = repr(LITERAL)
    content = text if kind is str else kind(text.encode())
    path = hdf5_of(tmp_path, {"0": content})
    if kind in (np.bytes_, bytes, str):
        values = load(path, "P01_11").values
        np.testing.assert_allclose(values[0, 0], [0.2, 0.2, 0.4, 0.6, 0.5, 2, 2, 4], rtol=1e-6)
    else:
        with pytest.raises(DataError, match="not the text"):
            load(path, "P01_11")


def test_frames_are_those_of_the_video_and_released_those_of_the_clip(tmp_path) -> None:
    frames = {str(n): repr([{**LITERAL[0], "score": n / 100}]).encode() for n in range(100) if n != 62}
    path, clip = hdf5_of(tmp_path, frames), clip_of(fps=60.0, start=1.0, end=1.05)
    signal = load(path, "P01_11", clip)
    np.testing.assert_allclose(signal.values[:, 0, 4], [0.60, 0.61, 0.0], rtol=1e-6)
    assert (signal.rate, signal.start) == (60.0, 0.0)
    released = load(path, "P01_11", clip, variant="released")
    np.testing.assert_allclose(released.values[:, 0, 4], [0.0, 0.01, 0.02], rtol=1e-6)
    assert len(load(path, "P01_11", clip_of(fps=60.0, start=1.5))) == 10
    with pytest.raises(SignalAbsent, match="P01_11: has no frame from 300"):
        load(path, "P01_11", clip_of(fps=60.0, start=5.0, end=5.1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"__import__('os').getcwd()", "literal"),
        (b"(" * 5000, "literal"),
        (b"-" * 60_000 + b"1", "literal"),
        (b"[" + b" " * (1 << 16) + b"]", "65538 bytes"),
        (b"\xff", "literal"),
        (b"{}", "should be a list"),
        (b"[{}]", "not a box"),
        (b"[{'box': 'abcd', 'category': 'hand'}]", "not a box"),
        (b"[{'box': [0, 0, 1], 'category': 'hand'}]", "not a box"),
        (b"[{'box': [0, 0, 1, 1], 'category': 'hand', 'state': 5}]", "state 5"),
        (np.zeros(3), "not the text"),
    ],
)
def test_what_is_no_literal_of_boxes_is_one_line_that_names_it(tmp_path, content, says: str) -> None:
    stored = np.bytes_(content) if isinstance(content, bytes) else content
    with pytest.raises(DataError, match=rf"P01_11/0: .*{says}"):
        load(hdf5_of(tmp_path, {"0": stored}), "P01_11")


def test_a_frame_number_beyond_all_videos_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(box_epic, "MAX_FRAMES", 50)
    with pytest.raises(DataError, match="limit of 50"):
        load(hdf5_of(tmp_path, {"99": repr(LITERAL).encode()}), "P01_11")


def test_a_dataset_of_an_hdf5_file_is_an_array_of_boxes(tmp_path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["clip"] = np.array([[[0.1, 0.1, 0.2, 0.2, 0.9, 2, 1, 5]]], np.float32)
    assert load(tmp_path / "a.h5", "clip").values.shape == (1, 1, COLUMNS)
    (tmp_path / "b.h5").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"b\.h5: not a readable HDF5 file"):
        load(tmp_path / "b.h5", "clip")
    assert box_files.is_detections(tmp_path / "boxes.npy", None) is False
