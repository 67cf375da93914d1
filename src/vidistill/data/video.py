"""Video files through PyAV. Nothing that a file says about itself is trusted.

Its frames are counted, rotation tags are applied, and limits hold before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from vidistill.core.errors import DecodeError
from vidistill.data.containers import DEFAULT_LIMITS, Frames, FrameSource, Limits

LOOSE_COUNTS = 2
"""AVI headers count dropped and packed frames too: so many may be absent there before it is called truncated."""

SLACK_SECONDS, SLACK_FRAMES = 0.1, 2.5
"""The last packet of a Matroska file may begin so long before the end that is listed; the larger holds."""

BROKEN = (FFmpegError, OSError, ValueError, EOFError, RuntimeError, MemoryError)


def open_media(path: Path, **options: str) -> Any:
    """A PyAV container that may read this one local file and nothing else (a playlist cannot reach out)."""
    try:
        return av.open(str(path), metadata_errors="replace", options={"protocol_whitelist": "file", **options})
    except BROKEN as error:
        raise DecodeError(f"not a readable media file ({reason(error)})", where=str(path)) from None


def reason(error: BaseException) -> str:
    """What FFmpeg says, without the number and the name of the call."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _upright(frame: Any, image: Frames) -> Frames:
    """The image turned and mirrored as the stream's display matrix says (multiples of 90 degrees)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    swap = abs(b) > abs(a)
    across, down = (c, b) if swap else (a, d)
    image = image.swapaxes(0, 1) if swap else image
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _pixels(frame: Any, luma: bool, shape: tuple[int, int] | None) -> Frames:
    """A frame as stored: RGB uint8 (H, W, 3), or its luma plane untouched (H, W, 1); later sizes follow the first."""
    height, width = shape or (frame.height, frame.width)
    # One thread: for frames of training size, starting threads costs three times the conversion itself.
    if not luma:
        return np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height, threads=1))
    planar = frame.format.name.startswith(("yuvj", "yuv4", "gray", "nv")) and frame.format.components[0].bits == 8
    if not planar or (frame.height, frame.width) != (height, width):
        return np.asarray(frame.to_ndarray(format="gray", width=width, height=height, threads=1))[:, :, None]
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width, None]


class VideoFrames(FrameSource):
    """A video file. Frames come in the order in which they are shown.

    Decoders already give that order; the time stamps of some containers (AVI with B-frames) do not follow it, so
    the sorted time stamps are laid over the frames. Reading forward continues where the last read stopped.

    Args:
        path: the file.
        luma: give the luma plane as stored, (T, H, W, 1), for files whose grey values are measurements (depth);
            RGB conversion would stretch them.
        limits: what the file may ask for.
    """

    def __init__(self, path: Path, luma: bool = False, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        self.luma = luma
        self.frames = 0
        self._container: Any = None
        self._decoded: Iterator[Frames] = iter(())
        self._position = 0
        self._index()
        self._restart()
        first = self._next()
        self.size = (first.shape[0], first.shape[1])
        self._bytes = first.nbytes
        self._decoded, self._position = chain([first], self._decoded), 0

    def _stream(self, container: Any) -> Any:
        stream = container.streams.best("video")
        if stream is None:
            raise DecodeError("holds no video stream", where=str(self.path))
        codec = stream.codec_context
        self.limits.check(self.path, 0, (codec.width or 0) * (codec.height or 0), 0)
        return stream

    def _index(self) -> None:
        """Time stamps and count of the frames, from the packets; only AVI has to be decoded for that."""
        with open_media(self.path) as container:
            stream = self._stream(container)
            packets, stamps = 0, []
            try:
                for packet in container.demux(stream):
                    packets += packet.size > 0 and not packet.is_corrupt
                    if packet.size > 0 and not packet.is_discard:
                        stamps.append(packet.pts)
                    self.limits.check(self.path, packets, 0, 0)
            except BROKEN as error:
                what = f"breaks off after {packets} frames ({reason(error)})"
                raise DecodeError(what, where=str(self.path)) from None
            rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
            self._check_complete(container, packets, stream.frames, rate)
            self._set_clock(stamps, stream.time_base, rate if 0.0 < rate <= 1000.0 else None)
            if container.format.name == "avi":
                self._trim()

    def _check_complete(self, container: Any, packets: int, listed: int, rate: float) -> None:
        """Refuse a file that ends before what its header lists."""
        loose = LOOSE_COUNTS if container.format.name == "avi" else 0
        if packets + loose < listed and self._without_edits() + loose < listed:
            raise DecodeError(f"truncated: {packets} of {listed} frames listed are there", where=str(self.path))
        if "matroska" in container.format.name and container.duration:
            last, end = self._last_second(), container.duration / av.time_base
            if last < end - max(SLACK_SECONDS, SLACK_FRAMES / (rate or 1.0)):
                raise DecodeError(f"truncated: ends at {last:.2f} s of {end:.2f} s listed", where=str(self.path))

    def _trim(self) -> None:
        """Forget the last packets of an AVI file if they give no frame of their own.

        Raises:
            DecodeError: more than `LOOSE_COUNTS` frames cannot be decoded.
        """
        self._restart()
        try:
            while self._position < self.frames:
                self._next()
        except DecodeError:
            if not 0 < self.frames - LOOSE_COUNTS <= self._position:
                raise
            self.frames = self._position
            self.times = self.times[: self.frames]

    def _last_second(self) -> float:
        """When the last packet of any stream begins, in seconds after the file's start."""
        with open_media(self.path) as container:
            first = (container.start_time or 0) / av.time_base
            stamps = (float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None)
            return max(stamps, default=0.0) - first

    def _without_edits(self) -> int:
        """Whole packets in the file when its edit list, which hides frames on purpose, is ignored."""
        with open_media(self.path, ignore_editlist="1") as container:
            demuxed = container.demux(self._stream(container))
            return sum(packet.size > 0 and not packet.is_corrupt for packet in demuxed)

    def _set_clock(self, stamps: list[int | None], base: Fraction | None, rate: float | None) -> None:
        """Times from the sorted stamps, or even ones where stamps are missing or repeated."""
        self._clock(len(stamps), rate)
        known = sorted(stamp for stamp in stamps if stamp is not None)
        if base is None or len(known) < len(stamps) or len(set(known)) < len(known) or len(known) < 2:
            return
        times = (np.array(known, dtype=np.float64) - known[0]) * float(base)
        measured = (len(times) - 1) / float(times[-1])
        self.times = times
        self.rate = rate if rate and abs(measured / rate - 1.0) < 0.01 else measured

    def _restart(self) -> None:
        """Go back to the first frame."""
        self.close()
        self._decoded, self._position = self._decode(), 0

    def _decode(self) -> Iterator[Frames]:
        """All frames from the first, upright."""
        self._container = open_media(self.path)
        stream = self._stream(self._container)
        stream.codec_context.options = {"max_pixels": str(self.limits.max_pixels)}
        stream.codec_context.thread_count = 1
        shape: tuple[int, int] | None = None
        for frame in self._container.decode(stream):
            image = _pixels(frame, self.luma, shape)
            shape = (image.shape[0], image.shape[1])
            yield _upright(frame, image)

    def _next(self) -> Frames:
        """The next frame.

        Raises:
            DecodeError: damaged, or at the end before the listed number of frames.
        """
        try:
            frame = next(self._decoded)
        except StopIteration:
            what = f"decoded {self._position} of {self.frames} frames listed"
            raise DecodeError(what, where=str(self.path)) from None
        except BROKEN as error:
            what = f"decoded {self._position} of {self.frames} frames listed ({reason(error)})"
            raise DecodeError(what, where=str(self.path)) from None
        self._position += 1
        return frame

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        self.limits.check(self.path, len(indices), 0, len(indices) * self._bytes)
        out = np.empty((len(indices), *self.size, 1 if self.luma else 3), np.uint8)
        if len(indices) and indices[0] < self._position:
            self._restart()
        for row, index in enumerate(indices):
            while self._position < index:
                self._next()
            frame = self._next()
            if frame.shape[:2] != self.size:
                raise DecodeError(f"turns its picture at frame {index}", where=str(self.path))
            out[row] = frame
        return out

    def close(self) -> None:
        """Close the file; a later read begins anew."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._decoded, self._position = iter(()), self.frames
