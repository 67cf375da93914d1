"""`detector`: shapes, encoding apart from context, encoder weights, freezing, errors, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.deploy.export import export_onnx
from vidistill.deploy.session import predict_logits
from vidistill.models import Network, build_network, save_weights
from vidistill.models.detector import Detector

HEADS = {"action": 4, "verb": 3}
GRU = {"network": "gru_mean", "hidden": 6, "layers": 2}
ENCODERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "gru_mean": ((5, 8), GRU),
    "gru": ((5, 8), {"network": "gru", "hidden": 4}),
    "stacked_resnet18": ((2, 3, 32, 32), {"network": "stacked_resnet18"}),
    "compact3d": ((3, 4, 16, 16), {"network": "compact3d", "width": 4, "stages": 2}),
    "graph_conv": ((3, 8, 15), {"network": "graph_conv", "stages": 1}),
}


def build(name: str = "gru_mean", steps: int = 7, encoder: dict[str, Any] | None = None, **options: Any) -> Detector:
    torch.manual_seed(1)
    shape, settings = ENCODERS[name]
    options = {"encoder": {**settings, **(encoder or {})}, **options}
    network = build_network("detector", (steps, *shape), HEADS, options)
    assert isinstance(network, Detector)
    return network.eval()


def windows(name: str = "gru_mean", count: int = 2, steps: int = 7) -> torch.Tensor:
    return torch.randn(count, steps, *ENCODERS[name][0], generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_step_gets_logits_and_an_embedding_with_any_encoder(name: str, steps: int) -> None:
    network = build(name, steps)
    width = network.embedding_dim
    with torch.no_grad():
        outputs = network(windows(name, 2, steps), features=("sequence", "steps"))
        again = network.head(outputs.embedding)
    assert {head: value.shape for head, value in outputs.logits.items()} == {
        "action": (2, steps, 4),
        "verb": (2, steps, 3),
    }
    assert outputs.embedding.shape == (2, steps, width)
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == network.feature_shapes()
    assert torch.equal(outputs.features["sequence"], outputs.embedding.transpose(1, 2))
    assert all(torch.equal(again[head], outputs.logits[head]) for head in HEADS)


@pytest.mark.parametrize("name", ENCODERS)
def test_contextualised_steps_encoded_alone_equal_forward(name: str) -> None:
    network, x = build(name), windows(name)
    with torch.no_grad():
        straight = network(x)
        steps = torch.cat([network.encode(x[:, step]) for step in range(7)])
        apart = network.contextualise(steps.unflatten(0, (7, 2)).transpose(0, 1), features=("steps",))
        short = network.contextualise(apart.features["steps"].transpose(1, 2)[:, 2:5])
    torch.testing.assert_close(apart.logits["action"], straight.logits["action"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(apart.embedding, straight.embedding, atol=1e-5, rtol=1e-4)
    assert short.logits["verb"].shape == (2, 3, 3)


def test_a_step_sees_both_its_past_and_its_future() -> None:
    network, x = build(), windows()
    with torch.no_grad():
        before = network(x).embedding
        for changed in (0, 6):
            moved = x.clone()
            moved[:, changed] += 1.0
            assert bool(((network(moved).embedding - before)[:, 3].abs().amax(dim=1) > 1e-6).all())


def test_directions_are_added_or_put_side_by_side() -> None:
    added, beside = build(hidden=5), build(hidden=5, directions="concat")
    assert (added.embedding_dim, beside.embedding_dim) == (5, 10)
    beside.backbone.load_state_dict(added.backbone.state_dict())
    with torch.no_grad():
        one, both = added(windows()).embedding, beside(windows()).embedding
    torch.testing.assert_close(one, both[..., :5] + both[..., 5:])


def test_the_published_detector_has_its_number_of_parameters_but_the_unused_classifier() -> None:
    with torch.device("meta"):
        rnn = build_network("detector", (10, 10, 276), {"action": 52}, {"encoder": {"network": "gru_mean"}})
        options = {"encoder": {"network": "stacked_resnet18"}}
        cnn = build_network("detector", (10, 3, 10, 224, 224), {"action": 52}, options)
    unused = 512 * 51 + 51
    assert sum(p.numel() for p in rnn.parameters()) == 7_570_023 - unused
    assert sum(p.numel() for p in cnn.parameters()) == 14_465_895 - unused


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_learns_and_none_is_unused(name: str) -> None:
    network = build(name).train()
    outputs = network(windows(name))
    sum(logits.square().sum() for logits in outputs.logits.values()).backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []
    first = next(parameter for parameter in network.backbone.encoder.parameters() if parameter.dim() > 1)
    assert float(first.grad.abs().sum()) > 0


def test_a_frozen_encoder_gets_no_gradient_and_its_statistics_and_dropout_rest() -> None:
    network = build("stacked_resnet18", steps=2, freeze_encoder=True).train()
    before = {key: value.clone() for key, value in network.backbone.encoder.state_dict().items()}
    network(windows("stacked_resnet18", steps=2)).logits["action"].square().sum().backward()
    after = network.backbone.encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None for p in network.backbone.encoder.parameters())
    assert all(p.grad is not None for p in network.backbone.recurrent.parameters())
    assert network.training and network.backbone.recurrent.training and not network.backbone.encoder.training


def save_encoder(folder: Path, settings: dict[str, Any], shape: tuple[int, ...] = (5, 8)) -> tuple[Network, str]:
    options = {key: value for key, value in settings.items() if key != "network"}
    trained = build_network(settings["network"], shape, {"other": 9}, options)
    save_weights(trained, folder / "encoder.safetensors")
    return trained, str(folder / "encoder.safetensors")


def test_the_encoder_starts_from_a_classification_network_whose_heads_are_dropped_by_name(tmp_path: Path) -> None:
    trained, file = save_encoder(tmp_path, GRU)
    network = build(encoder={"weights": file})
    own = network.backbone.encoder.state_dict()
    assert all(torch.equal(own[key], value) for key, value in trained.backbone.state_dict().items())
    assert not any("head" in key for key in network.backbone.state_dict())
    x = windows()
    with torch.no_grad():
        torch.testing.assert_close(network.encode(x[:, 0]), trained.eval()(x[:, 0]).embedding)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": "gru", "hidden": 4}, r"'gru' do not fit .* 'gru_mean': .*unexpected \(backbone\.normalisation"),
        ({**GRU, "hidden": 5}, r"of another shape \(backbone\.recurrent\.weight_ih_l0 \(15, 8\) instead of \(18, 8\)"),
        ({**GRU, "layers": 1}, r"missing \(backbone\.recurrent\.weight_ih_l1"),
    ],
)
def test_weights_of_another_encoder_are_refused_by_name(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    _, file = save_encoder(tmp_path, settings)
    with pytest.raises(CheckpointError, match=words) as error:
        build(encoder={"weights": file})
    assert "\n" not in str(error.value) and "encoder.safetensors" in str(error.value)


def test_weights_that_are_no_such_file_are_the_encoders_own_option() -> None:
    with pytest.raises(ModelError, match="has no weights 'IMAGENET1K_V9'"):
        build("stacked_resnet18", encoder={"weights": "IMAGENET1K_V9"})
    with pytest.raises(RecipeError, match="encoder: unknown key 'weights'"):
        build(encoder={"weights": "DEFAULT"})
    with pytest.raises(CheckpointError, match="none.safetensors: no such file"):
        build(encoder={"weights": "none.safetensors"})


@pytest.mark.parametrize("name", ENCODERS)
def test_inputs_without_a_step_axis_say_what_to_set(name: str) -> None:
    shape, settings = ENCODERS[name]
    with pytest.raises(ModelError, match="have no step axis. Set views.steps"):
        build_network("detector", shape, HEADS, {"encoder": settings})


def test_steps_of_another_kind_are_the_encoders_error() -> None:
    with pytest.raises(ModelError, match="'gru_mean' takes sequence inputs"):
        build_network("detector", (7, 3, 4, 16, 16), HEADS, {"encoder": GRU})


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({}, "encoder.network is missing"),
        ({"network": "detector", "encoder": GRU}, "cannot be a detector"),
        ({"network": "gru_maen"}, "encoder: unknown network 'gru_maen'. Did you mean 'gru_mean'"),
        ({**GRU, "hiden": 3}, "encoder: unknown key 'hiden' .*'hidden'"),
    ],
)
def test_a_wrong_encoder_is_refused_in_one_line(encoder: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_network("detector", (7, 5, 8), HEADS, {"encoder": encoder})


def test_the_exported_detector_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = build(steps=3)
    classes = {head: [f"{head}{index}" for index in range(count)] for head, count in HEADS.items()}
    export_onnx(network, network.input_shape, classes, {}, tmp_path / "detector.onnx")
    for count in (1, 4):
        x = windows(count=count, steps=3)
        logits = predict_logits(tmp_path / "detector.onnx", [x.numpy()])
        with torch.no_grad():
            expected = network(x).logits
        for head in HEADS:
            assert logits[head].shape == (count, 3, HEADS[head])
            np.testing.assert_allclose(logits[head], expected[head].numpy(), atol=1e-5)
