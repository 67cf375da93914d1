"""Sound of media files through PyAV: the whole of it, or a stretch that is decoded alone, to the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.core.types import Signal
from vidistill.data.containers import DEFAULT_LIMITS, Limits
from vidistill.data.video import BROKEN, open_media, reason

EXACT_FORMATS = ("mov", "wav")
"""Formats whose time stamps name samples, however far one seeks; Matroska has milliseconds, MPEG audio guesses."""
EXACT_CODECS = ("aac", "alac", "pcm_")
"""How names of codecs begin whose frames depend on the frame before at most; of AAC only the plain profile's do."""
LEAD_FRAMES, LONGEST_FRAME = 2, 2048
"""Compressed frames after a seek that are dropped, as AAC's overlap with the one before; samples of its longest."""
MARGIN, MARGIN_SAMPLES = 0.1, 128
"""Seconds, and samples of the wanted rate, that the resampler hears beyond a stretch; the larger holds."""


class _Sound(NamedTuple):
    """An audio stream: its rate, when it begins after the first picture, and the seconds that its header lists."""

    stream: Any
    rate: int
    start: float
    listed: float


def read_audio(
    path: Path, rate: int = 16000, limits: Limits = DEFAULT_LIMITS, *, start: float = 0.0, end: float | None = None
) -> Signal | None:
    """The sound of a video or audio file: mono float32 (samples,) in [-1, 1] at `rate` Hz.

    Channels are averaged. The signal's `start` is when the sound begins, in seconds after the first picture.

    Args:
        path: the file.
        rate: samples a second to give.
        limits: what the file may ask for.
        start: seconds after the first picture from which on sound is needed; some before it may be there.
        end: the same to which it is needed. Of MP4 and WAV files only the stretch is decoded. It has the samples and
            times that the whole has there, but for the noise that AAC's decoder draws where an encoder asks for it.

    Returns:
        None where the file has no audio stream, or a stream without a sample.

    Raises:
        DecodeError: absent, empty, damaged, truncated or beyond the limits.
    """
    if not path.is_file():
        raise DecodeError("the file does not exist", where=str(path))
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)", where=str(path))
    _check_wave(path)
    if start > 0.0 or end is not None:
        stretch = _read_stretch(path, rate, limits, start, math.inf if end is None else end)
        if stretch is not None:
            return stretch
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        sound = _sound_of(container)
        values = _mono(path, container.decode(sound.stream), rate, limits)
    _check_length(path, len(values) / rate, sound)
    return Signal(values, float(rate), sound.start) if len(values) else None


def _sound_of(container: Any) -> _Sound:
    stream, video = container.streams.audio[0], container.streams.best("video")
    listed = float((stream.duration or 0) * (stream.time_base or 0))
    start = _begins(stream) - (_begins(video) if video is not None else 0.0)
    return _Sound(stream, stream.codec_context.sample_rate or 0, start, listed)


def _begins(stream: Any) -> float:
    """When a stream begins, in seconds of its file's clock."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _mono(path: Path, frames: Iterable[Any], rate: int, limits: Limits) -> NDArray[np.float32]:
    """Frames of sound at the wanted rate, channels averaged: (samples,).

    Raises:
        DecodeError: damaged, or beyond the limits.
    """
    pieces: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    count = 0
    resampler = av.AudioResampler(format="fltp", rate=rate)
    try:
        for frame in chain(frames, (None,)):
            for piece in resampler.resample(frame) if frame is not None or count else ():
                pieces.append(piece.to_ndarray().mean(axis=0, dtype=np.float32))
                count += len(pieces[-1])
                limits.check(path, 0, 0, 4 * count)
    except BROKEN as error:
        what = f"the sound breaks off after {count / rate:.2f} s ({reason(error)})"
        raise DecodeError(what, where=str(path)) from None
    return np.clip(np.concatenate(pieces), -1.0, 1.0)


def _check_length(path: Path, seconds: float, sound: _Sound) -> None:
    """Refuse sound that ends before what its header lists."""
    if seconds < 0.9 * sound.listed - 0.5:
        raise DecodeError(f"truncated: {seconds:.2f} of {sound.listed:.2f} s of sound listed", where=str(path))


def _check_wave(path: Path) -> None:
    """Refuse a WAV file that is shorter than its header says: the decoder would read the rest as if it were all.

    Raises:
        DecodeError: truncated. A size of 0 or of all ones (streamed files) says nothing.
    """
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    listed, there = int.from_bytes(header[4:8], "little"), path.stat().st_size - 8
    if listed != 0xFFFFFFFF and there < listed - 1:
        raise DecodeError(f"truncated: {there} of {listed} bytes listed are there", where=str(path))


def _read_stretch(path: Path, rate: int, limits: Limits, start: float, end: float) -> Signal | None:
    """The sound of [start, end) seconds, and some before it; None where only decoding all of it would find it.

    The resampler starts where a sample of the wanted rate falls on one of the file's, so that it gives what it gives
    there in the midst of all. What its filter spoils at the stretch's ends is dropped.
    """
    with open_media(path) as container:
        if not container.streams.audio or not _seeks_exactly(container):
            return None
        sound = _sound_of(container)
        have, margin = sound.rate, max(MARGIN, MARGIN_SAMPLES / rate)
        step = have // math.gcd(have, rate)
        first = max(math.floor((start - sound.start - 2 * margin) * have), 0) // step * step
        frames = _frames_from(container, sound, first)
        if frames is None:
            return None
        values = _mono(path, _until(path, frames, sound, first, (end - sound.start + margin) * have), rate, limits)
    number = first * rate // have  # of the first value among all that the file gives
    low = round(margin * rate) if first else 0
    high = None if end == math.inf else max(math.ceil((end - sound.start) * rate) + 1 - number, low)
    values = values[low:high]
    times = sound.start + np.arange(number + low, number + low + len(values)) / rate
    return Signal(values, float(rate), sound.start, times)


def _seeks_exactly(container: Any) -> bool:
    """Whether the place of a sample is known after a seek."""
    stream = container.streams.audio[0]
    codec = stream.codec_context
    exact = container.format.name.split(",")[0] in EXACT_FORMATS and codec.name.startswith(EXACT_CODECS)
    exact = exact and (codec.name != "aac" or codec.profile == "LC")
    return bool(exact and codec.sample_rate and stream.time_base == Fraction(1, codec.sample_rate))


def _frames_from(container: Any, sound: _Sound, first: int) -> Iterator[Any] | None:
    """Decoded frames from the one on that holds sample `first` of the file, cut to it; None: they cannot be found."""
    lead = 0 if sound.stream.codec_context.name.startswith("pcm_") else LEAD_FRAMES
    before = first - (lead + 1) * LONGEST_FRAME
    origin, position = sound.stream.start_time or 0, 0
    try:
        if before > 0:
            container.seek(origin + before, stream=sound.stream)
        decoded = container.decode(sound.stream)
        if before > 0:
            frame = next(islice(decoded, lead, None), None)
            if frame is None or frame.pts is None or frame.sample_rate != sound.rate:
                return None
            position, decoded = frame.pts - origin, chain((frame,), decoded)
        if position > first:
            return None
        for frame in decoded:
            if position + frame.samples > first:
                return chain((_without_start(frame, first - position),), decoded)
            position += frame.samples
    except BROKEN:
        return None
    return None


def _without_start(frame: Any, samples: int) -> Any:
    """A frame without its first samples."""
    if samples == 0:
        return frame
    values = frame.to_ndarray()
    width = 1 if frame.format.is_planar else len(frame.layout.channels)  # packed samples have all channels in turn
    rest = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(values[:, samples * width :]), format=frame.format.name, layout=frame.layout.name
    )
    rest.sample_rate, rest.time_base, rest.pts = frame.sample_rate, frame.time_base, frame.pts + samples
    return rest


def _until(path: Path, frames: Iterator[Any], sound: _Sound, first: int, last: float) -> Iterator[Any]:
    """The frames, of which the first begins at sample `first`, up to the one that holds sample `last`.

    Raises:
        DecodeError: they end before what the header lists.
    """
    position = first
    for frame in frames:
        yield frame
        position += frame.samples
        if position >= last:
            return
    _check_length(path, position / sound.rate, sound)
