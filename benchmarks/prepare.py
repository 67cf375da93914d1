"""How much faster two worker processes prepare clips than one: `python benchmarks/prepare.py RESULT.json`.

Both prepare the same clips (RGB stored, DIS flow derived) into fresh folders, in turn, and the better of the rounds
counts for each. Claim: two workers are at least 1.7 times as fast. Without `--data` (a JHMDB folder, or classes of
videos) clips are generated. The load of the machine before each round is written down: other work falsifies the ratio.
The processor time of both tells what the second worker costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np

from vidistill.data.formats import FORMATS
from vidistill.data.manifest import Manifest
from vidistill.data.prepare import ModalitySource, prepare
from vidistill.modalities import MODALITIES, SignalAbsent

CLAIM = 1.7


def source(name: str, **options: object) -> ModalitySource:
    modality = MODALITIES.get(name)
    chosen = modality.Source(**options)
    derive = partial(modality.derive, options=chosen) if modality.derivable else None
    return ModalitySource(
        name, partial(modality.load, options=chosen), derive, chosen.provenance(), absent=(SignalAbsent,)
    )


def generate(folder: Path, count: int) -> None:
    """Clips of moving noise, 48 frames of 320x240 h264."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (60, 80, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for step in range(48):
                image = np.roll(texture, (step * (number % 5), step * 2), (0, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())


def read(data: Path | None, count: int, scratch: Path) -> Manifest:
    if data is None:
        generate(scratch / "clips", count)
        data = scratch / "clips"
    manifest = FORMATS.get("jhmdb" if (data / "manifest.csv").exists() else "folder")(data)
    return replace(manifest, clips=manifest.clips[:count])


def measure(manifest: Manifest, rounds: int, short_side: int, scratch: Path) -> list[dict[str, float]]:
    sources = {"rgb": source("rgb", short_side=short_side), "flow": source("flow", short_side=short_side)}
    rows = []
    for number in range(rounds):
        for workers in (1, 2):
            load, before = os.getloadavg()[0], os.times()
            start = time.perf_counter()
            store = prepare(manifest, scratch / f"{number}-{workers}", sources, workers=workers)
            seconds = time.perf_counter() - start
            cpu = sum(os.times()[:4]) - sum(before[:4])
            rows.append({"workers": workers, "seconds": seconds, "cpu": cpu, "clips": len(store), "load_before": load})
            print(
                f"{workers} workers: {seconds:6.2f} s, {len(store) / seconds:5.1f} clips/s, {cpu:6.2f} s of processor"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--data", type=Path, help="JHMDB folder or folder of classes; default: generated clips")
    parser.add_argument("--clips", type=int, default=928)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--short-side", type=int, default=112)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = read(given.data, given.clips, Path(scratch))
        rows = measure(manifest, given.rounds, given.short_side, Path(scratch))
    best = {workers: min(row["seconds"] for row in rows if row["workers"] == workers) for workers in (1, 2)}
    ratio = best[1] / best[2]
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    result = {"ratio": ratio, "claim": CLAIM, "reached": ratio >= CLAIM, "rounds": rows, "machine": machine}
    result["data"] = given.data.name if given.data else "generated"
    given.result.write_text(json.dumps(result, indent=1) + "\n")
    print(f"two workers are {ratio:.2f} times as fast as one (claim: at least {CLAIM})")


if __name__ == "__main__":
    main()
