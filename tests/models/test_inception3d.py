"""I3D and Top-heavy I3D: published size and cost, what a stage sees of time, starting the one from the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.models import Network, build_network, save_weights
from vidistill.models.inception3d import END_POINTS, POOLS, PUBLISHED_PREFIXES, ROOTS, scaled, window_means

HEADS = {"action": 3}
BOTH = ("i3d", "i3d_topheavy")
EIGHTH = {"width": 0.125}


def tiny(name: str = "i3d", shape: tuple[int, int, int, int] = (3, 16, 32, 32), **options: object) -> Network:
    torch.manual_seed(1)
    return build_network(name, shape, HEADS, {**EIGHTH, **options}).eval()


def clips(count: int = 1, shape: tuple[int, int, int, int] = (3, 16, 32, 32)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(2))


def maps(network: Network, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(x, features=END_POINTS).features


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "gmacs", "detection_gmacs"),
    [
        ("i3d", 3, 12_287_264, 111.2, 81.7),
        ("i3d", 2, 12_265_312, None, None),
        ("i3d_topheavy", 3, 10_429_088, 45.4, 33.3),
        ("i3d_topheavy", 2, 10_425_952, None, None),
    ],
)
def test_published_networks_have_the_published_size_cost_and_maps(
    name: str, channels: int, parameters: int, gmacs: float | None, detection_gmacs: float | None
) -> None:
    """GMACs a clip of 64 x 224 x 224, as in recognition, and of 256 x 96 x 96, as in detection."""
    for cost, size, last in ((gmacs, (64, 224, 224), (8, 7, 7)), (detection_gmacs, (256, 96, 96), (32, 3, 3))):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:  # building passes one clip of shapes
            network = build_network(name, (channels, *size), {"action": 101})
        assert sum(value.numel() for value in network.backbone.parameters()) == parameters
        assert cost is None or counter.get_total_flops() / 2e9 == pytest.approx(cost, abs=0.06)
        assert network.feature_shapes()["mixed_5c"] == (1024, *last)
        assert network.feature_shapes()["mixed_4f"] == (832, *(2 * side for side in last))
    assert network.dropout.p == 0.5
    norms = {(m.eps, m.momentum) for m in network.modules() if isinstance(m, nn.BatchNorm3d)}
    assert norms == {(1e-3, 0.01)}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("size", [(1, 1, 1), (8, 17, 40), (9, 33, 31), (23, 32, 50)])
def test_any_clip_gives_a_map_of_its_size_over_the_strides_rounded_up(name: str, size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        network = tiny(name, (2, *size))
    shapes = network.feature_shapes()
    assert tuple(shapes) == END_POINTS
    assert shapes["mixed_5c"] == (128, *(math.ceil(n / stride) for n, stride in zip(size, (8, 32, 32), strict=True)))


@pytest.mark.parametrize("name", BOTH)
def test_outputs_are_those_of_a_network(name: str) -> None:
    network = tiny(name, (2, 9, 20, 33))
    with torch.no_grad():
        outputs = network(clips(2, (2, 9, 20, 33)), features=("mixed_3c", "mixed_5c"))
    assert outputs.logits["action"].shape == (2, 3)
    assert set(outputs.features) == {"mixed_3c", "mixed_5c"}
    assert torch.equal(outputs.features["mixed_5c"].mean(dim=(2, 3, 4)), outputs.embedding)
    assert torch.equal(network.head(outputs.embedding)["action"], outputs.logits["action"])


@pytest.mark.parametrize("name", BOTH)
def test_gradient_reaches_every_kernel(name: str) -> None:
    network = tiny(name).train()
    network(clips(2)).logits["action"].square().sum().backward()
    kernels = [value for value in network.parameters() if value.dim() > 1]
    assert all(kernel.grad is not None and float(kernel.grad.abs().sum()) > 0 for kernel in kernels)


def test_the_top_heavy_network_sees_frames_of_even_index_one_by_one_below() -> None:
    network, x = tiny("i3d_topheavy"), clips()
    odd, even = x.clone(), x.clone()
    odd[:, :, 5] += 1.0
    even[:, :, 4] += 1.0
    before, unseen, seen = (maps(network, clip) for clip in (x, odd, even))
    assert torch.equal(before["mixed_5c"], unseen["mixed_5c"])
    moved = (before["mixed_3c"] - seen["mixed_3c"]).abs().amax(dim=(0, 1, 3, 4))
    assert moved.nonzero().flatten().tolist() == [2]


def test_kernels_are_flat_below_mixed_4d_only_where_the_network_is_top_heavy() -> None:
    extents = {}
    for name in BOTH:
        with torch.device("meta"):
            stages = tiny(name).get_submodule("backbone.stages")
        extents[name] = {
            stage: max(m.kernel_size[0] for m in layer.modules() if isinstance(m, nn.Conv3d))
            for stage, layer in stages.named_children()
            if stage not in POOLS
        }
    deep, heavy = extents["i3d"], extents["i3d_topheavy"]
    assert [deep["conv3d_1a_7x7"], *set(deep.values()) - {1, 7}] == [7, 3]
    assert [stage for stage, extent in heavy.items() if extent == 3] == [
        *("mixed_4d", "mixed_4e", "mixed_4f", "mixed_5b", "mixed_5c")
    ]


@pytest.mark.parametrize(
    ("count", "width", "channels"), [(24, 1.0, 24), (24, 0.125, 8), (144, 0.25, 32), (48, 0.3, 16)]
)
def test_scaled_channels_are_multiples_of_eight(count: int, width: float, channels: int) -> None:
    assert scaled(count, width) == channels


def test_the_released_embedding_is_the_mean_over_windows_of_two_time_steps() -> None:
    x = clips(2, (3, 32, 32, 64))
    released, default = (tiny(shape=(3, 32, 32, 64), variant=variant) for variant in ("released", "default"))
    last = maps(released, x)["mixed_5c"].mean(dim=(3, 4))
    with torch.no_grad():
        outputs = released(x)
        by_time = released.head(window_means(maps(released, x)["mixed_5c"]).transpose(1, 2))["action"]
        assert not torch.allclose(default(x).embedding, outputs.embedding)
    assert by_time.shape == (2, 3, 3)
    torch.testing.assert_close(outputs.embedding, (last[:, :, :-1] + last[:, :, 1:]).mean(2) / 2)
    torch.testing.assert_close(outputs.logits["action"], by_time.mean(1))


def test_both_variants_are_one_for_two_time_steps_and_released_needs_two() -> None:
    with torch.no_grad():
        released, default = (tiny(variant=variant)(clips()).embedding for variant in ("released", "default"))
    torch.testing.assert_close(released, default)
    with pytest.raises(ModelError, match=r"cannot take inputs of shape \(3, 8, 32, 32\)"):
        tiny(shape=(3, 8, 32, 32), variant="released")


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_normalisation_keeps_its_statistics_while_training(frozen: bool) -> None:
    network = tiny(frozen_bn=frozen).train()
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    network(clips(2)).logits["action"].sum().backward()
    same = [torch.equal(value, network.state_dict()[key]) for key, value in before.items()]
    assert same == [frozen] * len(before)
    assert network.dropout.training
    assert all(p.grad is not None for p in network.parameters())


def kinetics_file(network: Network, path: Path, root: str) -> str:
    """This network's weights with the published keys and a classifier of 400 classes."""
    back = {new: old for old, new in PUBLISHED_PREFIXES.items() if new and old.startswith(ROOTS[1]) == bool(root)}
    state = {f"{root}logits.conv3d.weight": torch.zeros(400, network.embedding_dim, 1, 1, 1)}
    for key, value in network.state_dict().items():
        for new, old in back.items():
            if key.startswith(new):
                state[old + key.removeprefix(new)] = value
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("root", ROOTS)
def test_a_student_starts_from_a_published_teacher(root: str, tmp_path: Path) -> None:
    teacher = tiny()
    student = tiny("i3d_topheavy", weights=kinetics_file(teacher, tmp_path / "rgb_imagenet.pt", root))
    ours, theirs = student.state_dict(), teacher.state_dict()
    for key in ours:
        if key.startswith("backbone."):
            same = theirs[key]
            if same.shape != ours[key].shape:
                middle = same.shape[2] // 2
                same = same[:, :, middle : middle + 1]
            assert torch.equal(ours[key], same), key


def test_a_student_with_summed_taps_answers_still_clips_as_its_teacher(tmp_path: Path) -> None:
    """In the middle of time: the teacher's kernels see zeros before and behind the clip."""
    teacher = tiny(shape=(3, 64, 32, 32))
    save_weights(teacher, tmp_path / "teacher.safetensors")
    student = tiny("i3d_topheavy", (3, 64, 32, 32), weights=str(tmp_path / "teacher.safetensors"), taps="sum")
    still = clips()[:, :, :1].expand(-1, -1, 64, -1, -1)
    ours, theirs = (maps(network, still)["mixed_4c"] for network in (student, teacher))
    torch.testing.assert_close(ours[:, :, 7:9], theirs[:, :, 7:9], atol=1e-5, rtol=1e-3)


def test_flow_starts_from_rgb_and_i3d_from_its_student(tmp_path: Path) -> None:
    source = tiny("i3d_topheavy")
    save_weights(source, tmp_path / "rgb.safetensors")
    flow = tiny(shape=(2, 16, 32, 32), weights=str(tmp_path / "rgb.safetensors"))
    stem = "backbone.stages.conv3d_1a_7x7.conv3d.weight"
    ours, theirs = flow.get_parameter(stem), source.get_parameter(stem)
    torch.testing.assert_close(ours.sum(dim=(1, 2)), theirs.sum(dim=(1, 2)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("around", ["attended", "anchor_detector"])
def test_it_starts_from_a_network_that_has_it_as_its_trunk(tmp_path: Path, around: str) -> None:
    options: dict[str, Any] = {"trunk": "i3d", "trunk_options": {"width": 0.125}, "attention": "pooled"}
    if around == "anchor_detector":
        options |= {"maps": ["mixed_4f", "mixed_5c"], "width": 16, "levels": 3}
    shape = (2, 3, 32, 32, 32) if around == "anchor_detector" else (3, 16, 32, 32)
    source = build_network(around, shape, {"action": 3}, options)
    save_weights(source, tmp_path / "around.safetensors")
    found = tiny(weights=str(tmp_path / "around.safetensors")).backbone.state_dict()
    wanted = source.backbone.trunk.state_dict()  # type: ignore[union-attr,operator]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_weights_of_another_width_are_refused_by_their_keys(tmp_path: Path) -> None:
    save_weights(tiny(), tmp_path / "eighth.safetensors")
    with pytest.raises(CheckpointError, match=r"Inception3d: \d+ of another shape \(stages\.conv3d_1a_7x7\.conv3d"):
        tiny(weights=str(tmp_path / "eighth.safetensors"), width=0.25)


def test_wrong_inputs_and_options_are_refused() -> None:
    with pytest.raises(ModelError, match="'i3d_topheavy' takes image-like inputs"):
        build_network("i3d_topheavy", (8, 60), HEADS)
    with pytest.raises(RecipeError, match=r"'widht'.*'width'"):
        build_network("i3d", (3, 8, 32, 32), HEADS, {"widht": 1.0})
    with pytest.raises(RecipeError, match="'width'"):
        build_network("i3d", (3, 8, 32, 32), HEADS, {"width": 0.0})


@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_maps_for_any_batch_and_holds_no_infinity(tmp_path: Path) -> None:
    """A stage of each kind, to be quick. Infinite padding would make int8 copies of the graph constant."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    kinds = ("conv3d_1a_7x7", "maxpool3d_2a_3x3", "conv3d_2c_3x3", "maxpool3d_4a_3x3", "mixed_3b.b3a")
    stages = nn.Sequential(*(tiny().get_submodule(f"backbone.stages.{kind}") for kind in kinds))
    x = clips(3, (3, 8, 12, 18))
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(stages, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (made,) = session.run(None, {session.get_inputs()[0].name: x[:count].numpy()})
        np.testing.assert_allclose(made, stages(x[:count]).detach().numpy(), atol=1e-5)
    constants = [value.const_value for value in program.model.graph.initializers.values()]
    assert all(np.isfinite(value.numpy()).all() for value in constants if value is not None)
