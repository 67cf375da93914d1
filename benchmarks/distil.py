"""What teaching costs: an epoch distilled from three cached teachers against an epoch of the same student alone.

    .venv/bin/python benchmarks/distil.py runs/benchmarks/distil.json

Both train on the generated demo set, epoch by epoch in turn, so that whatever else the machine does falls on both.
Claim: the ratio of median epoch times is at most 1.10. The memory of a training process (without mapped files, which
the system takes back at will) is given for a set and for one four times as large: it must not grow with the set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from vidistill.core.recipe import make_recipe
from vidistill.curricula import build_curriculum
from vidistill.data.manifest import read_manifest, write_manifest
from vidistill.data.synthetic import make_synthetic
from vidistill.stages.distil import make_method
from vidistill.stages.networks import load_trained
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.stages.teachers import bind_teachers
from vidistill.training.loop import train
from vidistill.training.step import Training


def recipe_tree(root: Path, runs: Path, epochs: int, width: int) -> dict:
    return {
        "name": "benchmark",
        "runs": str(runs),
        "data": {"format": "manifest", "root": str(root)},
        "prepare": {"sources": {"rgb": {"short_side": 72}}},
        "modalities": {
            "rgb": {"size": [48, 64]},
            "depth": {"size": [48, 64]},
            "flow": {"size": [48, 64]},
            "skeleton": {},
        },
        "views": {"frames": 8},
        "teachers": {
            "skeleton": {"input": "skeleton", "network": "temporal_conv"},
            "depth": {"input": "depth", "network": "compact3d", "width": 4, "stages": 3},
            "flow": {"input": "flow", "network": "compact3d", "width": 4, "stages": 3},
        },
        "teacher_schedule": {"epochs": 8},
        "student": {"input": "rgb", "network": "compact3d", "width": width},
        "schedule": {"epochs": epochs, "evaluate_every": 1000, "checkpoint_steps": 100000},
    }


def epochs_in_turn(run: Run, epochs: int) -> dict[str, list[float]]:
    """Seconds of each epoch of the student alone and distilled, one epoch of each in turn."""
    recipe = run.recipe
    networks = {name: load_trained(run, f"teacher-{name}", section) for name, section in recipe.teachers.items()}
    teachers, _ = bind_teachers(run, {})
    presence = [section.input for section in recipe.teachers.values()]
    seconds: dict[str, list[float]] = {"alone": [], "distilled": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(epochs):
            for kind in seconds:
                network = run.network(recipe.student, number, "student")
                taught = kind == "distilled"
                clips = run.store.indices("train")
                place = Path(folder) / f"{kind}{number}"
                place.mkdir()
                job = Training(
                    folder=place,
                    network=network,
                    input_name="rgb",
                    dataset=run.dataset(["rgb"], True, presence if taught else ()),
                    curriculum=build_curriculum("all", clips, 0, 1, {}),
                    task=run.task,
                    schedule=recipe.schedule.model_copy(update={"epochs": 1}),
                    seed=0,
                    accelerator=run.accelerator,
                    method=make_method(run, network, networks, teachers) if taught else None,
                    teachers=teachers if taught else None,
                )
                started = time.perf_counter()
                train(job)
                seconds[kind].append(time.perf_counter() - started)
    return seconds


def repeated_set(root: Path, copies: int, folder: Path) -> Path:
    """A manifest that lists every clip of `root` `copies` times, RGB only; each copy is prepared anew."""
    manifest = read_manifest(root / "manifest.csv")
    clips = tuple(
        replace(clip, id=f"{clip.id} copy {number}", sources={"rgb": str(Path("clips") / clip.sources["rgb"])})
        for clip in manifest.clips
        for number in range(copies)
    )
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "clips"
    if not link.exists():
        link.symlink_to(root.resolve(), target_is_directory=True)
    write_manifest(replace(manifest, root=folder, clips=clips), folder / "manifest.csv")
    return folder


def own_memory(root: Path, work: Path) -> float:
    """MiB that belong to a process alone (no mapped files) after it trained one epoch on the set."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(root), str(work)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def train_once(root: Path, work: Path) -> None:
    """One epoch of a small student; prints the process's anonymous memory in MiB."""
    tree = {**recipe_tree(root, work, 1, 4), "teachers": {}, "modalities": {"rgb": {"size": [48, 64]}}}
    run = Run(make_recipe(tree))
    job = Training(
        folder=Path(tempfile.mkdtemp()),
        network=run.network(run.recipe.student, 0, "student"),
        input_name="rgb",
        dataset=run.dataset(["rgb"], True),
        curriculum=build_curriculum("all", run.store.indices("train"), 0, 1, {}),
        task=run.task,
        schedule=run.recipe.schedule,
        seed=0,
        accelerator=run.accelerator,
    )
    train(job)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["RssAnon"].split()[0]) / 1024)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--memory":
        train_once(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--width", type=int, default=12)
    arguments = parser.parse_args()
    work = arguments.output.parent
    root = make_synthetic(work / "clips")
    run = run_recipe(make_recipe(recipe_tree(root, work, arguments.epochs, arguments.width)), "teachers")
    seconds = epochs_in_turn(run, arguments.epochs)
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    memory = {str(n): own_memory(repeated_set(root, n, work / f"clips-{n}"), work) for n in (1, 4)}
    result = {
        "seconds": seconds,
        "ratio": median["distilled"] / median["alone"],
        "claim": 1.10,
        "memory_mib_by_copies_of_the_set": memory,
        "memory_ratio": memory["4"] / memory["1"],
    }
    arguments.output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"epoch alone {median['alone']:.2f} s, distilled {median['distilled']:.2f} s, ratio {result['ratio']:.3f}")
    print(f"memory {memory['1']:.0f} MiB, with a set 4 times as large {memory['4']:.0f} MiB")


if __name__ == "__main__":
    main()
