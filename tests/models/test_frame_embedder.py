"""Vectors of frames of image networks: streams, pooling, enrichment, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.models import build_network, save_weights
from vidistill.models.episode_network import EpisodeNetwork, FrameExport, episode_logits
from vidistill.models.frame_embedder import patch_maxima

SHAPE = (3, 4, 32, 32)


def build(shape: tuple[int, ...] = SHAPE, **options: object) -> EpisodeNetwork:
    torch.manual_seed(0)
    chosen = {"trunk": "mobilenet_v3_small", "dim": 16, **options}
    network = build_network("frame_embedder", shape, {"action": 7}, chosen).eval()
    assert isinstance(network, EpisodeNetwork)
    return network


def clips(count: int = 2, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 6))
def test_patch_maxima_are_the_adaptive_maximum_pooling(height: int, width: int, side: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    assert torch.equal(patch_maxima(x, side), nn.AdaptiveMaxPool2d(side)(x))


@pytest.mark.parametrize(
    ("options", "names", "width"),
    [
        ({"streams": 1}, {"frames"}, 16),
        ({"streams": 2}, {"frames", "distilled_frames"}, 16),
        ({"dim": None}, {"frames"}, 576),
        ({"dim": 0, "pool": "mean"}, {"frames"}, 576),
        ({"enrich": "strm"}, {"frames", "patch_frames"}, 16),
        ({"enrich": "patches"}, {"frames"}, 16),
        ({"enrich": "strm", "streams": 2}, {"frames", "distilled_frames", "patch_frames"}, 16),
    ],
)
def test_streams_are_there_unasked_and_the_embedding_is_the_mean_of_the_labelled_one(options, names, width) -> None:
    network = build(**options)
    with torch.no_grad():
        outputs = network(clips())
    assert {key: tuple(value.shape) for key, value in outputs.features.items()} == dict.fromkeys(names, (2, 4, width))
    assert outputs.logits == {}
    assert network.embedding_dim == width
    torch.testing.assert_close(outputs.embedding, outputs.features["frames"].mean(1))
    assert network.streams == tuple(name for name in ("frames", "distilled_frames") if name in names)


def test_maps_of_the_trunk_come_when_asked_for_with_the_shapes_told() -> None:
    network = build(streams=2)
    shapes = network.feature_shapes()
    with torch.no_grad():
        outputs = network(clips(), features=("stage4",))
    assert set(outputs.features) == {"stage4", "frames", "distilled_frames"}
    assert all(tuple(value.shape[1:]) == shapes[name] for name, value in outputs.features.items())
    with pytest.raises(RecipeError, match="Did you mean 'stage4'"):
        network(clips(), features=("stage44",))


@pytest.mark.parametrize("stream", ["frames", "distilled_frames"])
def test_each_stream_teaches_its_own_head_and_the_common_trunk(stream: str) -> None:
    network = build(streams=2).train()
    network(clips()).features[stream].square().sum().backward()
    layers = network.backbone.heads.layers
    for name, layer in layers.items():
        assert (layer.weight.grad is not None) == (name == stream)
    kernel = next(network.backbone.trunk.parameters())
    assert kernel.grad is not None and float(kernel.grad.abs().sum()) > 0


def test_logits_of_an_episode_are_the_sum_over_streams() -> None:
    network = build(streams=2, comparison={"name": "trx", "projection": 8})
    support, queries = torch.tensor([[[3, 0], [4, 1]]]), torch.tensor([[2]])
    with torch.no_grad():
        streams = network(clips(5)).features
        both = episode_logits(network, streams, support, queries)
        alone = [network.head(streams[name], support, queries) for name in ("frames", "distilled_frames")]
    assert both.shape == (1, 1, 2)
    torch.testing.assert_close(both, alone[0] + alone[1])
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.parametrize("enrich", ["none", "strm"])
def test_clips_of_a_batch_do_not_see_each_other(enrich: str) -> None:
    network = build(enrich=enrich)
    x = clips(3)
    with torch.no_grad():
        straight, permuted = network(x).features["frames"], network(x[[2, 0, 1]]).features["frames"]
    torch.testing.assert_close(permuted, straight[[2, 0, 1]], atol=1e-5, rtol=1e-4)


def test_frames_are_embedded_alone_unless_they_are_mixed() -> None:
    order = [3, 1, 0, 2]
    for enrich, alone in (("none", True), ("strm", False)):
        network = build(enrich=enrich)
        with torch.no_grad():
            straight, permuted = (network(x).features["frames"] for x in (clips(), clips()[:, :, order]))
        assert torch.allclose(permuted, straight[:, order], atol=1e-5) == alone


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(20, 50), st.integers(20, 50))
def test_any_number_of_channels_and_frames_of_any_size(channels: int, frames: int, height: int, width: int) -> None:
    options = {"trunk": "torchvision:shufflenet_v2_x0_5", "dim": 5, "comparison": {"name": "prototype"}}
    network = build((channels, frames, height, width), **options)
    with torch.no_grad():
        assert network(clips(1, (channels, frames, height, width))).features["frames"].shape == (1, frames, 5)


@pytest.mark.parametrize(
    ("trunk", "pool"),
    [("swin_t", "max_patches"), ("convnext_tiny", "mean"), ("vit_b_32", "mean"), ("resnet50", "mean")],
)
def test_other_trunks_of_torchvision_give_frames(trunk: str, pool: str) -> None:
    with torch.device("meta"):
        network = build((3, 2, 64, 64), trunk=trunk, pool=pool)
    assert network.feature_shapes()["frames"] == (2, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"streams": 2, "dim": None}, "two streams need a head each. Set dim"),
        ({"trunk": "vit_b_32"}, "no map to take patches of. Set pool to mean"),
        ({"enrich": "strm", "pool": "mean"}, "STRM enriches patches"),
        ({"enrich": "strm", "comparison": {"name": "strm"}}, "mixes frames itself. Set enrich to patches"),
    ],
)
def test_options_that_do_not_go_together_say_what_to_do(options, words) -> None:
    with pytest.raises(ModelError, match=words):
        build(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": "resnet19"}, "no image trunk 'resnet19'. Did you mean 'resnet18'"),
        ({"comparison": {"name": "trxx"}}, "Did you mean 'trx'"),
        ({"comparison": {"cardinalities": [2]}}, "the comparison needs a name"),
    ],
)
def test_misspelt_names_are_refused(options, words) -> None:
    with pytest.raises(RecipeError, match=words):
        build(**options)


def test_a_recognition_network_starts_a_frame_embedder(tmp_path: Path) -> None:
    source = build_network("mobilenet_v3_small", SHAPE, {"action": 5})
    save_weights(source, tmp_path / "rgb.safetensors")
    network = build(weights=str(tmp_path / "rgb.safetensors"))
    own, given = network.backbone.trunk.state_dict(), source.backbone.trunk.state_dict()
    assert all(torch.equal(own[key], value) for key, value in given.items())


@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_frames_for_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    shape = (3, 2, 32, 48)
    network = build(shape, streams=2, trunk="torchvision:shufflenet_v2_x0_5", dim=6)
    x = clips(3, shape)
    batch = {0: torch.export.Dim("batch", min=1)}
    module = FrameExport(network).eval()
    program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    program.save(tmp_path / "frames.onnx")
    session = runtime.InferenceSession(tmp_path / "frames.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        with torch.no_grad():
            expected = network(x[:count]).features
        frames, distilled = session.run(None, {session.get_inputs()[0].name: x[:count].numpy()})
        np.testing.assert_allclose(frames, expected["frames"], atol=1e-5)
        np.testing.assert_allclose(distilled, expected["distilled_frames"], atol=1e-5)


def test_export_gives_the_streams_that_are_named() -> None:
    network = build(streams=2)
    with torch.no_grad():
        (only,) = FrameExport(network, ("distilled_frames",))(clips())
        assert torch.equal(only, network(clips()).features["distilled_frames"])
    with pytest.raises(ModelError, match="no stream"):
        FrameExport(network, ("patch_frames",))
