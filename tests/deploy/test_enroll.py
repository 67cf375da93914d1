from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vidistill.core.errors import DataError, DecodeError, ModelError, RecipeError
from vidistill.deploy.enroll import Enroller
from vidistill.deploy.episode_export import compare_path, export_episode_onnx
from vidistill.deploy.inputs import InputPipeline
from vidistill.deploy.predict import Predictor
from vidistill.deploy.predict_support import SupportPredictor, open_predictor
from vidistill.deploy.session import read_metadata
from vidistill.deploy.support_set import METADATA_KEY, SupportClip, SupportSet
from vidistill.models import build_network
from vidistill.models.episode_network import FRAMES, EpisodeNetwork

MakeVideo = Callable[..., Path]
Examples = dict[str, list[tuple[int, int, int]]]
SHAPE = (3, 4, 32, 32)
METADATA: dict[str, Any] = {
    "model": "tiny-fewshot",
    "input": {"modality": "rgb", "size": 32},
    "view": {"frames": 4, "aspect": 1.0},
    "sources": {"rgb": {"short_side": 40}},
    "duration": 1.0,
    "task": {"name": "fewshot"},
}
COLOURS: Examples = {
    "rouge foncé": [(200, 20, 20), (180, 40, 30)],
    "green": [(20, 200, 20), (40, 180, 30), (10, 220, 60)],
    "blue": [(20, 20, 200)],
}


@pytest.fixture(scope="module")
def network() -> EpisodeNetwork:
    torch.manual_seed(0)
    options = {"trunk": "squeezenet1_1", "dim": 16, "comparison": {"name": "trx", "projection": 12}}
    built = build_network("frame_embedder", SHAPE, {"action": 3}, options).eval()
    assert isinstance(built, EpisodeNetwork)
    return built


@pytest.fixture(scope="module")
def model(network: EpisodeNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported model") / "student.onnx"
    export_episode_onnx(network, SHAPE, METADATA, path)
    return path


@pytest.fixture(scope="module")
def enroller(model: Path) -> Enroller:
    return Enroller(model, threads=1)


@pytest.fixture
def examples(tmp_path: Path, make_video: MakeVideo) -> Path:
    """Three colours of two, three and one flat clips, in a folder with a space."""
    folder = tmp_path / "my examples"
    for name, colours in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number, colour in enumerate(colours, start=9):
            make_video(f"my examples/{name}/clip {number}.mp4", [colour] * 6)
    return folder


@pytest.fixture
def support(enroller: Enroller, examples: Path, tmp_path: Path) -> Path:
    path = tmp_path / "the support.safetensors"
    enroller.enroll(examples).save(path)
    return path


def test_a_query_that_is_an_example_gets_its_class(model: Path, support: Path, examples: Path) -> None:
    predictor = SupportPredictor(model, support, threads=1)
    for name in COLOURS:
        for video in (examples / name).iterdir():
            answer = predictor.predict(video)
            assert answer["predictions"]["class"][0]["label"] == name
            assert sum(each["probability"] for each in answer["predictions"]["class"]) == pytest.approx(1.0)
    assert (answer["support"], answer["model"], answer["views"]) == (str(support), "tiny-fewshot", 1)
    assert (answer["file"], answer["frames"], answer["seconds"]) == (str(video), 6, 0.6)
    assert json.loads(json.dumps(answer)) == answer


def test_a_class_is_known_by_all_its_shots_however_many_the_others_have(
    model: Path, support: Path, examples: Path, network: EpisodeNetwork, make_video: MakeVideo
) -> None:
    """The logits are those of the network with each class's own support, of one, two and three clips."""
    pipeline = InputPipeline(read_metadata(model), "model")

    def frames(video: Path) -> torch.Tensor:
        window = next(pipeline.windows(video, None, pipeline.extent(video)))
        with torch.no_grad():
            return network(pipeline.encode(window)).features[FRAMES]

    query = make_video("query.mp4", [(120, 130, 40)] * 6)
    expected = []
    for name, colours in COLOURS.items():
        known = torch.cat([frames(video) for video in sorted((examples / name).iterdir())])
        index = torch.arange(len(colours)).reshape(1, 1, -1)
        with torch.no_grad():
            logits = network.head(torch.cat([known, frames(query)]), index, torch.tensor([[len(colours)]]))
        expected.append(float(logits))
    predictor = SupportPredictor(model, support, threads=1)
    named = dict(zip(COLOURS, torch.tensor(expected).softmax(0).tolist(), strict=True))
    for each in predictor.predict(query)["predictions"]["class"]:
        assert each["probability"] == pytest.approx(named[each["label"]], rel=1e-3)


def test_many_classes_are_compared_in_parts(
    model: Path, support: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = examples / "blue" / "clip 9.mp4"
    whole = SupportPredictor(model, support, threads=1).predict(video)
    monkeypatch.setattr("vidistill.deploy.predict_support.CLASSES", 1)
    assert SupportPredictor(model, support, threads=1).predict(video) == whole


def test_a_long_query_is_seen_whole_and_a_long_example_is_several_shots(
    model: Path, enroller: Enroller, examples: Path, make_video: MakeVideo, tmp_path: Path
) -> None:
    blue, red = COLOURS["blue"][0], COLOURS["rouge foncé"][0]
    make_video("my examples/blue/clip 9.mp4", [blue] * 35)
    known = enroller.enroll(examples)
    assert [clip.views for clip in known.clips if clip.name == "clip 9.mp4"] == [3, 1, 1]
    known.save(tmp_path / "a.safetensors")
    answer = open_predictor(model, tmp_path / "a.safetensors", threads=1).predict(
        make_video("long.mp4", [blue] * 10 + [red] * 60)
    )
    assert answer["views"] == 7
    assert answer["predictions"]["class"][0]["label"] == "rouge foncé"


def test_the_set_keeps_names_in_natural_order_and_its_file_gives_it_back(enroller: Enroller, examples: Path) -> None:
    known = enroller.enroll(examples)
    assert known.classes == ("blue", "green", "rouge foncé")
    assert [clip.name for clip in known.clips if clip.label == 1] == ["clip 9.mp4", "clip 10.mp4", "clip 11.mp4"]
    assert known.shots().tolist() == [1, 3, 2] and known.skipped == ()
    path = examples.parent / "new folder" / "a.safetensors"
    known.save(path)
    loaded = SupportSet.load(path)
    for part in ("classes", "clips", "digest", "model"):
        assert getattr(loaded, part) == getattr(known, part)
    assert loaded.projected.keys() == known.projected.keys()
    for name, values in known.projected.items():
        np.testing.assert_array_equal(loaded.projected[name], values)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_support_file_is_shared_between_processes(model: Path, support: Path, examples: Path, tmp_path: Path) -> None:
    """Another process with copies of the files, and without the examples, gives the same answer."""
    video = examples / "green" / "clip 10.mp4"
    expected = SupportPredictor(model, support, threads=1).predict(video)["predictions"]
    away = tmp_path / "elsewhere"
    away.mkdir()
    for file in (model, compare_path(model), support, video):
        shutil.copy(file, away / file.name)
    shutil.rmtree(examples)
    script = (
        "import json; from vidistill.deploy.predict_support import open_predictor;"
        f"answer = open_predictor('student.onnx', {support.name!r}, 1).predict({video.name!r});"
        "print(json.dumps(answer['predictions']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=away, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == expected


def test_what_is_no_clip_is_skipped_and_named(enroller: Enroller, examples: Path, make_video: MakeVideo) -> None:
    (examples / "readme.txt").write_text("not a class")
    (examples / "green" / "notes.txt").write_text("not a clip")
    (examples / "green" / ".DS_Store").write_text("hidden")
    (examples / ".git").mkdir()
    (examples / "blue" / "empty.mp4").touch()
    known = enroller.enroll(examples)
    reasons = {each.name: each.reason for each in known.skipped}
    assert set(reasons) == {"readme.txt", "green/notes.txt", "blue/empty.mp4"}
    assert "empty (0 bytes)" in reasons["blue/empty.mp4"] and str(examples) not in reasons["blue/empty.mp4"]
    assert known.shots().tolist() == [1, 3, 2]


def test_arrays_of_frames_and_folders_of_images_are_examples_too(enroller: Enroller, examples: Path) -> None:
    frames = np.full((6, 40, 40, 3), (20, 20, 200), np.uint8)
    np.save(examples / "blue" / "array.npy", frames)
    assert enroller.enroll(examples).shots().tolist() == [2, 3, 2]


def spoil_one_class(folder: Path) -> None:
    for name in ("green", "blue"):
        shutil.rmtree(folder / name)


def spoil_empty(folder: Path) -> None:
    (folder / "yellow").mkdir()


def spoil_all_clips(folder: Path) -> None:
    (folder / "blue" / "clip 9.mp4").write_bytes(b"no video")


def spoil_flat(folder: Path) -> None:
    for name in COLOURS:
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_one_class, "there is one class, 'rouge foncé'"),
        (spoil_empty, "class 'yellow' has no clip"),
        (spoil_all_clips, r"no clip of class 'blue' can be read \(blue/clip 9.mp4"),
        (spoil_flat, "there are no class folders"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_folders_that_cannot_be_told_apart_are_one_line(
    enroller: Enroller, examples: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(examples)
    with pytest.raises(DataError, match=words) as caught:
        enroller.enroll(examples)
    assert "\n" not in str(caught.value) and str(examples) in str(caught.value)


def test_unequal_shots_are_refused_where_classes_are_weighed_against_each_other(model: Path, examples: Path) -> None:
    enroller = Enroller(model, threads=1)
    enroller.metadata["comparison"]["classwise"] = False
    with pytest.raises(DataError, match="blue 1, green 3, rouge foncé 2"):
        enroller.enroll(examples)
    for video in (examples / "green" / "clip 10.mp4", examples / "green" / "clip 11.mp4"):
        video.unlink()
    (examples / "rouge foncé" / "clip 10.mp4").unlink()
    assert enroller.enroll(examples).shots().tolist() == [1, 1, 1]


def test_a_support_set_of_another_model_is_refused_and_named(model: Path, support: Path, tmp_path: Path) -> None:
    other = tmp_path / "student.onnx"
    other.write_bytes(model.read_bytes().replace(b"tiny-fewshot", b"tine-fewshot"))
    shutil.copy(compare_path(model), tmp_path)
    with pytest.raises(ModelError, match=r"another model \(tiny-fewshot\).*vidistill enroll FOLDER --model"):
        SupportPredictor(other, support)


def test_a_comparison_that_is_absent_or_of_another_export_is_refused(
    model: Path, support: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "student.onnx"
    shutil.copy(model, alone)
    with pytest.raises(ModelError, match="student.compare.onnx is not beside it"):
        SupportPredictor(alone, support)
    compare_path(alone).write_bytes(compare_path(model).read_bytes() + b"\0")
    with pytest.raises(ModelError, match="of another export"):
        SupportPredictor(alone, support)


def test_models_and_support_files_that_do_not_go_together_say_what_to_do(
    model: Path, support: Path, exported: Path
) -> None:
    with pytest.raises(RecipeError, match=r"by examples only.*vidistill enroll FOLDER.*--support"):
        open_predictor(model)
    with pytest.raises(ModelError, match="knows its own classes.*Leave the examples out"):
        open_predictor(exported, support)
    with pytest.raises(ModelError, match="knows its own classes"):
        Enroller(exported)
    for given in (None, support):
        with pytest.raises(ModelError, match="this is the comparison.*Give student.onnx"):
            open_predictor(compare_path(model), given)
    assert type(open_predictor(exported)) is Predictor


def rewritten(path: Path, support: SupportSet, **changes: Any) -> Path:
    """The set's file with other entries in its description, or other arrays."""
    support.save(path)
    described = {
        "format_version": 1,
        "classes": list(support.classes),
        "clips": [{"class": clip.label, "name": clip.name, "views": clip.views} for clip in support.clips],
        "model": {"name": support.model, "sha256": support.digest},
    }
    arrays = changes.pop("arrays", dict(support.projected))
    text = changes.pop("text", json.dumps({**described, **changes}))
    save_file(arrays, path, metadata={METADATA_KEY: text})
    return path


SMALL = SupportSet(
    ("a", "b"),
    (SupportClip(0, "x.mp4", 1), SupportClip(1, "y.mp4", 2)),
    {"frames_0": np.arange(6, dtype=np.float32).reshape(3, 2)},
    "0" * 64,
    "tiny",
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format 2, this version reads 1"),
        ({"classes": ["a"]}, "at least two"),
        ({"classes": ["a", "a"]}, "at least two"),
        ({"classes": ["a", "b", "c"]}, "a class has no clip"),
        ({"clips": [{"class": 2, "name": "x", "views": 1}]}, "belongs to no class"),
        ({"clips": [{"class": 0, "name": "x", "views": 10**12}, {"class": 1, "name": "y", "views": 1}]}, "do not hold"),
        ({"clips": 3}, "cannot be read"),
        ({"text": "{"}, "cannot be read"),
        ({"text": "[]"}, "cannot be read"),
        ({"arrays": {}}, "do not hold the 3 views"),
        ({"arrays": {"frames_0": np.ones((3, 2))}}, "no finite float32"),
        ({"arrays": {"frames_0": np.full((3, 2), np.nan, np.float32)}}, "no finite float32"),
    ],
)
def test_a_file_whose_parts_contradict_each_other_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = rewritten(tmp_path / "a.safetensors", SMALL, **changes)
    with pytest.raises(DataError, match=words) as caught:
        SupportSet.load(path)
    assert "\n" not in str(caught.value) and "vidistill enroll" in str(caught.value)


def test_files_that_are_no_support_set_are_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.safetensors", SMALL)
    assert SupportSet.load(path).clips == SMALL.clips
    whole = path.read_bytes()
    for damaged in (b"", b"nothing", whole[:-3], whole[:40]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            SupportSet.load(path)
    save_file({"a": np.ones(3, np.float32)}, path)
    with pytest.raises(DataError, match="no support set"):
        SupportSet.load(path)
    with pytest.raises(DataError, match="no such support file"):
        SupportSet.load(tmp_path / "absent.safetensors")


def test_arrays_that_the_model_does_not_make_are_refused(model: Path, support: Path, tmp_path: Path) -> None:
    known = SupportSet.load(support)
    cut = {name: values[:, :1] for name, values in known.projected.items()}
    replace(known, projected=cut).save(tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match="does not fit its model"):
        SupportPredictor(model, tmp_path / "cut.safetensors")


def test_a_query_that_cannot_be_read_is_one_line(model: Path, support: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match="bad.mp4") as caught:
        SupportPredictor(model, support).predict(tmp_path / "bad.mp4")
    assert "\n" not in str(caught.value)
