from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import DataError
from vidistill.core.types import Outputs
from vidistill.deploy.export import export_onnx
from vidistill.deploy.quantise import predict_logits, quantise_int8
from vidistill.deploy.session import read_metadata

SHAPE = (3, 4, 32, 32)


def clips(count: int, seed: int) -> np.ndarray:
    """Clips of one random colour each, with noise."""
    random = np.random.default_rng(seed)
    colour = random.uniform(-2, 2, (count, 3, 1, 1, 1))
    return (colour + 0.2 * random.standard_normal((count, *SHAPE))).astype(np.float32)


def test_int8_answers_nearly_as_fp32_and_keeps_the_metadata(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.int8.onnx"
    report = quantise_int8(exported, (clips(16, seed) for seed in range(4)), path)
    assert report == {"file": path.name, "bytes": path.stat().st_size, "calibration_clips": 64}
    assert read_metadata(path) == read_metadata(exported)
    test = clips(32, 9)
    exact, rounded = predict_logits(exported, [test]), predict_logits(path, [test[:20], test[20:]])
    for head, logits in exact.items():
        assert 0 < np.abs(rounded[head] - logits).mean() < 0.02 * np.ptp(logits)
    assert (exact["colour"].argmax(1) == rounded["colour"].argmax(1)).mean() > 0.9
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_quantising_says_nothing(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantise_int8(exported, [clips(2, 0)], tmp_path / "a.onnx")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no clips"),
        ([np.zeros((0, *SHAPE), np.float32)], "no clips"),
        ([np.zeros((1, 3, 4, 8, 8), np.float32)], r"\(3, 4, 8, 8\)"),
        ([np.zeros((1, *SHAPE), np.float32), np.full((1, *SHAPE), np.nan, np.float32)], "not finite"),
    ],
)
def test_unusable_calibration_clips_are_refused_and_nothing_is_written(
    exported: Path, tmp_path: Path, batches: list[np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        quantise_int8(exported, batches, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


class Decoded(nn.Module):
    """A convolution, and logarithms of what is left of probabilities: far below what 8 bits hold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        logits = 20.0 * self.convolution(x).mean(2)
        return Outputs({"colour": logits.softmax(1).clamp(min=1e-12).log()}, logits)


def test_what_decodes_the_last_layer_stays_in_float(tmp_path: Path) -> None:
    exact, rounded = tmp_path / "decoded.onnx", tmp_path / "decoded.int8.onnx"
    export_onnx(Decoded().eval(), (4, 6), {"colour": ["a", "b", "c"]}, {}, exact)
    shown = np.random.default_rng(0).normal(0, 2, (16, 4, 6)).astype(np.float32)
    quantise_int8(exact, [shown], rounded)
    logits = predict_logits(rounded, [shown])["colour"]
    assert np.isfinite(logits).all() and logits.min() < -10
    assert np.exp(logits).sum(1) == pytest.approx(np.ones(16), abs=1e-5)
