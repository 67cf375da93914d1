"""Options and fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Tests run side by side and on small tensors: threads of one process would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        default=str(REPOSITORY / "tests" / "parity" / "data"),
        help="folder of published components, <system>/<name>.json with <name>.npz",
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips beside the repository; tests that need them skip where they are absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set of 90 clips in three classes: 20 frames of 24x20 RGB, 20 joints, and for two thirds a sensor.

    The class is the speed of a bright spot and of the joints, and the height of the sensor's wave.
    """
    folder = tmp_path_factory.mktemp("tiny set")
    frames, joints, sensor, rows = {}, {}, {}, []
    for number in range(90):
        random = np.random.default_rng(number)
        speed = number % 3
        split = ("train", "train", "train", "val", "test")[number // 3 % 5]
        name = f"clip {number:02d}"
        wave = np.sin(np.arange(20) * (0.2 + 0.4 * speed) + random.uniform(0, 6))
        picture = random.integers(0, 60, (20, 20, 24, 3))
        for time, place in enumerate(np.rint(10 + 8 * wave).astype(int)):
            picture[time, 8:12, place : place + 4] += 150
        frames[name] = picture.astype(np.uint8)
        body = random.normal(0, 0.02, (20, 20, 3)) + np.linspace(0, 1, 20)[None, :, None]
        joints[name] = (body + 0.3 * wave[:, None, None]).astype(np.float32)
        row = f"{name},{split},10,20,speed{speed},frames.npz#{name},joints.npz#{name}"
        if number % 9 < 6:
            times = np.arange(100) / 50
            signal = speed - 1 + 0.2 * np.sin(times * 10 + random.uniform(0, 6))
            sensor[name] = np.repeat(signal[:, None], 6, 1).astype(np.float32)
            row += f",sensor.npz#{name}"
        else:
            row += ","
        rows.append(row)
    np.savez(folder / "frames.npz", **frames)
    np.savez(folder / "joints.npz", **joints)
    np.savez(folder / "sensor.npz", **sensor)
    header = "id,split,fps,frames,label:action,path:rgb,path:skeleton,path:inertial"
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def make_tiny_recipe() -> Callable[..., dict[str, Any]]:
    """Makes a recipe over the tiny set that runs in seconds: RGB student, skeleton and inertial teachers."""

    def make(tiny_set: Path, folder: Path, **sections: Any) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "name": "tiny",
            "runs": str(folder / "runs"),
            "data": {"format": "manifest", "root": str(tiny_set)},
            "prepare": {"workers": 1},
            "modalities": {
                "rgb": {"size": [16, 16]},
                "skeleton": {"kind": "joints", "frames": 16},
                "inertial": {"frames": 32},
            },
            "views": {"frames": 6},
            "teachers": {
                "skeleton": {"input": "skeleton", "network": "temporal_conv", "width": 16},
                "inertial": {"input": "inertial", "network": "temporal_conv", "width": 16},
            },
            "teacher_schedule": {"epochs": 15},
            "student": {"input": "rgb", "network": "compact3d", "width": 4, "stages": 2},
            "method": {"name": "kd"},
            "schedule": {"epochs": 3, "batch_size": 8, "views": 2},
            "export": {"int8": False, "latency": False},
        }
        return {**tree, **sections}

    return make


@pytest.fixture
def tiny_recipe(tiny_set: Path, tmp_path: Path, make_tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A recipe over the tiny set in a folder of the test's own."""
    return make_tiny_recipe(tiny_set, tmp_path)
