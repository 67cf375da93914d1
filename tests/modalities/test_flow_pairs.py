"""Flow kept as grey images, u and v in turn."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.modalities.flow import Flow


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    levels = np.arange(6 * 2, dtype=np.uint8)[:, None, None] * np.ones((12, 4, 6), np.uint8) + 120
    with h5py.File(tmp_path / "flow.hdf5", "w") as file:
        for key in ("plain", "stated"):
            dataset = file.create_dataset(key, (12,), h5py.vlen_dtype(np.uint8))
            for number, image in enumerate(levels):
                dataset[number] = cv2.imencode(".png", image)[1].reshape(-1)
        file["stated"].attrs["pixels_per_level"], file["stated"].attrs["zero"] = 0.25, 128.0
        file["arrays"] = np.ones((6, 4, 6, 2), np.float32)
    return tmp_path / "flow.hdf5"


def load(path: Path, key: str, **clip: float) -> np.ndarray:
    options = Flow.Source(pixels_per_level=0.5, zero=127.0)
    return Flow.load(path, key, Clip("a", "train", {}, {}, fps=10.0, **clip), options).values


def test_grey_images_of_a_file_are_u_and_v_in_the_options_levels(packed: Path) -> None:
    flow = load(packed, "plain")
    assert flow.shape == (6, 4, 6, 2)
    np.testing.assert_array_equal(flow[:, 0, 0, 0], (np.arange(0, 12, 2) + 120 - 127) * 0.5)
    np.testing.assert_array_equal(flow[:, 0, 0, 1], (np.arange(1, 12, 2) + 120 - 127) * 0.5)


def test_levels_that_the_file_states_go_before_options(packed: Path) -> None:
    np.testing.assert_array_equal(load(packed, "stated")[:, 0, 0, 0], (np.arange(0, 12, 2) + 120 - 128) * 0.25)


def test_a_clips_seconds_count_frames_not_images(packed: Path) -> None:
    assert len(load(packed, "plain", start=0.2, end=0.5)) == 3
    with pytest.raises(DataError, match="no frame between"):
        load(packed, "plain", start=2.0)


def test_arrays_are_read_as_before(packed: Path) -> None:
    assert load(packed, "arrays").shape == (6, 4, 6, 2)
