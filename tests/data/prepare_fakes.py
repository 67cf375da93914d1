"""Tiny modalities on .npy files, importable by worker processes.

Run as `python prepare_fakes.py ROOT FOLDER WORKERS DELAY` it prepares `ROOT/manifest.csv`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from vidistill.core.errors import DecodeError, MissingExtra
from vidistill.core.types import Clip, Signal
from vidistill.data.manifest import Manifest, read_manifest
from vidistill.data.prepare import ModalitySource, prepare


class NoSound(Exception):
    pass


def load(path: Path, key: str | None, clip: Clip, delay: float = 0.0) -> Signal:
    time.sleep(delay)
    with open(path.parent / "reads.log", "a") as log:
        log.write(f"{clip.id}\n")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise DecodeError("truncated", where=str(path)) from None
    return Signal(values, 10.0, times=np.arange(len(values)) / 10.0 if len(values) % 2 else None)


def load_without_sound(path: Path, key: str | None, clip: Clip) -> Signal:
    raise NoSound


def derive(rgb: Signal) -> Signal:
    values = np.diff(rgb.values[..., :2].astype(np.float16), axis=0)
    return Signal(np.concatenate((values, values[-1:])), rgb.rate, rgb.start, rgb.times)


def derive_without_package(rgb: Signal) -> Signal:
    raise MissingExtra("transformers", "depth", "depth from video")


def derive_with_bug(rgb: Signal) -> Signal:
    raise TypeError("a bug")


def load_and_die(path: Path, key: str | None, clip: Clip) -> Signal:
    import os

    os._exit(9)


def rgb_and_flow(delay: float = 0.0, store_rgb: bool = True) -> dict[str, ModalitySource]:
    return {
        "rgb": ModalitySource("rgb", partial(load, delay=delay), provenance={"tool": "fake"}, store=store_rgb),
        "flow": ModalitySource("flow", load, derive, provenance={"tool": "fake", "options": {"algorithm": "diff"}}),
    }


def make_clips(root: Path, count: int = 20) -> Manifest:
    random = np.random.default_rng(0)
    (root / "vidéo clips").mkdir(parents=True, exist_ok=True)
    clips = []
    for number in range(count):
        name = f"vidéo clips/{number}.npy"
        np.save(root / name, random.integers(0, 255, (4 + number % 3, 5, 6, 3), np.uint8))
        labels = {"action": f"class {number % 3}"} | ({"side": "left"} if number % 2 else {})
        clips.append(Clip(f"ç {number}", "train" if number % 4 else "test", labels, {"rgb": name}, group=f"g{number}"))
    return Manifest(root, tuple(clips))


if __name__ == "__main__":
    source, target, processes, wait = sys.argv[1:]
    clips = read_manifest(Path(source) / "manifest.csv")
    prepare(clips, Path(target), rgb_and_flow(float(wait)), workers=int(processes))
