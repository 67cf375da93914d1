"""Published HDF5 frames: flow as pairs of grey images, keys that name seconds, clips that are not there."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.types import Clip
from vidistill.data.containers import Hdf5Frames
from vidistill.data.hdf5_frames import FlowPairs, encoded_frames, holds_grey_images, stretch_of, without_absent
from vidistill.data.manifest import Manifest


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def store(file: h5py.File, key: str, images: list[bytes], fixed: bool) -> None:
    if fixed:
        file.create_dataset(key, data=np.array(images, dtype=f"S{max(map(len, images)) + 7}"))
        return
    dataset = file.create_dataset(key, (len(images),), h5py.vlen_dtype(np.uint8))
    for number, image in enumerate(images):
        dataset[number] = np.frombuffer(image, np.uint8)


@pytest.mark.parametrize("fixed", [True, False])
def test_flow_pairs_are_u_and_v_of_each_frame_in_any_order(tmp_path: Path, fixed: bool) -> None:
    flow = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 2)).astype(np.uint8)
    images = [png(np.ascontiguousarray(frame[..., axis])) for frame in flow for axis in (0, 1)]
    with h5py.File(tmp_path / "flow.hdf5", "w") as file:
        store(file, "P01_101/P01_101_7", images, fixed)
    assert holds_grey_images(tmp_path / "flow.hdf5", "P01_101/P01_101_7")
    with FlowPairs(tmp_path / "flow.hdf5", "P01_101/P01_101_7", 50.0) as source:
        assert (source.frames, source.size, source.rate, source.levels) == (5, (6, 8), 50.0, {})
        np.testing.assert_array_equal(source.read([4, 0, 0, 3]), flow[[4, 0, 0, 3]])
        source.close()
        np.testing.assert_array_equal(source.read([1]), flow[[1]])
    assert encoded_frames(tmp_path / "flow.hdf5", "P01_101/P01_101_7") == images


def test_images_without_a_partner_or_in_colour_are_no_flow_pairs(tmp_path: Path) -> None:
    grey, colour = png(np.zeros((6, 8), np.uint8)), png(np.zeros((6, 8, 3), np.uint8))
    path = tmp_path / "flow.hdf5"
    with h5py.File(path, "w") as file:
        store(file, "odd", [grey] * 3, False)
        store(file, "one", [grey], True)
        store(file, "colour", [colour] * 4, False)
        file["raw"] = np.zeros((4, 6, 8))
    assert not holds_grey_images(path, "colour") and not holds_grey_images(path, "raw")
    for key, words in (("odd", "3 images"), ("one", "1 images"), ("colour", "grey"), ("absent", "no dataset 'absent'")):
        with pytest.raises(DecodeError, match=words):
            FlowPairs(path, key)
    with pytest.raises(DecodeError, match="encoded images"):
        encoded_frames(path, "raw")
    with pytest.raises(DecodeError, match="not a readable HDF5 file"):
        encoded_frames(tmp_path / "no.hdf5", "x")


def test_an_absent_key_among_very_many_is_not_searched_for_its_like(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "many.hdf5", "w") as file:
        for number in range(1001):
            file[f"{number:05d}"] = 0
    with pytest.raises(DecodeError, match=r"holds no dataset '0000x'$"):
        Hdf5Frames(tmp_path / "many.hdf5", "0000x")


@given(st.floats(0, 1e5), st.floats(0, 1e5) | st.none(), st.text(min_size=1, max_size=8))
def test_a_key_with_seconds_is_read_as_written(start: float, end: float | None, name: str) -> None:
    start = round(start, 6)
    end = None if end is None else round(end, 6)
    key = f"{name}[{start:.6f}:{'' if end is None else f'{end:.6f}'}]"
    assert stretch_of(key) == (name, start, end)


@pytest.mark.parametrize("key", ["P01_11", "a[b:c]", "a[1:2", "a[-1:2]", "[1:2]", "a[1]"])
def test_a_key_without_seconds_is_a_name(key: str) -> None:
    assert stretch_of(key) == (key, None, None)


def test_clips_that_are_not_in_their_file_are_named_and_the_others_kept(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rgb.hdf5", "w") as file:
        file["P01/a"] = file["P01/b"] = np.zeros((2, 4, 4))
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P01"] = np.zeros(9)
    clips = tuple(
        Clip(name, "train", {"action": "x"}, {"rgb": f"rgb.hdf5#{video}/{name}", "audio": f"audio.hdf5#{sound}"})
        for name, video, sound in (("a", "P01", "P01[0:1]"), ("b", "P01", "P02[0:1]"), ("c", "P01", "P01"))
    )
    found = without_absent(Manifest(tmp_path, clips), ("rgb",))
    assert [(clip.id, sorted(clip.sources)) for clip in found.clips] == [("a", ["audio", "rgb"]), ("b", ["rgb"])]
    assert [(p.clip, p.kind, p.message) for p in found.problems] == [("c", "missing", "rgb: rgb.hdf5 holds no 'P01/c'")]
    with pytest.raises(DataError, match="none of 1 clips is there.*'P01/c'"):
        without_absent(Manifest(tmp_path, clips[2:]), ("rgb",))
