"""A whole few-shot run on generated clips of seven classes: a fusion teacher, Lite-MKD, episodes of new classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidistill.cli.episodes import write_recipe_episodes
from vidistill.cli.main import main
from vidistill.core.errors import DataError, RecipeError
from vidistill.core.recipe import make_recipe
from vidistill.deploy.enroll import Enroller
from vidistill.deploy.predict_support import open_predictor
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.tasks import Predictions

CLASSES, CLIPS = 7, 9
TRX = {"name": "trx", "projection": 16, "dropout": 0.0}
GRU = {"network": "sequence_embedder", "frames": 4, "hidden": 16, "layers": 1, "comparison": TRX}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """The class is the picture's tint and how fast spot and joints swing; some clips of two classes lack joints."""
    folder = tmp_path_factory.mktemp("seven classes")
    frames, joints, rows = {}, {}, ["id,split,fps,frames,label:action,path:rgb,path:skeleton"]
    for number in range(CLASSES * CLIPS):
        label, random = number % CLASSES, np.random.default_rng(number)
        wave = np.sin(np.arange(16) * (0.15 + 0.25 * label) + random.uniform(0, 6))
        picture = random.integers(0, 40, (16, 16, 20, 3))
        for time, place in enumerate(np.rint(8 + 6 * wave).astype(int)):
            picture[time, 4:12, place : place + 4] += 180
        picture = picture * np.linspace(0.3, 1.0, CLASSES)[[label, -1 - label, 3]]
        name = f"clip{number:02d}"
        frames[name] = picture.astype(np.uint8)
        body = random.normal(0, 0.02, (16, 20, 3)) + np.linspace(0, 1, 20)[None, :, None]
        joints[name] = (body + 0.3 * wave[:, None, None]).astype(np.float32)
        seen = "" if number % 3 == 2 and label in (0, 1) else f"joints.npz#{name}"
        rows.append(f"{name},train,10,16,c{label},frames.npz#{name},{seen}")
    np.savez(folder / "frames.npz", **frames)
    np.savez(folder / "joints.npz", **joints)
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def fewshot_recipe(clips: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    embedder = {"network": "frame_embedder", "trunk": "resnet18", "comparison": TRX}
    tree: dict[str, Any] = {
        "name": "fewshot",
        "runs": str(folder / "runs"),
        "data": {
            "format": "manifest",
            "root": str(clips),
            "split_by_class": {"val": ["c1", "c4"], "test": ["c0", "c3", "c6"]},
        },
        "prepare": {"workers": 1},
        "modalities": {"rgb": {"size": [16, 16]}, "skeleton": {"kind": "joints", "frames": 16}},
        "views": {"frames": 4},
        "teachers": {
            "rgb": {"input": "rgb", "dim": 16, **embedder},
            "joints": {"input": "skeleton", **GRU},
            "fused": {"network": "mfm", "of": ["rgb", "joints"], "dim": 16, "bottleneck": 8, "comparison": TRX},
        },
        "teacher_schedule": {"epochs": 4, "views_per_epoch": 2},
        "student": {"input": "rgb", "dim": 16, "streams": 2, **embedder},
        "method": {"name": "litemkd", "teacher": "fused", "support": "kd"},
        "variants": {"kd": {"method": {"name": "kd"}}, "graph": {"method": {"name": "graph"}}},
        "task": {"name": "fewshot", "way": 2, "shot": 2, "queries": 2, "val_episodes": 400, "test_episodes": 60},
        "schedule": {"epochs": 2, "batch_size": 8, "views": 2, "learning_rate": 0.003},
        "export": {"latency": False},
    }
    return {**tree, **sections}


@pytest.fixture(scope="module")
def finished(clips: Path, tmp_path_factory) -> Run:
    return run_recipe(make_recipe(fewshot_recipe(clips, tmp_path_factory.mktemp("fewshot"))))


def test_all_ways_are_measured_on_the_same_episodes_of_new_classes(finished: Run) -> None:
    found = json.loads((finished.folder / "results.json").read_text())
    assert [row["name"] for row in found["rows"]] == [
        "rgb",
        "joints",
        "fused",
        "ensemble",
        "alone",
        "distilled",
        "kd",
        "graph",
    ]
    assert found["clips"] == 60
    for row in found["rows"]:
        top1 = row["metrics"]["episode/top1"]
        assert 0 <= top1["low"] <= top1["value"] <= top1["high"] <= 1
    names = [f"models/{name}/predictions.npz" for name in ("alone-seed0", "distilled-seed0", "teacher-fused")]
    labels = [Predictions.load(finished.folder / name).labels["episode"] for name in names]
    assert all((each == labels[0]).all() for each in labels)


def test_the_classes_that_are_never_trained_on_are_judged_one_by_one(finished: Run) -> None:
    found = json.loads((finished.folder / "results.json").read_text())
    table = found["per_class"]["action"]
    assert list(table) == ["c0", "c3", "c6"] and "confusion" not in found
    asked = np.unique(finished.task.episodes(finished.store, "test", np.ones(CLASSES * CLIPS, np.bool_)).queries)
    assert sum(each["clips"] for each in table.values()) == len(asked)
    values = [each[role] for each in table.values() for role in ("alone", "distilled")]
    assert all(0 <= value <= 1 for value in values)
    overall = next(row for row in found["rows"] if row["role"] == "alone")["metrics"]["episode/top1"]["value"]
    shares = [each["alone"] for each in table.values()]
    assert min(shares) <= overall <= max(shares)
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert ">Gain by class</h2>" in page and ">Confusion</h2>" not in page


def test_the_int8_form_is_judged_on_the_same_episodes(finished: Run) -> None:
    found = json.loads((finished.folder / "export" / "export.json").read_text())
    fp32, int8 = found["int8"]["top1_fp32"], found["int8"]["top1_int8"]
    row = next(
        row for row in json.loads((finished.folder / "results.json").read_text())["rows"] if row["role"] == "distilled"
    )
    assert fp32 == pytest.approx(row["metrics"]["episode/top1"]["value"], abs=0.02), "one test view, as here"
    assert abs(fp32 - int8) < 0.15 and found["int8"]["drop"] == pytest.approx(fp32 - int8)
    assert found["int8"]["bytes"] < 0.5 * found["onnx"]["bytes"]


def test_others_test_on_the_same_episodes_by_a_file(
    finished: Run, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test of ours.jsonl"
    recipe = str(finished.folder / "recipe.yaml")
    monkeypatch.setattr(sys, "argv", ["vidistill", "episodes", recipe, "--split", "test", "--output", str(file)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0 and capsys.readouterr().out.strip() == f"written: {file} (60 episodes)"
    task = {"name": "fewshot", "way": 2, "shot": 2, "queries": 2, "seed": 5, "episode_files": {"test": str(file)}}
    schedule = {"epochs": 1, "batch_size": 8, "views": 1}
    tree = fewshot_recipe(clips, tmp_path, name="other", teachers={}, variants={}, task=task, schedule=schedule)
    other = run_recipe(make_recipe({**tree, "runs": str(finished.recipe.runs)}), until="evaluate")
    assert json.loads((other.folder / "results.json").read_text())["clips"] == 60
    everything = np.ones(len(other.store), np.bool_)
    ours, theirs = (run.task.episodes(run.store, "test", everything) for run in (finished, other))
    for name in ("support", "queries", "classes"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_both_classifiers_of_strm_are_learned_in_a_run(clips: Path, tmp_path: Path) -> None:
    strm = {"enrich": "patches", "comparison": {"name": "strm", "projection": 8}}
    tree = fewshot_recipe(clips, tmp_path, teachers={}, variants={}, schedule={"epochs": 1, "batch_size": 8})
    tree["student"] |= strm
    run = run_recipe(make_recipe(tree), until="distil")
    history = (run.folder / "models" / "alone-seed0" / "history.jsonl").read_text().splitlines()
    terms = json.loads(history[0])["terms"]
    assert set(terms) == {"label_episode", "label_episode_distilled", "label_episode_patches"}
    assert all(value > 0 for value in terms.values())


def test_only_few_shot_recipes_have_episodes(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no fixed episodes for 'train'"):
        write_recipe_episodes(finished.recipe, "train", tmp_path / "a")
    tree = finished.recipe.model_dump(mode="json") | {"task": {"name": "recognition"}, "teachers": {}, "variants": {}}
    tree["data"] = {"format": "manifest", "root": str(finished.recipe.data.root)}
    with pytest.raises(RecipeError, match="recognition has no episodes"):
        write_recipe_episodes(make_recipe(tree), "test", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_test_classes_are_never_trained_on(finished: Run) -> None:
    store = finished.store
    labels = store.labels("action")
    parts = [set(labels[store.indices(split)].tolist()) for split in ("train", "val", "test")]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_a_teacher_that_lacks_clips_has_episodes_of_its_own(finished: Run) -> None:
    own = Predictions.load(finished.folder / "models/teacher-joints/predictions.npz")
    everyone = Predictions.load(finished.folder / "models/teacher-rgb/predictions.npz")
    assert own.units == everyone.units
    assert own.clip.min() > everyone.clip.max()


def test_the_fusion_is_taught_by_what_its_members_say(finished: Run) -> None:
    row = finished.input("fused:fused")
    dataset = finished.dataset(["fused:fused"], True)
    index = int(finished.store.indices("train")[0])
    sample = dataset[(index, 1)]
    tensor = sample.inputs["fused:fused"]
    assert tensor is not None and tuple(tensor.shape) == row.encoding.shape
    member = row.encoding.members[0]
    frames = member.cache(dataset.collate([sample])).features["frames"][0]
    np.testing.assert_array_equal(tensor[:, : member.width].numpy(), frames.numpy())


def write_video(path: Path, frames: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=frames.shape[2], height=frames.shape[1])
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("form", ["student.onnx", "student.int8.onnx"])
def test_new_classes_are_enrolled_from_example_videos_and_told_apart(finished: Run, tmp_path: Path, form: str) -> None:
    store = finished.store
    labels, test = store.labels("action"), store.indices("test")
    right = []
    for label in np.unique(labels[test]):
        name = store.classes["action"][label]
        clips = test[labels[test] == label]
        for number, clip in enumerate(clips[:5]):
            folder = "examples" if number < 3 else "asked"
            write_video(tmp_path / folder / name / f"{number}.mp4", store.signal(int(clip), "rgb").values)
    model = finished.folder / "export" / form
    Enroller(model).enroll(tmp_path / "examples").save(tmp_path / "my.support.safetensors")
    predictor = open_predictor(model, tmp_path / "my.support.safetensors")
    for video in sorted((tmp_path / "asked").rglob("*.mp4")):
        ranked = predictor.predict(video)["predictions"]["class"]
        assert {each["label"] for each in ranked} == {"c0", "c3", "c6"}
        right.append(ranked[0]["label"] == video.parent.name)
    assert np.mean(right) > 0.5, "better than one in three"


def test_a_second_run_does_nothing(finished: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("model.safetensors")}
    run_recipe(finished.recipe)
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("model.safetensors")}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"task": {"name": "fewshot", "way": 6}}, DataError, "6-way episodes need 6 classes"),
        ({"data": {"split_by_class": {"test": ["c9"]}}}, RecipeError, "c9"),
        ({"task": {"name": "fewshot", "episode_files": {"test": "nowhere"}}}, RecipeError, "episode_files.test"),
        ({"student": {"network": "compact3d", "width": 4}}, RecipeError, "vectors of frames"),
    ],
)
def test_what_cannot_be_is_refused(clips: Path, tmp_path: Path, change, error, says) -> None:
    tree = fewshot_recipe(clips, tmp_path, teachers={}, variants={})
    for section, keys in change.items():
        merged = {**tree[section], **keys}
        tree[section] = {"input": "rgb", **keys} if section == "student" else merged
    with pytest.raises(error, match=says):
        run_recipe(make_recipe(tree), until="distil")


def test_a_fusion_of_a_teacher_that_stands_after_it_is_refused(clips: Path, tmp_path: Path) -> None:
    tree = fewshot_recipe(clips, tmp_path)
    tree["teachers"] = dict(reversed(tree["teachers"].items()))
    with pytest.raises(RecipeError, match=r"no teacher 'rgb' before it"):
        make_recipe(tree)
