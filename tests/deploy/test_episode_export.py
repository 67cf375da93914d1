from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.deploy import episode_export
from vidistill.deploy.episode_export import compare, compare_path, export_episode_onnx, file_digest
from vidistill.deploy.quantise import quantise_int8
from vidistill.deploy.session import FORMAT_VERSION, open_session, read_metadata, run_session
from vidistill.models.base import Backbone, Features
from vidistill.models.episode_heads import build_episode_head
from vidistill.models.episode_network import DISTILLED, FRAMES, EpisodeNetwork, StreamHeads, episode_logits
from vidistill.models.strm import PatchAttention

SHAPE = (3, 4, 6, 6)
WIDTH = 8
METADATA: dict[str, Any] = {"model": "tiny", "input": {"modality": "rgb"}, "task": {"name": "fewshot"}}
HEADS: dict[str, dict[str, Any]] = {
    "trx": {"cardinalities": (1, 2), "projection": 6},
    "prototype": {},
    "cosine": {},
    "otam": {},
    "strm": {"projection": 6},
}


class Frames(Backbone):
    """Each frame's pixels, by a linear layer, in two streams; where asked for, pixels attend to each other before."""

    embedding_dim = WIDTH

    def __init__(self, streams: int = 2, attention: bool = False) -> None:
        super().__init__()
        self.attention = PatchAttention(3, 36) if attention else None
        self.linear = nn.Linear(3 * 6 * 6, 10)
        self.heads = StreamHeads(10, WIDTH, streams)
        self.feature_names = self.heads.names

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        frames = x.transpose(1, 2)
        if self.attention is not None:
            frames = self.attention(frames.flatten(0, 1)).reshape(frames.shape)
        streams = self.heads(self.linear(frames.flatten(2)))
        return streams[FRAMES].mean(1), streams


def make(head: str, streams: int = 2, **options: Any) -> EpisodeNetwork:
    torch.manual_seed(0)
    built = build_episode_head(head, SHAPE[1], WIDTH, {**HEADS[head], **options})
    return EpisodeNetwork(Frames(streams, attention=head == "strm"), built, SHAPE, {"action": 3})


def clips(count: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))


def shipped_logits(path: Path, x: Tensor, way: int, shot: int) -> np.ndarray:
    """Logits of all clips after the support, by both files alone."""
    session = open_session(path, threads=1)
    kept = run_session(session, x.numpy())
    known = way * shot
    support = [values[:known].reshape(way, shot, *values.shape[1:]) for values in kept.values()]
    queries = [values[known:] for values in kept.values()]
    return compare(open_session(compare_path(path), threads=1), list(kept), support, queries)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpisodeNetwork, dict[str, Any]]:
    """A network with two streams and TRX, exported while it was training."""
    path = tmp_path_factory.mktemp("onnx") / "new folder" / "student.onnx"
    network = make("trx").train()
    return path, network, export_episode_onnx(network, SHAPE, METADATA, path)


@pytest.mark.parametrize(("way", "shot", "queries"), [(5, 5, 7), (2, 1, 1), (1, 3, 2)])
def test_both_files_together_give_the_networks_logits_for_any_episode(
    written: tuple[Path, EpisodeNetwork, dict[str, Any]], way: int, shot: int, queries: int
) -> None:
    path, network, _ = written
    x = clips(way * shot + queries)
    index = torch.arange(way * shot).reshape(1, way, shot)
    asked = torch.arange(way * shot, len(x))[None]
    with torch.no_grad():
        features = network.eval()(x).features
        expected = episode_logits(network, features, index, asked)[0].numpy()
        one = network.head(features[FRAMES], index, asked)[0].numpy()
    logits = shipped_logits(path, x, way, shot)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(expected - one).max() > 1e-3, "the second stream counts too"


@pytest.mark.parametrize("head", ["prototype", "cosine", "otam", "strm"])
def test_every_head_ships_with_free_sizes(tmp_path: Path, head: str) -> None:
    path, network = tmp_path / "a.onnx", make(head, streams=1).eval()
    assert export_episode_onnx(network, SHAPE, METADATA, path)["comparison"]["classwise"]
    x = clips(14)
    with torch.no_grad():
        index = torch.arange(12)
        expected = network.head(network(x).features[FRAMES], index.reshape(1, 4, 3), torch.tensor([[12, 13]]))[0]
    np.testing.assert_allclose(shipped_logits(path, x, 4, 3), expected.numpy(), atol=1e-5)


def test_a_comparison_that_weighs_classes_against_each_other_says_so() -> None:
    network = make("otam", streams=1, variant="released").eval()
    part = episode_export.ComparisonPart(network.head, 1)
    with torch.no_grad():
        episode = episode_export._episode(network, {FRAMES: torch.zeros(1, SHAPE[1], WIDTH)}, 3, 2, 4)
        assert not episode_export._is_classwise(part, episode, part(*episode).numpy())


def test_the_report_is_plain_and_the_differences_are_small(
    written: tuple[Path, EpisodeNetwork, dict[str, Any]],
) -> None:
    path, _, report = written
    assert json.loads(json.dumps(report)) == report
    comparison = report["comparison"]
    assert (report["file"], comparison["file"]) == ("student.onnx", "student.compare.onnx")
    assert (report["bytes"], comparison["bytes"]) == (path.stat().st_size, compare_path(path).stat().st_size)
    for part in (report, comparison):
        assert 0 <= part["max_difference"] < 1e-4 and part["relative_difference"] < 1e-3
    assert sorted(file.name for file in path.parent.iterdir()) == ["student.compare.onnx", "student.onnx"]


def test_the_clip_part_says_which_comparison_it_needs(
    written: tuple[Path, EpisodeNetwork, dict[str, Any]],
) -> None:
    path, network, _ = written
    metadata = read_metadata(path)
    assert metadata["task"] == {"name": "fewshot"} and metadata["classes"] == {}
    assert (metadata["input_shape"], metadata["format_version"]) == (list(SHAPE), FORMAT_VERSION)
    assert metadata["comparison"] == {
        "file": "student.compare.onnx",
        "sha256": file_digest(compare_path(path)),
        "streams": [FRAMES, DISTILLED],
        "classwise": True,
    }
    assert read_metadata(compare_path(path))["comparison_of"] == "student.onnx"
    names = [output.name for output in open_session(path, threads=1).get_outputs()]
    assert names == [f"{stream}_{number}" for stream in network.streams for number in range(6)]


def test_exporting_leaves_the_network_as_it_was(written: tuple[Path, EpisodeNetwork, dict[str, Any]]) -> None:
    network = make("trx").train()
    exported = written[1]
    assert type(exported.head).episode_bytes is type(network.head).episode_bytes
    assert "episode_bytes" not in vars(exported.head)
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=0, atol=0)
        assert value.dtype == torch.float32


def test_a_comparison_that_differs_is_not_written_and_old_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    for old in (path, compare_path(path)):
        old.write_bytes(b"old")
    monkeypatch.setattr(episode_export, "compare", lambda session, names, known, asked: np.zeros((len(asked[0]), 3)))
    with pytest.raises(ModelError, match="ONNX comparison differs from the network's") as caught:
        export_episode_onnx(make("cosine"), SHAPE, METADATA, path)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.onnx": b"old", "a.compare.onnx": b"old"}


def test_a_clip_part_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_export, "_compared_parity", lambda *_: {})
    monkeypatch.setattr(episode_export, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="ONNX model differs from the network"):
        export_episode_onnx(make("cosine"), SHAPE, METADATA, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_diverged_network_and_another_task_are_refused_in_one_line(tmp_path: Path) -> None:
    network = make("trx")
    with pytest.raises(ModelError, match="not few-shot"):
        export_episode_onnx(network, SHAPE, {"task": {"name": "recognition"}}, tmp_path / "a.onnx")
    nn.init.constant_(network.backbone.get_submodule("linear").weight, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        export_episode_onnx(network, SHAPE, METADATA, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_head_that_cannot_be_traced_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("cosine")
    compared = type(network.head).logits

    def choosy(self: Any, support: Any, queries: Any) -> Tensor:
        return compared(self, support, queries) * (1 if queries[0].sum() > 0 else 2)

    monkeypatch.setattr(type(network.head), "logits", choosy)
    with pytest.raises(ModelError, match="'Cosine' cannot be exported") as caught:
        export_episode_onnx(network, SHAPE, METADATA, tmp_path / "a.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_an_int8_copy_of_the_clip_part_keeps_its_comparison(
    written: tuple[Path, EpisodeNetwork, dict[str, Any]], tmp_path: Path
) -> None:
    path = written[0]
    int8 = tmp_path / "student.int8.onnx"
    quantise_int8(path, [clips(16).numpy()], int8)
    assert read_metadata(int8)["comparison"] == read_metadata(path)["comparison"]
    types = {tensor.data_type for tensor in onnx.load(str(int8)).graph.initializer}
    assert onnx.TensorProto.INT8 in types
    x = clips(9).numpy()
    whole, small = (run_session(open_session(file, threads=1), x) for file in (path, int8))
    for name, values in whole.items():
        assert small[name].shape == values.shape
        assert np.corrcoef(small[name].ravel(), values.ravel())[0, 1] > 0.97, name
