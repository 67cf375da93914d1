"""Curricula in whole runs: a part of the clips an epoch, surveys of interrupted views, exact resume."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidistill.core.recipe import make_recipe
from vidistill.report.page import write_report
from vidistill.stages.distil import train_students
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.training import loop

ADAPTIVE = {"name": "adaptive", "ratio": 0.5, "interval": 2}


def adaptive_recipe(tree: dict[str, Any], **sections: Any) -> dict[str, Any]:
    schedule = {"epochs": 4, "batch_size": 8, "views": 2, "checkpoint_steps": 1}
    return {**tree, "curriculum": ADAPTIVE, "schedule": schedule, **sections}


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory, make_tiny_recipe) -> Run:
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("adaptive"))
    variants = {
        "random": {"curriculum": {"name": "random", "ratio": 0.5}},
        "everything": {"curriculum": {"name": "all"}},
    }
    return run_recipe(make_recipe(adaptive_recipe(tree, variants=variants)), until="evaluate")


def history(run: Run, name: str) -> list[dict[str, Any]]:
    lines = (run.folder / "models" / name / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_epoch_shows_the_part_that_was_chosen(finished: Run) -> None:
    train = len(finished.store.indices("train"))
    for name, part in (("distilled", 0.5), ("random", 0.5), ("everything", 1.0), ("alone", 1.0)):
        shown = {epoch["clips"] for epoch in history(finished, f"{name}-seed0")}
        assert shown == {round(part * train)}, name


def test_every_curriculum_is_a_row_of_the_table(finished: Run) -> None:
    found = json.loads((finished.folder / "results.json").read_text())
    assert [row["name"] for row in found["rows"]][-4:] == ["alone", "distilled", "random", "everything"]


def test_the_page_shows_what_was_chosen_how_strongly_and_how_hard_it_was(finished: Run) -> None:
    found = json.loads((finished.folder / "selection.json").read_text())
    assert found["name"] == "distilled-seed0" and [each["epoch"] for each in found["surveys"]] == [0, 2]
    clips = len(finished.store.indices("train"))
    for each in found["surveys"]:
        counts = each["difficulty"]
        assert sum(counts["right"]) + sum(counts["wrong"]) == found["clips"] == clips
        assert np.nanmean(np.array(each["chosen"], float)) == pytest.approx(0.5, abs=0.1)
    (_, easy), (_, hard) = found["examples"]
    assert max(row["difficulty"] for row in easy) <= min(row["difficulty"] for row in hard)
    page = write_report(finished.folder).read_text()
    assert page.count("data:image/jpeg;base64,") == len(easy) + len(hard)
    assert "Selection of clips" in page


def test_surveys_have_views_of_their_own_in_the_cache(finished: Run) -> None:
    keys = [json.loads(path.read_text()) for path in (finished.folder / "cache").glob("*/key.json")]
    assert sorted({key["views"] for key in keys}) == [2, 4]
    (surveys,) = {json.dumps(key["surveys"]) for key in keys if "surveys" in key}
    assert [kind for kind, _ in json.loads(surveys)] == ["none", "dropout"]


def test_an_interrupted_view_is_the_view_with_frames_blanked(finished: Run) -> None:
    index = int(finished.store.indices("train")[0])
    number = finished.shown_views + 1
    dataset = finished.dataset(["rgb"], True)
    view = dataset.view((index, number))
    plain = dataset.inputs[0].encoding.encode(finished.store.signal(index, "rgb"), view)
    seen = dataset[(index, number)].inputs["rgb"]
    assert seen is not None
    blank = (seen == 0).flatten(2).all(2).all(0)
    assert 0 < blank.sum() < len(blank)
    assert (seen[:, ~blank] == plain[:, ~blank]).all()


@pytest.mark.parametrize("cached", [True, False])
def test_stopped_within_a_selection_round_ends_in_the_same_weights(
    tiny_set: Path, tmp_path: Path, make_tiny_recipe, monkeypatch, cached: bool
) -> None:
    weights = []
    for name in ("whole", "stopped"):
        tree = adaptive_recipe(make_tiny_recipe(tiny_set, tmp_path / name), cache={"enabled": cached})
        run_recipe(make_recipe(tree), until="audit")
        run = Run(make_recipe(tree))
        plain, steps = loop._train_step, 0

        def stopping(*arguments: Any, plain: Any = plain) -> None:
            nonlocal steps
            plain(*arguments)
            steps += 1
            if steps % 7 == 0:  # in both students, within the rounds
                raise KeyboardInterrupt

        if name == "stopped":
            with monkeypatch.context() as patch:
                patch.setattr(loop, "_train_step", stopping)
                for _ in range(12):
                    try:
                        train_students(Run(make_recipe(tree)))
                        break
                    except KeyboardInterrupt:
                        continue
                assert steps > 14
        else:
            train_students(run)
        weights.append(load_file(run.folder / "models" / "distilled-seed0" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])


def stopped_every(steps: int, monkeypatch, tree: dict[str, Any]) -> tuple[int, list[Any]]:
    """Train the students of a run that is stopped again and again; steps done, and what each step was given."""
    plain, seen = loop._train_step, []

    def stopping(*arguments: Any) -> None:
        plain(*arguments)
        seen.append(arguments)
        if len(seen) % steps == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", stopping)
        while True:
            try:
                train_students(Run(make_recipe(tree)))
                break
            except KeyboardInterrupt:
                assert len(seen) < 60
    return len(seen), seen


def test_the_released_loop_with_teachers_left_out_is_the_same_when_it_was_stopped(
    finished: Run, tiny_set: Path, tmp_path: Path, make_tiny_recipe, monkeypatch
) -> None:
    shutil.copytree(finished.recipe.runs, tmp_path / "runs")  # its teachers are trained
    curriculum = {"name": "adaptive", "variant": "released", "ratio": 0.5, "interval": 2}
    tree = adaptive_recipe(
        make_tiny_recipe(tiny_set, tmp_path),
        curriculum={**curriculum, "selection_batch": 6, "train_batch": 8},
        ensemble={"dropout": 0.4},
    )
    folder = tmp_path / "runs" / "tiny" / "models" / "distilled-seed0"
    train_students(Run(make_recipe(tree)))
    whole = load_file(folder / "model.safetensors")
    epochs = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(finished.store.indices("train")) == 54 and [epoch["clips"] for epoch in epochs] == [16] * 4
    with np.load(folder / "surveys" / "0.npz") as first:
        assert (first["strength"] > 0).sum() in (0, 6)  # the last batch of all
        assert len(np.unique(first["difficulty"])) == 9
    shutil.rmtree(folder)
    steps, given = stopped_every(3, monkeypatch, tree)
    assert steps >= 8
    dropout = given[-1][0].teachers.dropout
    assert (dropout.probability, dropout.views) == (0.4, 2)
    again = load_file(folder / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole | again)


def test_one_frame_odd_frames_one_batch_and_a_vanishing_ratio_train(
    tiny_set: Path, tmp_path: Path, make_tiny_recipe
) -> None:
    data = tmp_path / "set"
    data.mkdir()
    with (tiny_set / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[0]["frames"] = "1"
    for name in ("frames", "joints"):
        with np.load(tiny_set / f"{name}.npz") as values:
            kept = {clip: values[clip] for clip in values}
        np.savez(data / f"{name}.npz", **{**kept, rows[0]["id"]: kept[rows[0]["id"]][:1]})
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        columns = [name for name in rows[0] if name != "path:inertial"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    tree = make_tiny_recipe(data, tmp_path)
    tree["teachers"] = {"skeleton": tree["teachers"]["skeleton"]}
    tree["modalities"] = {name: tree["modalities"][name] for name in ("rgb", "skeleton")}
    tree |= {
        "prepare": {"workers": 1, "min_frames": 1},
        "views": {"frames": 5},
        "schedule": {"epochs": 2, "batch_size": 64, "views": 2},
        "teacher_schedule": {"epochs": 15, "batch_size": 8},
        "curriculum": {"name": "adaptive", "ratio": 1e-6, "interval": 1, "eta": 0.0},
    }
    run = run_recipe(make_recipe(tree), until="distil")
    short = next(i for i, clip in enumerate(run.store.clips) if clip.id == rows[0]["id"])
    assert run.store.frames(short) == 1 and {each.kind for each in run.surveys} == {"shuffle"}
    epochs = history(run, "distilled-seed0")
    assert [epoch["clips"] for epoch in epochs] == [1, 1]
    with np.load(run.folder / "models" / "distilled-seed0" / "surveys" / "1.npz") as last:
        assert short in last["clips"] and np.isfinite(last["difficulty"]).all()
