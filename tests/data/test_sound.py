"""A stretch of sound that is decoded alone is what the whole has there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vidistill.core.errors import DataError, DecodeError
from vidistill.core.types import Clip, Signal
from vidistill.data import sound
from vidistill.data.sound import read_audio
from vidistill.modalities.audio import Audio, AudioSource
from vidistill.modalities.base import cut

STRETCHES = [(0.0, 0.5), (0.05, 0.5), (0.3, 1.1), (1.5600625, 2.4501), (2.0, None), (2.7, 9.0)]
SECONDS = 3


def waves(rate: int, channels: int = 2) -> NDArray[np.float32]:
    time = np.arange(SECONDS * rate) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * (300 + 90 * c) * time + 3 * np.sin(9 * time)) for c in range(channels)])


def encoded(path: Path, samples: NDArray[np.float32], rate: int, delay: float = 0.0, pictures: int = 0) -> Path:
    """Sound (channels, samples) that begins `delay` seconds after the first of black pictures, if there are some.

    AAC without noise substitution: its decoder draws that noise itself.
    """
    layout = "stereo" if len(samples) == 2 else "mono"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25) if pictures else None
        pcm = path.suffix == ".wav"
        stream = container.add_stream("pcm_s16le" if pcm else "aac", rate=rate, layout=layout)
        if not pcm:
            stream.options = {"aac_pns": "0"}
        if video is not None:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            for number in range(pictures):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 25)
                container.mux(video.encode(picture))
            container.mux(video.encode())
        for begin in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, begin : begin + 1024], np.float32)
            packed = (block.T.reshape(1, -1) * 32767).astype(np.int16)
            values, form = (packed, "s16") if pcm else (block, "fltp")
            frame = av.AudioFrame.from_ndarray(values, format=form, layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), begin + round(delay * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def part(path: Path, rate: int, start: float, end: float | None) -> tuple[Signal, Signal]:
    """A clip of a file, cut from the whole and from its stretch."""
    clip = Clip("a", "train", {}, {}, start, end)
    whole, stretch = read_audio(path, rate), read_audio(path, rate, start=start, end=end)
    assert whole is not None and stretch is not None and (start == 0 or len(stretch) < len(whole))
    return cut(whole, clip), cut(stretch, clip)


@pytest.mark.parametrize("name", ["a.wav", "a.mp4"])
@pytest.mark.parametrize(("stored", "rate"), [(44100, 16000), (48000, 24000), (16000, 16000), (22050, 24000)])
def test_a_stretch_has_the_samples_and_the_times_of_the_whole(
    tmp_path: Path, name: str, stored: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encoded(tmp_path / name, waves(stored), stored)
    for start, end in STRETCHES:
        wanted, found = part(path, rate, start, end)
        np.testing.assert_array_equal(found.values, wanted.values)
        assert (found.start, found.rate, found.times) == (wanted.start, wanted.rate, wanted.times)
    heard: list[int] = []
    counted = sound._until
    monkeypatch.setattr(sound, "_until", lambda *given: (heard.append(f.samples) or f for f in counted(*given)))
    read_audio(path, rate, start=2.0, end=2.2)
    assert 0 < sum(heard) < 0.9 * stored  # 0.2 s and the margins, in whole frames


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_sound_that_begins_after_the_picture_stays_where_it_is(tmp_path: Path, delay: float) -> None:
    path = encoded(tmp_path / "a.mp4", waves(48000, 1), 48000, delay, pictures=80)
    whole = read_audio(path, 16000)
    assert whole is not None and whole.start == pytest.approx(delay, abs=0.03)
    for start, end in STRETCHES:
        wanted, found = part(path, 16000, start, end)
        np.testing.assert_array_equal(found.values, wanted.values)
        assert found.start == wanted.start


def test_the_real_files_give_the_same_whichever_way_they_are_read(shared_data: Path) -> None:
    """`test.avi` has MPEG audio, which is decoded whole."""
    for name in ("test.wav", "test.avi"):
        path = shared_data / "media" / name
        clip = Clip("a", "train", {}, {}, 3.1, 4.7)
        found = Audio.load(path, None, clip, AudioSource(rate=8000))
        whole = read_audio(path, 8000)
        assert whole is not None
        np.testing.assert_array_equal(found.values, cut(whole, clip).values)


def test_a_stretch_beyond_the_end_and_a_file_that_breaks_off_are_errors_of_one_line(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", waves(16000), 16000)
    with pytest.raises(DataError, match=r"nothing between 7.0 and 8.0 s"):
        Audio.load(path, None, Clip("a", "train", {}, {}, 7.0, 8.0), AudioSource())
    wave = encoded(tmp_path / "a.wav", waves(16000), 16000)
    wave.write_bytes(wave.read_bytes()[:40000])
    with pytest.raises(DecodeError, match=r"a\.wav: truncated"):
        read_audio(wave, start=2.0, end=2.5)
    content = bytearray(path.read_bytes())
    place = content.index(b"mdat")
    content[place + 10_000 : place + 20_000] = bytes(10_000)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.mp4: "):
        read_audio(path, start=0.5, end=2.9)
