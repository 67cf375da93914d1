"""A whole detection run on streams of the tiny set: graph distillation, evaluation, export, a long video."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidistill.core.recipe import make_recipe
from vidistill.deploy.detect import write_files
from vidistill.deploy.predict import Predictor
from vidistill.stages.distil import train_students
from vidistill.stages.pipeline import run_recipe
from vidistill.stages.run import Run
from vidistill.tasks import Predictions


def write_video(path: Path, frames: Any, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, width=frames.shape[2], height=frames.shape[1])
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


GRU = {"network": "gru", "hidden": 16, "layers": 1, "dropout": 0.0}


def detection_recipe(tree: dict[str, Any], **sections: Any) -> dict[str, Any]:
    data = {**tree["data"], "streams": {"clips": 6, "rounds": 2, "background": ["speed0"]}}
    detection = {
        "data": data,
        "modalities": {"rgb": {"size": [16, 16]}, "skeleton": {"kind": "joints", "frames": 4}},
        "views": {"frames": 2, "stride": 2, "steps": 6},
        "teachers": {"skeleton": {"input": "skeleton", "network": "detector", "encoder": GRU}},
        "teacher_schedule": {"epochs": 10, "views_per_epoch": 6},
        "student": {
            "input": "rgb",
            "network": "detector",
            "encoder": {"network": "compact3d", "width": 4, "stages": 2},
            "hidden": 16,
        },
        "method": {"name": "graph"},
        "task": {"name": "detection", "tious": [0.3, 0.5]},
        "schedule": {"epochs": 2, "batch_size": 4, "views": 4, "views_per_epoch": 2, "learning_rate": 0.01},
    }
    return {**tree, **detection, **sections}


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory, make_tiny_recipe) -> Run:
    tree = make_tiny_recipe(tiny_set, tmp_path_factory.mktemp("detection"))
    variants = {"uniform": {"method": {"name": "kd"}}, "everyone": {"method": {"name": "graph", "mutual": True}}}
    return run_recipe(make_recipe(detection_recipe(tree, variants=variants)))


def results(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "results.json").read_text())
    return found


def test_every_way_to_distil_is_measured_by_its_average_precision(finished: Run) -> None:
    found = results(finished)
    assert found["primary"] == "map"
    assert [row["name"] for row in found["rows"]] == [
        "skeleton",
        "ensemble",
        "alone",
        "distilled",
        "uniform",
        "everyone",
        "skeleton, everyone",
    ]
    for row in found["rows"]:
        for name in ("map", "map@0.3", "map@0.5", "pku_map_action", "pku_map_video", "top1"):
            value = row["metrics"][f"action/{name}"]
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
    assert set(found["variant_gains"]) == {"uniform", "everyone"}
    teacher = found["rows"][0]["metrics"]["action/map@0.3"]["value"]
    assert teacher > 0.3, "a teacher that sees the joints finds segments"


def test_who_teaches_whom_is_in_the_history_and_on_the_page(finished: Run) -> None:
    lines = (finished.folder / "models" / "distilled-seed0" / "history.jsonl").read_text().splitlines()
    assert all(json.loads(line)["edges"] == {"skeleton": pytest.approx(1.0)} for line in lines)
    assert "Who teaches whom, when" in (finished.folder / "report.html").read_text()


def test_rows_are_the_steps_of_whole_streams(finished: Run) -> None:
    predictions = Predictions.load(finished.folder / "models" / "alone-seed0" / "predictions.npz")
    assert predictions.spans is not None and predictions.truth is not None
    for clip in np.unique(predictions.clip):
        spans = predictions.spans[predictions.clip == clip]
        np.testing.assert_allclose(spans[1:, 0], spans[:-1, 1])
        assert spans[-1, 1] == pytest.approx(finished.store.duration(int(clip)))
    labels = finished.task.row_labels(finished.store, finished.policy, "test")["action"]
    np.testing.assert_array_equal(predictions.labels["action"], labels)


def test_live_teachers_teach_what_cached_ones_do(finished: Run, tiny_set: Path, tmp_path, make_tiny_recipe) -> None:
    tree = detection_recipe(make_tiny_recipe(tiny_set, tmp_path), cache={"enabled": False})
    live = run_recipe(make_recipe(tree), until="distil")
    name = "models/distilled-seed0/history.jsonl"
    first, again = (
        [json.loads(line)["loss"] for line in (run.folder / name).read_text().splitlines()] for run in (finished, live)
    )
    assert first == pytest.approx(again, rel=1e-4)


def test_an_interrupted_training_ends_in_the_same_weights(finished: Run, tiny_set, tmp_path, make_tiny_recipe) -> None:
    tree = detection_recipe(make_tiny_recipe(tiny_set, tmp_path))
    again = run_recipe(make_recipe(tree), until="audit")
    from vidistill.training import loop

    steps = 0
    plain = loop._train_step

    def stopping(*arguments: Any) -> None:
        nonlocal steps
        plain(*arguments)
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    schedule = {**tree["schedule"], "checkpoint_steps": 1}
    stopped = Run(make_recipe({**tree, "schedule": schedule}))
    assert stopped.folder == again.folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_students(stopped)
    train_students(Run(make_recipe({**tree, "schedule": schedule})))
    name = "models/alone-seed0/model.safetensors"
    first, second = load_file(again.folder / name), load_file(finished.folder / name)
    assert all(torch.equal(first[key], second[key]) for key in first | second)


def long_video(finished: Run, path: Path, streams: int) -> int:
    test = finished.store.indices("test")
    frames = np.concatenate([finished.store.signal(int(test[i % len(test)]), "rgb").values for i in range(streams)])
    write_video(path, frames, 10)
    return len(frames)


def test_predict_finds_segments_in_a_long_video(finished: Run, tmp_path: Path) -> None:
    count = long_video(finished, tmp_path / "long.mp4", 4)
    predictor = Predictor(finished.folder / "export" / "student.onnx")
    assert predictor.detects
    answer = predictor.predict(tmp_path / "long.mp4")
    assert answer["steps"] == round(count / 4)
    for segment in answer["segments"]:
        assert segment["label"] in ("speed1", "speed2")
        assert 0 <= segment["segment"][0] < segment["segment"][1] <= answer["seconds"] + 1e-6
    files = write_files(answer, tmp_path / "out.json")
    assert [file.suffix for file in files] == [".json", ".csv", ".srt"]
    with files[1].open() as file:
        assert len(list(csv.DictReader(file))) == len(answer["segments"])
    assert json.loads(files[0].read_text())["segments"] == answer["segments"]


def test_a_video_shorter_than_a_window_is_seen(finished: Run, tmp_path: Path) -> None:
    values = finished.store.signal(int(finished.store.indices("test")[0]), "rgb").values[:9]
    write_video(tmp_path / "short.mp4", values, 10)
    answer = Predictor(finished.folder / "export" / "student.onnx").predict(tmp_path / "short.mp4")
    assert answer["steps"] == 2


def test_a_curriculum_chooses_recordings(tiny_set: Path, tmp_path: Path, make_tiny_recipe) -> None:
    curriculum = {"name": "adaptive", "ratio": 0.5, "interval": 1}
    run = run_recipe(
        make_recipe(detection_recipe(make_tiny_recipe(tiny_set, tmp_path), curriculum=curriculum)), "distil"
    )
    lines = (run.folder / "models" / "distilled-seed0" / "history.jsonl").read_text().splitlines()
    streams = len(run.store.indices("train"))
    assert {json.loads(line)["clips"] for line in lines} == {2 * round(0.5 * streams)}
