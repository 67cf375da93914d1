"""What the schedule can ask of the loop, each on the tiny set."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vidistill.core.errors import VidistillError
from vidistill.core.recipe import make_recipe
from vidistill.models.weights import read_weights
from vidistill.stages.pipeline import run_recipe

GRU = {"network": "gru", "hidden": 8, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def prepared(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> dict[str, Any]:
    """A recipe without teachers whose clips are prepared; the student has no batch statistics."""
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("options"), teachers={})
    tree["student"] = {"input": "skeleton", **GRU}
    tree["modalities"].pop("inertial")
    run_recipe(make_recipe(tree), "prepare")
    return tree


def trained(tree: dict[str, Any], name: str, **schedule: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and history of the student alone under a changed schedule."""
    runs = Path(tree["runs"])
    shutil.copytree(runs / tree["name"], runs / name)
    recipe = make_recipe({**tree, "name": name, "schedule": {"epochs": 2, "batch_size": 8, "views": 2, **schedule}})
    folder = run_recipe(recipe, "distil").folder / "models" / "alone-seed0"
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return read_weights(folder / "model.safetensors")[0], history


def test_accumulated_batches_step_like_one_batch(prepared: dict[str, Any]) -> None:
    # 54 clips: batches of 9 make six steps, batches of 3 in threes make the same six.
    whole, _ = trained(prepared, "whole", batch_size=9, clip_norm=None)
    parts, _ = trained(prepared, "parts", batch_size=3, accumulate=3, clip_norm=None)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-4, rtol=1e-3)


def test_sgd_and_step_decay_train(prepared: dict[str, Any]) -> None:
    _, history = trained(prepared, "sgd", optimizer="sgd", decay="step", learning_rate=0.05, epochs=6)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["lr"] == pytest.approx(0.05 * 0.01)


def test_bf16_trains(prepared: dict[str, Any]) -> None:
    plain, _ = trained(prepared, "fp32")
    half, history = trained(prepared, "bf16", precision="bf16", epochs=2)
    assert all(value.dtype == torch.float32 for value in half.values())
    assert any((half[key] != plain[key]).any() for key in plain)
    assert history[-1]["loss"] < 1.5


def test_averaged_weights_are_the_kept_ones(prepared: dict[str, Any]) -> None:
    plain, _ = trained(prepared, "no average")
    averaged, _ = trained(prepared, "average", ema=0.5)
    assert any((averaged[key] != plain[key]).any() for key in plain)


def test_compiled_networks_train_and_keep_their_names(
    prepared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compile_eagerly(network: torch.nn.Module) -> Any:
        calls.append(network)
        return functools.partial(network.forward)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    plain, _ = trained(prepared, "eager")
    compiled, _ = trained(prepared, "compiled", compile=True)
    assert len(calls) == 1
    assert plain.keys() == compiled.keys()


def test_tensorboard_gets_the_curves(prepared: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    run = make_recipe({**prepared, "name": "tracked", "track": ["tensorboard"]}, ["schedule.epochs=1"])
    folder = run_recipe(run, "distil").folder
    assert list(folder.rglob("events.out.tfevents*"))


def test_a_loss_that_is_not_finite_stops_with_advice(prepared: dict[str, Any]) -> None:
    with pytest.raises(VidistillError, match="not finite.*learning_rate"):
        trained(prepared, "diverging", optimizer="sgd", learning_rate=1e30, clip_norm=None, epochs=3)
