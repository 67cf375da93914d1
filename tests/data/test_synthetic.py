from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest

from vidistill.core.errors import DataError
from vidistill.data import synthetic
from vidistill.data.synthetic import MARKER, make_synthetic
from vidistill.data.synthetic_scene import AUDIO_RATE, CLASSES, JOINTS, make_scene, make_sound, render

SMALL = {"train_per_class": 1, "val_per_class": 0, "test_per_class": 1, "workers": 1, "size": (48, 48)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("synthetic") / "set", **SMALL)


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frames(path: Path, pixels: str) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])


def test_every_class_is_in_every_split(made: Path) -> None:
    listed = rows(made)
    assert {(row["split"], row["label:action"]) for row in listed} == {
        (s, c) for s in ("train", "test") for c in CLASSES
    }
    assert len({row["id"] for row in listed}) == len(listed) == 16


def test_all_modalities_of_a_clip_last_equally_long(made: Path) -> None:
    skeletons = np.load(made / "skeleton.npz", allow_pickle=False)
    for row in rows(made):
        count, rate = int(row["frames"]), int(row["fps"])
        assert frames(made / row["path:rgb"], "rgb24").shape == (count, 48, 48, 3)
        assert frames(made / row["path:depth"], "gray").shape == (count, 48, 48)
        file, key = row["path:skeleton"].split("#")
        assert file == "skeleton.npz"
        assert skeletons[key].shape == (count, len(JOINTS), 3)
        assert skeletons[key].dtype == np.float32
        with av.open(str(made / row["path:audio"])) as container:
            stream = container.streams.audio[0]
            samples = sum(frame.samples for frame in container.decode(stream))
            assert stream.rate == AUDIO_RATE
            assert float(container.streams.video[0].average_rate) == rate
        assert samples / AUDIO_RATE == pytest.approx(count / rate, abs=2048 / AUDIO_RATE)


def test_written_depth_is_the_distance_of_the_figure(made: Path) -> None:
    row = rows(made)[0]
    joints = np.load(made / "skeleton.npz")[row["id"]]
    depth = frames(made / row["path:depth"], "gray").astype(float)
    metres = 0.8 + (255.0 - depth) / 235.0 * 3.2
    nearest = np.quantile(metres[depth > 0], 0.02)
    assert nearest == pytest.approx(np.quantile(joints[..., 2], 0.02), abs=0.25)


def test_number_of_workers_changes_no_byte(made: Path, tmp_path: Path) -> None:
    again = make_synthetic(tmp_path / "set", **{**SMALL, "workers": 2, "train_per_class": 1})
    assert hashes(again) == hashes(made)


def test_finished_set_is_left_alone(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert make_synthetic(made, **SMALL) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_interrupted_set_goes_on_where_it_stopped(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = synthetic.write_video

    def stop_after_seven(path: Path, *args: object, **kwargs: object) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *args, **kwargs)

    monkeypatch.setattr(synthetic, "write_video", stop_after_seven)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "set", **SMALL)
    assert not (tmp_path / "set").exists()

    def count(path: Path, *args: object, **kwargs: object) -> None:
        written.append(path.name)
        write(path, *args, **kwargs)

    monkeypatch.setattr(synthetic, "write_video", count)
    root = make_synthetic(tmp_path / "set", **SMALL)
    assert len(written) == 2 * 16 + 1  # the depth of the clip that was cut is written twice
    assert hashes(root) == hashes(made)
    assert not (tmp_path / "set.partial").exists()


def test_unfinished_set_of_other_options_is_not_mixed_in(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left"):
        patch.setattr(synthetic, "_write_tables", _full_disk)
        make_synthetic(tmp_path / "set", **{**SMALL, "seed": 5})
    assert hashes(make_synthetic(tmp_path / "set", **SMALL)) == hashes(made)


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_other_options_or_other_contents_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other options"):
        make_synthetic(made, **{**SMALL, "seed": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.mp4").write_bytes(b"film")
    with pytest.raises(DataError, match="no synthetic set"):
        make_synthetic(tmp_path / "mine", **SMALL)
    assert (tmp_path / "mine" / "holiday.mp4").read_bytes() == b"film"


@pytest.mark.parametrize("wrong", [{"train_per_class": 0}, {"size": (48, 47)}, {"size": (16, 16)}, {"clutter": 3.0}])
def test_senseless_options_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match="synthetic set"):
        make_synthetic(tmp_path / "set", **{**SMALL, **wrong})


def test_marker_holds_the_options(made: Path) -> None:
    marker = json.loads((made / MARKER).read_text())
    assert marker["options"]["size"] == [48, 48]
    assert len(marker["hash"]) == 32


def test_same_seed_same_arrays_other_seed_others() -> None:
    one, two, other = (make_scene(seed, "clip", "push") for seed in (0, 0, 1))
    assert np.array_equal(one.measured, two.measured)
    assert one.measured.shape != other.measured.shape or not np.array_equal(one.measured, other.measured)
    for a, b in zip(render(0, "clip", one, (48, 48), 1.0), render(0, "clip", two, (48, 48), 1.0), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(make_sound(0, "clip", one), make_sound(0, "clip", two))


def test_clutter_reaches_the_colours_only() -> None:
    scene = make_scene(0, "clip", "raise")
    plain, cluttered = (render(0, "clip", scene, (48, 48), clutter) for clutter in (0.0, 1.0))
    assert not np.array_equal(plain[0], cluttered[0])
    assert plain[1].shape == cluttered[1].shape


@pytest.mark.parametrize(
    ("label", "axis", "sign"), [("raise", 1, 1), ("lower", 1, -1), ("swipe_right", 0, 1), ("push", 2, 1)]
)
def test_hand_moves_as_the_class_says(label: str, axis: int, sign: int) -> None:
    for number in range(10):
        hand = make_scene(0, f"clip{number}", label).hand
        assert sign * (hand[-1, axis] - hand[0, axis]) > 0.1


@pytest.mark.parametrize(("label", "sense"), [("circle_clockwise", -1.0), ("circle_counter_clockwise", 1.0)])
def test_circles_turn_the_way_the_camera_sees_them(label: str, sense: float) -> None:
    for number in range(10):
        scene = make_scene(0, f"clip{number}", label)
        area = []
        for hand in (7, 11):
            x, y = (scene.joints[:, hand, :2] - scene.joints[:, 1, :2]).T
            area.append(0.5 * np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) + 0.5 * (x[-1] * y[0] - x[0] * y[-1]))
        assert sense * max(area, key=abs) > 0.02


def test_single_poses_do_not_tell_a_pair_apart() -> None:
    """Both motions of a pair pass through the same hand positions: only their order differs."""
    for forward, backward in (("raise", "lower"), ("push", "pull"), ("swipe_left", "swipe_right")):
        seen = [np.concatenate([make_scene(0, f"{n}", label).hand for n in range(40)]) for label in (forward, backward)]
        assert np.allclose(seen[0].mean(0), seen[1].mean(0), atol=0.08)
        assert np.allclose(seen[0].std(0), seen[1].std(0), atol=0.06)


def test_sound_follows_the_speed_of_the_hand() -> None:
    scene = make_scene(0, "clip", "swipe_left")
    sound = make_sound(0, "clip", scene)
    speed = np.linalg.norm(np.gradient(scene.hand, axis=0), axis=1)
    loudness = np.array([np.abs(part).mean() for part in np.array_split(sound, len(scene))])
    assert np.abs(sound).max() <= 1.0
    assert np.corrcoef(speed, loudness)[0, 1] > 0.7
