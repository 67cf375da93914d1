"""What a few-shot test costs if clips are encoded once: `python benchmarks/episode_evaluation.py RESULT.json`.

10,000 5-way 5-shot episodes with one query a class are drawn of 280 test clips in 10 classes (8 frames of 64 x 64, a
ResNet-18). Ours encodes every clip once and compares all episodes; the plain way encodes the 30 clips of each
episode when it comes. A hook counts how many clips pass through the network. The plain way runs on the first few
episodes only: each of them costs the same 30 passes, so the passes of all are exact and the seconds of all are those of
one times their number. One thread, processor seconds: other work on the machine counts little.
`--head` compares; it costs the same both ways, and the default, which costs little, leaves what encoding costs.
Claim: at least 100 times fewer passes and 50 times less time for all episodes, with logits that are the same within
1e-4 of their spread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when PyTorch is loaded

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from vidistill.core.types import Batch
from vidistill.data.batches import Key
from vidistill.data.episodes import Episodes, EpisodeSampler
from vidistill.data.views import ViewPolicy
from vidistill.models import build_network
from vidistill.tasks.fewshot import EPISODE
from vidistill.training.evaluate_episodes import encode_clips, evaluate_episodes

PASSES_CLAIM, TIME_CLAIM, SAME = 100.0, 50.0, 1e-4
CLASSES, CLIPS_A_CLASS = 10, 28
WAY, SHOT, QUERIES = 5, 5, 1
FRAMES, SIDE = 8, 64
INPUT = "rgb"


class MadeClips(Dataset[Tensor]):
    """Random clips, each under its one test view."""

    store, policy = None, ViewPolicy(frames=FRAMES)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.clips = torch.randn(CLASSES * CLIPS_A_CLASS, 3, FRAMES, SIDE, SIDE)

    def __getitem__(self, key: Key) -> tuple[int, Tensor]:
        return key[0], self.clips[key[0]]

    def collate(self, samples: list[tuple[int, Tensor]]) -> Batch:
        clip = torch.tensor([number for number, _ in samples])
        return Batch({INPUT: torch.stack([x for _, x in samples])}, {}, clip, torch.zeros_like(clip), {})


class Passes:
    """Counts the clips that pass through a network."""

    def __init__(self, network: nn.Module) -> None:
        self.clips = 0
        network.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], outputs: object) -> None:
        self.clips += len(inputs[0])


def one_by_one(network: Any, dataset: MadeClips, episodes: Episodes) -> np.ndarray:
    """Logits (E * Q, way): the clips of every episode are encoded anew."""
    support_index = torch.arange(WAY * SHOT).reshape(1, WAY, SHOT)
    query_index = torch.arange(WAY * SHOT, WAY * (SHOT + QUERIES))[None]
    logits = []
    with torch.inference_mode():
        for support, queries in zip(episodes.support, episodes.queries, strict=True):
            clips = dataset.clips[torch.from_numpy(np.concatenate([support.reshape(-1), queries]))]
            features = network(clips).features
            logits.append(sum(network.head(features[s], support_index, query_index)[0] for s in network.streams))
    return torch.cat(logits).numpy()


def timed(passes: Passes, run: Callable[[], Any]) -> tuple[float, int, Any]:
    """Processor seconds, passes and result of a run."""
    before, start = passes.clips, time.process_time()
    result = run()
    return time.process_time() - start, passes.clips - before, result


def measure(count: int, few: int, head: str) -> dict[str, Any]:
    torch.manual_seed(0)
    options = {"trunk": "resnet18", "dim": 0, "comparison": {"name": head}}
    network = build_network("frame_embedder", (3, FRAMES, SIDE, SIDE), {"action": CLASSES}, options).eval()
    dataset: Any = MadeClips()
    clips = np.arange(CLASSES * CLIPS_A_CLASS)
    sampler = EpisodeSampler(clips // CLIPS_A_CLASS, clips, WAY, SHOT, QUERIES, seed=0)
    some, episodes = sampler.batch(np.arange(few)), sampler.batch(np.arange(count))
    accelerator, passes = Accelerator(cpu=True), Passes(network)
    one_by_one(network, dataset, sampler.batch(np.arange(1)))  # warms up
    plain_seconds, plain_passes, expected = timed(passes, lambda: one_by_one(network, dataset, some))
    encoding, encoded, frames = timed(passes, lambda: encode_clips(network, dataset, clips, INPUT, accelerator))
    few_seconds, _, found = timed(passes, lambda: evaluate_episodes(network, frames, clips, some, accelerator))
    comparing, compared, _ = timed(passes, lambda: evaluate_episodes(network, frames, clips, episodes, accelerator))
    difference = float(np.abs(found.logits[EPISODE] - expected).max() / (expected.max() - expected.min()))
    assert plain_passes == few * WAY * (SHOT + QUERIES) and difference <= SAME, (plain_passes, difference)
    return {
        "episodes": count,
        "passes": {"plain": plain_passes // few * count, "ours": encoded + compared},
        "seconds": {"plain": plain_seconds / few * count, "ours": encoding + comparing},
        "parts": {"encoding": encoding, "comparing": comparing},
        "few": {
            "episodes": few,
            "passes": {"plain": plain_passes, "ours": encoded},
            "seconds": {"plain": plain_seconds, "ours": encoding + few_seconds},
        },
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=8, help="episodes that the plain way is measured on")
    parser.add_argument("--head", default="prototype", help="episode head, e.g. trx")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    row = measure(given.episodes, given.few, given.head)
    ratios = {kind: row[kind]["plain"] / row[kind]["ours"] for kind in ("passes", "seconds")}
    for title, part in ((f"{given.few} episodes, measured", row["few"]), (f"{given.episodes:,} episodes", row)):
        passes, seconds = part["passes"], part["seconds"]
        print(
            f"{title}: an episode at a time {passes['plain']:,} passes, {seconds['plain']:,.1f} s of processor;", end=""
        )
        print(f" every clip once {passes['ours']:,} passes, {seconds['ours']:.1f} s")
    print(f"of ours, encoding {row['parts']['encoding']:.1f} s, comparing {row['parts']['comparing']:.1f} s")
    reached = ratios["passes"] >= PASSES_CLAIM and ratios["seconds"] >= TIME_CLAIM
    print(f"{ratios['passes']:,.0f} times fewer passes (claim: at least {PASSES_CLAIM:g}), ", end="")
    print(f"{ratios['seconds']:,.0f} times less time (claim: at least {TIME_CLAIM:g})")
    print(f"logits differ by {row['difference']:.1e} of their spread")
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    machine |= {"threads": 1, "load_before": load}
    result = {
        "claim": {"passes": PASSES_CLAIM, "seconds": TIME_CLAIM},
        "reached": reached,
        "ratios": ratios,
        "head": given.head,
    }
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(json.dumps(result | row | {"machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
