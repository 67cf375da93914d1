"""`vidistill fuse` on finished runs of one set with other students' inputs: clips matched by id, every figure there."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidistill.cli.main import main
from vidistill.core.recipe import make_recipe
from vidistill.stages.pipeline import run_recipe
from vidistill.tasks import Predictions
from vidistill.tasks.metrics import probabilities

Command = Callable[..., tuple[int, str, str]]
SKELETON = {"input": "skeleton", "network": "temporal_conv", "width": 8}


@pytest.fixture(scope="module")
def runs(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory, make_tiny_recipe: Any) -> Path:
    """Runs `rgb` (two seeds, a variant) and `skeleton` (one seed), over other prepared clips."""
    folder = tmp_path_factory.mktemp("fusion")
    tree = make_tiny_recipe(tiny_set, folder, name="rgb", seeds=[0, 1])
    tree["teachers"] = {"inertial": tree["teachers"]["inertial"]}
    tree["variants"] = {"warm": {"method": {"name": "kd", "temperature": 8.0}, "seeds": [1]}}
    inputs = tree["modalities"]
    tree["modalities"] = {name: inputs[name] for name in ("rgb", "inertial")}
    run_recipe(make_recipe(tree), until="evaluate")
    other = {**tree, "name": "skeleton", "seeds": [0], "variants": {}, "student": SKELETON}
    other["modalities"] = {name: inputs[name] for name in ("skeleton", "inertial")}
    run_recipe(make_recipe(other), until="evaluate")
    return folder / "runs"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `vidistill fuse ...` in this process: exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vidistill", "fuse", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


def saved(runs: Path, run: str, student: str) -> Predictions:
    return Predictions.load(runs / run / "models" / student / "predictions.npz")


def test_single_streams_stand_beside_the_fused_with_a_paired_gain(runs: Path, command: Command) -> None:
    status, out, error = command(runs / "rgb", runs / "skeleton")
    assert status == 0, error
    found = json.loads((runs / "rgb+skeleton" / "fused.json").read_text())
    rows = [(row["name"], row["stream"], row["seeds"]) for row in found["rows"]]
    assert rows == [(role, each, [0]) for role in ("alone", "distilled") for each in ("rgb", "skeleton", "fused")]
    for role in ("alone", "distilled"):
        values = {r["stream"]: r["metrics"]["action/top1"] for r in found["rows"] if r["name"] == role}
        gain = found["gains"][role]
        better = max(("rgb", "skeleton"), key=lambda name: values[name]["value"])
        assert gain["over"] == better
        assert gain["metrics"]["action/top1"]["value"] == pytest.approx(
            values["fused"]["value"] - values[better]["value"]
        )
        for run in ("rgb", "skeleton"):
            own = json.loads((runs / run / "results.json").read_text())["rows"]
            row = next(each for each in own if each["name"] == role)
            assert values[run]["per_seed"][0] == pytest.approx(row["metrics"]["action/top1"]["per_seed"][0])
    assert "only the shared seeds are used, 0 (rgb has 0, 1; skeleton has 0)" in out
    assert "warm: left out, no seed is shared" in out
    page = (runs / "rgb+skeleton" / "fused.md").read_text()
    assert "| student alone: fused |" in page
    assert "only the shared seeds" in page


def test_weights_are_those_of_the_runs_in_their_order(runs: Path, command: Command, tmp_path: Path) -> None:
    status, _, error = command(runs / "rgb", runs / "skeleton", "--weights", "1,3", "--output", tmp_path / "here")
    assert status == 0, error
    found = json.loads((tmp_path / "here" / "fused.json").read_text())
    assert [run["weight"] for run in found["runs"]] == [1.0, 3.0]
    rgb, skeleton = saved(runs, "rgb", "alone-seed0"), saved(runs, "skeleton", "alone-seed0")
    together = probabilities(rgb.logits["action"]) + 3 * probabilities(skeleton.logits["action"])
    right = (together.argmax(1) == rgb.labels["action"]).mean()
    row = next(each for each in found["rows"] if (each["name"], each["stream"]) == ("alone", "fused"))
    assert row["metrics"]["action/top1"]["value"] == pytest.approx(right)


def test_a_run_that_moved_with_its_prepared_clips_is_fused_without_the_data(
    runs: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs, tmp_path / "moved")
    for name in ("rgb", "skeleton"):
        path = tmp_path / "moved" / name / "recipe.yaml"
        lines = path.read_text().splitlines()
        path.write_text("\n".join("  root: gone" if line.startswith("  root:") else line for line in lines))
    monkeypatch.chdir(tmp_path)
    status, _, error = command("moved/rgb", "moved/skeleton")
    assert status == 0, error
    shutil.rmtree(tmp_path / "moved" / "prepared")
    status, _, error = command("moved/rgb", "moved/skeleton")
    assert status == 2
    assert "the prepared clips of run 'rgb' are not there" in error


def spoil(runs: Path, folder: Path, change: Callable[[Predictions], Predictions]) -> Path:
    """A copy of the runs whose skeleton students said something else."""
    shutil.copytree(runs, folder)
    for path in (folder / "skeleton" / "models").glob("*-seed0/predictions.npz"):
        change(Predictions.load(path)).save(path)
    return folder


def without_last(given: Predictions) -> Predictions:
    return Predictions(
        {h: v[:-1] for h, v in given.logits.items()}, {h: v[:-1] for h, v in given.labels.items()}, given.clip[:-1]
    )


def other_labels(given: Predictions) -> Predictions:
    return Predictions(given.logits, {h: (v + 1) % 3 for h, v in given.labels.items()}, given.clip)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_last, r"lacks 1 of the others' test clips, e.g. 'clip \d+'"),
        (other_labels, r"clip 'clip 12' is labelled 'speed1' in head 'action', not 'speed0'"),
    ],
)
def test_other_clips_or_labels_are_named(
    runs: Path, command: Command, tmp_path: Path, change: Callable[[Predictions], Predictions], words: str
) -> None:
    spoilt = spoil(runs, tmp_path / "spoilt", change)
    status, _, error = command(spoilt / "rgb", spoilt / "skeleton")
    assert status == 2
    assert re.search(words, error), error


def test_what_cannot_be_fused_is_one_line(runs: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(runs / "rgb", tmp_path / "episodes")
    table = json.loads((runs / "rgb" / "results.json").read_text())
    (tmp_path / "episodes" / "results.json").write_text(json.dumps({**table, "task": "fewshot"}))
    shutil.copytree(runs, tmp_path / "cut")
    (tmp_path / "cut" / "rgb" / "models" / "alone-seed0" / "predictions.npz").write_bytes(b"PK cut")
    (tmp_path / "cut" / "skeleton" / "models" / "alone-seed0" / "predictions.npz").unlink()
    cases = [
        ([runs / "rgb"], "needs two runs or more"),
        ([runs / "rgb", runs / "rgb"], "the same run twice"),
        ([runs / "rgb", tmp_path / "none"], "no such run folder"),
        ([runs / "rgb", tmp_path / "empty"], "there are no results"),
        ([runs / "rgb", tmp_path / "episodes"], "runs of task 'fewshot' cannot be fused"),
        ([runs / "rgb", runs / "skeleton", "--weights", "1"], "1 weights for 2 runs"),
        ([runs / "rgb", runs / "skeleton", "--weights", "1,-1"], "not all above 0"),
        ([runs / "rgb", runs / "skeleton", "--weights", "1;2"], "not a list of numbers"),
        ([tmp_path / "cut" / "rgb", runs / "skeleton"], "unreadable predictions"),
        ([runs / "rgb", tmp_path / "cut" / "skeleton"], "has not been tested"),
    ]
    for arguments, words in cases:
        status, _, error = command(*arguments)
        assert status == 2
        assert words in error
        assert len(error.strip().splitlines()) == 1, error
