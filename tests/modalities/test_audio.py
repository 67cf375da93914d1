"""Sound as pictures: one of a view, or one around each of its frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from vidistill.core.errors import DecodeError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.audio import Audio

RATE = 24_000.0
VIEW = View("clip", 0, np.array([0.2, 0.6, 1.0, 1.4]))


def click(second: float, start: float = 0.0) -> Signal:
    wave = np.zeros(48_000, np.float32)
    middle = round((second - start) * RATE)
    wave[middle - 240 : middle + 240] = np.random.default_rng(0).normal(size=480)
    return Signal(wave, RATE, start)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height", [None, 48])
def test_frames_have_a_window_each_and_equal_channels(channels: int, height: int | None) -> None:
    encoding = Audio(layout="frames", channels=channels, height=height, seconds=0.3, columns=32, mels=40).with_frames(4)
    tensor = encoding.encode(click(1.0), VIEW)
    assert tuple(tensor.shape) == encoding.shape == (channels, 4, height or 40, 32) and tensor.dtype == torch.float32
    assert all(torch.equal(channel, tensor[0]) for channel in tensor)
    loudness = tensor[0].mean(1)
    assert int(loudness.amax(1).argmax()) == 2 and abs(int(loudness[2].argmax()) - 16) <= 1


def test_windows_follow_real_seconds_when_the_sound_begins_late() -> None:
    encoding = Audio(layout="frames", frames=4, seconds=0.3, columns=32)
    late = encoding.encode(click(1.4, start=0.35), VIEW)[0].mean(1)
    assert int(late.amax(1).argmax()) == 3 and abs(int(late[3].argmax()) - 16) <= 1


def test_only_the_sound_near_the_view_matters() -> None:
    encoding, wave = Audio(layout="frames", frames=2, seconds=0.2, columns=16), np.zeros(240_000, np.float32)
    wave[:] = np.random.default_rng(0).normal(size=240_000) * 0.1
    view = View("clip", 0, np.array([5.0, 5.1]))
    near = wave.copy()
    near[: int(4.5 * RATE)] = near[int(5.6 * RATE) :] = 0.0
    torch.testing.assert_close(
        encoding.encode(Signal(wave, RATE), view), encoding.encode(Signal(near, RATE), view), rtol=1e-4, atol=1e-4
    )


def test_images_may_have_three_channels_and_another_height() -> None:
    encoding = Audio(channels=3, height=80, columns=50)
    tensor = encoding.encode(click(0.8), VIEW)
    assert tuple(tensor.shape) == encoding.shape == (3, 1, 80, 50)


def test_released_windows_come_too_early_in_videos_of_fifty_frames_a_second() -> None:
    options = {"layout": "frames", "frames": 1, "seconds": 0.4, "columns": 41, "mels": 16, "variant": "released"}
    view = View("clip", 0, np.array([1.2]))
    for rate, place in ((60.0, 1.2), (50.0, 1.0)):
        level = Audio(**options, video_rate=rate).encode(click(place), view)[0, 0]
        assert abs(int(level.sum(0).argmax()) - 20) <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "released"}, "layout: frames"),
        ({"layout": "sequence", "channels": 3}, "of images"),
        ({"layout": "sequence", "height": 3}, "of images"),
        ({"seconds": 0.0}, "above 0"),
        ({"video_rate": 0.0}, "above 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Audio(**options)


def test_a_clips_stretch_of_a_recordings_waveform_is_loaded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P01_11"] = np.arange(48_000, dtype=np.float32) / 48_000
    options = Audio.Source(rate=24_000)
    by_key = Audio.load(tmp_path / "audio.hdf5", "P01_11[0.5:1.0]", Clip("a", "train", {}, {}), options)
    by_clip = Audio.load(tmp_path / "audio.hdf5", "P01_11", Clip("a", "train", {}, {}, start=0.5, end=1.0), options)
    for signal in (by_key, by_clip):
        np.testing.assert_array_equal(signal.values, np.arange(12_000, 24_000, dtype=np.float32) / 48_000)
    with pytest.raises(DecodeError, match="P02"):
        Audio.load(tmp_path / "audio.hdf5", "P02", Clip("a", "train", {}, {}), options)


@pytest.mark.parametrize("layout", ["image", "frames", "sequence"])
def test_training_views_are_masked_by_their_seed_and_test_views_never(layout: str) -> None:
    options = {"layout": layout, "frames": 4, "seconds": 0.3}
    plain, encoding = Audio(**options), Audio(**options, time_mask=0.5, band_mask=0.5)
    signal = click(1.0)
    assert torch.equal(encoding.encode(signal, VIEW), plain.encode(signal, VIEW))
    views = [replace(VIEW, seed=1, number=number) for number in range(8)]
    first, again = ([encoding.encode(signal, view) for view in views] for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert any(not torch.equal(masked, plain.encode(signal, VIEW)) for masked in first)
    with pytest.raises(RecipeError, match="parts"):
        Audio(time_mask=1.5)
