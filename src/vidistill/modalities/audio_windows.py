"""A window of sound around each frame of a view, so that audio has the same time steps as the view's pictures.

Radevski et al.: Multimodal Distillation for Egocentric Action Recognition, ICCV 2023, arXiv 2307.07483. Their code puts
the window of frame i at i / 60 seconds whatever the video's rate, and builds mel filters for 16 kHz though the sound
has 24 kHz: `released_windows` does both. `windows_around` puts windows at the frames' real seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.modalities.audio_mel import decibel, mel_filterbank, mel_power

RELEASED_FPS = 60
"""Frames a second that the released code takes every video for."""
RELEASED_BANK = 16_000
"""Hz that its filters are built for."""
RELEASED_FFT, RELEASED_WINDOW, RELEASED_HOP = 1024, 160, 80
"""Points and samples of its Fourier transform, whatever the sound's rate."""


@dataclass(frozen=True)
class Spectrum:
    """How a stretch of sound becomes mel bands: samples of window and hop, points, bands, Hz."""

    n_fft: int
    window: int
    hop: int
    mels: int
    low: float = 0.0
    high: float | None = None


def centred_windows(wave: torch.Tensor, centres: torch.Tensor, length: int) -> torch.Tensor:
    """Samples [c - length // 2, c + (length + 1) // 2) around each centre, zeros outside the wave.

    Args:
        wave: (samples,).
        centres: (N,) sample positions, integers; may lie outside.
        length: samples of a window.

    Returns:
        (N, length).
    """
    places = centres[:, None] + torch.arange(length) - length // 2
    inside = (places >= 0) & (places < len(wave))
    if not len(wave):
        return wave.new_zeros(places.shape)
    return torch.where(inside, wave[places.clamp(0, len(wave) - 1)], 0.0)


def windows_around(
    wave: torch.Tensor,
    rate: int,
    centres: NDArray[np.float64],
    seconds: float,
    columns: int,
    spectrum: Spectrum,
) -> torch.Tensor:
    """Mel power of a window of `seconds` around each centre, (N, mels, columns).

    All windows look at one grid of analysis windows, `hop` samples apart from the wave's first sample on; each is
    computed once, however many windows need it, and those that none needs are not. Columns lie in the middles of
    `columns` equal parts of a window and are interpolated between the two nearest analysis windows.

    Args:
        wave: (samples,); silence is heard before and after it.
        rate: samples a second.
        centres: (N,) seconds from the wave's first sample.
        seconds: length of a window.
        columns: time steps of a window.
        spectrum: analysis windows and bands.
    """
    parts = (np.arange(columns) + 0.5) * (seconds / columns) - seconds / 2.0
    places = (np.asarray(centres, np.float64)[:, None] + parts) * (rate / spectrum.hop)  # (N, columns), in hops
    before = np.floor(places)
    needed, inverse = np.unique(np.stack((before, before + 1)), return_inverse=True)
    pieces = centred_windows(wave, torch.from_numpy((needed * spectrum.hop).astype(np.int64)), spectrum.window)
    bins = torch.fft.rfft(pieces * torch.hann_window(spectrum.window, periodic=True), spectrum.n_fft)
    power = bins.real.square() + bins.imag.square()
    bands = power @ mel_filterbank(rate, spectrum.n_fft, spectrum.mels, spectrum.low, spectrum.high)  # (K, mels)
    first, second = torch.from_numpy(inverse.reshape(2, *places.shape))
    share = torch.from_numpy((places - before).astype(np.float32))[..., None]
    return torch.lerp(bands[first], bands[second], share).transpose(1, 2)


def released_windows(
    wave: torch.Tensor, rate: int, frames: NDArray[np.int64], seconds: float, mels: int, size: tuple[int, int]
) -> torch.Tensor:
    """Released: decibels (N, *size) of a window around each frame, the power resized to the nearest band and column.

    Args:
        wave: (samples,) of the clip, from its first frame on.
        rate: samples a second.
        frames: (N,) numbers of frames within the clip; frame i is taken to be i / 60 seconds in.
        seconds: length of a window; published 1.116.
        mels: bands; published 128.
        size: bands and columns of the result; published (224, 224).
    """
    centres = torch.from_numpy((np.asarray(frames) * rate / RELEASED_FPS).astype(np.int64))
    windows = centred_windows(wave, centres, int(seconds * rate))
    power = mel_power(windows, RELEASED_BANK, RELEASED_FFT, RELEASED_WINDOW, RELEASED_HOP, mels)
    return decibel(torch.nn.functional.interpolate(power[:, None], size, mode="nearest")[:, 0])


def released_stretch(wave: NDArray[np.float32], start: float, end: float, rate: int) -> NDArray[np.float32]:
    """Released: the samples (samples,) of a clip's seconds; start and length are each truncated to whole samples."""
    first = int(start * rate)
    return wave[first : first + int((end - start) * rate)]
