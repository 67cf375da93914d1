from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.registry import check_options
from vidistill.core.types import Clip
from vidistill.data.decoding import open_frames
from vidistill.data.flow_folder import FlowFolder
from vidistill.data.formats import FORMATS
from vidistill.data.formats.frame_lists import read_frame_lists
from vidistill.data.formats.frame_sources import find_frames
from vidistill.data.frame_series import direction_pairs, flow_pairs, frame_numbers, still_names
from vidistill.data.manifest import Manifest
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.rgb import Rgb, RgbSource


def save(folder: Path, frames: int, flows: int = 0, *, name: str = "img_{:05d}.png", first: int = 1) -> Path:
    """Frames of level 10 x number; flow of u = number, v = 100 + number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + frames):
        Image.fromarray(np.full((6, 8, 3), 10 * number, np.uint8)).save(folder / name.format(number))
    for number in range(first, first + flows):
        for side, level in (("x", number), ("y", 100 + number)):
            Image.fromarray(np.full((6, 8), level, np.uint8)).save(folder / f"flow_{side}_{number:04d}.png")
    return folder


def read(name: str, root: Path, **options: object) -> Manifest:
    reader = FORMATS.get(name)
    return reader(root, **check_options(reader, options, where="data", skip=1))


numbers = st.sets(st.integers(0, 400), min_size=1, max_size=20)


@given(stills=numbers, flows=numbers, digits=st.integers(1, 6), prefix=st.sampled_from(["image_", "img_", ""]))
def test_frames_and_flow_of_one_folder_are_told_apart(stills, flows, digits, prefix) -> None:
    frames = [f"{prefix}{number:0{digits}d}.jpg" for number in stills]
    x, y = ([f"flow_{side}_{number:0{digits}d}.jpg" for number in flows] for side in "xy")
    names = [*y, *frames, *x]
    assert still_names(names) == frames and still_names(y) == y
    assert frame_numbers(names, "here") == stills
    assert flow_pairs(names, "here") == [
        (f"flow_x_{n:0{digits}d}.jpg", f"flow_y_{n:0{digits}d}.jpg") for n in sorted(flows)
    ]


@given(flows=numbers, digits=st.integers(4, 10))
def test_folders_u_and_v_are_paired_by_number(flows, digits) -> None:
    names = [f"frame_{number:0{digits}d}.jpg" for number in flows]
    ordered = [f"frame_{number:0{digits}d}.jpg" for number in sorted(flows)]
    assert direction_pairs(names, reversed(names), "here") == [(f"u/{name}", f"v/{name}") for name in ordered]
    with pytest.raises(DataError, match=f"here: 'u/{ordered[0]}' has no partner"):
        direction_pairs(names, ordered[1:], "here")


def test_folders_u_and_v_with_images_that_are_no_pair_are_refused_by_name(tmp_path: Path) -> None:
    for side, names in (("u", ("1.png", "2.png")), ("v", ("1.png", "2.png", "3.png"))):
        (tmp_path / "P01_11" / side).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "P01_11" / side / name)
    with pytest.raises(DataError, match="P01_11: 'v/3.png' has no partner"):
        Flow.load(tmp_path / "P01_11", None, Clip("a", "train", {}, {}), FlowSource())
    with pytest.raises(DataError, match="'cover.png' has no number"):
        direction_pairs(["1.png", "cover.png"], ["1.png"], "here")
    with pytest.raises(DataError, match="'1.png' and '01.png'. Keep one"):
        direction_pairs(["1.png", "01.png"], ["1.png"], "here")


def test_flow_without_partner_and_frames_of_two_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"here: 'flow_y_0002.jpg' has no partner"):
        flow_pairs(["flow_x_0001.jpg", "flow_y_0001.jpg", "flow_y_0002.jpg"], "here")
    with pytest.raises(DataError, match=r"'flow_x_0001.jpg' and 'flow_x_01.jpg'"):
        flow_pairs(["flow_x_0001.jpg", "flow_x_01.jpg"], "here")
    with pytest.raises(DataError, match="'image_' and 'img_'"):
        frame_numbers(["img_1.jpg", "image_1.jpg"], "here")


@pytest.mark.parametrize("beside", [True, False])
def test_each_modality_reads_its_own_images_of_a_folder(tmp_path: Path, beside: bool) -> None:
    folder = save(tmp_path / "v", 4 if beside else 0, 3)
    clip = Clip("v", "train", {}, {}, fps=25.0)
    flow = Flow.load(folder, None, clip, FlowSource(zero=100.0, pixels_per_level=0.5))
    assert flow.values.shape == (3, 6, 8, 2) and flow.rate == 25.0
    assert flow.values[:, 0, 0].tolist() == [[-49.5, 0.5], [-49.0, 1.0], [-48.5, 1.5]]
    if beside:
        rgb = Rgb.load(folder, None, clip, RgbSource())
        assert rgb.values.shape == (4, 6, 8, 3) and rgb.values[:, 0, 0, 0].tolist() == [10, 20, 30, 40]


def test_frames_that_are_left_out_are_named_although_flow_lies_beside_them(tmp_path: Path) -> None:
    folder = save(tmp_path / "v", 6, 6)
    clip = Clip("v", "train", {}, {}, fps=25.0)
    (folder / "img_00003.png").unlink()
    with pytest.raises(DataError, match="1 frames are missing between img_00001.png"):
        Rgb.load(folder, None, clip, RgbSource())
    for side in "xy":
        (folder / f"flow_{side}_0004.png").unlink()
    with pytest.raises(DataError, match="1 frames are missing between flow_x_0001.png"):
        Flow.load(folder, None, clip, FlowSource())


def test_flow_is_read_by_index_and_damage_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "v", 0, 5)
    with FlowFolder(folder, 10.0) as source:
        assert (source.frames, source.rate, source.size) == (5, 10.0, (6, 8))
        assert source.read([3, 0, 3])[:, 0, 0].tolist() == [[4, 104], [1, 101], [4, 104]]
        assert source.read([]).shape == (0, 6, 8, 2)
    Image.fromarray(np.zeros((3, 8), np.uint8)).save(folder / "flow_y_0002.png")
    with FlowFolder(folder) as source, pytest.raises(DecodeError, match=r"flow_y_0002.png are not 8-bit images of one"):
        source.read([1])
    (folder / "flow_x_0005.png").write_bytes(b"x")
    with FlowFolder(folder) as source, pytest.raises(DecodeError, match="not a readable image"):
        source.read([4])
    with pytest.raises(DecodeError, match="holds no frames"):
        FlowFolder(save(tmp_path / "w", 2))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["image_{:05d}.png", "img_{:05d}.png", "{:04d}.png"])
def test_lists_of_two_stream_code_find_frames_and_flow(tmp_path: Path, name: str, first: int) -> None:
    save(tmp_path / "frames/v_Archery_g01_c01", 5, 4, name=name, first=first)
    save(tmp_path / "frames/v_Bow_g02_c01", 0, 3, first=first)
    save(tmp_path / "frames/v_Archery_g03_c01", 3, name=name, first=first)
    (tmp_path / "train_rgb_split1.txt").write_text("v_Archery_g01_c01 5 0\nv_Bow_g02_c01 3 1\n")
    (tmp_path / "val_rgb_split1.txt").write_text("v_Archery_g03_c01 4 0\n")
    manifest = read_frame_lists(tmp_path)
    assert [clip.sources for clip in manifest.clips] == [
        {"rgb": "v_Archery_g01_c01", "flow": "v_Archery_g01_c01"},
        {"flow": "v_Bow_g02_c01"},
    ]
    assert [problem.message.split(" of ")[0] for problem in manifest.problems] == [f"frame {3 + first}"]


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_official_lists_find_folders_of_frames(tmp_path: Path, name: str) -> None:
    save(tmp_path / "videos/walk/a_walk_1", 5, 4)
    save(tmp_path / "videos/walk/b_walk_1", 2, name="image_{:05d}.png")
    save(tmp_path / "videos/walk/c_walk_1", 0, 0)
    lists = {
        "classInd.txt": "1 walk\n",
        "trainlist02.txt": "walk/a_walk_1.avi 1\nwalk/c_walk_1.avi 1\n",
        "testlist02.txt": "walk/b_walk_1.avi\nwalk/d_walk_1.avi\n",
        "walk_test_split2.txt": "a_walk_1.avi 1\nb_walk_1.avi 2\nc_walk_1.avi 1\nd_walk_1.avi 2\n",
    }
    for file, text in lists.items():
        (tmp_path / file).write_text(text)
    manifest = read(name, tmp_path, split=2, fps=12.5)
    assert [(clip.split, clip.sources, clip.frames, clip.fps) for clip in manifest.clips] == [
        ("train", {"rgb": "walk/a_walk_1", "flow": "walk/a_walk_1"}, 5, 12.5),
        ("test", {"rgb": "walk/b_walk_1"}, 2, 12.5),
    ]
    assert sorted((p.clip, p.kind) for p in manifest.problems) == [
        ("walk/c_walk_1", "unreadable"),
        ("walk/d_walk_1", "missing"),
    ]
    with open_frames(manifest.root / "walk/a_walk_1") as source:
        assert source.frames == 5
    assert find_frames(manifest.root, "walk/a_walk_1").first_missing(6) == 6
