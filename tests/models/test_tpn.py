"""The Temporal Pyramid Network: published sizes, the pyramid's shape and flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidistill.models import Network, build_network

HEADS = {"action": 3}
TINY = {"layers": [1, 1, 1, 1], "temporal_scale": 4, "width": 4}


def tiny(frames: int = 8, channels: int = 3, **options: object) -> Network:
    torch.manual_seed(1)
    return build_network("tpn", (channels, frames, 32, 32), HEADS, {**TINY, **options}).eval()


def clip(frames: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, frames, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("variant", "frames", "parameters", "gmacs"),
    [("f8s8_r50", 32, 71_800_272, 201.1), ("f32s2_r101", 32, 99_705_296, 372.8)],
)
def test_published_variants_have_the_published_size_and_cost(
    variant: str, frames: int, parameters: int, gmacs: float
) -> None:
    """Parameters with 400 classes as published; GMACs a clip of 224 x 224, within 1 % of the paper's 202.05, 375.09."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # building passes one clip of shapes
        network = build_network("tpn", (3, frames, 224, 224), {"action": 400}, {"variant": variant})
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.1)


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (3, 1), (4, 1), (5, 2), (9, 3)])
def test_a_step_of_the_pyramid_spans_the_temporal_scale(frames: int, steps: int) -> None:
    shapes = tiny(frames, channels=2).feature_shapes()
    assert shapes["layer4"] == (128, frames, 1, 1)
    assert shapes["pyramid"] == (128, steps, 1, 1)


def test_outputs_are_those_of_a_network() -> None:
    network = tiny()
    with torch.no_grad():
        outputs = network(clip(), features=("layer2", "pyramid"))
    assert outputs.logits["action"].shape == (2, 3)
    assert list(outputs.features) == ["layer2", "pyramid"]
    assert torch.equal(outputs.embedding, outputs.features["pyramid"].mean(dim=(2, 3, 4)))
    assert torch.equal(network.head(outputs.embedding)["action"], outputs.logits["action"])


def test_gradient_reaches_every_convolution() -> None:
    network = tiny().train()
    network(clip()).logits["action"].square().sum().backward()
    kernels = {name: p.grad for name, p in network.named_parameters() if p.dim() > 1}
    assert [name for name, grad in kernels.items() if grad is None or float(grad.abs().sum()) == 0] == []


def test_the_bottom_up_path_starts_from_the_top_down_one_unless_parallel() -> None:
    """With nothing in the deep level, the shallow one is what it was and both flows are one."""
    one, other = tiny().get_submodule("backbone.neck"), tiny(flow="parallel").get_submodule("backbone.neck")
    other.load_state_dict(one.state_dict())
    shallow, deep = torch.randn(1, 64, 8, 2, 2), torch.randn(1, 128, 8, 1, 1)
    with torch.no_grad():
        assert not torch.allclose(one(shallow, deep), other(shallow, deep))
        assert torch.equal(one(shallow, 0 * deep), other(shallow, 0 * deep))


def test_the_pyramid_reads_both_levels() -> None:
    neck = tiny().get_submodule("backbone.neck")
    assert isinstance(neck, nn.Module)
    shallow, deep = torch.randn(1, 64, 8, 2, 2), torch.randn(1, 128, 8, 1, 1)
    with torch.no_grad():
        both = neck(shallow, deep)
        assert not torch.allclose(both, neck(shallow + 1, deep))
        assert not torch.allclose(both, neck(shallow, deep + 1))
