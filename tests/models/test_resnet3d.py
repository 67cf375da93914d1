"""3-D ResNets: published sizes, the projector, frozen batch normalisation, the released shrinking, pretrained files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.models import Network, build_network, save_weights
from vidistill.models.published import load_published, published_keys
from vidistill.models.resnet3d import SIDE, shrink

SHAPE = (3, 4, 32, 32)
SMALL = {"depth": 10, "width": 4, "projected": 12}


def built(options: dict[str, object] | None = None, channels: int = 3, heads: tuple[str, ...] = ("action",)) -> Network:
    shape = (channels, *SHAPE[1:])
    return build_network("resnet3d", shape, dict.fromkeys(heads, 3), {**SMALL, **(options or {})})


def pretrained(network: Network) -> dict[str, Tensor]:
    """The backbone's weights under the keys of a pretrained 3-D ResNet, with the classifier of its 700 classes."""
    names = {"stem.0.": "conv1.", "stem.1.": "bn1.", "stages.": ""}
    state = {}
    for key, value in network.backbone.state_dict().items():
        old = next((old for old in names if key.startswith(old)), None)
        if old is not None:
            state[names[old] + key.removeprefix(old)] = value
    return state | {"fc.weight": torch.zeros(700, 32), "fc.bias": torch.zeros(700)}


@pytest.mark.parametrize(("depth", "parameters"), [(18, 34_611_054), (50, 46_555_502)])
def test_published_classifiers_have_the_published_size(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build_network("resnet3d", (3, 8, 48, 48), {"action": 174}, {"depth": depth})
    assert sum(value.numel() for value in network.parameters()) == parameters


@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101, 152, 200])
def test_a_network_has_as_many_layers_as_its_depth_says(depth: int) -> None:
    with torch.device("meta"):
        network = build_network("resnet3d", SHAPE, {"action": 3}, {"depth": depth, "width": 4})
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv3d)]
    assert sum("downsample" not in name for name in convolutions) + 1 == depth
    assert network.embedding_dim == (2048 if depth < 50 else 4 * 8 * 4)
    assert network.feature_shapes()["layer4"][1:] == (1, 1, 1)


def test_stages_halve_time_and_frame_together() -> None:
    with torch.device("meta"):
        shapes = build_network("resnet3d", (2, 16, 112, 80), {"a": 2}, {"width": 8}).feature_shapes()
    assert list(shapes.values()) == [(8, 8, 28, 20), (16, 4, 14, 10), (32, 2, 7, 5), (64, 1, 4, 3)]


def test_without_a_projector_the_embedding_is_the_mean_of_the_last_map() -> None:
    network = built({"projected": 0}).eval()
    outputs = network(torch.randn(2, *SHAPE), features=("layer4",))
    assert torch.equal(outputs.embedding, outputs.features["layer4"].mean(dim=(2, 3, 4)))
    with pytest.raises(RecipeError, match="depth"):
        built({"depth": 20})


def test_frozen_batch_normalisation_keeps_everything_while_the_rest_learns() -> None:
    network = built({"freeze_batch_norm": True}).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(2, *SHAPE)).logits["action"].square().sum().backward()
    torch.optim.SGD(network.parameters(), 0.1, weight_decay=0.1).step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm3d)}
    assert moved == {key for key in before if key.rpartition(".")[0] not in norms}
    assert network.training and not any(network.get_submodule(name).training for name in norms)


def test_batch_normalisation_learns_unless_it_is_frozen() -> None:
    network = built().train()
    before = network.state_dict()["backbone.stem.1.running_mean"].clone()
    network(torch.randn(2, *SHAPE))
    assert not torch.equal(network.state_dict()["backbone.stem.1.running_mean"], before)


def test_only_the_released_variant_shrinks_frames_and_only_larger_ones() -> None:
    torch.manual_seed(0)
    released = built({"variant": "released"}).eval()
    plain = built().eval()
    plain.load_state_dict(released.state_dict())
    large, small = torch.randn(1, 3, 2, 140, 168), torch.randn(1, 3, 2, SIDE, 120)
    with torch.no_grad():
        assert torch.equal(released(small).embedding, plain(small).embedding)
        assert torch.equal(released(large).embedding, plain(shrink(large, SIDE)).embedding)
        assert not torch.equal(released(large).embedding, plain(large).embedding)


def test_shrinking_keeps_the_sides_ratio_the_time_order_and_the_mean() -> None:
    clips = torch.arange(3.0)[None, None, :, None, None] + torch.zeros(2, 1, 3, 60, 90)
    small = shrink(clips, 20)
    assert small.shape == (2, 1, 3, 20, 30)
    torch.testing.assert_close(small.mean(dim=(3, 4)), clips.mean(dim=(3, 4)))


def test_a_pretrained_file_starts_all_but_the_projector_and_the_heads(tmp_path: Path) -> None:
    source = built()
    torch.save({"state_dict": pretrained(source)}, tmp_path / "r3d.pth")
    torch.manual_seed(5)
    network = built({"weights": str(tmp_path / "r3d.pth")}, channels=1)
    torch.manual_seed(5)
    fresh = built(channels=1)
    ours, theirs = network.state_dict(), source.state_dict()
    for key, value in ours.items():
        expected = fresh.state_dict()[key] if key.startswith(("head.", "backbone.projector.")) else theirs[key]
        if key == "backbone.stem.0.weight":
            expected = expected.mean(dim=1, keepdim=True) * 3
        torch.testing.assert_close(value, expected)


def test_a_file_of_ours_starts_the_projector_too(tmp_path: Path) -> None:
    source = built()
    save_weights(source, tmp_path / "ours.safetensors")
    network = built({"weights": str(tmp_path / "ours.safetensors")})
    assert all(
        torch.equal(value, source.backbone.state_dict()[key]) for key, value in network.backbone.state_dict().items()
    )


def test_weights_that_are_absent_or_of_another_depth_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no weights file"):
        built({"weights": str(tmp_path / "no.pth")})
    torch.save(pretrained(built({"depth": 18})), tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"do not fit Resnet3d: .*unexpected \(stages\.layer1\.1\.conv1"):
        built({"weights": str(tmp_path / "deep.pth")})


def test_published_keys_go_to_stem_stages_projector_and_heads() -> None:
    names = published_keys("resnet3d", built(heads=("verb", "noun")))
    assert callable(names)
    keys = [
        "resnet.0.weight",
        "resnet.1.bias",
        "resnet.5.0.downsample.1.weight",
        "projector.0.bias",
        "layer4.1.bn2.bias",
    ]
    assert [names(key) for key in keys] == [
        "backbone.stem.0.weight",
        "backbone.stem.1.bias",
        "backbone.stages.layer2.0.downsample.1.weight",
        "backbone.projector.0.bias",
        "backbone.stages.layer4.1.bn2.bias",
    ]
    assert [names(f"classifiers.{head}.bias") for head in ("NOUN", "VERB")] == ["head.noun.bias", "head.verb.bias"]


def test_a_pretrained_classifier_is_loaded_where_it_fits_and_dropped_behind_a_projector() -> None:
    source, network = built({"projected": 0}), built({"projected": 0})
    state = {**pretrained(source), "fc.weight": torch.ones(3, 32), "fc.bias": torch.zeros(3)}
    load_published(network, "resnet3d", state)
    assert torch.equal(network.state_dict()["head.action.weight"], torch.ones(3, 32))
    names = published_keys("resnet3d", built())
    assert callable(names) and names("fc.weight") is None
    with pytest.raises(RecipeError, match="'resnet3d' published no checkpoints for network 'compact3d'"):
        published_keys("resnet3d", build_network("compact3d", SHAPE, {"a": 2}))
