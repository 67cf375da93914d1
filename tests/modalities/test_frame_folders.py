from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.modalities.depth import Depth, DepthSource
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.frame_folders import missing_numbers
from vidistill.modalities.rgb import Rgb, RgbSource

CLIP = Clip("a", "train", {}, {}, fps=30.0)


@given(first=st.integers(0, 50), count=st.integers(8, 60), step=st.integers(1, 4), gap=st.integers(2, 5))
def test_what_is_taken_out_of_a_series_is_named(first, count, step, gap) -> None:
    numbers = [first + step * n for n in range(count)]
    assert missing_numbers(f"RGB-{n:08d}.jpg" for n in numbers) == []
    assert missing_numbers(f"f{n}.jpg" for n in numbers if n != numbers[gap]) == [numbers[gap]]


def test_time_stamps_and_other_names_are_no_series() -> None:
    stamps = (1403636579763555584 + 50_000_000 * n + (n * 7919) % 1013 for n in range(20))
    assert missing_numbers(f"{stamp}.png" for stamp in stamps) == []
    assert missing_numbers(["start.png", "middle.png", "end.png"]) == []
    assert missing_numbers(["a_1.png", "a_2.png", "b_9.png"]) == []
    assert missing_numbers(["1.png", "01.png", "9.png"]) == []
    assert missing_numbers([]) == []


def save(folder, name: str, array: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(array).save(folder / name)


def test_folders_of_the_published_layout_load_in_order(tmp_path) -> None:
    for number in (1, 2, 10, 9, 3, 4, 5, 6, 7, 8):
        grey = np.full((6, 8, 3), number, np.uint8)
        save(tmp_path / "rgb", f"RGB-{number:08d}.png", grey)
        save(tmp_path / "oflow", f"OFlow-{number}.png", grey + np.uint8(118))
        save(tmp_path / "depth", f"Depth-{number:08d}.png", np.full((6, 8), 400 * number, np.uint16))
    rgb = Rgb.load(tmp_path / "rgb", None, CLIP, RgbSource())
    assert rgb.values[:, 0, 0, 0].tolist() == list(range(1, 11)) and rgb.rate == 30.0
    flow = Flow.load(tmp_path / "oflow", None, CLIP, FlowSource(zero=128.0))
    assert flow.values.shape == (10, 6, 8, 2)
    assert flow.values[:, 0, 0, 0].tolist() == list(range(-9, 1))
    codes = Depth.load(tmp_path / "depth", None, CLIP, DepthSource()).values[:, 0, 0, 0]
    assert codes[1] == 255 and codes[9] == 20 and (np.diff(codes[1:].astype(int)) < 0).all()
    levels = Depth.load(tmp_path / "depth", None, CLIP, DepthSource(coding="released")).values[:, 0, 0, 0]
    assert levels.tolist() == [400 * number // 256 for number in range(1, 11)]
    with pytest.raises(DataError, match="16-bit depth"):
        Depth.load(tmp_path / "rgb", None, CLIP, DepthSource(coding="released"))


@pytest.mark.parametrize(("modality", "options"), [(Rgb, RgbSource()), (Flow, FlowSource()), (Depth, DepthSource())])
def test_a_folder_with_a_frame_missing_is_refused_by_number(tmp_path, modality, options) -> None:
    for number in (1, 2, 3, 5, 6, 7, 11):
        save(tmp_path / "x", f"RGB-{number:08d}.png", np.full((6, 8, 3), 9, np.uint8))
    with pytest.raises(DataError, match="4 frames are missing .*: 4, 8, 9, 10"):
        modality.load(tmp_path / "x", None, CLIP, options)


def test_holes_of_depth_are_filled_when_asked(tmp_path) -> None:
    depth = np.full((6, 8), 2000, np.uint16)
    depth[2, 3] = 0
    save(tmp_path / "x", "Depth-1.png", depth)
    assert Depth.load(tmp_path / "x", None, CLIP, DepthSource()).values[0, 2, 3, 0] == 0
    filled = Depth.load(tmp_path / "x", None, CLIP, DepthSource(fill_holes=True)).values
    assert filled.shape == (1, 6, 8, 1) and len(np.unique(filled)) == 1 and filled.min() > 0
