from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.core.types import Outputs
from vidistill.deploy.measure import cores, decode_latency, gmacs, latency, parameters, run_worker
from vidistill.deploy.measure_worker import measure
from vidistill.deploy.session import read_metadata
from vidistill.models import build_network, save_weights


class Attention(nn.Module):
    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        y = nn.functional.scaled_dot_product_attention(x, x, x)
        return Outputs({"action": y.mean((1, 2))}, y)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        y = self.gru(x)[0].mean(1)
        return Outputs({"action": y}, y)


def test_parameters_count_a_shared_one_once() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    network.append(network[0])
    assert parameters(network) == 3 * 3 + 3 + 6


@pytest.mark.parametrize(
    ("network", "shape", "multiply_adds"),
    [
        (nn.Conv3d(3, 8, 3, padding=1), (3, 4, 10, 12), 8 * 3 * 27 * 4 * 10 * 12),
        (nn.Linear(7, 5), (7,), 35),
        (Attention(), (2, 9, 16), 2 * 2 * 9 * 9 * 16),
        (Recurrent(), (11, 6), 11 * 3 * 5 * (6 + 5)),
    ],
)
def test_gmacs_are_those_counted_by_hand(network: nn.Module, shape: tuple[int, ...], multiply_adds: int) -> None:
    network.train()
    assert gmacs(network, shape) * 1e9 == pytest.approx(multiply_adds)
    assert network.training


def test_a_measurement_gives_median_and_ninetieth_percentile() -> None:
    calls = []

    def call() -> None:
        calls.append(time.sleep(0.02 if len(calls) % 5 == 4 else 0.001))

    result = measure(call, 0.05)
    assert result["runs"] >= 10
    assert 1 <= result["median_ms"] < 15 <= result["p90_ms"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shape, classes = (4, 6), {"action": ["a", "b"]}
    network = build_network("temporal_conv", shape, {"action": 2}, {})
    described = {"name": "temporal_conv", "options": network.options, "input_shape": shape, "classes": classes}
    (folder / "network.json").write_text(json.dumps(described))
    save_weights(network, folder / "model.safetensors")
    return folder


def test_every_backend_is_measured_in_its_own_process(model_folder: Path, exported: Path) -> None:
    result = latency(model_folder, exported, threads=(1,), gpu=False, seconds=0.02)
    assert set(result) == {"torch, 1 thread", "onnx fp32, 1 thread"}
    for entry in result.values():
        assert entry["threads"] == 1 and 0 < entry["median_ms"] <= entry["p90_ms"]


def test_decoding_is_measured_from_the_file_to_the_input(exported: Path, make_video: Callable[..., Path]) -> None:
    video = make_video("a clip é.mp4", [(200, 20, 20)] * 12)
    result = decode_latency(video, read_metadata(exported), seconds=0.02)
    assert 0 < result["median_ms"] <= result["p90_ms"]


def test_a_failed_measurement_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file") as caught:
        latency(onnx=tmp_path / "absent.onnx", threads=(1,))
    assert "\n" not in str(caught.value)


def test_a_measurement_that_hangs_is_given_up(exported: Path) -> None:
    with pytest.raises(ModelError, match="not measured within"):
        run_worker({"kind": "onnx", "path": str(exported), "threads": 1, "seconds": 60.0}, timeout=0.5)


def test_there_is_at_least_one_core() -> None:
    assert cores() >= 1
