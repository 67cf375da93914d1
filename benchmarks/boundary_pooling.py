"""How much faster boundary pooling is than plain windowed maxima: `python benchmarks/boundary_pooling.py RESULT.json`.

One sequence of 512 or 1024 channels and 256 to 2048 steps, pooled around the boundaries of 126 segments: those of a
pyramid (64 short ones, 32 twice as long, and so on: the anchors of the published detector), or all as long as the
sequence, as an untrained detector may propose. Two plain ways stand beside ours: a mask (segments, steps) that puts
every window beside the whole sequence, and a loop over the windows that takes the maximum of each one's slice. They run
in turn in one thread, and the least processor time of the rounds counts for each: other work on the machine only adds
to it. Values and gradients must be equal: checked before anything is reported.
Claim: in every case, ours is at least four times as fast as the mask, forward and with the backward pass, and at least
as fast as the loop with the backward pass, as in training. It does NOT beat the loop in every forward pass: for a
pyramid's short windows a processor needs up to three times as long with ours, which builds a table of the whole
sequence for them; for long windows it needs less. Nothing is measured on a GPU here, where the loop, whose bounds are
Python numbers, would wait for them at every step and launch hundreds of kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidistill.models.anchor_segments import frame_windows
from vidistill.models.boundary_pooling import boundary_max_pool

LENGTHS, WIDTHS = (256, 512, 1024, 2048), (512, 1024)
ANCHORS = 126
CLAIMS = {("mask", "forward"): 4.0, ("mask", "both"): 4.0, ("loop", "both"): 1.0}
"""The least ratio of a way's time to ours, by way and pass."""
KINDS = ("pyramid", "whole")
PASSES = ("forward", "both")
Pooling = Callable[[Tensor, Tensor], Tensor]


def make_windows(length: int, kind: str) -> Tensor:
    """Boundary windows (1, ANCHORS, 4) of segments of a pyramid, or of ones that are all as long as the sequence."""
    if kind == "whole":
        return frame_windows(torch.tensor([0.0, length - 1.0]).expand(1, ANCHORS, 2))
    counts = [2**level for level in range(6, 0, -1)]
    widths = torch.cat([torch.full((count,), 2.0 * length / count) for count in counts]).clamp(max=length)
    centres = torch.cat([(torch.arange(count) + 0.5) * length / count for count in counts])
    widths = widths * torch.empty(ANCHORS).uniform_(0.5, 1.0)
    return frame_windows(torch.stack([centres - widths / 2, centres + widths / 2], dim=-1).clamp(0, length - 1)[None])


def bounds(segments: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First and last step (2, B, K) around the start and around the end."""
    steps = segments.clamp(0, length - 1).long().unflatten(2, (2, 2)).permute(2, 0, 1, 3)
    return steps[..., 0], steps.amax(dim=-1)


def loop(x: Tensor, segments: Tensor) -> Tensor:
    """Segment by segment."""
    first, last = (part[:, 0].tolist() for part in bounds(segments, x.shape[2]))
    halves = [
        torch.stack([half[:, :, left : right + 1].max(dim=2)[0] for left, right in zip(lefts, rights, strict=True)], 2)
        for half, lefts, rights in zip(x.chunk(2, dim=1), first, last, strict=True)
    ]
    return torch.cat(halves, dim=1)


def mask(x: Tensor, segments: Tensor) -> Tensor:
    """All segments at once, each beside every step."""
    steps = torch.arange(x.shape[2])
    halves = []
    for half, first, last in zip(x.chunk(2, dim=1), *bounds(segments, x.shape[2]), strict=True):
        outside = (steps < first[..., None]) | (steps > last[..., None])  # (B, K, T)
        halves.append(half[:, :, None].masked_fill(outside[:, None], -torch.inf).max(dim=3)[0])
    return torch.cat(halves, dim=1)


WAYS: dict[str, Pooling] = {"mask": mask, "loop": loop, "ours": boundary_max_pool}


def timed(pool: Pooling, x: Tensor, segments: Tensor, weights: Tensor) -> tuple[float, float, Tensor, Tensor]:
    """Processor seconds of the forward pass alone, and of forward and backward; values and gradient."""
    with torch.no_grad():
        start = time.process_time()
        pool(x, segments)
        forward = time.process_time() - start
    x = x.clone().requires_grad_()
    start = time.process_time()
    pooled = pool(x, segments)
    pooled.backward(weights)
    both = time.process_time() - start
    assert x.grad is not None
    return forward, both, pooled.detach(), x.grad


def measure(length: int, width: int, kind: str, rounds: int) -> dict[str, Any]:
    torch.manual_seed(length)
    x, weights = torch.randn(1, width, length), torch.randn(1, width, ANCHORS)
    segments = make_windows(length, kind)
    seconds: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PASSES} for name in WAYS}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for number in range(rounds + 1):
        for name, pool in WAYS.items():
            forward, both, *answer = timed(pool, x, segments, weights)
            found[name] = (answer[0], answer[1])
            if number:  # the first round warms up
                seconds[name]["forward"].append(forward)
                seconds[name]["both"].append(both)
    for values, gradient in found.values():
        torch.testing.assert_close(values, found["ours"][0], rtol=0, atol=0)
        torch.testing.assert_close(gradient, found["ours"][1])
    best = {name: {part: min(values) for part, values in parts.items()} for name, parts in seconds.items()}
    ratios = {name: {part: best[name][part] / best["ours"][part] for part in PASSES} for name in ("mask", "loop")}
    return {"length": length, "width": width, "windows": kind, "ratios": ratios, "best": best, "seconds": seconds}


def report(row: dict[str, Any]) -> None:
    for part in PASSES:
        times = "".join(f"{1e3 * row['best'][name][part]:9.1f}" for name in WAYS)
        faster = "".join(f"{ratio[part]:9.2f}" for ratio in row["ratios"].values())
        print(f"{row['length']:6}{row['width']:7}  {row['windows']:9}{part:8}{times}{faster}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    print(f"{'steps':>6}{'width':>7}  {'windows':9}{'ms':8}{'mask':>9}{'loop':>9}{'ours':>9}{'mask/':>9}{'loop/':>9}")
    rows = []
    for kind, width, length in product(KINDS, WIDTHS, LENGTHS):
        rows.append(measure(length, width, kind, given.rounds))
        report(rows[-1])
    claims = []
    for (way, part), least in CLAIMS.items():
        found = min(row["ratios"][way][part] for row in rows)
        claims.append({"way": way, "pass": part, "least": least, "found": found, "reached": found >= least})
        print(f"claim: {part}, at least {least:g} times as fast as the {way} in every case: {found >= least}")
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    machine |= {"threads": 1, "load_before": load}
    result = {"claims": claims, "rows": rows, "machine": machine}
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
