from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidistill.core.errors import ModelError, RecipeError
from vidistill.models import Network, build_network
from vidistill.models.attended import attend, weigh

HEADS = {"verb": 4, "noun": 3}
SHAPES = {"compact3d": (3, 8, 28, 36), "gru": (8, 15), "graph_conv": (3, 8, 15), "mobilenet_v3_small": (2, 4, 32, 32)}


def build(trunk: str = "compact3d", **options: object) -> Network:
    torch.manual_seed(0)
    network = build_network("attended", SHAPES[trunk], HEADS, {"trunk": trunk, **options}).eval()
    if network.options["attention"] == "pooled":
        torch.nn.init.normal_(
            network.backbone.attention.head[5].weight
        )  # it starts with equal attention; a trained one does not stay so
    return network


def clips(trunk: str = "compact3d", count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPES[trunk], generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> Network:
    return build()


@pytest.mark.parametrize("variant", ["default", "released"])
def test_equal_attention_leaves_the_map_as_it_is(variant) -> None:
    feature = torch.rand(2, 3, 4, 2, 2)
    for value in (0.01, 0.5, 0.99):
        torch.testing.assert_close(attend(feature, torch.full((2, 3, 4), value), variant), feature)


def test_the_attended_map_is_as_large_as_the_map_clip_by_clip() -> None:
    feature, attention = torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3, 4)
    attended = attend(feature, attention)
    torch.testing.assert_close(attended.abs().sum((1, 2, 3, 4)), feature.abs().sum((1, 2, 3, 4)))
    for clip in (0, 1):
        weighed = feature[clip] * attention[clip, :, :, None, None]
        expected = weighed * feature[clip].abs().sum() / weighed.abs().sum()
        torch.testing.assert_close(attended[clip], expected)


def test_released_sums_are_over_the_batch() -> None:
    feature, attention = torch.rand(2, 3, 4, 2, 2), torch.rand(2, 3, 4)
    weighed = feature * attention[..., None, None]
    torch.testing.assert_close(attend(feature, attention, "released"), weighed * feature.sum() / weighed.sum())
    torch.testing.assert_close(weigh(feature, attention, "released"), weighed / attention.sum())


def test_a_map_of_zeros_stays_zero_with_a_finite_gradient() -> None:
    feature, attention = torch.zeros(1, 2, 3, 2, 2, requires_grad=True), torch.rand(1, 2, 3, requires_grad=True)
    attended = attend(feature, attention)
    attended.sum().backward()
    assert (attended == 0).all()
    assert feature.grad.isfinite().all()
    assert attention.grad.isfinite().all()


def test_weighing_keeps_the_size_of_the_map() -> None:
    feature, attention = torch.ones(2, 3, 4, 2, 2), torch.rand(2, 3, 4) + 0.1
    torch.testing.assert_close(weigh(feature, attention).mean((1, 2, 3, 4)), torch.ones(2))


@pytest.mark.parametrize("trunk", SHAPES)
def test_any_trunk_gives_its_own_maps_and_attention(trunk: str) -> None:
    network = build(trunk)
    shapes = network.feature_shapes()
    with torch.no_grad():
        outputs = network(clips(trunk), features=tuple(shapes))
        plain = build_network(trunk, SHAPES[trunk], HEADS, network.options["trunk_options"] or {})
        own = network.backbone.trunk(clips(trunk), plain.backbone.feature_names)[1]
    assert {name: tuple(value.shape[1:]) for name, value in outputs.features.items()} == shapes
    assert list(shapes) == [*plain.feature_shapes(), "attention"]
    assert all(torch.equal(outputs.features[name], own[name]) for name in own)
    deepest = list(own)[-1]
    assert shapes["attention"] == shapes[deepest][:2]
    assert outputs.embedding.shape == (3, network.embedding_dim)


def test_the_embedding_is_the_mean_of_the_attended_map(network: Network) -> None:
    with torch.no_grad():
        outputs = network(clips(), features=("stage4", "attention"))
    attended = attend(outputs.features["stage4"], outputs.features["attention"])
    torch.testing.assert_close(outputs.embedding, attended.mean((2, 3, 4)))
    assert torch.equal(network.head(outputs.embedding)["noun"], outputs.logits["noun"])


def test_new_ones_answer_as_their_trunk_does() -> None:
    torch.manual_seed(0)
    network = build_network("attended", SHAPES["compact3d"], HEADS, {"trunk": "compact3d"}).eval()
    with torch.no_grad():
        embedding = network(clips()).embedding
        torch.testing.assert_close(embedding, network.backbone.trunk(clips())[0])


def test_features_asked_for_change_nothing(network: Network) -> None:
    with torch.no_grad():
        one, other = network(clips()), network(clips(), features=("attention", "stage1"))
    assert list(other.features) == ["attention", "stage1"]
    assert torch.equal(one.logits["verb"], other.logits["verb"])


def test_a_clip_depends_on_no_other_clip_but_in_the_released_variant(network: Network) -> None:
    x = clips()
    released = build(variant="released")
    with torch.no_grad():
        torch.testing.assert_close(network(x).embedding[:1], network(x[:1]).embedding)
        assert not torch.allclose(released(x).embedding[:1], released(x[:1]).embedding, rtol=1e-3)


def test_gradient_reaches_the_trunk_and_the_attention() -> None:
    network = build().train()
    network(clips()).logits["verb"].square().sum().backward()
    for part in (network.backbone.attention, network.backbone.trunk.stem):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_the_published_head_is_made_for_the_map() -> None:
    network = build(attention="published", trunk_options={"width": 4, "stages": 2})
    with torch.no_grad():
        assert network(clips(), features=("attention",)).features["attention"].shape == (3, 8, 2)
    assert network.backbone.attention.pixels == network.feature_shapes()["stage2"][2:]


def test_the_trunks_dropout_is_on_the_embedding() -> None:
    assert build(trunk_options={"dropout": 0.7}).dropout.p == 0.7


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"trunk": "compact4d"}, RecipeError, "unknown network 'compact4d'. Did you mean 'compact3d'"),
        ({"trunk": "compact3d", "map": "stage5"}, RecipeError, "'compact3d' has no map 'stage5'. Did you mean 'stage"),
        ({"trunk": "compact3d", "map": "stage1"}, RecipeError, "'stage1' is not the deepest map .* Name 'stage4'"),
        ({"trunk": "compact3d", "trunk_options": {"wide": 4}}, RecipeError, "'wide'"),
        ({"trunk": "attended", "trunk_options": {"trunk": "compact3d"}}, ModelError, "cannot use 'attended'"),
        ({"trunk": "slowfast"}, ModelError, r"embedding of 'slowfast' \(2304 numbers\) is not made from one map"),
        ({"trunk": "mobilenet_v3_small", "trunk_options": {"temporal": "conv"}}, ModelError, "not made from one map"),
    ],
)
def test_what_cannot_be_attended_is_said_in_one_line(options, error, match) -> None:
    with pytest.raises(error, match=match), torch.device("meta"):
        build_network("attended", (3, 8, 32, 32), HEADS, options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["pooled", "published"])
def test_onnx_gives_the_same_logits_for_any_batch(attention: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = build(attention=attention, map="stage2", trunk_options={"width": 4, "stages": 2})
    x = clips()
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        network, (x,), dynamo=True, dynamic_shapes={"x": {0: batch}}, input_names=["x"], verbose=False
    )
    program.save(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        with torch.no_grad():
            outputs = network(x[:count])
        verb, noun, embedding = session.run(None, {session.get_inputs()[0].name: x[:count].numpy()})
        np.testing.assert_allclose(verb, outputs.logits["verb"], atol=1e-5)
        np.testing.assert_allclose(noun, outputs.logits["noun"], atol=1e-5)
        np.testing.assert_allclose(embedding, outputs.embedding, atol=1e-5)


def test_compiled_is_one_graph_and_gives_the_same_outputs(network: Network) -> None:
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        one, other = network(clips(), features=("attention",)), compiled(clips(), features=("attention",))
    torch.testing.assert_close(one.logits["verb"], other.logits["verb"])
    torch.testing.assert_close(one.features["attention"], other.features["attention"])
