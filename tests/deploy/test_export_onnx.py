from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import MissingExtra, ModelError
from vidistill.core.types import Outputs
from vidistill.deploy import export, session
from vidistill.deploy.export import export_onnx, read_metadata
from vidistill.deploy.session import predict_logits


class TinyGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.verb, self.noun = nn.Linear(10, 3), nn.Linear(10, 2)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        embedding = self.gru(x)[0].mean(1)
        return Outputs({"verb": self.verb(embedding), "noun": self.noun(embedding)}, embedding)


CLASSES = {"noun": ["tasse à café", "刀"], "verb": ["cut", "pour", "stir"]}


@pytest.fixture(scope="module")
def network() -> TinyGru:
    torch.manual_seed(0)
    return TinyGru()


@pytest.fixture(scope="module")
def written(network: TinyGru, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("onnx") / "new folder" / "student.onnx"
    network.train()
    return path, export_onnx(network, (7, 6), CLASSES, {"input": {"modality": "skeleton"}}, path)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_file_gives_the_networks_logits_for_any_batch_size(
    written: tuple[Path, dict[str, Any]], network: TinyGru, size: int
) -> None:
    batch = torch.randn(size, 7, 6, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        expected = network.eval()(batch).logits
    logits = predict_logits(written[0], [batch.numpy()])
    assert set(logits) == {"verb", "noun"}
    for head, values in logits.items():
        np.testing.assert_allclose(values, expected[head].numpy(), atol=1e-5)


def test_the_report_of_an_export_is_plain_and_its_difference_small(written: tuple[Path, dict[str, Any]]) -> None:
    path, report = written
    assert json.loads(json.dumps(report)) == report
    assert report["file"] == "student.onnx"
    assert report["bytes"] == path.stat().st_size
    assert 0 <= report["max_difference"] < 1e-4 and report["relative_difference"] < 1e-3
    assert [p.name for p in path.parent.iterdir()] == ["student.onnx"]


def test_one_file_says_everything_about_its_classes_and_input(written: tuple[Path, dict[str, Any]]) -> None:
    metadata = read_metadata(written[0])
    assert metadata["classes"] == CLASSES
    assert metadata["input"] == {"modality": "skeleton"}
    assert metadata["input_shape"] == [7, 6]
    assert metadata["format_version"] == session.FORMAT_VERSION


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = TinyGru().train().double()
    export_onnx(network, (7, 6), CLASSES, {}, tmp_path / "a.onnx")
    assert network.training and network.verb.weight.dtype == torch.float64 and network.verb.weight.requires_grad


def test_exporting_says_nothing_and_leaves_logging_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable)
    export_onnx(TinyGru(), (7, 6), CLASSES, {}, tmp_path / "a.onnx")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert (list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable) == before


def test_a_parity_failure_writes_nothing_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(export, "_parity", lambda *_: (0.5, 0.25))
    with pytest.raises(ModelError, match=r"differs from the network by 0\.5"):
        export_onnx(TinyGru(), (7, 6), CLASSES, {}, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_parity_is_measured_against_the_spread_of_the_logits(written: tuple[Path, dict[str, Any]]) -> None:
    batch = np.zeros((2, 7, 6), np.float32)
    truth = list(predict_logits(written[0], [batch]).values())
    moved = [truth[0] + 0.5, truth[1]]
    difference, relative = export._parity(written[0], [batch], [moved])
    assert difference == pytest.approx(0.5, abs=1e-6)
    assert relative == pytest.approx(0.5 / np.ptp(moved[0]), rel=1e-4)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"noun": ["a", "b", "c"]}, "2 logits for 3 class names"),
        ({"action": ["a", "b"]}, "no head 'action'"),
        ({}, "at least one"),
        ({"input": ["a", "b"]}, "none named 'input'"),
    ],
)
def test_heads_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, classes: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        export_onnx(TinyGru(), (7, 6), classes, {}, tmp_path / "a.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_diverged_network_is_not_exported(tmp_path: Path) -> None:
    network = TinyGru()
    nn.init.constant_(network.verb.weight, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        export_onnx(network, (7, 6), CLASSES, {}, tmp_path / "a.onnx")


def test_a_network_the_exporter_cannot_trace_is_named_in_one_line(tmp_path: Path) -> None:
    class Choosy(TinyGru):
        def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match="cannot be exported") as caught:
        export_onnx(Choosy(), (7, 6), CLASSES, {}, tmp_path / "a.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_an_absent_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingExtra, match=r"'onnxscript'.*vidistill\[export\]"):
        export_onnx(TinyGru(), (7, 6), CLASSES, {}, tmp_path / "a.onnx")


def test_files_that_are_no_model_of_ours_are_refused(tmp_path: Path, written: tuple[Path, dict[str, Any]]) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="garbage.onnx"):
        read_metadata(garbage)
    with pytest.raises(ModelError, match="no such model file"):
        read_metadata(tmp_path / "absent.onnx")
    model = onnx.load(str(written[0]))
    for value, message in (("{}", "damaged"), ('{"format_version": 99}', "format 99"), (None, "no vidistill metadata")):
        del model.metadata_props[:]
        if value is not None:
            model.metadata_props.add(key=session.METADATA_KEY, value=value)
        onnx.save(model, str(tmp_path / "other.onnx"))
        with pytest.raises(ModelError, match=message):
            read_metadata(tmp_path / "other.onnx")


def test_batches_that_do_not_fit_the_model_are_refused(written: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match=r"\(7, 5\).*\(7, 6\)"):
        predict_logits(written[0], [np.zeros((1, 7, 5), np.float32)])
    with pytest.raises(ModelError, match="no batches"):
        predict_logits(written[0], [])
