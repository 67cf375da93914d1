"""Windows of sound around frames: placed by real seconds, one grid of analysis windows for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.modalities.audio_mel import mel_power
from vidistill.modalities.audio_windows import (
    Spectrum,
    centred_windows,
    released_stretch,
    released_windows,
    windows_around,
)

RATE = 16_000
SPECTRUM = Spectrum(512, 400, 160, 20)


def noise(samples: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=samples).astype(np.float32) * 0.1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-30, 60), min_size=1, max_size=5), st.integers(1, 90), st.integers(0, 40))
def test_centred_windows_are_slices_of_the_wave_in_endless_silence(
    centres: list[int], length: int, samples: int
) -> None:
    wave = torch.arange(1.0, samples + 1)
    silence = torch.zeros(200)
    padded = torch.cat((silence, wave, silence))
    found = centred_windows(wave, torch.tensor(centres), length)
    for row, centre in zip(found, centres, strict=True):
        first = 200 + centre - length // 2
        assert torch.equal(row, padded[first : first + length])


def test_windows_equal_one_spectrogram_of_the_whole_clip_where_its_columns_are() -> None:
    wave = noise(2 * RATE)
    whole = mel_power(wave, RATE, 512, 400, 160, 20)  # a column every 10 ms
    centres = np.array([0.5, 0.7, 1.3])
    found = windows_around(wave, RATE, centres, 0.2, 20, SPECTRUM)  # columns 5 ms off the grid
    for window, centre in zip(found, centres, strict=True):
        first = round((centre - 0.1) * 100)
        between = (whole[:, first : first + 20] + whole[:, first + 1 : first + 21]) / 2
        torch.testing.assert_close(window, between, rtol=1e-4, atol=1e-5)
    on_grid = windows_around(wave, RATE, centres + 0.005, 0.2, 20, SPECTRUM)[1]
    torch.testing.assert_close(on_grid, whole[:, 61:81], rtol=1e-3, atol=1e-5)


def test_each_window_is_what_it_would_be_alone() -> None:
    wave, centres = noise(RATE), np.array([-0.1, 0.3, 0.31, 0.99, 5.0])
    together = windows_around(wave, RATE, centres, 0.25, 16, SPECTRUM)
    for window, centre in zip(together, centres, strict=True):
        alone = windows_around(wave, RATE, np.array([centre]), 0.25, 16, SPECTRUM)[0]
        torch.testing.assert_close(window, alone)
    assert not together[4].any() and not windows_around(wave[:0], RATE, centres, 0.25, 16, SPECTRUM).any()


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_a_click_is_in_the_middle_of_the_window_around_it(rate: int) -> None:
    wave = torch.zeros(3 * rate)
    wave[round(1.7 * rate)] = 1.0
    spectrum = Spectrum(2048, rate // 100, rate // 200, 8)
    window = windows_around(wave, rate, np.array([1.7]), 0.5, 101, spectrum)[0]
    assert abs(int(window.sum(0).argmax()) - 50) <= 1


def test_released_windows_lie_at_sixtieths_of_a_second_whatever_the_videos_rate() -> None:
    wave = torch.zeros(48_000)
    wave[23_760:24_240] = noise(480)
    level = released_windows(wave, 24_000, np.array([50, 60]), 0.2, 16, (24, 30))
    # At 50 frames a second frame 50 is shown at 1 s, but its window lies around 5/6 s.
    assert level.shape == (2, 24, 30) and float(level[0].max()) == -100.0
    assert abs(int(level[1].sum(0).argmax()) - 15) <= 1


def test_the_released_stretch_truncates_to_samples() -> None:
    wave = np.arange(100.0, dtype=np.float32)
    assert released_stretch(wave, 0.29, 0.58, 100).tolist() == list(range(28, 56))
