"""Methods with phases: an epoch goes over its clips once in each; what a teacher learned beside its labels is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from vidistill.core.errors import RecipeError
from vidistill.core.recipe import make_recipe
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext
from vidistill.models.weights import read_weights
from vidistill.stages.pipeline import run_recipe


class Reconstruction(Method):
    """A layer that learns the network's own embedding by heart."""

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self.layer = nn.Linear(context.student_dim, context.student_dim)

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        known = student.embedding.detach()
        return {"reconstruction": Loss((self.layer(known) - known).square().mean(1), distillation=False)}


class TwoPhases(Method):
    """First the own layer learns, then the student learns from the teacher's layer."""

    calls: ClassVar[list[tuple[str, bool, bool]]] = []
    stop_at: ClassVar[int | None] = None

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self.phases = ("own", "student")
        self.layer = nn.Linear(context.student_dim, context.student_dim)
        self.taught: Any = context.parts("inertial", "method")
        self.phase = ""

    def start_phase(self, name: str) -> None:
        self.phase, self.student_learns = name, name == "student"

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        seen = student.embedding
        type(self).calls.append((self.phase, seen.requires_grad, torch.is_grad_enabled()))
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        if self.phase == "own":
            return {"own": Loss((self.layer(seen) - seen).square().mean(1))}
        return {"student": Loss((seen - self.taught.layer(seen.detach())).square().mean(1))}


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """Both methods, known by name during this file's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS._parts, "reconstruction", Reconstruction)
        patch.setitem(METHODS._parts, "two_phases", TwoPhases)
        yield


@pytest.fixture(autouse=True)
def uncounted(registered: None) -> None:
    """No call was made yet."""
    TwoPhases.calls, TwoPhases.stop_at = [], None


@pytest.fixture(scope="module")
def audited(
    registered: None, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any
) -> dict[str, Any]:
    """A run whose teacher learned to reconstruct its own embedding; its students are not trained."""
    schedule = {"epochs": 2, "batch_size": 16, "views": 2, "checkpoint_steps": 1}
    network = {"network": "gru", "hidden": 8, "layers": 1, "dropout": 0.1}
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("phases"), schedule=schedule)
    tree["teachers"] = {"inertial": {"input": "inertial", **network, "method": {"name": "reconstruction"}}}
    tree["student"] = {"input": "skeleton", **network}
    tree["method"] = {"name": "two_phases"}
    run_recipe(make_recipe(tree), "teachers")
    return tree


def trained(tree: dict[str, Any], name: str) -> Path:
    """The folder of the distilled student of a copy of the run."""
    runs = Path(tree["runs"])
    if not (runs / name).exists():
        shutil.copytree(runs / tree["name"], runs / name)
    return run_recipe(make_recipe({**tree, "name": name}), "distil").folder / "models" / "distilled-seed0"


def test_what_a_teacher_learned_beside_its_labels_is_kept_with_it(audited: dict[str, Any]) -> None:
    folder = Path(audited["runs"]) / audited["name"] / "models" / "teacher-inertial"
    assert set(read_weights(folder / "method.safetensors")[0]) == {"layer.weight", "layer.bias"}
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert history[-1]["terms"]["reconstruction"] < history[0]["terms"]["reconstruction"]


def test_an_epoch_goes_over_all_clips_in_each_phase(audited: dict[str, Any]) -> None:
    folder = trained(audited, "in turn")
    steps = len(TwoPhases.calls) // 4
    assert TwoPhases.calls == 2 * (steps * [("own", False, True)] + steps * [("student", True, True)])
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert set(history[0]["terms"]) == {"own", "student", "label_action"}
    alone = folder.parent / "alone-seed0" / "history.jsonl"
    clips = json.loads(alone.read_text(encoding="utf-8").splitlines()[0])["clips"]
    assert history[0]["clips"] == 2 * clips


def test_a_run_that_stops_within_a_phase_ends_in_the_same_weights(audited: dict[str, Any]) -> None:
    expected = read_weights(trained(audited, "undisturbed") / "model.safetensors")[0]
    steps = len(TwoPhases.calls) // 4
    TwoPhases.calls, TwoPhases.stop_at = [], steps + 2  # the second step of the second phase
    with pytest.raises(KeyboardInterrupt):
        trained(audited, "stopped")
    TwoPhases.stop_at = None
    found = read_weights(trained(audited, "stopped") / "model.safetensors")[0]
    assert all((found[key] == expected[key]).all() for key in expected)


def test_a_teacher_without_the_method_that_a_student_needs_is_named(audited: dict[str, Any]) -> None:
    tree = json.loads(json.dumps({**audited, "name": "plain", "runs": str(audited["runs"])}, default=str))
    tree["teachers"]["inertial"].pop("method")
    with pytest.raises(RecipeError, match="teacher 'inertial' has no method of its own"):
        run_recipe(make_recipe(tree), "prepare")
