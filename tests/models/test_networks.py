"""Every registered network keeps the contract of `Network`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidistill.core.errors import ModelError, RecipeError
from vidistill.modalities.skeleton_layouts import LAYOUTS
from vidistill.models import NETWORKS, Network, build_network
from vidistill.models.graph_conv import adjacency
from vidistill.models.pooling import Temporal, temporal_pooling

HEADS = {"verb": 4, "noun": 3}
SEQUENCE, GRAPH = ("gru", "gru_mean", "temporal_conv"), ("graph_conv",)
ORDER_AWARE = ("compact3d", "gru", "gru_mean", "temporal_conv", "graph_conv", "s3d", "stacked_resnet18")
QUICK = (
    "compact3d",
    "graph_conv",
    "gru",
    "gru_mean",
    "mobilenet_v3_small",
    "resnet18",
    "stacked_resnet18",
    "temporal_conv",
)
# Over other inputs, or with other outputs; tested in files of their own.
ELSEWHERE = ("anchor_detector", "attended", "detector", "frame_embedder", "multimodal", "sequence_embedder", "stlt")
BIG = tuple(name for name in NETWORKS.names() if name not in (*QUICK, *ELSEWHERE))


def input_shape(name: str, channels: int = 3) -> tuple[int, ...]:
    if name in SEQUENCE:
        return (8, 5 * channels)
    if name in GRAPH:
        return (channels, 8, 15)
    return (channels, 2 if name.startswith(("swin", "resnet", "mobilenet")) else 8, 32, 32)


def build(name: str, channels: int = 3, **options: object) -> Network:
    torch.manual_seed(1)
    return build_network(name, input_shape(name, channels), HEADS, options).eval()


def clips(name: str, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, *input_shape(name, channels), generator=torch.Generator().manual_seed(2))


def first_layer(network: Network) -> torch.Tensor:
    """The gradient of the first matrix or kernel."""
    first = next(parameter for parameter in network.backbone.parameters() if parameter.dim() > 1)
    assert first.grad is not None
    return first.grad


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", QUICK)
def test_outputs_have_two_heads_and_an_embedding_for_any_channels(name: str, channels: int) -> None:
    network = build(name, channels)
    with torch.no_grad():
        outputs = network(clips(name, channels=channels))
    assert {head: tuple(value.shape) for head, value in outputs.logits.items()} == {"verb": (2, 4), "noun": (2, 3)}
    assert outputs.embedding.shape == (2, network.embedding_dim)
    assert outputs.features == {}
    assert torch.isfinite(outputs.logits["verb"]).all()


@pytest.mark.parametrize("name", BIG)
def test_big_networks_tell_their_features_without_numbers(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    assert len(network.feature_shapes()) >= 4
    assert all(len(shape) == 4 for shape in network.feature_shapes().values())
    assert (network.name, network.options["weights"]) == (name, None)


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "swin3d_t"])
def test_video_trunks_keep_the_same_contract(name: str) -> None:
    network = build(name, channels=2)
    shapes = network.feature_shapes()
    x = clips(name, channels=2)
    straight, permuted = network(x, features=tuple(shapes)), network(x.flip(0))
    assert {key: tuple(value.shape[1:]) for key, value in straight.features.items()} == shapes
    assert torch.equal(network.head(straight.embedding)["noun"], straight.logits["noun"])
    torch.testing.assert_close(permuted.embedding, straight.embedding.flip(0), atol=1e-5, rtol=1e-4)
    straight.logits["verb"].square().sum().backward()
    assert float(first_layer(network).abs().sum()) > 0


@pytest.mark.parametrize("name", QUICK)
def test_features_are_those_asked_for_with_the_shapes_told(name: str) -> None:
    network = build(name)
    shapes = network.feature_shapes()
    asked = tuple(shapes)[-2:]
    with torch.no_grad():
        outputs = network(clips(name), features=asked)
    given = {key: tuple(value.shape[1:]) for key, value in outputs.features.items()}
    assert given == {key: shapes[key] for key in asked}


@pytest.mark.parametrize("name", QUICK)
def test_head_of_the_embedding_is_the_logits(name: str) -> None:
    network = build(name, dropout=0.5)
    with torch.no_grad():
        outputs = network(clips(name))
        again = network.head(outputs.embedding)
    assert all(torch.equal(again[head], outputs.logits[head]) for head in HEADS)
    assert isinstance(network.get_submodule("head"), nn.Module)


@pytest.mark.parametrize("name", QUICK)
def test_clips_of_a_batch_do_not_see_each_other_in_eval(name: str) -> None:
    network = build(name)
    x = clips(name, 3)
    with torch.no_grad():
        straight, permuted = network(x).logits["verb"], network(x[[2, 0, 1]]).logits["verb"]
    torch.testing.assert_close(permuted, straight[[2, 0, 1]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_gradient_reaches_the_first_layer(name: str) -> None:
    network = build(name).train()
    outputs = network(clips(name))
    (outputs.logits["verb"].square().sum() + outputs.logits["noun"].square().sum()).backward()
    assert float(first_layer(network).abs().sum()) > 0


def _reversal_changes(name: str, **options: object) -> float:
    network = build(name, **options)
    for module in network.modules():
        # Blocks start as their shortcuts; a trained network's do not stay so.
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.ones_(module.weight)
    x = clips(name)
    time = 1 if name in SEQUENCE else 2
    with torch.no_grad():
        one, other = network(x).embedding, network(x.flip(time)).embedding
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("name", ORDER_AWARE)
def test_order_aware_networks_tell_a_clip_from_its_reverse(name: str) -> None:
    assert _reversal_changes(name) > 1e-3


@pytest.mark.parametrize(("temporal", "knows_order"), [("mean", False), ("max", False), ("conv", True), ("gru", True)])
def test_pooling_over_frames_knows_order_only_where_it_says_so(temporal: Temporal, knows_order: bool) -> None:
    torch.manual_seed(1)
    pooling, width = temporal_pooling(temporal, 16)
    x = torch.randn(2, 8, 16)
    with torch.no_grad():
        one, other = pooling.eval()(x), pooling(x.flip(1))
    assert one.shape == (2, width)
    change = float((one - other).abs().max())
    assert change > 1e-3 if knows_order else change < 1e-5


@pytest.mark.parametrize("temporal", ["max", "conv", "gru"])
def test_image_trunks_pool_frames_by_option(temporal: str) -> None:
    network = build("mobilenet_v3_small", temporal=temporal)
    with torch.no_grad():
        outputs = network(clips("mobilenet_v3_small"))
    assert outputs.embedding.shape == (2, 576 if temporal == "max" else 256)


def test_mean_of_frames_cannot_tell_a_clip_from_its_reverse() -> None:
    assert _reversal_changes("mobilenet_v3_small") < 1e-5


def test_a_new_compact3d_still_learns_order_from_its_first_step() -> None:
    assert _reversal_changes("compact3d", depth=2) > 1e-3


def test_feature_shapes_leave_the_modes_of_modules_alone() -> None:
    network = build("compact3d").train()
    network.backbone.stem.eval()
    network._shapes = None
    network.feature_shapes()
    assert network.training
    assert not network.backbone.stem.training


def test_networks_of_one_seed_are_the_same() -> None:
    one, other = build("compact3d").state_dict(), build("compact3d").state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml: unknown network 'resnet81'. Did you mean 'resnet18'"):
        build_network("resnet81", (3, 8, 32, 32), HEADS, {}, where="recipe.yaml")


def test_unknown_torchvision_trunk_names_the_nearest() -> None:
    assert "torchvision:resnet101" in NETWORKS
    assert "torchvision:resnet1001" not in NETWORKS
    with pytest.raises(RecipeError, match="Did you mean 'densenet1"):
        build_network("torchvision:densenet12", (3, 8, 32, 32), HEADS)


@pytest.mark.parametrize("name", ["compact3d", "resnet18", "gru"])
def test_unknown_option_names_the_nearest(name: str) -> None:
    with pytest.raises(RecipeError, match=f"network '{name}': unknown key 'dropuot' .*'dropout'"):
        build_network(name, input_shape(name), HEADS, {"dropuot": 0.1})


def test_wrong_type_of_option_is_named() -> None:
    with pytest.raises(RecipeError, match="'temporal'.*'mean'"):
        build_network("resnet18", (3, 8, 32, 32), HEADS, {"temporal": "median"})


@pytest.mark.parametrize(("name", "shape"), [("gru", (3, 8, 32, 32)), ("compact3d", (8, 60)), ("graph_conv", (8, 60))])
def test_input_of_another_kind_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"network '{name}' takes .* inputs"):
        build_network(name, shape, HEADS)


def test_too_few_frames_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="'s3d' cannot take inputs of shape") as error:
        build_network("s3d", (3, 4, 32, 32), HEADS)
    assert "\n" not in str(error.value)


def test_unknown_feature_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no feature 'layer5'. Did you mean 'layer"):
        build("resnet18")(clips("resnet18"), features=("layer5",))


def test_no_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="at least one head"):
        build_network("gru", (8, 6), {})


@pytest.mark.parametrize("head", ["type", "training", "verb.fine", "keys", "Tätigkeit 1"])
def test_any_label_name_can_be_a_head(head: str) -> None:
    network = build_network("gru", (8, 6), {head: 3})
    assert network(torch.zeros(1, 8, 6)).logits[head].shape == (1, 3)


def test_batch_norm_momentum_is_that_of_short_schedules() -> None:
    momenta = {m.momentum for m in build("mobilenet_v3_small").modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_stochastic_depth_grows_linearly_to_its_option() -> None:
    from torchvision.ops import StochasticDepth

    chances = [m.p for m in build("swin3d_t", stochastic_depth=0.3).modules() if isinstance(m, StochasticDepth)]
    assert chances[0] == 0.0
    assert chances[-1] == pytest.approx(0.3)
    assert chances == sorted(chances)


@pytest.mark.parametrize("size", [(3, 1, 7, 9), (1, 5, 33, 20), (6, 16, 56, 72)])
def test_compact3d_takes_any_size(size: tuple[int, ...]) -> None:
    network = build_network("compact3d", size, HEADS).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, *size)).embedding.shape == (1, network.embedding_dim)


@pytest.mark.parametrize("name", ["efficientnet_b0", "swin_t"])
def test_other_torchvision_trunks_fold_frames_and_give_maps(name: str) -> None:
    network = build_network(f"torchvision:{name}", (2, 2, 64, 64), HEADS).eval()
    shapes = network.feature_shapes()
    with torch.no_grad():
        outputs = network(torch.zeros(1, 2, 2, 64, 64), features=tuple(shapes))
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == shapes
    assert all(len(shape) == 4 and shape[1] == 2 for shape in shapes.values())
    assert len(shapes) >= 4


@pytest.mark.parametrize(
    "name",
    ["resnet18", "swin_t", "densenet121", "convnext_tiny", "mobilenet_v2", "regnet_y_400mf", "shufflenet_v2_x0_5"],
)
def test_a_trunk_with_its_classifier_back_gives_the_published_logits(name: str) -> None:
    import torchvision

    torch.manual_seed(3)
    published = torchvision.models.get_model(name).eval()
    ours = build_network(f"torchvision:{name}" if name != "resnet18" else name, (3, 1, 64, 64), {"action": 1000}).eval()
    own = ours.backbone.trunk.state_dict()
    ours.backbone.trunk.load_state_dict({key: published.state_dict()[key] for key in own})
    classifier = [module for module in published.modules() if isinstance(module, nn.Linear)][-1]
    ours.head["action"].load_state_dict(classifier.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x[:, :, None]).logits["action"], published(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t", "s3d"])
def test_a_video_trunk_with_its_classifier_back_gives_the_published_logits(name: str) -> None:
    import torchvision

    torch.manual_seed(3)
    size = (8 if name == "s3d" else 2, 32, 32)
    published = torchvision.models.get_model(name).eval()
    if name == "s3d":
        # Its windows of 2 x 7 x 7 need larger clips; after it comes a mean over all of (T, H, W), as in ours.
        published.avgpool = nn.Identity()
    options = {"variant": "released"} if name.startswith("swin") else {}
    ours = build_network(name, (3, *size), {"action": 400}, options).eval()
    own = ours.backbone.trunk.state_dict()
    ours.backbone.trunk.load_state_dict({key: published.state_dict()[key] for key in own})
    classifier = published.classifier[1] if name == "s3d" else [*published.children()][-1]
    ours.head["action"].weight.data = classifier.weight.detach().flatten(1)
    ours.head["action"].bias.data = classifier.bias.detach()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits["action"], published(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layout", ["kinect20", "kinect25", "jhmdb15", "coco17"])
def test_columns_of_a_skeleton_graph_share_out_one(layout: str) -> None:
    graph = LAYOUTS[layout]
    kinds = adjacency(graph)
    assert kinds.sum(axis=(0, 1)) == pytest.approx(1.0)
    assert (kinds > 0).sum() == graph.count + 2 * len(graph.bones)


def test_a_joint_moves_only_its_neighbours_in_one_graph_block() -> None:
    torch.manual_seed(0)
    network = build_network("graph_conv", (3, 8, 15), HEADS, {"stages": 1}).eval()
    x = torch.randn(1, 3, 8, 15)
    moved = x.clone()
    moved[..., 11] += 1.0
    with torch.no_grad():
        before, after = (network(clip, features=("stage1",)).features["stage1"] for clip in (x, moved))
    change = after - before
    touched = change.abs().amax(dim=(0, 1, 2)) > 1e-6
    assert touched.nonzero().flatten().tolist() == [7, 11]


def test_a_layout_of_other_joints_is_refused_and_an_unknown_one_named() -> None:
    with pytest.raises(ModelError, match="'kinect20' has 20 joints, the input 15. Layouts that fit: jhmdb15"):
        build_network("graph_conv", (3, 8, 15), HEADS, {"layout": "kinect20"})
    with pytest.raises(RecipeError, match="Did you mean 'kinect20'"):
        build_network("graph_conv", (3, 8, 20), HEADS, {"layout": "kinekt20"})
