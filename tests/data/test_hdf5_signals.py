"""Sound and detections of published HDF5 files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DecodeError
from vidistill.data.hdf5_signals import LONGEST_LITERAL, Detection, parse_detections, read_detections, read_waveform

BOX = "{'box': [1, 2.5, 3, 4], 'category': 'hand', 'score': 0.5, 'state': 3, 'side': 0}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "audio.hdf5"
    with h5py.File(path, "w") as file:
        wave = np.linspace(-1, 1, 48_000, dtype=np.float32)
        file["P01_11"] = wave
        file["short"] = np.array([[-32768, -32768], [32767, 0]], np.int16)
        file["stated"] = wave[:800]
        file["stated"].attrs["rate"] = 8000.0
        file["bad"] = np.array([0.0, np.nan])
        file["text"] = b"x"
        file["tone"] = np.sin(np.arange(24_000) / 24_000 * 2 * np.pi * 440).astype(np.float32)
    return path


def test_a_stretch_is_read_from_its_seconds_whichever_way_they_are_given(sound: Path) -> None:
    wave = np.linspace(-1, 1, 48_000, dtype=np.float32)
    for key, start, end in (("P01_11", 0.5, 0.75), ("P01_11[0.5:0.75]", 0.0, None), ("P01_11[0.5:0.75]", 1.0, 2.0)):
        signal = read_waveform(sound, key, 24_000, start=start, end=end)
        np.testing.assert_array_equal(signal.values, wave[12_000:18_000])
        assert (signal.rate, signal.start) == (24_000.0, 0.0)
    assert len(read_waveform(sound, "P01_11[1.5:]", 24_000)) == 12_000
    assert len(read_waveform(sound, "P01_11[1.5:9]", 24_000)) == 12_000


def test_whole_numbers_are_scaled_channels_averaged_and_a_stated_rate_is_believed(sound: Path) -> None:
    np.testing.assert_allclose(read_waveform(sound, "short", 24_000).values, [-1, 0.5], atol=1e-4)
    assert len(read_waveform(sound, "stated", 8000)) == 800


def test_other_rates_are_resampled_in_time_and_pitch(sound: Path) -> None:
    signal = read_waveform(sound, "tone", 16_000)
    assert abs(len(signal) - 16_000) <= 32 and signal.rate == 16_000.0
    spectrum = np.abs(np.fft.rfft(signal.values[:16_000], 16_000))
    assert int(spectrum.argmax()) == 440


@pytest.mark.parametrize(
    ("key", "words"),
    [("P02", "'P02'"), ("P01_11[3:4]", "no sound between"), ("bad", "not finite"), ("text", "not sound")],
)
def test_sound_that_is_not_there_is_an_error_of_one_line(sound: Path, key: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words) as error:
        read_waveform(sound, key)
    assert "\n" not in str(error.value) and "audio.hdf5" in str(error.value)


def test_detections_of_frames_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "boxes.hdf5"
    with h5py.File(path, "w") as file:
        file["P01_11/0"] = f"[{BOX}]".encode()
        file["P01_11/1"] = np.bytes_("[]")
        file["P01_11/2"] = "[{'box': (0, 0, 1, 1), 'category': \"a'b\", 'score': 1}]"
        file["P01_11/3"] = np.zeros(3)
    found = read_detections(path, "P01_11", [2, 0, 1, 0])
    hand = Detection((1.0, 2.5, 3.0, 4.0), "hand", 0.5, 3, 0)
    assert found == [(Detection((0.0, 0.0, 1.0, 1.0), "a'b", 1.0),), (hand,), (), (hand,)]
    for index, words in ((9, "'P01_11/9'"), (3, "is not one text")):
        with pytest.raises(DecodeError, match=words):
            read_detections(path, "P01_11", [index])


@pytest.mark.parametrize(
    "literal",
    [
        b"__import__('os').system('true')",
        b"[{'box': [1, 2, 3], 'category': 'hand', 'score': 1}]",
        b"[{'category': 'hand', 'score': 1}]",
        b"[{'box': [1, 2, 3, 1e999], 'category': 'hand', 'score': 1}]",
        b"3",
        b"[[]]",
        b"[" * 5000,
        b"(" * 150 + b"1" + b")" * 150,
        b"{}",
        b"''",
        b"-" * 90_000 + b"1",
        b"\xff\xfe",
        b"[" + b" " * LONGEST_LITERAL + b"]",
    ],
)
def test_what_is_no_list_of_detections_is_refused_and_nothing_is_run(literal: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^here: "):
        parse_detections(literal, "here")


@given(st.binary(max_size=80) | st.text(alphabet="[]{}()'\":,0123456789abox-+ ", max_size=80).map(str.encode))
def test_any_bytes_give_detections_or_one_line(literal: bytes) -> None:
    try:
        assert isinstance(parse_detections(literal, "here"), tuple)
    except DecodeError as error:
        assert "\n" not in str(error)
