"""SlowFast: the published variants, what each path sees, how the fast path informs the slow one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.models import Network, build_network, save_weights
from vidistill.models.slowfast import PUBLISHED_PREFIXES

HEADS = {"action": 3}
TINY = {"layers": [1, 1, 2, 1], "alpha": 4, "fusion_kernel": 5, "width": 8, "beta_inv": 4}


def tiny(frames: int = 8, channels: int = 3, **options: object) -> Network:
    torch.manual_seed(1)
    return build_network("slowfast", (channels, frames, 16, 16), HEADS, {**TINY, **options}).eval()


def clip(frames: int = 8, count: int = 1) -> Tensor:
    return torch.randn(count, 3, frames, 16, 16, generator=torch.Generator().manual_seed(2))


def maps(network: Network, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(x, features=tuple(network.feature_shapes())).features


def silence_laterals(network: Network) -> Network:
    """All lateral connections give zero."""
    for layer in network.get_submodule("backbone.laterals").modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


@pytest.mark.parametrize(
    ("variant", "frames", "parameters", "entries", "gmacs"),
    [
        ("4x16_r50", 32, (33_791_021, 34_480_216), 662, 27.6),
        ("8x8_r50", 32, (33_877_293, 34_566_488), 662, 50.3),
        ("16x8_r50", 64, (33_877_293, 34_566_488), 662, 100.6),
        ("4x16_r101", 32, (62_137_773, 62_826_968), 1274, 52.2),
        ("8x8_r101", 32, (62_137_773, 62_826_968), 1274, 96.4),
        ("16x8_r101", 64, (62_137_773, 62_826_968), 1274, 192.8),
        ("16x8_r101_50_50", 32, (53_085_613, 53_774_808), 1274, 81.5),
    ],
)
def test_published_variants_have_the_published_size_and_cost(
    variant: str, frames: int, parameters: tuple[int, int], entries: int, gmacs: float
) -> None:
    """Parameters with 101 and 400 classes and state-dict entries as published; GMACs a clip of 224 x 224.

    The costs of 16x8_r50 (64 frames) and of 16x8_r101_50_50 (32 frames) have no published counterpart.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:  # building passes one clip of shapes
        network = build_network("slowfast", (3, frames, 224, 224), {"action": 101}, {"variant": variant})
    own = sum(value.numel() for value in network.parameters())
    assert (own, own + (400 - 101) * (2304 + 1)) == parameters
    assert len(network.state_dict()) == entries
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.05)
    assert network.dropout.p == 0.5


@pytest.mark.parametrize(
    ("frames", "alpha", "fast_stride"), [(1, 1, 1), (5, 4, 1), (9, 8, 1), (15, 4, 1), (6, 2, 3), (13, 3, 2), (17, 4, 4)]
)
def test_any_count_of_frames_from_the_slow_stride_on_gives_paths_that_meet(
    frames: int, alpha: int, fast_stride: int
) -> None:
    with torch.device("meta"):
        network = tiny(frames, alpha=alpha, fast_stride=fast_stride, layers=[1, 1, 1, 1])
    shapes = network.feature_shapes()
    assert shapes["slow_res5"] == (256, math.ceil(frames / (alpha * fast_stride)), 1, 1)
    assert shapes["fast_res5"] == (64, math.ceil(frames / fast_stride), 1, 1)


@pytest.mark.parametrize(("frames", "options"), [(3, {}), (7, {"fast_stride": 2}), (7, {"alpha": 8})])
def test_fewer_frames_than_the_slow_stride_are_refused(frames: int, options: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=rf"every \d+th frame cannot take clips of {frames} frames\. Give it more"):
        tiny(frames, **options)


def test_outputs_are_those_of_a_network_for_any_channels() -> None:
    network = tiny(9, channels=2)
    with torch.no_grad():
        outputs = network(torch.randn(2, 2, 9, 16, 16), features=("slow_res2", "fast_res4"))
    assert outputs.logits["action"].shape == (2, 3)
    assert outputs.embedding.shape == (2, network.embedding_dim) == (2, 256 + 64)
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == {
        key: network.feature_shapes()[key] for key in ("slow_res2", "fast_res4")
    }
    assert torch.equal(network.head(outputs.embedding)["action"], outputs.logits["action"])


def test_the_embedding_is_the_slow_path_then_the_fast_path() -> None:
    network = tiny()
    found = maps(network, clip())
    both = torch.cat([found[f"{path}_res5"].mean(dim=(2, 3, 4)) for path in ("slow", "fast")], dim=1)
    with torch.no_grad():
        assert torch.equal(network(clip()).embedding, both)


def test_gradient_reaches_both_paths_and_every_lateral_connection() -> None:
    network = tiny().train()
    network(clip(count=2)).logits["action"].square().sum().backward()
    firsts = [network.get_parameter(f"backbone.{path}.stem.0.weight") for path in ("slow", "fast")]
    laterals = [p for p in network.get_submodule("backbone.laterals").parameters() if p.dim() > 1]
    assert len(laterals) == 4
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in (*firsts, *laterals))


@pytest.mark.parametrize("index", [1, 2, 3, 5])
def test_the_slow_path_learns_of_the_frames_between_its_own_by_lateral_connections_only(index: int) -> None:
    moved = clip().clone()
    moved[:, :, index] += 1.0
    connected, alone = tiny(), silence_laterals(tiny())
    assert not torch.allclose(maps(connected, moved)["slow_res5"], maps(connected, clip())["slow_res5"])
    assert torch.equal(maps(alone, moved)["slow_res5"], maps(alone, clip())["slow_res5"])
    assert not torch.allclose(maps(alone, moved)["fast_res5"], maps(alone, clip())["fast_res5"])


@pytest.mark.parametrize("index", [0, 4])
def test_the_slow_path_sees_every_alphath_frame_itself(index: int) -> None:
    moved = clip().clone()
    moved[:, :, index] += 1.0
    alone = silence_laterals(tiny())
    assert not torch.allclose(maps(alone, moved)["slow_res5"], maps(alone, clip())["slow_res5"])


def test_subsampling_inside_is_subsampling_before() -> None:
    x = clip(17)
    inside, before = tiny(17, fast_stride=2), tiny(9)
    with torch.no_grad():
        assert torch.equal(inside(x).embedding, before(x[:, :, ::2]).embedding)


def test_blocks_of_res4_past_the_given_count_do_not_see_time() -> None:
    network = build_network("slowfast", (3, 8, 32, 32), HEADS, {**TINY, "layers": [1, 1, 3, 1], "time_blocks": 2})
    for path in ("slow", "fast"):
        stage = network.get_submodule(f"backbone.{path}.stages.res4")
        assert [block.conv1.kernel_size[0] for block in stage] == [3, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion_kernel": 4}, "needs an odd fusion_kernel, not 4"),
        ({"width": 10}, "needs a width that beta_inv = 4 divides, not 10"),
        ({"weights": "nowhere.pth"}, r"no weights file 'nowhere\.pth'"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**options)


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'variant'.*'4x16_r50', '8x8_r50'"):
        build_network("slowfast", (3, 8, 32, 32), HEADS, {"variant": "8x8"})


def published_file(network: Network, path: Path) -> Path:
    """A checkpoint with the published keys of this network's weights."""
    back = {new: old for old, new in PUBLISHED_PREFIXES.items() if new}
    state = {}
    for key, value in network.state_dict().items():
        prefix = next((new for new in back if key.startswith(new)), None)
        state[back[prefix] + key.removeprefix(prefix) if prefix else key.replace("head.action", "fc")] = value
    torch.save(state, path)
    return path


@pytest.mark.parametrize("published", [True, False])
def test_a_network_starts_from_a_checkpoint_without_its_classifier(published: bool, tmp_path: Path) -> None:
    source = tiny()
    file = tmp_path / "source.safetensors"
    if published:
        file = published_file(source, tmp_path / "source.pth")
    else:
        save_weights(source, file)
    torch.manual_seed(9)
    network = build_network("slowfast", (3, 8, 16, 16), {"verb": 5}, {**TINY, "weights": str(file)}).eval()
    with torch.no_grad():
        assert torch.equal(network(clip()).embedding, source(clip()).embedding)


def test_a_checkpoint_for_three_channels_starts_a_network_for_two(tmp_path: Path) -> None:
    source = tiny()
    network = tiny(channels=2, weights=str(published_file(source, tmp_path / "source.pth")))
    grey = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        ours, theirs = (net(grey.expand(-1, count, -1, -1, -1)).embedding for net, count in ((network, 2), (source, 3)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_another_variant_is_refused_by_its_keys(tmp_path: Path) -> None:
    file = str(published_file(tiny(), tmp_path / "source.pth"))
    with pytest.raises(CheckpointError, match=r"of another shape \(laterals\.stem\.0\.weight .*5, 1, 1.*7, 1, 1"):
        tiny(weights=file, fusion_kernel=7)
    with pytest.raises(CheckpointError, match=r"missing \(slow\.stages\.res2\.1\.conv1\.weight"):
        tiny(weights=file, layers=[2, 1, 2, 1])
