"""A training that was killed and started again ends in the same weights as one that was not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidistill.core.recipe import make_recipe
from vidistill.models.weights import read_weights
from vidistill.stages.pipeline import run_recipe

COMMAND = [sys.executable, "-m", "vidistill", "run"]


@pytest.fixture(scope="module")
def audited(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> dict[str, Any]:
    """A run whose teachers are trained and whose students are not."""
    schedule = {"epochs": 4, "batch_size": 8, "views": 2, "checkpoint_steps": 1, "ema": 0.9}
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("resume"), schedule=schedule)
    run_recipe(make_recipe(tree), "audit")
    return tree


def copied(tree: dict[str, Any], name: str, **sections: Any) -> dict[str, Any]:
    runs = Path(tree["runs"])
    shutil.copytree(runs / tree["name"], runs / name)
    return {**tree, "name": name, **sections}


def weights(tree: dict[str, Any], model: str) -> dict[str, Any]:
    return read_weights(Path(tree["runs"]) / tree["name"] / "models" / model / "model.safetensors")[0]


def kill_while_training(tree: dict[str, Any], folder: Path, delay: float) -> None:
    """Start the run in a process of its own and kill it `delay` seconds after the distilled student's first save."""
    recipe = folder / f"{tree['name']}.yaml"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    state = Path(tree["runs"]) / tree["name"] / "models" / "distilled-seed0" / "state.pt"
    process = subprocess.Popen([*COMMAND, str(recipe), "--until", "distil"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), errors


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "live"])
def test_a_killed_run_ends_in_the_weights_of_an_undisturbed_one(
    audited: dict[str, Any], tmp_path: Path, cached: bool
) -> None:
    kind = "cached" if cached else "live"
    undisturbed = copied(audited, f"{kind} undisturbed", cache={"enabled": cached})
    run_recipe(make_recipe(undisturbed), "distil")
    killed = copied(audited, f"{kind} killed", cache={"enabled": cached})
    kill_while_training(killed, tmp_path, delay=0.05)
    models = Path(killed["runs"]) / killed["name"] / "models"
    assert not (models / "distilled-seed0" / "model.safetensors").exists(), "the kill came too late to test anything"
    run_recipe(make_recipe(killed), "distil")
    for model in ("alone-seed0", "distilled-seed0"):
        expected, found = weights(undisturbed, model), weights(killed, model)
        assert expected.keys() == found.keys()
        for key in expected:
            assert (expected[key] == found[key]).all(), f"{model}: {key}"


def test_cached_teachers_give_the_losses_of_live_ones(audited: dict[str, Any]) -> None:
    import json

    losses = {}
    for cached in (True, False):
        tree = copied(audited, f"losses {cached}", cache={"enabled": cached})
        run_recipe(make_recipe(tree), "distil")
        path = Path(tree["runs"]) / tree["name"] / "models" / "distilled-seed0" / "history.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses[cached] = [[r["loss"], r["terms"]["kd"], *r["teacher_weights"].values()] for r in records]
    for one, other in zip(losses[True], losses[False], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loader_processes_changes_nothing(audited: dict[str, Any], workers: int) -> None:
    trees = []
    for count in (0, workers):
        name = f"workers {count} of {workers}"
        tree = copied(audited, name, schedule={**audited["schedule"], "epochs": 1, "workers": count})
        run_recipe(make_recipe(tree), "distil")
        trees.append(weights(tree, "distilled-seed0"))
    assert all((trees[0][key] == trees[1][key]).all() for key in trees[0])
