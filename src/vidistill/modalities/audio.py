"""Sound as a log-mel spectrogram of the view's own seconds, whatever the video's frame rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.base import MODALITIES, Encoding, SignalAbsent, SourceOptions, cut

FLOOR = 1e-10
"""Power below it is -100 dB."""


@dataclass(frozen=True)
class AudioSource(SourceOptions):
    """How sound is stored.

    Attributes:
        rate: samples a second; other rates are resampled.
    """

    rate: int = 16000

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return "pyav", version("av")


@MODALITIES.register("audio")
@dataclass(frozen=True)
class Audio(Encoding):
    """Mono waveform (samples,) in [-1, 1] as log-mel float32 (1, 1, mels, columns), or (columns, mels).

    The mel filters are built for the signal's real rate. (The released code of Radevski et al., ICCV 2023, builds
    them for 16 kHz and feeds 24 kHz; `log_mel(..., sample_rate=16000)` gives that.)

    Attributes:
        frames: accepted and not used: a spectrogram has `columns` steps of its own.
        mels: mel bands.
        columns: time steps that the window's spectrogram is resampled to.
        seconds: length of the window, centred on the view (None: exactly the view's span).
        window: seconds of an analysis window.
        hop: seconds between analysis windows.
        n_fft: points of the Fourier transform.
        low: lowest frequency, Hz.
        high: highest frequency, Hz (None: half the sample rate).
        mean: dB, subtracted.
        std: dB, divided by.
        layout: image (1, 1, mels, columns), so that image trunks see one frame; or sequence (columns, mels).
    """

    frames: int | None = None
    mels: int = 64
    columns: int = 96
    seconds: float | None = None
    window: float = 0.025
    hop: float = 0.010
    n_fft: int = 1024
    low: float = 0.0
    high: float | None = None
    mean: float = -28.1125
    std: float = 16.5627
    layout: Literal["image", "sequence"] = "image"

    name: ClassVar[str] = "audio"
    Source: ClassVar[type[SourceOptions]] = AudioSource

    def __post_init__(self) -> None:
        if min(self.mels, self.columns, self.n_fft, self.window, self.hop) <= 0:
            raise RecipeError("mels, columns, n_fft, window and hop must be above 0", where="audio")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        return (1, 1, self.mels, self.columns) if self.layout == "image" else (self.columns, self.mels)

    def span(self, view: View) -> tuple[float, float]:
        """Seconds that the encoding hears: from the first frame of the view to the end of its last."""
        times = view.times
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        start, end = float(times[0]), float(times[-1]) + max(step, self.window)
        if self.seconds is not None:
            middle = (start + end) / 2.0
            start, end = middle - self.seconds / 2.0, middle + self.seconds / 2.0
        return start, end

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: the sound of its span (silence beyond the clip), as standardised dB. Crop and flip do not apply.

        Raises:
            RecipeError: the analysis window is longer than `n_fft` points at the signal's rate.
        """
        start, end = self.span(view)
        wave = torch.from_numpy(window_of(signal, start, end))
        rate = round(signal.rate)
        length = max(round(self.window * rate), 1)
        if length > self.n_fft:
            raise RecipeError(
                f"{self.window} s are {length} samples, n_fft is {self.n_fft}", where="audio", todo="Raise n_fft."
            )
        power = mel_power(
            wave, rate, self.n_fft, length, max(round(self.hop * rate), 1), self.mels, self.low, self.high
        )
        resampled = torch.nn.functional.interpolate(power[None], self.columns, mode="linear", align_corners=False)[0]
        level = (decibel(resampled) - self.mean) / self.std
        return level[None, None] if self.layout == "image" else level.T.contiguous()

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: AudioSource) -> Signal:
        """The clip's sound, float32 (samples,).

        Raises:
            SignalAbsent: the file has no sound.
        """
        from vidistill.data.decoding import read_audio  # the decoder is needed at prepare time only

        signal = read_audio(path, options.rate)
        if signal is None:
            raise SignalAbsent("no sound", where=str(path))
        return cut(signal, clip)


def window_of(signal: Signal, start: float, end: float) -> np.ndarray:
    """Samples of [start, end) seconds, float32, zeros where the signal has none.

    Raises:
        DataError: not one channel.
    """
    wave = np.asarray(signal.values)
    if wave.ndim == 2 and wave.shape[1] == 1:
        wave = wave[:, 0]
    if wave.ndim != 1:
        raise DataError(f"one channel of sound is expected, not {wave.shape}", where="audio")
    first = round((start - signal.start) * signal.rate)
    count = max(round((end - start) * signal.rate), 1)
    out = np.zeros(count, np.float32)
    low, high = max(first, 0), min(first + count, len(wave))
    if high > low:
        out[low - first : high - first] = wave[low:high]
    return out


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
