"""Curricula in whole runs: a part of the clips an epoch, surveys of interrupted views, exact resume."""

from __future__ import annotations

import json
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
