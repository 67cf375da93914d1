from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.audio import Audio, decibel, mel_filterbank, mel_power, window_of
from vidistill.modalities.base import SignalAbsent

RATE = 16000.0


def tone(hertz: float, seconds: float = 2.0, rate: float = RATE) -> Signal:
    time = np.arange(int(seconds * rate)) / rate
    return Signal(np.sin(2 * np.pi * hertz * time).astype(np.float32), rate)


@settings(max_examples=15, deadline=None)
@given(fps=st.floats(10, 60), start=st.floats(0, 0.8))
def test_the_window_follows_the_times_whatever_the_frame_rate(fps: float, start: float) -> None:
    click = np.zeros(int(3 * RATE), np.float32)
    click[int((start + 0.5) * RATE)] = 1.0
    frames = max(round(1.0 * fps), 2)
    times = start + np.arange(frames) / fps
    spectrum = Audio(columns=100).encode(Signal(click, RATE), View("clip", 0, times))[0, 0]
    heard = float(spectrum.amax(0).argmax()) / 100 * (frames / fps)
    assert heard == pytest.approx(0.5, abs=0.03)


def test_the_span_ends_with_the_last_frame_and_a_fixed_length_is_centred_on_it() -> None:
    view = View("clip", 0, np.array([1.0, 1.5, 2.0]))
    assert Audio().span(view) == (1.0, 2.5)
    assert Audio(seconds=0.5).span(view) == (1.5, 2.0)
    assert Audio().span(View("clip", 0, np.array([1.0]))) == (1.0, 1.0 + Audio().window)


def test_sound_beyond_the_clip_is_silence() -> None:
    signal = Signal(np.ones(100, np.float32), 100.0, start=1.0)
    wave = window_of(signal, 0.5, 2.5)
    assert len(wave) == 200 and not wave[:50].any() and wave[50:150].all() and not wave[150:].any()
    assert not window_of(signal, 5.0, 6.0).any()
    assert window_of(Signal(np.ones((10, 1), np.float32), 10.0), 0.0, 1.0).all()
    with pytest.raises(DataError, match="one channel"):
        window_of(Signal(np.ones((10, 2), np.float32), 10.0), 0.0, 1.0)


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_a_tone_is_heard_at_its_frequency_at_any_sample_rate(rate: int) -> None:
    encoding = Audio(columns=20, high=8000.0, window=0.02)
    view = View("clip", 0, np.arange(10) / 10.0)
    loudest = int(encoding.encode(tone(1000.0, rate=rate), view)[0, 0].mean(1).argmax())
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 65 - 1
    assert loudest == pytest.approx(mel, abs=1)


def test_filters_are_triangles_that_overlap_to_one() -> None:
    filters = mel_filterbank(16000, 1024, 40)
    assert filters.shape == (513, 40) and float(filters.min()) >= 0 and float(filters.max()) <= 1
    inner = filters.sum(1)[20:400]
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-4, rtol=0)


def test_layouts_and_short_or_silent_sound() -> None:
    view = View("clip", 0, np.array([0.0, 0.001]))
    for layout, shape in (("image", (1, 1, 64, 96)), ("sequence", (96, 64))):
        encoding = Audio(layout=layout, frames=8)
        tensor = encoding.encode(Signal(np.zeros(4, np.float32), RATE), view)
        assert tuple(tensor.shape) == encoding.shape == shape
        assert torch.isfinite(tensor).all()
    assert float(decibel(torch.zeros(1))) == -100.0
    assert mel_power(torch.zeros(3), 16000, 1024, 160, 80, 8).shape == (8, 7)
    with pytest.raises(RecipeError, match="n_fft"):
        Audio(n_fft=256).encode(tone(100.0), view)
    with pytest.raises(RecipeError, match="above 0"):
        Audio(mels=0)


def test_the_crop_and_flip_do_not_change_sound() -> None:
    times = np.arange(8) / 8.0
    plain = Audio().encode(tone(500.0), View("clip", 0, times))
    assert torch.equal(plain, Audio().encode(tone(500.0), View("clip", 0, times, (0.2, 0.2, 0.7, 0.7), True)))


def test_sound_is_loaded_cut_and_its_absence_is_told_apart_from_damage(shared_data) -> None:
    options = Audio.Source(rate=8000)
    clip = Clip("a", "train", {}, {}, start=0.25, end=0.75)
    signal = Audio.load(shared_data / "media" / "test.wav", None, clip, options)
    assert signal.rate == 8000 and signal.values.ndim == 1 and len(signal) == 4000 and abs(signal.start) < 1e-3
    silent = next((shared_data / "jhmdb" / "video" / "clap").glob("*.mp4"))
    with pytest.raises(SignalAbsent, match="no sound"):
        Audio.load(silent, None, clip, options)
