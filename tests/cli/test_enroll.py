"""`vidistill enroll`, then `vidistill predict --support`: what a user types and reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.cli.main import main
from vidistill.core.types import Outputs
from vidistill.deploy.episode_export import export_episode_onnx
from vidistill.deploy.export import export_onnx
from vidistill.models.base import Backbone, Features
from vidistill.models.episode_heads import build_episode_head
from vidistill.models.episode_network import FRAMES, EpisodeNetwork

Run = Callable[..., tuple[int, str, str]]
SHAPE = (3, 4, 16, 16)
METADATA = {"input": {"modality": "rgb", "size": 16}, "view": {"frames": 4, "aspect": 1.0}, "duration": 1.0}
COLOURS = {"höher [bold]": (200, 20, 20), "tief & weiter": (20, 200, 20)}


class MeanColour(Backbone):
    """A frame's mean colour."""

    embedding_dim, feature_names = 3, (FRAMES,)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        frames = x.mean(dim=(3, 4)).transpose(1, 2)
        return frames.mean(1), {FRAMES: frames}


class Recogniser(nn.Module):
    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        embedding = x.mean(dim=(2, 3, 4))
        return Outputs({"colour": embedding}, embedding)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a model") / "student.onnx"
    network = EpisodeNetwork(MeanColour(), build_episode_head("prototype", 4, 3), SHAPE, {"action": 2})
    export_episode_onnx(network, SHAPE, {**METADATA, "task": {"name": "fewshot"}}, path)
    return path


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("another") / "student.onnx"
    torch.manual_seed(0)
    export_onnx(Recogniser(), SHAPE, {"colour": ["a", "b", "c"]}, METADATA, path)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `vidistill ...` in this process, in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidistill.cli.main.output.width", 120)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vidistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, error = capsys.readouterr()
        return int(stop.value.code or 0), out, error

    return call


def write_video(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), colour, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "my examples"
    for number, (name, colour) in enumerate(COLOURS.items()):
        for shot in range(1 + number):
            write_video(folder / name / f"clip {shot}.mp4", colour)
    (folder / "tief & weiter" / "notes.txt").write_text("hello")
    return folder


def one_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def test_examples_are_enrolled_and_a_video_gets_their_class(
    command: Run, model: Path, examples: Path, tmp_path: Path
) -> None:
    status, out, error = command("enroll", examples, "--model", model, "--output", "my.support.safetensors")
    assert status == 0, error
    for words in (*COLOURS, "clip 0.mp4, clip 1.mp4", "skipped: 1", "tief & weiter/notes.txt", "written: my.support"):
        assert words in out
    for name, colour in COLOURS.items():
        video = write_video(tmp_path / "new clips" / "a query.mp4", tuple(min(255, c + 15) for c in colour))
        asked = ("predict", video, "--model", model, "--support", "my.support.safetensors", "--output", "a.json")
        status, out, error = command(*asked)
        assert status == 0, error
        answer = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert answer["predictions"]["class"][0]["label"] == name
        assert answer["support"] == "my.support.safetensors"
        assert "class" in out and "written: a.json" in out


def test_the_file_is_named_after_the_folder_of_examples(
    command: Run, model: Path, examples: Path, tmp_path: Path
) -> None:
    status, out, error = command("enroll", examples, "--model", model)
    assert status == 0, error
    assert (tmp_path / "my examples.support.safetensors").is_file()
    assert "my examples.support.safetensors" in out


def test_mistakes_are_one_line_that_says_what_to_do(
    command: Run, model: Path, recogniser: Path, examples: Path, tmp_path: Path
) -> None:
    video = examples / "tief & weiter" / "clip 0.mp4"
    assert command("enroll", examples, "--model", model, "--output", "s.safetensors")[0] == 0
    for arguments, words in (
        (("predict", video, "--model", model), "vidistill enroll FOLDER"),
        (("predict", video, "--model", recogniser, "--support", "s.safetensors"), "Leave the examples out"),
        (("predict", video, "--model", model, "--support", "absent.safetensors"), "no such support file"),
        (("predict", video, "--model", model, "--support", video), "damaged"),
        (("enroll", examples, "--model", recogniser), "knows its own classes"),
        (("enroll", tmp_path / "absent", "--model", model), "does not exist"),
        (("enroll", examples / "tief & weiter", "--model", model), "no class folders"),
        (("enroll", examples, "--model", model, "--output", model), "does not end in .safetensors"),
    ):
        status, _, error = command(*arguments)
        assert status == 2
        assert words in one_line(error)
