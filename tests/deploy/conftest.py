"""A network whose answer is known, exported once, and small videos in one colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidistill.core.types import Outputs
from vidistill.deploy.export import export_onnx

COLOURS = {"rouge foncé": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
SHAPE = (3, 4, 32, 32)


class MeanColour(nn.Module):
    """Says which channel is the brightest (head `colour`) and how bright all are (head `light`)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv3d(3, 3, 1)
        self.norm = nn.BatchNorm3d(3)
        self.light = nn.Linear(3, 2)
        with torch.no_grad():
            self.mix.weight.copy_(3.0 * torch.eye(3).view(3, 3, 1, 1, 1))
            self.mix.bias.zero_()

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        embedding = self.norm(self.mix(x)).mean(dim=(2, 3, 4))
        return Outputs({"light": self.light(embedding), "colour": embedding}, embedding)


CLASSES = {"colour": list(COLOURS), "light": ["dark", "bright"]}
METADATA: dict[str, Any] = {
    "model": "mean-colour",
    "input": {"modality": "rgb", "size": 32},
    "view": {"frames": 4, "aspect": 1.0, "test_clips": 2},
    "sources": {"rgb": {"short_side": 40}},
    "duration": 1.0,
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of `MeanColour`."""
    path = tmp_path_factory.mktemp("exported") / "student.onnx"
    torch.manual_seed(0)
    export_onnx(MeanColour(), SHAPE, CLASSES, METADATA, path)
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """`make_video(name, colours)`: an mp4 with one frame for each (r, g, b)."""

    def make(name: str, colours: list[tuple[int, int, int]], rate: int = 10, size: tuple[int, int] = (48, 64)) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for colour in colours:
                frame = np.empty((*size, 3), np.uint8)
                frame[:] = colour
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make
