from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidistill.core.errors import DecodeError
from vidistill.data.decoding import Limits, open_frames, read_all, read_audio


def make_video(
    path: Path,
    frames: NDArray[np.uint8],
    rate: int = 25,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Frames (T, H, W, 3) as a video; `stamps` are presentation times in 1/rate seconds."""
    form = "yuv420p" if frames.shape[1] % 2 == frames.shape[2] % 2 == 0 else "yuv444p"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], form
        if codec == "libx264":
            stream.options = {"crf": "8", "preset": "ultrafast", "bf": "2"}
        else:
            stream.options = {"qscale": "2"}
        stream.codec_context.time_base = Fraction(1, rate)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number if stamps is None else stamps[number], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def steps(count: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Grey frames, each brighter than the one before, so that a frame's number can be read from its mean."""
    levels = np.linspace(30, 220, count).astype(np.uint8) if count > 1 else np.array([128], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def corners(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """One frame whose four quarters are red, green, blue and white: its turn and mirroring can be told."""
    image = np.zeros((1, height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    image[:, :h, :w, 0] = image[:, :h, w:, 1] = image[:, h:, :w, 2] = 230
    image[:, h:, w:] = 230
    return image


def sound(path: Path, samples: NDArray[np.float32], rate: int = 16000, frames: int = 0) -> Path:
    """A file with sound (channels, samples), and black pictures at 25 fps if asked."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25) if frames else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        codec = "pcm_s16le" if path.suffix == ".wav" else "aac"
        stream = container.add_stream(codec, rate=rate, layout="stereo" if len(samples) == 2 else "mono")
        for number in range(frames):
            assert picture is not None
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(picture.encode(frame))
        if picture is not None:
            container.mux(picture.encode())
        layout = "stereo" if len(samples) == 2 else "mono"
        for start in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, start : start + 1024])
            if codec == "pcm_s16le":
                packed = (block.T.reshape(1, -1) * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            else:
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["walk.mp4", "geh spaß 走る (1).mp4", "#1 50% off.mkv", "a.avi", "a.mov"])
def test_frames_come_back_in_order_with_their_times(tmp_path: Path, name: str) -> None:
    frames = steps(12)
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    signal = read_all(make_video(tmp_path / name, frames, codec=codec))
    assert signal.values.shape == frames.shape
    assert signal.values.dtype == np.uint8
    assert signal.rate == pytest.approx(25.0)
    assert signal.times is not None
    np.testing.assert_allclose(signal.times, np.arange(12) / 25, atol=1e-3)
    assert np.abs(signal.values.mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() < 4


def test_uneven_time_stamps_are_the_real_times(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 10, 11, 30]
    signal = read_all(make_video(tmp_path / "v.mp4", steps(6), stamps=stamps))
    assert signal.times is not None
    np.testing.assert_allclose(signal.times, np.array(stamps) / 25, atol=1e-6)
    assert signal.nearest(np.array([0.39, 1.0]))[0] == 3


@pytest.mark.parametrize(("height", "width"), [(33, 47), (2, 2), (1, 9), (16, 17)])
def test_odd_sizes_are_kept(tmp_path: Path, height: int, width: int) -> None:
    with open_frames(make_video(tmp_path / "v.avi", steps(3, height, width), codec="ffv1")) as source:
        assert source.size == (height, width)
        assert source.read([0, 2]).shape == (2, height, width, 3)


def test_a_clip_of_one_frame_is_a_clip(tmp_path: Path) -> None:
    signal = read_all(make_video(tmp_path / "v.mp4", steps(1)))
    assert len(signal) == 1
    assert signal.rate == pytest.approx(25.0)
    assert signal.duration == pytest.approx(0.04)


def test_reads_in_any_order_and_repeated_equal_the_whole(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", steps(20))
    whole = read_all(path).values
    with open_frames(path) as source:
        for indices in ([3, 4], [7, 7, 2], [19], [0], [], list(range(20))):
            np.testing.assert_array_equal(source.read(indices), whole[indices] if indices else whole[:0])
        with pytest.raises(IndexError):
            source.read([20])
        with pytest.raises(IndexError):
            source.read([-1])


def test_a_time_range_is_cut_and_counts_from_its_start(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", steps(20))
    part = read_all(path, start=0.2, end=0.4)
    np.testing.assert_array_equal(part.values, read_all(path).values[5:10])
    assert part.times is not None
    np.testing.assert_allclose(part.times, np.arange(5) / 25, atol=1e-6)
    with pytest.raises(DecodeError, match="no frame between"):
        read_all(path, start=5.0)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_and_mirrored_tags_give_the_upright_frame(tmp_path: Path, turns: int, mirror: bool) -> None:
    upright = corners()
    turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turns)
    matrix = np.diag([-1, 1]) @ turn if mirror else turn
    # The tag takes stored (x, y) to shown (x, y) @ matrix, y down, so `turn` is clockwise; storing does the reverse.
    stored = np.rot90(upright, turns, axes=(1, 2))
    stored = stored[:, :, ::-1] if mirror else stored
    path = make_video(tmp_path / "v.mov", np.ascontiguousarray(stored))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    (a, b), (c, d) = (matrix * 65536).tolist()
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with open_frames(path) as source:
        assert source.size == (48, 64)
        assert np.abs(source.read([0]).astype(int) - upright).mean() < 12


@pytest.mark.parametrize(
    ("name", "size"), [("0", (320, 568)), ("90", (568, 320)), ("180", (320, 568)), ("270", (568, 320))]
)
def test_real_rotated_recordings_are_upright(shared_data: Path, name: str, size: tuple[int, int]) -> None:
    path = shared_data / "media" / f"video_{name}.mov"
    with open_frames(path) as source, av.open(str(path)) as container:
        assert source.size == size
        first = next(container.decode(video=0))
        raw = first.to_ndarray(format="rgb24")
        np.testing.assert_array_equal(source.read([0])[0], np.rot90(raw, first.rotation // 90))


def test_real_corrupted_video_says_how_far_it_went(shared_data: Path) -> None:
    with pytest.raises(DecodeError, match=r"corrupted\.mp4: decoded \d+ of 50 frames listed"):
        read_all(shared_data / "media" / "corrupted.mp4")


@pytest.mark.parametrize(
    ("name", "shape", "rate"),
    [
        ("unordered.mov", (4, 50, 50, 3), 32.0),
        ("imageio_issue245.gif", (1, 24, 30, 3), 1.0),
        ("test.avi", (164, 240, 320, 3), 25.0),
        ("test.mp4", (300, 256, 340, 3), 30.0),
    ],
)
def test_real_files_have_their_shape_rate_and_rising_times(
    shared_data: Path, name: str, shape: tuple[int, ...], rate: float
) -> None:
    signal = read_all(shared_data / "media" / name)
    assert signal.values.shape == shape
    assert signal.rate == pytest.approx(rate)
    assert signal.times is not None
    assert signal.times[0] == 0.0
    assert (np.diff(signal.times) > 0).all()


def test_frames_whose_stamps_are_out_of_order_are_shown_in_order(shared_data: Path) -> None:
    values = read_all(shared_data / "media" / "test.avi").values[:60, ::4, ::4].astype(np.float32)
    with av.open(str(shared_data / "media" / "test.avi")) as container:
        stamps = [frame.pts for frame, _ in zip(container.decode(video=0), range(60), strict=False)]
    assert stamps != sorted(stamps)
    shaken = values[np.argsort(stamps)]
    assert np.abs(np.diff(values, axis=0)).mean() < np.abs(np.diff(shaken, axis=0)).mean()


def test_luma_is_the_stored_plane(shared_data: Path) -> None:
    path = shared_data / "utd_mhad" / "depth" / "a10_s1_t1_depth.mp4"
    signal = read_all(path, luma=True)
    assert signal.values.shape == (76, 112, 150, 1)
    with av.open(str(path)) as container:
        plane = next(container.decode(video=0)).planes[0]
    stored = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:112, :150]
    np.testing.assert_array_equal(signal.values[0, :, :, 0], stored)
    assert read_all(path).values[0, :, :, 0].min() < stored.min()


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.npy", "v.npz", "v.hdf5", "v.wav", "v.gif", "v.jpg"])
@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"not a media file " * 300])
def test_empty_and_garbage_files_are_decode_errors(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        read_all(path, "k" if name.endswith(("npz", "hdf5")) else None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if name.endswith(("mp4", "mkv", "avi", "wav", "gif")):
        with pytest.raises(DecodeError):
            read_audio(path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["v.mp4", "fast.mp4", "v.mkv", "v.avi", "v.mov"])
def test_truncated_videos_are_decode_errors(tmp_path: Path, name: str, share: float) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    options = {"movflags": "faststart"} if name == "fast.mp4" else {}
    path = make_video(tmp_path / name, frames, codec="mpeg4" if name == "v.avi" else "libx264", **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DecodeError, match=str(path)):
        read_all(path)


def test_missing_files_and_files_without_pictures_are_decode_errors(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="does not exist"):
        open_frames(tmp_path / "no.mp4")
    with pytest.raises(DecodeError, match="does not exist"):
        read_audio(tmp_path / "no.wav")
    wav = sound(tmp_path / "a.wav", np.zeros((1, 16000), np.float32))
    with pytest.raises(DecodeError, match="holds no video stream"):
        open_frames(wav)


@pytest.mark.parametrize("limits", [Limits(max_frames=9), Limits(max_pixels=3000), Limits(max_bytes=90_000)])
def test_a_video_cannot_take_more_than_the_limits(tmp_path: Path, limits: Limits) -> None:
    path = make_video(tmp_path / "v.mp4", steps(10))
    assert len(read_all(path, limits=Limits(10, 64 * 48, 10 * 64 * 48 * 3))) == 10
    with pytest.raises(DecodeError, match="more than the limit"):
        read_all(path, limits=limits)


def test_a_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.ts", steps(3))
    (tmp_path / "v.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DecodeError):
        read_all(tmp_path / "v.mp4")


def test_frame_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    frames = steps(11, 5, 7)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"bild {number}.png")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    with open_frames(tmp_path, rate=10.0) as source:
        assert (source.frames, source.rate, source.size) == (11, 10.0, (5, 7))
        np.testing.assert_array_equal(source.read(range(11)), frames)
        assert source.times[-1] == pytest.approx(1.0)


def test_deep_images_keep_their_depth(tmp_path: Path) -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    Image.fromarray(depth).save(tmp_path / "0.png")
    read = read_all(tmp_path).values
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read[0, :, :, 0], depth)


def test_bad_frame_folders_are_decode_errors(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no images"):
        open_frames(tmp_path)
    Image.fromarray(steps(1, 40, 40)[0]).save(tmp_path / "0.jpg")
    Image.fromarray(steps(1, 8, 9)[0]).save(tmp_path / "1.jpg")
    with pytest.raises(DecodeError, match="different sizes"):
        read_all(tmp_path)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:-60])
    with pytest.raises(DecodeError, match=r"1\.jpg"):
        read_all(tmp_path)


def test_arrays_keep_type_and_shape_and_npy_is_mapped(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 20, 3)).astype(np.float16)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", **{"walk/é 1": values, "b": values[:2]})
    with open_frames(tmp_path / "a.npy", rate=50.0) as source:
        assert isinstance(source.values, np.memmap)
        np.testing.assert_array_equal(source.read([8, 1, 1]), values[[8, 1, 1]])
    signal = read_all(tmp_path / "a.npz", "walk/é 1", rate=50.0)
    np.testing.assert_array_equal(signal.values, values)
    assert signal.values.dtype == np.float16
    assert signal.duration == pytest.approx(9 / 50)


def test_bad_arrays_are_decode_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", walk=np.zeros((3, 2)), run=np.zeros((3, 2)), none=np.zeros((0, 2)))
    with pytest.raises(DecodeError, match="Did you mean 'walk'"):
        read_all(tmp_path / "a.npz", "walkk")
    with pytest.raises(DecodeError, match="holds 3 arrays"):
        read_all(tmp_path / "a.npz")
    with pytest.raises(DecodeError, match="no frames"):
        read_all(tmp_path / "a.npz", "none")
    with pytest.raises(DecodeError, match="more than the limit"):
        read_all(tmp_path / "a.npz", "walk", Limits(max_bytes=50))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "s.npy", np.float32(1))
    np.save(tmp_path / "t.npy", np.zeros((50, 3)))
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-30])
    for name in ("o.npy", "s.npy", "t.npy"):
        with pytest.raises(DecodeError, match=name):
            read_all(tmp_path / name)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError):
        read_all(tmp_path / "a.npz", "walk")


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_hdf5_holds_raw_arrays_and_encoded_images(tmp_path: Path) -> None:
    frames = steps(5, 6, 8)
    path = tmp_path / "frames.hdf5"
    images = [png(frame) for frame in frames]
    with h5py.File(path, "w") as file:
        file["a/raw"] = frames
        file.create_dataset("a/fixed", data=np.array(images, dtype=f"S{max(map(len, images)) + 9}"))
        vlen = file.create_dataset("a/vlen", (5,), dtype=h5py.vlen_dtype(np.uint8))
        for number, image in enumerate(images):
            vlen[number] = np.frombuffer(image, np.uint8)
        file["a/bad"] = np.array([b"no image"] * 3)
        file["number"] = 3
    for key in ("a/raw", "a/fixed", "a/vlen"):
        with open_frames(path, key, rate=12.0) as source:
            assert (source.frames, source.size, source.rate) == (5, (6, 8), 12.0)
            np.testing.assert_array_equal(source.read([4, 0, 4]), frames[[4, 0, 4]])
    for key in ("a/bad", "a", "nothing", "number", None):
        with pytest.raises(DecodeError, match=r"frames\.hdf5"):
            read_all(path, key)


def test_sound_is_mono_resampled_and_in_range(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    path = sound(tmp_path / "ton é.wav", np.stack([tone, np.zeros_like(tone)]), rate=44100)
    signal = read_audio(path, rate=8000)
    assert signal is not None
    assert signal.values.dtype == np.float32
    assert (signal.rate, signal.start, len(signal)) == (8000.0, 0.0, 8000)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert np.abs(signal.values - wanted)[200:-200].max() < 0.01


def test_sound_of_a_video_lies_where_it_was(tmp_path: Path) -> None:
    samples = np.zeros((1, 32000), np.float32)
    samples[0, 16000:17600] = 0.9 * np.sin(np.arange(1600) * 0.3)
    signal = read_audio(sound(tmp_path / "v.mp4", samples, frames=50))
    assert signal is not None
    loud = np.flatnonzero(np.abs(signal.values) > 0.3) / signal.rate + signal.start
    assert loud[0] == pytest.approx(1.0, abs=0.02)
    assert loud[-1] == pytest.approx(1.1, abs=0.02)
    assert np.abs(signal.values).max() <= 1.0


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    assert read_audio(make_video(tmp_path / "v.mp4", steps(3))) is None


def test_truncated_sound_is_a_decode_error(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", np.zeros((1, 64000), np.float32))
    path.write_bytes(path.read_bytes()[:40000])
    with pytest.raises(DecodeError, match=r"a\.wav"):
        read_audio(path)


def test_real_sound_is_read(shared_data: Path) -> None:
    for name in ("test.wav", "test.avi"):
        signal = read_audio(shared_data / "media" / name)
        assert signal is not None
        assert signal.duration == pytest.approx(6.557, abs=0.05)
