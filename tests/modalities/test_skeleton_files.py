from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, View
from vidistill.data.prepare_clip import ModalitySource, prepare_clip
from vidistill.modalities.base import SignalAbsent
from vidistill.modalities.rgb import Rgb, RgbSource
from vidistill.modalities.skeleton import Skeleton, SkeletonSource
from vidistill.modalities.skeleton_files import MAX_BYTES, cad60_points, pku_points, read_skeleton_file

JOINT = " 1 2 3 4 5 6 7 8 2"


def body_text(name: str, joints: np.ndarray) -> str:
    rows = [" ".join(f"{value:.6f}" for value in joint) + JOINT for joint in joints]
    return "\n".join([f"{name} 0 1 1 1 1 0 -0.1 0.2 2", "25", *rows])


def ntu_text(frames: list[dict[str, np.ndarray]]) -> str:
    lines = [str(len(frames))]
    for frame in frames:
        lines += [str(len(frame)), *(body_text(name, joints) for name, joints in frame.items())]
    return "\n".join(lines) + "\n"


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def joints_of(seed: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (25, 3)).round(4)


def load(path: Path, **clip) -> np.ndarray:
    return Skeleton.load(path, None, Clip("a", "train", {}, {}, **clip), SkeletonSource()).values


@settings(deadline=None, max_examples=40)
@given(present=st.lists(st.sets(st.sampled_from("AB")), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_what_is_written_as_ntu_text_is_read_back_by_identity(tmp_path_factory, present, seed) -> None:
    frames = [
        {name: joints_of(1000 * seed + 10 * t + ord(name)) for name in sorted(who)} for t, who in enumerate(present)
    ]
    path = written(tmp_path_factory.mktemp("ntu"), "a.skeleton", ntu_text(frames))
    names = list(dict.fromkeys(name for frame in frames for name in frame))
    if not names:
        with pytest.raises(SignalAbsent):
            read_skeleton_file(path)
        return
    points = read_skeleton_file(path)
    assert points.shape == (len(frames), len(names), 25, 3) and points.dtype == np.float32
    for time, frame in enumerate(frames):
        for row, name in enumerate(names):
            expected = frame.get(name, np.full((25, 3), np.nan))
            np.testing.assert_allclose(points[time, row], expected, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(text=st.text(alphabet="0123456789 .-\n,eEnaxND", max_size=400), suffix=st.sampled_from([".skeleton", ".txt"]))
def test_any_text_is_a_skeleton_or_one_line_of_complaint(tmp_path_factory, text, suffix) -> None:
    path = written(tmp_path_factory.mktemp("any"), f"a{suffix}", text)
    try:
        points = read_skeleton_file(path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert points.ndim == 4 and points.shape[-1] == 3


def test_frames_without_a_body_are_interpolated_and_marked(tmp_path) -> None:
    still = joints_of(0)
    path = written(tmp_path, "a.skeleton", ntu_text([{"7": still}, {}, {"7": still + 1.0}]))
    values = load(path)
    assert values.shape == (3, 1, 25, 4)
    np.testing.assert_allclose(values[1, 0, :, :3], still + 0.5, atol=1e-5)
    assert values[:, 0, 0, 3].tolist() == [1.0, 0.0, 1.0]


def test_of_three_bodies_the_two_that_move_most_stay_in_their_order(tmp_path) -> None:
    still, frames = joints_of(1), []
    for time in range(6):
        frame = {"chair": still + 0.001 * time, "early": still + 0.1 * time, "late": still + 0.3 * time}
        frames.append(frame if time else {"chair": still, "early": still})
    points = read_skeleton_file(written(tmp_path, "a.skeleton", ntu_text(frames)))
    assert points.shape[1] == 2
    np.testing.assert_allclose(points[5, 0], still + 0.5, atol=1e-5)
    assert np.isnan(points[0, 1]).all()
    np.testing.assert_allclose(points[5, 1], still + 1.5, atol=1e-5)


def test_of_bodies_that_stand_still_the_longest_tracked_stay(tmp_path) -> None:
    bodies = {name: joints_of(number) for number, name in enumerate("abc")}
    frames = [bodies, {name: bodies[name] for name in "bc"}, {name: bodies[name] for name in "bc"}]
    points = read_skeleton_file(written(tmp_path, "a.skeleton", ntu_text(frames)))
    np.testing.assert_allclose(points[0], np.stack([bodies["b"], bodies["c"]]), atol=1e-5)


def test_a_file_in_which_nobody_is_tracked_says_that_the_clip_lacks_a_skeleton(tmp_path) -> None:
    zeros = " ".join(["0"] * 150)
    for name, text in (("a.skeleton", "3\n0\n0\n0\n"), ("b.skeleton", "0\n"), ("c.txt", f"{zeros}\n{zeros}\n")):
        with pytest.raises(SignalAbsent, match="nobody"):
            load(written(tmp_path, name, text))


GOOD = ntu_text([{"7": joints_of(0)}])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: ends, or has an empty line, where the number of frames"),
        ("many\n", "line 1: 'many' is no possible number of frames"),
        ("-1\n", "line 1: '-1'"),
        ("1000000000\n0\n", "line 1: '1000000000' is no possible number of frames"),
        ("100000000\n0\n", "line 1: lists 100000000 frames, but has 3 lines"),
        ("9" * 5000, "line 1: '9999"),
        ("2\n0\n", "line 3: ends"),
        ("1\n7\n", "line 2: '7' is no possible number of bodies"),
        (GOOD.replace("7 0 1", "7 0"), "line 3: 9 numbers, not 10 of a body"),
        (GOOD.replace("\n25\n", "\n24\n"), "line 4: a body of 24 joints"),
        (GOOD.replace("\n25\n", "\n1000000000\n"), "line 4: '1000000000' is no possible number of joints"),
        (GOOD.replace(JOINT, " 1 2", 1), "line 5: 5 numbers, not 12"),
        (GOOD.replace("\n25\n", "\n25\nnan ", 1).replace(JOINT, JOINT[:-2], 1), "line 5: 'nan' is not a finite number"),
        (GOOD.replace("\n25\n", "\n25\nx ", 1).replace(JOINT, JOINT[:-2], 1), "line 5: 'x' is not a finite number"),
        (
            GOOD.replace("\n25\n", "\n25\n1e99 ", 1).replace(JOINT, JOINT[:-2], 1),
            "line 5: '1e99' is not a finite number",
        ),
        ("\n".join(GOOD.split("\n")[:12]), "line 13: ends"),
        (GOOD + "0\n", "line 30: goes on after the 1 frames listed"),
        (ntu_text([{"7": joints_of(0)}]).replace("1\n1\n", "1\n2\n", 1) + body_text("7", joints_of(1)), "one identity"),
        ("Ω\n", "not plain text"),
    ],
)
def test_malformed_ntu_files_name_file_and_line(tmp_path, text, says) -> None:
    (tmp_path / "a.skeleton").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_skeleton_file(tmp_path / "a.skeleton")
    assert "a.skeleton" in str(caught.value)


def test_what_the_sensor_could_not_place_in_its_other_pictures_does_not_matter(tmp_path) -> None:
    path = written(tmp_path, "a.skeleton", GOOD.replace(JOINT, " -inf nan 3 4 5 6 7 8 2"))
    np.testing.assert_allclose(read_skeleton_file(path)[0, 0], joints_of(0), atol=1e-5)


def test_a_file_that_is_too_large_is_not_read(tmp_path) -> None:
    with (tmp_path / "a.skeleton").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="more than a skeleton file may have"):
        read_skeleton_file(tmp_path / "a.skeleton")


def test_bodies_that_are_new_in_every_frame_take_memory_for_two_only(tmp_path) -> None:
    path = written(tmp_path, "a.skeleton", ntu_text([{str(time): joints_of(0)} for time in range(400)]))
    tracemalloc.start()
    points = read_skeleton_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert points.shape == (400, 2, 25, 3)
    assert peak < 400 * 400 * 25 * 3 * 4 / 2, "a row for each body would be twice that"


def test_a_clip_in_which_nobody_is_tracked_is_prepared_without_a_skeleton(tmp_path) -> None:
    written(tmp_path, "a.skeleton", "2\n0\n0\n")
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    sources = {
        "rgb": ModalitySource("rgb", partial(Rgb.load, options=RgbSource())),
        "skeleton": ModalitySource(
            "skeleton", partial(Skeleton.load, options=SkeletonSource()), absent=(SignalAbsent,)
        ),
    }
    record = prepare_clip(tmp_path, Clip("a", "train", {}, {"rgb": "a.npy", "skeleton": "a.skeleton"}), sources, 2)
    assert record.problem is None and set(record.signals) == {"rgb"}


@settings(deadline=None, max_examples=40)
@given(second=st.lists(st.booleans(), min_size=1, max_size=6), first=st.booleans(), seed=st.integers(0, 99))
def test_pku_text_is_read_back_and_zeros_are_nobody(second, first, seed) -> None:
    points = np.random.default_rng(seed).normal(size=(len(second), 2, 25, 3)).round(3) + 10
    points[0, 0] *= first
    points[:, 1] *= np.array(second)[:, None, None]
    lines = [" ".join(f"{value:.3f}" for value in frame.ravel()) for frame in points]
    if not (points != 0).any():
        with pytest.raises(SignalAbsent):
            pku_points(lines, "a")
        return
    points[(points == 0).all((2, 3))] = np.nan
    there = np.isfinite(points).any((0, 2, 3))
    np.testing.assert_allclose(pku_points([*lines, ""], "a"), points[:, there], atol=1e-4)


def cad_line(points: np.ndarray, frame: int) -> str:
    cells = [str(frame)]
    for joint, position in enumerate(points):
        cells += ["0.5"] * 9 + ["1"] if joint < 11 else []
        cells += [f"{1000 * value:.3f}" for value in position] + ["1"]
    return ",".join(cells) + ","


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(1, 5), seed=st.integers(0, 99), end=st.booleans())
def test_cad60_text_is_read_back_in_metres(frames, seed, end) -> None:
    points = np.random.default_rng(seed).normal(size=(frames, 15, 3)).round(4)
    lines = [cad_line(frame, number) for number, frame in enumerate(points, start=1)] + ["END"] * end
    np.testing.assert_allclose(cad60_points(lines, "a")[:, 0], points, atol=1e-5)


def test_text_is_told_by_its_commas(tmp_path) -> None:
    points = np.random.default_rng(0).normal(size=(15, 3))
    assert load(written(tmp_path, "cad.txt", cad_line(points, 1) + "\nEND\n")).shape == (1, 1, 15, 3)
    assert load(written(tmp_path, "pku.txt", " ".join(["1.5"] * 150) + "\n")).shape == (1, 2, 25, 3)
    for text, says in (
        ("1 2 3\n", "line 1: 3 numbers, not 150"),
        (cad_line(points, 1) + "\n1,2,3,\nEND\n", "line 2: 3 numbers, not 171"),
        (cad_line(points, 1) + "\nEND\n" + cad_line(points, 2), "line 3: goes on after END"),
        ("\n\n", "holds no frames"),
        (" ".join(["1"] * 150) + "\n\n" + " ".join(["1"] * 150), "line 2: ends, or has an empty line"),
    ):
        with pytest.raises(DataError, match=says):
            load(written(tmp_path, "bad.txt", text))


def test_raw_text_is_cut_to_the_clip_and_one_person_can_stand_for_two(tmp_path) -> None:
    path = written(tmp_path, "a.skeleton", ntu_text([{"7": joints_of(time)} for time in range(12)]))
    clip = Clip("a", "train", {}, {}, start=0.2, end=0.4, fps=30.0)
    signal = Skeleton.load(path, None, clip, SkeletonSource())
    assert len(signal) == 6 and signal.start == pytest.approx(0.0)
    encoding = Skeleton(frames=6, kind="jjd", joints="ntu12", persons=2)
    assert encoding.encode(signal, View("a", 0, np.arange(6) / 30.0)).shape == (6, 276)


def test_fifteen_joints_in_space_are_cad60s(tmp_path) -> None:
    points = np.random.default_rng(0).normal(size=(15, 3))
    path = written(tmp_path, "cad.txt", cad_line(points, 1) + "\nEND\n")
    signal = Skeleton.load(path, None, Clip("a", "train", {}, {}), SkeletonSource())
    assert Skeleton(frames=1, joints="auto").fitted(signal).joints == "cad15"


def test_features_computed_elsewhere_are_standardised_and_refuse_a_mirror(tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 276)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    signal = Skeleton.load(tmp_path / "a.npy", None, Clip("a", "train", {}, {}), SkeletonSource(features=True))
    encoding = Skeleton(frames=5, kind="jjd", joints="ntu12", persons=2, mean=1.0, std=2.0)
    times = np.arange(5) / 30.0
    np.testing.assert_allclose(encoding.encode(signal, View("a", 0, times)), (values - 1) / 2, atol=1e-6)
    with pytest.raises(RecipeError, match="mirrored"):
        encoding.encode(signal, View("a", 0, times, flip=True))
    with pytest.raises(DataError, match="276 features"):
        Skeleton(frames=5, kind="jjd", joints="ntu12").encode(signal, View("a", 0, times))
    with pytest.raises(RecipeError, match="joints"):
        Skeleton(frames=5, joints="auto").fitted(signal)
