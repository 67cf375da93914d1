"""NTU RGB+D to PKU-MMD from raw skeleton text: an encoder learned on trimmed clips goes on into a detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidistill.core.errors import DataError
from vidistill.core.recipe import make_recipe
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run

ACTIONS = (1, 2, 3)
TRAINING, TESTING = (1, 2, 4, 5), (3, 6)
JJD = {"modality": "skeleton", "kind": "jjd", "joints": "ntu12", "persons": 2}


def body(random: np.random.Generator, action: int | None, frames: int) -> Any:
    """Joints (T, 25, 3) of a body whose arms swing at the action's pace; without an action they hang."""
    joints = np.linspace(0, 1, 25)[None, :, None] + random.normal(0, 0.005, (frames, 25, 3))
    if action is not None:
        joints[:, 4:12, 0] += 0.3 * action * np.sin(np.arange(frames) * 0.2 * action)[:, None]
    return joints


def ntu_text(joints: Any) -> str:
    lines = [str(len(joints))]
    for frame in joints:
        lines += ["1", "7205 0 1 1 1 1 0 0 0 2", "25"]
        lines += [" ".join(f"{x:.5f}" for x in [*joint, *[0.0] * 8]) + " 2" for joint in frame]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def ntu(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ntu")
    (root / "nturgb+d_skeletons").mkdir()
    for performer in (*TRAINING, *TESTING):
        for action in ACTIONS:
            for repetition in (1, 2):
                name = f"S001C001P{performer:03d}R{repetition:03d}A{action:03d}"
                random = np.random.default_rng(performer * 100 + action * 10 + repetition)
                text = ntu_text(body(random, action, 24))
                (root / "nturgb+d_skeletons" / f"{name}.skeleton").write_text(text)
    return root


@pytest.fixture(scope="module")
def pku(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pku")
    for folder in ("PKU_Skeleton_Renew", "Label_PKU_Final", "Split"):
        (root / folder).mkdir()
    names = [f"{number:04d}-M" for number in range(2, 10)]
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        parts, rows, at = [], [], 0
        for action in random.permutation([1, 2, 3, 1, 2, 3]).tolist():
            for what, frames in ((None, 18), (action, 42)):
                parts.append(body(random, what, frames))
                if what is not None:
                    rows.append(f"{what},{at},{at + frames},2")
                at += frames
        joints = np.concatenate(parts)
        lines = [" ".join(f"{x:.5f}" for x in [*frame.ravel(), *[0.0] * 75]) for frame in joints]
        (root / "PKU_Skeleton_Renew" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        rows = rows[:1] if number == 5 else rows  # a label file with one row
        (root / "Label_PKU_Final" / f"{name}.txt").write_text("\n".join(rows) + "\n")
    split = f"Training videos: \n{', '.join(names[:6])}, \nValidataion videos: \n{', '.join(names[6:])}\n"
    (root / "Split" / "cross-subject.txt").write_text(split)
    return root


def common(folder: Path, **sections: Any) -> dict[str, Any]:
    tree = {"runs": str(folder / "runs"), "prepare": {"workers": 1}, "modalities": {"jjd": JJD}}
    return {**tree, "export": {"onnx": False, "latency": False}, **sections}


@pytest.fixture(scope="module")
def source(ntu: Path, tmp_path_factory) -> Run:
    tree = common(
        tmp_path_factory.mktemp("transfer"),
        name="source",
        data={"format": "ntu_rgbd", "root": str(ntu), "validation": 0.25},
        views={"frames": 6, "sampling": "dense", "stride": 3},
        student={"input": "jjd", "network": "gru_mean", "hidden": 24, "layers": 1, "dropout": 0.0},
        schedule={"epochs": 30, "batch_size": 6, "learning_rate": 0.01},
    )
    return run_recipe(make_recipe(tree), until="evaluate")


def target(source: Run, pku: Path, weights: Path) -> dict[str, Any]:
    encoder = {"network": "gru_mean", "hidden": 24, "layers": 1, "dropout": 0.0, "weights": str(weights)}
    return common(
        source.recipe.runs.parent,
        name="target",
        data={"format": "pku_mmd", "root": str(pku), "validation": 0.2},
        views={"frames": 6, "stride": 1, "steps": 8},
        student={"input": "jjd", "network": "detector", "encoder": encoder, "hidden": 24, "dropout": 0.0},
        task={"name": "detection", "tious": [0.1, 0.3, 0.5]},
        schedule={"epochs": 12, "batch_size": 4, "views_per_epoch": 6, "learning_rate": 0.01},
    )


def test_the_source_is_learned_and_its_encoder_begins_the_detector(source: Run, pku: Path) -> None:
    weights = source.folder / "models" / "alone-seed0" / "model.safetensors"
    run = Run(make_recipe(target(source, pku, weights)))
    network = run.network(run.recipe.student, 0, "student")
    learned = load_file(weights)
    encoder = {k.removeprefix("backbone.encoder."): v for k, v in network.state_dict().items() if "encoder." in k}
    assert encoder and all(torch.equal(value, learned[f"backbone.{key}"]) for key, value in encoder.items())


def test_the_detector_finds_the_actions_of_unseen_recordings(source: Run, pku: Path) -> None:
    weights = source.folder / "models" / "alone-seed0" / "model.safetensors"
    run = run_recipe(make_recipe(target(source, pku, weights)), until="evaluate")
    found = json.loads((run.folder / "results.json").read_text())
    row = found["rows"][0]["metrics"]
    assert row["action/map@0.3"]["value"] > 0.5
    assert row["action/pku_map_action@0.3"]["value"] > 0
    labelled = [len(clip.segments["action"]) for clip in run.store.clips]
    assert sorted(labelled) == [1, *[6] * 7]


def test_other_weights_under_the_same_name_train_anew(source: Run, pku: Path, tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    keys = []
    for seed in (0, 1):
        content = (source.folder / "models" / "alone-seed0" / "model.safetensors").read_bytes()
        weights.write_bytes(content if seed == 0 else content[:-4] + b"\0\0\0\0")
        run = Run(make_recipe(target(source, pku, weights)))
        keys.append(run.network_options(run.recipe.student)["encoder"]["weights_digest"])
    assert keys[0] != keys[1]


def test_a_set_without_its_files_says_so(tmp_path: Path) -> None:
    tree = common(
        tmp_path,
        name="empty",
        data={"format": "ntu_rgbd", "root": str(tmp_path)},
        student={"input": "jjd", "network": "gru"},
    )
    with pytest.raises(DataError):
        run_recipe(make_recipe(tree), until="prepare")
