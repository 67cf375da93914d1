"""`stacked_resnet18`: the published size and order of frames, and its pooling."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import ModelError
from vidistill.models import build_network, save_weights
from vidistill.models.trunks import adapt_channels

HEADS = {"action": 5}


@pytest.mark.parametrize(("channels", "parameters"), [(3, 11_291_964), (2, 11_260_604), (1, 11_229_244)])
def test_ten_frames_have_the_published_number_of_parameters(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build_network("stacked_resnet18", (channels, 10, 224, 224), {"action": 60})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.feature_shapes()["layer4"] == (512, 1, 7, 7)


def test_the_channels_of_the_first_frame_come_first() -> None:
    network = build_network("stacked_resnet18", (2, 3, 32, 32), HEADS).eval()
    seen: list[torch.Tensor] = []
    network.backbone.trunk.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        network(x)
    frames = [x[:, :, time] for time in range(3)]
    assert torch.equal(seen[0], torch.cat(frames, dim=1))


@pytest.mark.parametrize(("side", "same"), [(193, True), (256, False)])
def test_the_released_window_is_the_whole_map_up_to_224_pixels(side: int, same: bool) -> None:
    network = build_network("stacked_resnet18", (1, 1, side, side), HEADS).eval()
    x = torch.randn(1, 1, 1, side, side)
    with torch.no_grad():
        ours = network(x).embedding
        network.backbone.variant = "released"
        released = network(x).embedding
    assert torch.allclose(ours, released, atol=1e-5) == same


@pytest.mark.parametrize("side", [64, 448])
def test_sides_the_released_window_does_not_fit_are_refused(side: int) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match=f"cannot take inputs of shape .*{side}"):
        build_network("stacked_resnet18", (3, 2, side, side), HEADS, {"variant": "released"})


def test_weights_of_our_own_start_it_again_with_other_classes(tmp_path) -> None:
    source = build_network("stacked_resnet18", (2, 3, 32, 32), HEADS)
    save_weights(source, tmp_path / "flow.safetensors")
    options = {"weights": str(tmp_path / "flow.safetensors")}
    same = build_network("stacked_resnet18", (2, 3, 32, 32), {"verb": 9}, options)
    assert torch.equal(same.backbone.trunk.conv1.weight, source.backbone.trunk.conv1.weight)
    other = build_network("stacked_resnet18", (3, 4, 32, 32), {"verb": 9}, options)
    expected = adapt_channels(source.backbone.trunk.conv1.weight, 12)
    assert torch.equal(other.backbone.trunk.conv1.weight, expected)
