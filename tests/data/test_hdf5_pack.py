"""Packing: clips become the published HDF5 files, resumably, and are read back as what they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vidistill.core.errors import DataError, RecipeError, StoreError
from vidistill.core.types import Clip, Signal
from vidistill.data import hdf5_pack
from vidistill.data.containers import Hdf5Frames
from vidistill.data.hdf5_frames import FlowPairs
from vidistill.data.hdf5_pack import pack
from vidistill.data.hdf5_plan import recording_of
from vidistill.data.hdf5_signals import read_waveform
from vidistill.data.hdf5_write import PackOptions, encode_image, verify_pack
from vidistill.data.manifest import Manifest, read_manifest
from vidistill.data.prepare_clip import ModalitySource

LOSSLESS = PackOptions(lossless=True, flow_bound=12.7)
LOADED: list[str] = []


class Silent(Exception):
    pass


def load_rgb(path: Path, key: str | None, clip: Clip) -> Signal:
    LOADED.append(clip.id)
    if path.read_text() == "broken":
        raise DataError("it is broken", where=str(path))
    return Signal(pictures(path.stem, clip.start), 10.0)


def pictures(name: str, start: float) -> np.ndarray:
    return np.random.default_rng([ord(name[0]), round(start * 10)]).integers(0, 256, (4, 6, 8, 3)).astype(np.uint8)


def derive_flow(rgb: Signal) -> Signal:
    return replace(rgb, values=(rgb.values[..., :2].astype(np.float32) - 128) / 10)


def load_sound(path: Path, key: str | None, clip: Clip) -> Signal:
    if path.stem == "mute":
        raise Silent
    end = 3.0 if clip.end is None else clip.end
    return Signal(np.arange(round(clip.start * 100), round(end * 100), dtype=np.float32) / 300, 100.0)


SOURCES = {
    "rgb": ModalitySource("rgb", load_rgb),
    "flow": ModalitySource("flow", lambda *_: None, derive_flow, {"how": 1}),
    "audio": ModalitySource("audio", load_sound, absent=(Silent,)),
}


@pytest.fixture
def clips(tmp_path: Path) -> Callable[..., Manifest]:
    LOADED.clear()

    def make(*rows: str) -> Manifest:
        found = []
        for row in rows:
            name, _, time = row.partition("@")
            if not (tmp_path / f"{name}.mp4").exists():
                (tmp_path / f"{name}.mp4").write_text("video")
            start, end = (float(time), float(time) + 0.4) if time else (0.0, None)
            found.append(Clip(f"c_{row}", "train", {"action": name}, {"rgb": f"{name}.mp4"}, start, end, group=name))
        return Manifest(tmp_path, tuple(found))

    return make


def test_clips_by_recording_are_read_back_as_they_were(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    packed = pack(clips("a@0.5", "a@1.25", "b"), tmp_path / "out", SOURCES, LOSSLESS, by="recording")
    assert (packed.new, packed.kept, packed.problems) == (8, 0, ())
    for row, name, start in (("a@0.5", "a", 0.5), ("a@1.25", "a", 1.25), ("b", "b", 0.0)):
        key = f"{name}/c_{row}"
        with Hdf5Frames(packed.files["rgb"], key) as frames:
            np.testing.assert_array_equal(frames.read(range(4)), pictures(name, start))
        with FlowPairs(packed.files["flow"], key) as pairs:
            assert pairs.levels == pytest.approx({"pixels_per_level": 0.1, "zero": 128.0})
            np.testing.assert_array_equal(pairs.read(range(4)), pictures(name, start)[..., :2])
    whole = read_waveform(packed.files["audio"], "a", 100)
    np.testing.assert_allclose(whole.values, np.arange(300) / 300, rtol=1e-6)
    assert not (tmp_path / "out" / "parts").exists()


def test_the_manifest_beside_the_files_names_each_clips_data(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    pack(clips("a@0.5", "b"), tmp_path / "rec", SOURCES, LOSSLESS, by="recording")
    first, second = read_manifest(tmp_path / "rec" / "manifest.csv").clips
    assert first.sources["audio"] == "audio.hdf5#a[0.500000:0.900000]" and second.sources["audio"] == "audio.hdf5#b"
    assert (first.start, first.end, first.fps, first.group) == (0.0, None, 10.0, "a")
    sound = read_waveform(tmp_path / "rec" / "audio.hdf5", first.sources["audio"].partition("#")[2], 100)
    np.testing.assert_allclose(sound.values, np.arange(50, 90) / 300, rtol=1e-6)
    pack(clips("a@0.5", "mute"), tmp_path / "clip", SOURCES, LOSSLESS)
    first, second = read_manifest(tmp_path / "clip" / "manifest.csv").clips
    assert first.sources == {name: f"{name}.hdf5#c_a@0.5" for name in ("rgb", "flow", "audio")}
    assert sorted(second.sources) == ["flow", "rgb"]


def test_what_is_packed_is_kept_and_what_changed_is_made_anew(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    out = tmp_path / "out"
    pack(clips("a", "b", "mute"), out, SOURCES, LOSSLESS)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    LOADED.clear()
    again = pack(clips("a", "b", "mute"), out, SOURCES, LOSSLESS)
    assert (again.new, again.problems, LOADED) == (0, (), [])
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    os.utime(tmp_path / "b.mp4", ns=(5, 5))
    more = pack(clips("a", "b", "mute", "d"), out, SOURCES, LOSSLESS)
    assert (more.new, sorted(LOADED)) == (6, ["c_b", "c_d"])
    with h5py.File(out / "rgb.hdf5") as file:
        assert sorted(file) == ["c_a", "c_b", "c_d", "c_mute"]
    other = {**SOURCES, "flow": replace(SOURCES["flow"], provenance={"how": 2})}
    assert pack(clips("a", "b"), out, other, LOSSLESS).new == 2


def test_a_killed_packing_goes_on_with_the_parts_that_are_there(
    tmp_path: Path, clips: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_pack, "PART", 1)
    undisturbed = pack(clips("a", "b", "d"), tmp_path / "whole", SOURCES, LOSSLESS).files["rgb"].read_bytes()

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    LOADED.clear()
    with pytest.raises(KeyboardInterrupt):
        pack(clips("a", "b", "d"), tmp_path / "out", SOURCES, LOSSLESS, progress=stop)
    assert LOADED == ["c_a", "c_b"] and not (tmp_path / "out" / "rgb.hdf5").exists()
    resumed = pack(clips("a", "b", "d"), tmp_path / "out", SOURCES, LOSSLESS)
    assert LOADED == ["c_a", "c_b", "c_d"] and resumed.files["rgb"].read_bytes() == undisturbed


def test_unusable_clips_are_named_and_left_out_up_to_the_limit(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    manifest = clips("a", "b", "d")
    (tmp_path / "b.mp4").write_text("broken")
    with pytest.raises(DataError, match=r"1 of 3 clips are unusable.*'c_b' unreadable \(rgb: .*broken"):
        pack(manifest, tmp_path / "out", SOURCES, LOSSLESS)
    LOADED.clear()
    packed = pack(manifest, tmp_path / "out", SOURCES, LOSSLESS, skip_limit=0.5)
    assert [problem.clip for problem in packed.problems] == ["c_b"] and LOADED == []
    assert [clip.id for clip in packed.manifest.clips] == ["c_a", "c_d"]


def test_a_signal_of_another_shape_is_its_clips_problem(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    grey = {"rgb": ModalitySource("rgb", lambda *_: Signal(np.zeros((4, 6, 8, 1), np.uint8), 10.0))}
    packed = pack(clips("a"), tmp_path / "out", grey, skip_limit=1.0)
    assert packed.manifest.clips == () and "pictures" in packed.problems[0].message


def test_a_source_that_only_serves_deriving_gets_no_file(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    sources = {"rgb": replace(SOURCES["rgb"], store=False), "flow": SOURCES["flow"]}
    packed = pack(clips("a"), tmp_path / "out", sources, LOSSLESS)
    assert sorted(packed.files) == ["flow"] and packed.manifest.clips[0].fps == 10.0
    assert not (tmp_path / "out" / "rgb.hdf5").exists()


def test_damage_is_found_by_the_checksum(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    packed = pack(clips("a", "b"), tmp_path / "out", SOURCES, LOSSLESS)
    assert not [problem for path in packed.files.values() for problem in verify_pack(path)]
    with h5py.File(packed.files["rgb"], "a") as file:
        file["c_b"][2] = file["c_b"][1]
    with h5py.File(packed.files["audio"], "a") as file:
        file["c_a"][7] = 0.5
    assert [(p.clip, p.kind) for path in packed.files.values() for p in verify_pack(path)] == [
        ("c_b", "corrupt"),
        ("c_a", "corrupt"),
    ]


def test_sound_that_begins_late_is_preceded_by_silence(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    late = {"audio": ModalitySource("audio", lambda *_: Signal(np.ones(10, np.float32), 100.0, start=0.05))}
    packed = pack(clips("a"), tmp_path / "out", late)
    wave = read_waveform(packed.files["audio"], "c_a", 100).values
    assert wave.tolist() == [0.0] * 5 + [1.0] * 10


def test_jpeg_is_smaller_and_near(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    small, large = (encode_image(smooth, options) for options in (PackOptions(quality=50), PackOptions(quality=95)))
    assert len(small) < len(large)
    rgb = {"rgb": ModalitySource("rgb", lambda *_: Signal(smooth[None].copy(), 10.0))}
    packed = pack(clips("a"), tmp_path / "out", rgb)
    with Hdf5Frames(packed.files["rgb"], "c_a") as frames:
        assert np.abs(frames.read([0])[0].astype(int) - smooth).max() < 8


def test_clips_that_would_share_a_key_are_named(tmp_path: Path) -> None:
    def clip(id: str, path: str) -> Clip:
        return Clip(id, "train", {"action": "x"}, {"rgb": path})

    for first, second, by, words in (
        (clip("a", "1.mp4"), clip("a", "2.mp4"), "clip", "'a' would be two things"),
        (clip("a", "1.mp4"), clip("a/b", "2.mp4"), "clip", "'a' is a clip and cannot hold 'a/b'"),
        (clip("a", "x/1.mp4"), clip("b", "y/1.mp4"), "recording", "'1' would be two things"),
        (clip("a//b", "1.mp4"), clip("b", "2.mp4"), "clip", "cannot be a key"),
    ):
        with pytest.raises(DataError, match=words):
            pack(Manifest(tmp_path, (first, second)), tmp_path / "out", SOURCES, by=by)
    assert recording_of(clip("a", "x/P01_11.MP4")) == recording_of(clip("a", "x/P01_11.hdf5#k")) == "P01_11"


def test_wrong_arguments_are_refused(tmp_path: Path, clips: Callable[..., Manifest]) -> None:
    for sources, options in (({}, {}), ({"depth": SOURCES["rgb"]}, {}), (SOURCES, {"workers": 0})):
        with pytest.raises(RecipeError, match="pack"):
            pack(clips("a"), tmp_path / "out", sources, **options)
    with pytest.raises(RecipeError, match="quality"):
        PackOptions(quality=0)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        pack(clips("a"), tmp_path / "file", SOURCES)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_pack, "PART", 1)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import prepare_fakes  # worker processes can import it

    sources = {"rgb": ModalitySource("rgb", prepare_fakes.load)}
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", pictures(name, 0.0))
    np.save(tmp_path / "c.npy", np.zeros(3))
    clips = tuple(Clip(name, "train", {}, {"rgb": f"{name}.npy"}) for name in "abc")
    made = [
        pack(Manifest(tmp_path, clips), tmp_path / f"{count}", sources, workers=count, skip_limit=0.5)
        for count in (1, 2)
    ]
    assert made[0].files["rgb"].read_bytes() == made[1].files["rgb"].read_bytes()
    assert [problem.clip for problem in made[0].problems] == [problem.clip for problem in made[1].problems] == ["c"]
