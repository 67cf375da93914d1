"""What a user meets: one line for every mistake, and commands that do what `--help` says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from vidistill.cli.main import app, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `vidistill ...` in this process: exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vidistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, error = capsys.readouterr()
        return int(stop.value.code or 0), out, error

    return call


def write_video(path: Path, frames: int = 12, size: tuple[int, int] = (24, 32), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (*size, 3), dtype=np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two classes of eight videos, with names a shell would hate."""
    folder = tmp_path / "my clips"
    for number in range(16):
        label = ("höher & weiter", "tief")[number % 2]
        write_video(folder / label / f"clip {number} ü.mp4", seed=number)
    return folder


def prepare(command: Run, folder: Path) -> tuple[int, str, str]:
    return command("prepare", "--data", folder, f"runs={folder.parent / 'runs'}", "prepare.workers=1")


def one_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def test_a_folder_with_awkward_names_is_prepared(command: Run, clips: Path) -> None:
    status, out, _ = prepare(command, clips)
    assert status == 0
    assert "16 of 16 clips" in out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: [p.unlink() for p in f.rglob("*.mp4")], "no"),
        (lambda f: [p.unlink() for p in (f / "tief").glob("*.mp4")], "1 class"),
        (lambda f: [p.write_bytes(b"") for p in (f / "tief").glob("*.mp4")], "clip"),
        (lambda f: [p.write_bytes(p.read_bytes()[:900]) for p in (f / "tief").glob("*.mp4")], "clip"),
    ],
    ids=["no clips", "one class", "zero bytes", "cut"],
)
def test_unusable_folders_give_one_line(command: Run, clips: Path, spoil: Callable[[Path], Any], words: str) -> None:
    import re

    spoil(clips)
    status, _, error = prepare(command, clips)
    assert status == 2
    assert re.search(words, one_line(error))


def test_a_few_bad_clips_are_named_counted_and_left_out(command: Run, clips: Path) -> None:
    bad = sorted((clips / "tief").glob("*.mp4"))
    bad[0].write_bytes(b"")
    write_video(bad[1], frames=1)
    arguments = ("--data", clips, f"runs={clips.parent / 'runs'}", "prepare.workers=1", "prepare.skip_limit=0.2")
    status, out, error = command("prepare", *arguments)
    assert status == 0, error
    assert "14 of 16 clips" in out
    assert bad[0].stem in out
    assert bad[1].stem in out


def test_a_missing_recipe_and_a_missing_folder_are_one_line(command: Run, tmp_path: Path) -> None:
    for arguments in (["run", tmp_path / "none.yaml"], ["run", "--data", tmp_path / "none"], ["run"]):
        status, _, error = command(*arguments)
        assert status == 2
        one_line(error)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("schedule.epoch=3", "epochs"),
        ("student.network=compakt3d", "compact3d"),
        ("student.widht=4", "width"),
        ("modalities.rgb.sise=16", "size"),
        ("views.frame=4", "frames"),
        ("method.name=kdd", "kd"),
        ("data.format=foldr", "folder"),
        ("task.heads=[acton]", "action"),
        ("schedule.epochs=many", "many"),
        ("curriculum.name=al", "all"),
    ],
)
def test_a_misspelt_recipe_names_the_nearest_key(
    command: Run, tiny_recipe: dict[str, Any], tmp_path: Path, override: str, hint: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe), encoding="utf-8")
    status, _, error = command("run", path, override, "schedule.epochs=1" if "epochs" not in override else override)
    assert status == 2
    assert hint in one_line(error)


def test_weights_of_another_network_are_one_line(command: Run, tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    from vidistill.models import build_network, save_weights

    save_weights(build_network("gru", (16, 12), {"action": 3}, {"hidden": 4}), tmp_path / "gru.safetensors")
    path = tmp_path / "recipe.yaml"
    tiny_recipe["teachers"]["skeleton"]["checkpoint"] = str(tmp_path / "gru.safetensors")
    path.write_text(yaml.safe_dump(tiny_recipe), encoding="utf-8")
    status, _, error = command("run", path)
    assert status == 2
    assert "gru" in one_line(error)


def test_a_damaged_model_and_a_damaged_video_are_one_line(command: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    status, _, error = command("predict", tmp_path / "clip.mp4", "--model", tmp_path / "model.onnx")
    assert status == 2
    assert "model.onnx" in one_line(error)


def test_ctrl_c_keeps_what_was_done(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    tiny_recipe["schedule"]["epochs"] = 400
    path.write_text(yaml.safe_dump(tiny_recipe), encoding="utf-8")
    folder = Path(tiny_recipe["runs"]) / "tiny" / "models" / "alone-seed0"
    process = subprocess.Popen(
        [sys.executable, "-m", "vidistill", "run", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (folder / "history.jsonl").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert (folder / "state.pt").is_file()
    assert not list(folder.rglob("*.tmp"))


def test_every_command_has_help_with_an_example(command: Run) -> None:
    for name in [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]:
        status, out, _ = command(name, "--help")
        assert status == 0
        assert "vidistill " in out, name


def test_list_names_the_parts(command: Run) -> None:
    status, out, _ = command("list")
    assert status == 0
    for part in ("jhmdb", "compact3d", "kd", "skeleton", "recognition"):
        assert part in out


def test_a_recipe_is_printed_with_its_defaults(command: Run, tmp_path: Path, tiny_recipe: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe), encoding="utf-8")
    _, out, _ = command("recipe", path, "seeds=[3]")
    assert yaml.safe_load(out)["seeds"] == [3]
    assert json.loads(json.dumps(yaml.safe_load(out)))["schedule"]["optimizer"] == "adamw"
