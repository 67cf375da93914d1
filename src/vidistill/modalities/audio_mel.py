"""From samples to mel bands and decibels."""

from __future__ import annotations

from functools import lru_cache

import torch

FLOOR = 1e-10
"""Power below it is -100 dB."""


@lru_cache(maxsize=16)
def mel_filterbank(
    sample_rate: int, n_fft: int, mels: int, low: float = 0.0, high: float | None = None
) -> torch.Tensor:
    """Triangular filters (n_fft // 2 + 1, mels), evenly spaced in HTK mel = 2595 log10(1 + f / 700), peak 1."""
    top = sample_rate / 2 if high is None else high
    frequencies = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    bounds = 2595.0 * torch.log10(1.0 + torch.tensor([low, top], dtype=torch.float64) / 700.0)
    points = torch.linspace(float(bounds[0]), float(bounds[1]), mels + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0.0).float()


def mel_power(
    wave: torch.Tensor,
    sample_rate: int,
    n_fft: int,
    window: int,
    hop: int,
    mels: int,
    low: float = 0.0,
    high: float | None = None,
) -> torch.Tensor:
    """Mel power (..., mels, 1 + samples // hop), as Radevski et al. compute it.

    A periodic Hann `window`, centred in the `n_fft` points; the ends are reflected. A wave too short for that is
    lengthened with silence.
    """
    if wave.shape[-1] <= n_fft // 2:
        wave = torch.nn.functional.pad(wave, (0, n_fft // 2 + 1 - wave.shape[-1]))
    spectrum = torch.stft(
        wave,
        n_fft,
        hop,
        window,
        torch.hann_window(window, periodic=True),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return mel_filterbank(sample_rate, n_fft, mels, low, high).T @ power


def decibel(power: torch.Tensor) -> torch.Tensor:
    """10 log10 of a power, at least -100 dB."""
    return 10.0 * torch.log10(power.clamp_min(FLOOR))
