"""Sound as a log-mel spectrogram of the view's own seconds, whatever the video's frame rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Clip, Signal, View
from vidistill.modalities.audio_masks import masked
from vidistill.modalities.audio_mel import decibel, mel_filterbank, mel_power
from vidistill.modalities.audio_windows import RELEASED_FPS, Spectrum, released_windows, windows_around
from vidistill.modalities.base import MODALITIES, Encoding, SignalAbsent, SourceOptions, cut

__all__ = ["Audio", "AudioSource", "decibel", "mel_filterbank", "mel_power", "window_of"]

WINDOW_SECONDS = 1.116
"""Length of the window around a frame where none is said, as published."""


@dataclass(frozen=True)
class AudioSource(SourceOptions):
    """How sound is stored.

    Attributes:
        rate: samples a second; other rates are resampled.
        stored_rate: samples a second of waveforms in HDF5 files, which do not say it (24 kHz as published).
    """

    rate: int = 16000
    stored_rate: int = 24_000

    def tool(self) -> tuple[str, str]:
        """What reads or computes the signal, and its version."""
        return "pyav", version("av")


@MODALITIES.register("audio")
@dataclass(frozen=True)
class Audio(Encoding):
    """Mono waveform (samples,) in [-1, 1] as log-mel float32; see `layout`.

    The mel filters are built for the signal's real rate, windows lie at the frames' real seconds. `variant: released`
    is for checkpoints of Radevski et al. (ICCV 2023), whose code builds the filters for 16 kHz and feeds 24 kHz, takes
    every video for 60 frames a second, counts the Fourier transform's window and hop in samples, and drops a third of
    the columns to fit a square; published are `layout: frames`, `channels: 3`, `mels: 128`, `height: 224`,
    `columns: 224`, `seconds: 1.116` and a source `rate: 24000`.

    Attributes:
        frames: time steps of `layout: frames` (None: the view's own); not used elsewhere.
        mels: mel bands.
        columns: time steps that a window's spectrogram is resampled to.
        seconds: length of the window, centred on the view (None: exactly the view's span), or on each frame of it
            (None: 1.116).
        window: seconds of an analysis window.
        hop: seconds between analysis windows.
        n_fft: points of the Fourier transform.
        low: lowest frequency, Hz.
        high: highest frequency, Hz (None: half the sample rate).
        mean: dB, subtracted.
        std: dB, divided by.
        layout: image (channels, 1, mels, columns), so that image trunks see one frame; frames (channels, T, mels,
            columns), a window around each frame of the view, for image and video trunks; or sequence (columns, mels).
        channels: equal channels of images, 3 for trunks that were trained on pictures.
        height: rows that images' bands are resized to (None: as many as `mels`).
        time_mask: training: widest stretch of columns that is silenced, as a part of all; each window of a frame has
            its own, one in two has none (published 80 of 335).
        band_mask: training: the same of bands (published 80 of 128).
        variant: see above; `low`, `high`, `window`, `hop` and `n_fft` are fixed in `released`.
        video_rate: released only: frames a second of the views' videos; with 50 the windows come too early, as theirs.
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
    layout: Literal["image", "frames", "sequence"] = "image"
    channels: Literal[1, 3] = 1
    height: int | None = None
    time_mask: float = 0.0
    band_mask: float = 0.0
    variant: Literal["default", "released"] = "default"
    video_rate: float = RELEASED_FPS

    name: ClassVar[str] = "audio"
    Source: ClassVar[type[SourceOptions]] = AudioSource

    def __post_init__(self) -> None:
        if min(self.mels, self.columns, self.n_fft, self.window, self.hop, self.video_rate) <= 0:
            raise RecipeError("mels, columns, n_fft, window, hop and video_rate must be above 0", where="audio")
        if (self.seconds is not None and self.seconds <= 0) or (self.height is not None and self.height < 1):
            raise RecipeError("seconds and height must be above 0", where="audio")
        if not (0 <= self.time_mask <= 1 and 0 <= self.band_mask <= 1):
            raise RecipeError("time_mask and band_mask are parts, from 0 to 1", where="audio")
        if self.variant == "released" and self.layout != "frames":
            raise RecipeError("the released variant has a window a frame", where="audio", todo="Set layout: frames")
        if self.layout == "sequence" and (self.channels, self.height) != (1, None):
            raise RecipeError("channels and height are of images", where="audio", todo="Leave them out")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded clip, without the batch."""
        if self.layout == "sequence":
            return (self.columns, self.mels)
        return (self.channels, self.steps() if self.layout == "frames" else 1, self.height or self.mels, self.columns)

    def span(self, view: View) -> tuple[float, float]:
        """Seconds that the encoding hears: from the first frame of the view to the end of its last."""
        times = view.times
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        start, end = float(times.min()), float(times.max()) + max(step, self.window)
        if self.seconds is not None:
            middle = (start + end) / 2.0
            start, end = middle - self.seconds / 2.0, middle + self.seconds / 2.0
        return start, end

    def encode(self, signal: Signal, view: View) -> torch.Tensor:
        """One view: the sound of its span (silence beyond the clip), as standardised dB. Crop and flip do not apply.

        Raises:
            RecipeError: the analysis window is longer than `n_fft` points at the signal's rate.
        """
        if self.layout == "frames":
            level = (self._masked(self._around_frames(signal, view), view) - self.mean) / self.std
            return level[None].repeat(self.channels, 1, 1, 1)
        start, end = self.span(view)
        wave = torch.from_numpy(window_of(signal, start, end))
        spectrum = self._spectrum(signal)
        power = mel_power(
            wave, round(signal.rate), self.n_fft, spectrum.window, spectrum.hop, self.mels, self.low, self.high
        )
        resampled = torch.nn.functional.interpolate(power[None], self.columns, mode="linear", align_corners=False)[0]
        level = (self._masked(decibel(self._resized(resampled[None])), view)[0] - self.mean) / self.std
        return level.T.contiguous() if self.layout == "sequence" else level[None, None].repeat(self.channels, 1, 1, 1)

    def _masked(self, level: torch.Tensor, view: View) -> torch.Tensor:
        """Decibels (N, height, columns) with a training view's masks."""
        if view.seed is None or self.time_mask == self.band_mask == 0:
            return level
        return masked(level, view.seed, view.clip, view.number, time=self.time_mask, bands=self.band_mask)

    def _around_frames(self, signal: Signal, view: View) -> torch.Tensor:
        """Decibels (T, height, columns) of a window around each frame of the view."""
        times = view.times_for(self.frames) - signal.start
        wave, rate = mono(signal), round(signal.rate)
        seconds = WINDOW_SECONDS if self.seconds is None else self.seconds
        if self.variant == "released":
            numbers = np.rint(times * self.video_rate).astype(np.int64)
            size = (self.height or self.mels, self.columns)
            return released_windows(owned(wave), rate, numbers, seconds, self.mels, size)
        first = max(int((float(times.min()) - seconds) * rate), 0)  # a long clip is not copied whole
        heard = owned(wave[first : max(math.ceil((float(times.max()) + seconds) * rate), first)])
        power = windows_around(heard, rate, times - first / rate, seconds, self.columns, self._spectrum(signal))
        return decibel(self._resized(power))

    def _spectrum(self, signal: Signal) -> Spectrum:
        """The options in samples of the signal."""
        length, hop = (max(round(part * signal.rate), 1) for part in (self.window, self.hop))
        if length > self.n_fft:
            raise RecipeError(
                f"{self.window} s are {length} samples, n_fft is {self.n_fft}", where="audio", todo="Raise n_fft."
            )
        return Spectrum(self.n_fft, length, hop, self.mels, self.low, self.high)

    def _resized(self, power: torch.Tensor) -> torch.Tensor:
        """Bands (N, mels, columns) as (N, height, columns), linearly between neighbours."""
        if self.height in (None, self.mels):
            return power
        size = (self.height, self.columns)
        return torch.nn.functional.interpolate(power[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    @classmethod
    def load(cls, path: Path, key: str | None, clip: Clip, options: AudioSource) -> Signal:
        """The clip's sound, float32 (samples,): of a video or sound file, or a stretch of an HDF5 file's waveform.

        Of long MP4 and WAV files only the clip's stretch is decoded (`data.sound.read_audio`).

        Raises:
            SignalAbsent: the file has no sound.
            DecodeError: unreadable, or an HDF5 file without the waveform or the stretch.
        """
        from vidistill.data.decoding import read_audio  # decoders are needed at prepare time only
        from vidistill.data.hdf5_frames import SUFFIXES
        from vidistill.data.hdf5_signals import read_waveform

        if key is not None and path.suffix.lower() in SUFFIXES:
            return read_waveform(path, key, options.rate, options.stored_rate, start=clip.start, end=clip.end)
        signal = read_audio(path, options.rate, start=clip.start, end=clip.end)
        if signal is None:
            raise SignalAbsent("no sound", where=str(path))
        return cut(signal, clip)


def mono(signal: Signal) -> NDArray[Any]:
    """The samples of one channel (samples,), not copied.

    Raises:
        DataError: not one channel.
    """
    wave = np.asarray(signal.values)
    if wave.ndim == 2 and wave.shape[1] == 1:
        wave = wave[:, 0]
    if wave.ndim != 1:
        raise DataError(f"one channel of sound is expected, not {wave.shape}", where="audio")
    return wave


def owned(wave: NDArray[Any]) -> torch.Tensor:
    """A float32 copy; signals of a store are read-only views of files."""
    return torch.from_numpy(np.array(wave, np.float32))


def window_of(signal: Signal, start: float, end: float) -> np.ndarray:
    """Samples of [start, end) seconds, float32, zeros where the signal has none.

    Raises:
        DataError: not one channel.
    """
    wave = mono(signal)
    first = round((start - signal.start) * signal.rate)
    count = max(round((end - start) * signal.rate), 1)
    out = np.zeros(count, np.float32)
    low, high = max(first, 0), min(first + count, len(wave))
    if high > low:
        out[low - first : high - first] = wave[low:high]
    return out
