"""The demo set: labelled clips in five modalities, made on the spot and written as real files.

```
ROOT/rgb/<class>/<clip>.mp4    colour video (H.264, or MPEG-4 where that is all there is) with an AAC sound track
ROOT/depth/<clip>.mp4          8-bit depth: y = 20..255 over 4000..800 mm, 0 = none (the convention of UTD-MHAD)
ROOT/skeleton.npz              one array (T, 20, 3) float32 a clip: Kinect joints in metres
ROOT/manifest.csv              one row a clip: split, fps, frames, label, the path of each modality
ROOT/synthetic.json            the options it was made with; its presence says that the set is complete
```

What is in the clips: `vidistill.data.synthetic_scene`.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError
from vidistill.core.seeds import digest
from vidistill.data.synthetic_scene import AUDIO_RATE, CLASSES, make_scene, make_sound, render

MARKER = "synthetic.json"
_VERSION = 1
_COLUMNS = (
    *("id", "split", "fps", "frames", "label:action"),
    *("path:rgb", "path:depth", "path:skeleton", "path:audio"),
)


@dataclass(frozen=True)
class _Options:
    """All that the bytes of a set depend on."""

    train_per_class: int
    val_per_class: int
    test_per_class: int
    seed: int
    size: tuple[int, int]
    clutter: float
    version: int = _VERSION

    def check(self) -> None:
        for name in ("train_per_class", "test_per_class"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}", where="synthetic set", todo="Give at least 1.")
        if self.val_per_class < 0 or not 0.0 <= self.clutter <= 2.0:
            raise DataError(
                "val_per_class is negative or clutter lies outside 0..2", where="synthetic set", todo="Correct it."
            )
        if any(side < 32 or side % 2 for side in self.size):
            raise DataError(
                f"size is {self.size}", where="synthetic set", todo="Give an even height and width of at least 32."
            )


@dataclass(frozen=True)
class _Item:
    """One clip to be made."""

    id: str
    split: str
    label: str

    @property
    def rgb(self) -> str:
        return f"rgb/{self.label}/{self.id}.mp4"

    @property
    def depth(self) -> str:
        return f"depth/{self.id}.mp4"


def make_synthetic(
    root: Path,
    *,
    train_per_class: int = 32,
    test_per_class: int = 40,
    val_per_class: int = 8,
    seed: int = 0,
    workers: int = 2,
    size: tuple[int, int] = (64, 64),
    clutter: float = 1.0,
) -> Path:
    """Make the demo set in the folder `root`, or find it there already made.

    Args:
        root: folder of the set. It appears complete or not at all: clips are collected in `<root>.partial`, where an
            interrupted call left off the next one goes on.
        train_per_class: labelled clips of each of the 8 classes for training; likewise for "val" (0: none) and "test".
        seed: everything random follows from it.
        workers: processes; their number does not change a byte.
        size: height and width of the video in pixels, even.
        clutter: 0..2, strength of what hides the figure from the colour camera: pattern, passing things, grain, light.
            0 is a plain wall; skeleton and sound do not depend on it.

    Returns:
        `root`, readable with the formats "manifest" and, for its RGB alone, "folder" (`root/rgb`).

    Raises:
        DataError: an option is out of range, `root` holds something else, or the files cannot be written.
    """
    options = _Options(train_per_class, val_per_class, test_per_class, seed, size, clutter)
    options.check()
    root = Path(root)
    if _finished(root, options):
        return root
    partial = root.with_name(root.name + ".partial")
    try:
        _prepare_partial(partial, options)
        _write_clips(partial, options, workers)
        _write_tables(partial, options)
        _write_text(partial / MARKER, json.dumps(_description(options), indent=1))
        if root.exists():
            root.rmdir()
        partial.rename(root)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise DataError(what, where=str(root), todo="Free the disk or name another folder.") from error
    return root


def _description(options: _Options) -> dict[str, object]:
    return {"hash": digest("synthetic", asdict(options)), "options": asdict(options)}


def _finished(root: Path, options: _Options) -> bool:
    """Whether `root` holds this very set; raises when it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    if not marker.is_file():
        raise DataError("exists and is no synthetic set", where=str(root), todo="Name another folder.")
    if json.loads(marker.read_text())["hash"] != _description(options)["hash"]:
        raise DataError(
            "holds a synthetic set made with other options", where=str(root), todo="Delete it or name another folder."
        )
    return True


def _prepare_partial(partial: Path, options: _Options) -> None:
    """An unfinished folder of the same options is continued; one of other options has its clips made anew."""
    for label in CLASSES:
        (partial / "rgb" / label).mkdir(parents=True, exist_ok=True)
    (partial / "depth").mkdir(exist_ok=True)
    note = partial / "options.json"
    text = json.dumps(_description(options))
    if not note.is_file() or note.read_text() != text:
        for stale in partial.rglob("*.mp4"):
            stale.unlink()
        _write_text(note, text)


def _items(options: _Options) -> Iterator[_Item]:
    """All clips: splits one after the other, classes taking turns. An id seeds one scene, so no two clips share it."""
    counts = {"train": options.train_per_class, "val": options.val_per_class, "test": options.test_per_class}
    for split, count in counts.items():
        for number in range(count):
            for label in CLASSES:
                yield _Item(f"{label}_{split}_{number:03d}", split, label)


def _write_clips(partial: Path, options: _Options, workers: int) -> None:
    # The colour video is written last: where it exists, the clip is complete.
    missing = [item for item in _items(options) if not (partial / item.rgb).exists()]
    if not missing:
        return
    chunks = [missing[start : start + 16] for start in range(0, len(missing), 16)]
    if workers <= 1 or len(chunks) == 1:
        for chunk in chunks:
            _make_chunk(partial, options, chunk)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        futures = [pool.submit(_make_chunk, partial, options, chunk) for chunk in chunks]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_chunk(partial: Path, options: _Options, items: list[_Item]) -> None:
    """Render and encode clips, in one thread: the processes share the cores."""
    cv2.setNumThreads(1)
    for item in items:
        scene = make_scene(options.seed, item.id, item.label)
        rgb, depth = render(options.seed, item.id, scene, options.size, options.clutter)
        write_video(partial / item.depth, [_grey_frame(frame) for frame in depth], scene.fps, quality=16)
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in rgb]
        sound = make_sound(options.seed, item.id, scene)
        write_video(partial / item.rgb, pictures, scene.fps, quality=26, sound=sound)


def _grey_frame(values: NDArray[np.uint8]) -> av.VideoFrame:
    """A frame whose luma is exactly `values` (H, W), full range, without colour."""
    height, width = values.shape
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    planes[:height] = values
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def write_video(
    path: Path, frames: list[av.VideoFrame], fps: int, quality: int, sound: NDArray[np.float32] | None = None
) -> None:
    """Encode frames, and a mono sound if given, into `path`; `quality` is x264's CRF (lower is better)."""
    beside = path.with_suffix(".tmp")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    settings = {"preset": "ultrafast", "crf": str(quality)} if codec == "libx264" else {"qmin": "2", "qmax": "6"}
    with av.open(str(beside), "w", format="mp4") as container:
        video = cast(av.VideoStream, container.add_stream(codec, rate=fps, options={**settings, "threads": "1"}))
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        # All streams are declared before the first packet, which writes the header.
        audio = None if sound is None else container.add_stream("aac", rate=AUDIO_RATE, layout="mono")
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            stream = cast(av.AudioStream, audio)
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = AUDIO_RATE, 0, Fraction(1, AUDIO_RATE)
            container.mux(stream.encode(samples))
            container.mux(stream.encode())
    os.replace(beside, path)


def _write_tables(partial: Path, options: _Options) -> None:
    """Skeletons and manifest; scenes are computed again, which is cheap, so that clips of any age fit them."""
    skeletons: dict[str, NDArray[np.float32]] = {}
    rows = []
    for item in _items(options):
        scene = make_scene(options.seed, item.id, item.label)
        skeletons[item.id] = scene.measured
        entry = f"skeleton.npz#{item.id}"
        rows.append((item.id, item.split, scene.fps, len(scene), item.label, item.rgb, item.depth, entry, item.rgb))
    beside = partial / "skeleton.tmp"
    with beside.open("wb") as stream:
        np.savez(stream, **skeletons)  # type: ignore[arg-type]
    os.replace(beside, partial / "skeleton.npz")
    beside = partial / "manifest.tmp"
    with beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    os.replace(beside, partial / "manifest.csv")
    (partial / "options.json").unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
