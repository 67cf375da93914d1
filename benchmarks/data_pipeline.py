"""How many more clips a second come from a prepared store than from folders of JPEGs.

    .venv/bin/python benchmarks/data_pipeline.py runs/benchmarks/data_pipeline.json

The same training views (16 frames, 112 x 112) of the same generated clips (48 frames of 340 x 256, JPEG) are made in
two ways, batch by batch in turn: from the prepared store (short side 128) with the house's views and encoding; and as
published code does, frame by frame with Pillow: open, decode, resize to a short side of 128, crop, flip, to a tensor,
normalise. Both are called through the same loader, in one thread; processor seconds of all batches count, since other
work on the machine only adds to the time of the clock. All files are in memory by then (page cache). What preparing
costs is given too, with the views a clip after which it is paid back.
Claim: at least 4 times as many clips a second. The pixels must be those of the same crop of the same frames: they
differ by less than 4 of 255 levels on average, because the resizing filters are not the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when PyTorch is loaded

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidistill.core.types import Clip, View
from vidistill.data.batches import Input, Key, ViewDataset, loader
from vidistill.data.manifest import Manifest
from vidistill.data.prepare import ModalitySource, prepare
from vidistill.data.store import Store
from vidistill.data.views import ViewPolicy
from vidistill.modalities import MODALITIES
from vidistill.modalities.rgb import MEAN, STD

CLAIM, LEVELS = 4.0, 4.0
LENGTH, RATE, SIZE = 48, 30.0, (340, 256)
FRAMES, SHORT, SIDE = 16, 128, 112
BATCH = 8


def generate(root: Path, count: int) -> Manifest:
    """Folders of JPEGs: a smooth texture that moves."""
    random = np.random.default_rng(0)
    clips = []
    for number in range(count):
        coarse = random.integers(0, 255, (16, 20, 3), np.uint8)
        texture = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
        folder = root / f"clip{number:04}"
        folder.mkdir(parents=True)
        for frame in range(LENGTH):
            image = np.roll(texture, (frame * (number % 5), frame * 2), (0, 1))
            Image.fromarray(image).save(folder / f"img_{frame + 1:05}.jpg", quality=90)
        labels = {"action": f"class{number % 4}"}
        clips.append(Clip(folder.name, "train", labels, {"rgb": folder.name}, fps=RATE, frames=LENGTH))
    return Manifest(root, tuple(clips))


def rgb_source() -> ModalitySource:
    modality = MODALITIES.get("rgb")
    options = modality.Source(short_side=SHORT)
    return ModalitySource("rgb", partial(modality.load, options=options), None, options.provenance())


class JpegFrames:
    """A view of a clip from its folder, with Pillow, frame by frame."""

    shape = (3, FRAMES, SIDE, SIDE)

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.root, self.size = root, size
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def encode(self, signal: object, view: View) -> Tensor:
        """The view (3, T, H, W); the signal of the store is not looked at."""
        numbers = np.rint(view.times * RATE).astype(int) + 1
        return torch.stack([self.frame(self.root / view.clip / f"img_{n:05}.jpg", view) for n in numbers], dim=1)

    def frame(self, path: Path, view: View) -> Tensor:
        with Image.open(path) as file:
            image = file.convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        left, top = (round(place * length) for place, length in zip(view.box[:2], self.size, strict=True))
        image = image.crop((left, top, left + SIDE, top + SIDE))
        if view.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std


def datasets(store: Store, root: Path) -> dict[str, ViewDataset]:
    """The same views of both sources; crops are as large as in the resized frame."""
    area = (SIDE / SHORT) ** 2
    policy = ViewPolicy(frames=FRAMES, aspect=1.0, scale=(area, area), stretch=1.0, flip=0.5)
    height, width = store.frame_size(0)
    ways = {"store": MODALITIES.get("rgb")(frames=FRAMES, size=SIDE), "jpeg": JpegFrames(root, (width, height))}
    return {name: ViewDataset(store, [Input("rgb", "rgb", way)], policy, seed=0) for name, way in ways.items()}


def take(stream: Iterator[Any]) -> tuple[float, float, Tensor]:
    """Processor and clock seconds of the next batch, and its clips."""
    processor, clock = time.process_time(), time.perf_counter()
    batch = next(stream)
    return time.process_time() - processor, time.perf_counter() - clock, batch.inputs["rgb"]


def measure(store: Store, root: Path, views: int) -> dict[str, Any]:
    made = datasets(store, root)
    keys: list[Key] = [(clip, view) for view in range(views) for clip in range(len(store))]
    batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    for dataset in made.values():
        take(loader(dataset, batches[:1]))  # warms up
    streams = {name: loader(dataset, batches) for name, dataset in made.items()}
    seconds, clock, differences = dict.fromkeys(made, 0.0), dict.fromkeys(made, 0.0), []
    levels = 255 * torch.tensor(STD).view(3, 1, 1, 1)
    for _ in batches:
        clips = {}
        for name, stream in streams.items():
            processor, passed, clips[name] = take(stream)
            seconds[name] += processor
            clock[name] += passed
        differences.append(((clips["store"] - clips["jpeg"]) * levels).abs().mean().item())
    difference = sum(differences) / len(differences)
    assert difference < LEVELS, difference
    return {
        "views": len(keys),
        "seconds": seconds,
        "clock_seconds": clock,
        "clips_per_second": {name: len(keys) / value for name, value in seconds.items()},
        "difference_in_levels": difference,
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--views", type=int, default=4, help="of each clip")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root, folder = Path(scratch) / "clips", Path(scratch) / "store"
        manifest = generate(root, given.clips)
        start = time.process_time()
        store = prepare(manifest, folder, {"rgb": rgb_source()}, workers=1)
        preparing = (time.process_time() - start) / len(store)
        row = measure(store, root, given.views)
        megabytes = {"jpeg": size_of(root) / 1e6, "store": size_of(folder) / 1e6}
    rates = row["clips_per_second"]
    ratio = rates["store"] / rates["jpeg"]
    paid_back = preparing / (1 / rates["jpeg"] - 1 / rates["store"])
    print(f"clips a second of processor: JPEG folders with Pillow {rates['jpeg']:.1f}, store {rates['store']:.1f}")
    print(f"{ratio:.1f} times as many (claim: at least {CLAIM:g}); ", end="")
    print(f"pixels differ by {row['difference_in_levels']:.2f} of 255 levels")
    print(f"preparing {1e3 * preparing:.0f} ms a clip, paid back after {paid_back:.1f} views; ", end="")
    print(f"{megabytes['jpeg']:.1f} MB of JPEG, {megabytes['store']:.1f} MB of store")
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    machine |= {"threads": 1, "load_before": load}
    result = {"claim": CLAIM, "reached": ratio >= CLAIM, "ratio": ratio, **row, "prepare_seconds_a_clip": preparing}
    result |= {"paid_back_after_views": paid_back, "megabytes": megabytes, "machine": machine}
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
