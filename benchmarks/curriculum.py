"""What choosing clips costs: seconds and memory of a selection of 10 % of 10,000, 60,000 and 240,000 clips.

    .venv/bin/python benchmarks/curriculum.py runs/benchmarks/curriculum.json

Clips have random features (half precision, as a feature bank would keep them) and random quality; one thread, processor
time, so that other work on the machine counts little. Memory is the most that NumPy held beside the features.
Claim: both seconds and memory grow with the clips and not with their square: seconds a clip at 240,000 are at most
twice those at 10,000, and memory stays below a tenth of the kernel that is never formed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tracemalloc
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read once, when NumPy is loaded

import numpy as np  # noqa: E402

from vidistill.curricula.dpp import SHARD, pick_count, select  # noqa: E402

SIZES = (10_000, 60_000, 240_000)
SLOWER, KERNEL_SHARE = 2.0, 0.1


def measure(clips: int, features: int, ratio: float, shard: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    bank = np.empty((clips, features), np.float16)
    for start in range(0, clips, SHARD):  # in pieces: the float64 original would be four times as large
        rows = bank[start : start + SHARD]
        rows[:] = random.standard_normal(rows.shape, np.float32)
    quality = random.random(clips)
    count = pick_count(ratio, clips)
    tracemalloc.start()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    picks = select(bank, quality, count, shard=shard)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert len(set(picks.tolist())) == count
    return {
        "clips": clips,
        "picks": count,
        "seconds": seconds,
        "megabytes": peak / 1e6,
        "kernel_megabytes": 4 * clips**2 / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--shard", type=int, default=SHARD)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    given = parser.parse_args()
    rows = []
    print(f"{'clips':>9}{'picks':>9}{'seconds':>9}{'ms/pick':>9}{'MB':>9}{'kernel MB':>11}")
    for clips in given.sizes:
        row = measure(clips, given.features, given.ratio, given.shard)
        rows.append(row)
        print(
            f"{clips:9,}{row['picks']:9,}{row['seconds']:9.1f}{1e3 * row['seconds'] / row['picks']:9.2f}"
            f"{row['megabytes']:9.0f}{row['kernel_megabytes']:11,.0f}",
            flush=True,
        )
    first, last = rows[0], rows[-1]
    slower = (last["seconds"] / last["clips"]) / (first["seconds"] / first["clips"])
    share = last["megabytes"] / last["kernel_megabytes"]
    reached = slower <= SLOWER and share <= KERNEL_SHARE
    print(f"seconds a clip: {slower:.2f} times (claim: at most {SLOWER:g}); memory {share:.4f} of the kernel")
    result = {
        "claim": {"slower": SLOWER, "kernel_share": KERNEL_SHARE},
        "reached": reached,
        "slower": slower,
        "options": {"features": given.features, "ratio": given.ratio, "shard": given.shard},
        "rows": rows,
        "machine": {"cores": os.cpu_count(), "threads": 1},
    }
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
