"""Checks of the video networks of the adaptive and the ensemble systems: SlowFast, TPN, Video Swin.

Every option of ours is read from the published shapes and the json's call; all weights pass through the key maps that
`vidistill import --published slowfast` (`tpn`, `video_swin`) uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn

from vidistill.models import Network, build_network
from vidistill.models.inflated_resnet import Bottleneck3d
from vidistill.models.published import load_published, published_keys
from vidistill.models.slowfast import LATERALS

State = dict[str, Tensor]
Shapes = Mapping[str, list[int]]
HEAD = "action"
INDEX = "relative_position_index"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def published(shapes: Shapes) -> State:
    """The weights that the published network was filled with; integer index buffers are computed, not filled."""
    filled = {key: tuple(shape) for key, shape in shapes.items() if not key.endswith(INDEX)}
    return {key: torch.from_numpy(np.asarray(fill.value(key, shape))) for key, shape in filled.items()}


def blocks(shapes: Shapes, stage: str) -> int:
    """How many blocks the stage with this published prefix has."""
    return len({found[1] for key in shapes if (found := re.match(rf"{re.escape(stage)}\.(\d+)\.", key))})


def check_parameters(component: Component, network: Network, system: str) -> None:
    """The count that the json states; what the key map drops was counted too."""
    shapes: Shapes = component.meta["state"]
    stated = re.search(r"[Pp]arameters (\d+)|(\d+) parameters", component.text)
    keys = published_keys(system, network)
    learned = [key for key in shapes if not re.search(rf"running_(mean|var)|num_batches|{INDEX}", key)]
    dropped = sum(int(np.prod(shapes[key])) for key in learned if keys(key) is None)  # type: ignore[operator]
    ours = sum(value.numel() for value in network.parameters())
    assert stated is None or ours + dropped == int(stated[1] or stated[2])


def mean_over(x: Tensor, kept: int) -> Tensor:
    """The mean over the axes after the first `kept`."""
    return x.mean(dim=tuple(range(kept, x.dim()))) if x.dim() > kept else x


def outputs_of(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """A dictionary that the next forward pass fills with what these modules give, by name."""
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        return lambda _module, _inputs, output: seen.update({name: output})

    for name, module in modules:
        module.register_forward_hook(keeper(name))
    return seen


@checks("adaptive/block_bottleneck*")
def check_block(component: Component) -> None:
    """Blocks keep the published names."""
    call, shapes = component.meta["call"], component.meta["state"]
    projected = "downsample.0.weight" in shapes
    block = Bottleneck3d(call["inplanes"], call["planes"], call["strides"], call["head_conv"], projected)
    block.load_state_dict(published(shapes))
    with torch.no_grad():
        component.compare("out_y", block.eval()(torch.from_numpy(component["in_x"])))


def slowfast_options(component: Component) -> dict[str, Any]:
    """Options of our `slowfast` for the published network of these shapes."""
    shapes: Shapes = component.meta["state"]
    call = component.meta["call"]
    # Published networks of any other stride of the slow path cannot run.
    assert call.get("slow_temporal_stride", 2 * call["alpha"]) // 2 == call["alpha"]
    layers = [blocks(shapes, f"slow_res{stage}") for stage in (2, 3, 4, 5)]
    assert "layers" not in call or layers == call["layers"]
    kernels = [shapes[f"slow_res4.{index}.conv1.weight"][2] for index in range(layers[2])]
    width = shapes["slow_conv1.weight"][0]
    return {
        "layers": layers,
        "alpha": call["alpha"],
        "fusion_kernel": shapes["lateral_p1.0.weight"][2],
        "time_blocks": sum(kernel == 3 for kernel in kernels),
        "width": width,
        "beta_inv": width // shapes["fast_conv1.weight"][0],
    }


@checks("adaptive/model_slowfast*")
def check_slowfast(component: Component) -> None:
    shapes: Shapes = component.meta["state"]
    x = torch.from_numpy(component["in_x"])
    classes = {HEAD: shapes["fc.weight"][0]}
    network = build_network("slowfast", tuple(x.shape[1:]), classes, slowfast_options(component)).eval()
    load_published(network, "slowfast", published(shapes))
    check_parameters(component, network, "slowfast")
    laterals = outputs_of((name, network.get_submodule(f"backbone.laterals.{name}")) for name in LATERALS)
    with torch.no_grad():
        outputs = network(x)
    slow = shapes["fc.weight"][1] - 32 * shapes["fast_conv1.weight"][0]
    found = {
        "logits": outputs.logits[HEAD],
        "feat": outputs.embedding,
        "slow": outputs.embedding[:, :slow],
        "fast": outputs.embedding[:, slow:],
    }
    found |= {f"lateral{index}_chanmean": mean_over(laterals[name], 3) for index, name in enumerate(LATERALS)}
    compare_all(component, found)


@checks("adaptive/model_tpn*")
def check_tpn(component: Component) -> None:
    shapes: Shapes = component.meta["state"]
    scales = set(component.meta["call"]["temporal_scales"])
    layers = [blocks(shapes, f"layer{stage}") for stage in (1, 2, 3, 4)]
    options = {"layers": layers, "temporal_scale": scales.pop(), "width": shapes["conv1.weight"][0]}
    assert not scales
    x = torch.from_numpy(component["in_x"])
    network = build_network("tpn", tuple(x.shape[1:]), {HEAD: shapes["fc.weight"][0]}, options).eval()
    load_published(network, "tpn", published(shapes))
    check_parameters(component, network, "tpn")
    found: dict[str, Tensor] = {}
    for key in component.arrays:  # in_x, in_x16f, …: out_logits16f belongs to in_x16f
        if key.startswith("in_x"):
            suffix = key.removeprefix("in_x")
            with torch.no_grad():
                outputs = network(torch.from_numpy(component[key]))
            width = outputs.embedding.shape[1]
            found |= {f"logits{suffix}": outputs.logits[HEAD], f"feat{width}{suffix}": outputs.embedding}
    compare_all(component, found)


def compare_all(component: Component, found: Mapping[str, Tensor]) -> None:
    """Each output of the component with ours of the same name; one that we do not have stays unsettled, and fails."""
    for match in component.outputs():
        if (name := match[0].removeprefix("out_")) in found:
            component.compare(match[0], found[name])


def build_swin(shapes: Shapes, input_shape: tuple[int, ...], classes: dict[str, int]) -> Network:
    """Our Video Swin of the published size, T where the json abbreviates; published: the index of clipped windows."""
    stages = ("features.4", "layers.2.blocks", "backbone.layers.2.blocks")
    deep = any(blocks(shapes, stage) == 18 for stage in stages)
    width = next(shape[0] for key, shape in shapes.items() if key.endswith("patch_embed.proj.weight"))
    size = "b" if width == 128 else "s" if deep else "t"
    return build_network(f"swin3d_{size}", input_shape, classes, {"variant": "released"}).eval()


@checks("adaptive/model_videoswin*")
def check_swin(component: Component) -> None:
    shapes: Shapes = component.meta["state"]
    x = torch.from_numpy(component["in_x"])
    network = build_swin(shapes, tuple(x.shape[1:]), {HEAD: shapes["head.weight"][0]})
    load_swin(network, shapes)
    check_parameters(component, network, "video_swin")
    with torch.no_grad():
        outputs = network(x)
    compare_all(component, {"logits": outputs.logits[HEAD], "feat": outputs.embedding})


def load_swin(network: Network, shapes: Shapes) -> None:
    """The published weights with our index buffers, which are the same numbers in every Video Swin."""
    keys, own = published_keys("video_swin", network), network.state_dict()
    indices = {key: own[keys(key)] for key in shapes if key.endswith(INDEX)}  # type: ignore[operator, index]
    load_published(network, "video_swin", {**published(shapes), **indices})


def whole_shapes(shapes: Shapes, network: Network) -> Shapes:
    """`shapes` with what the json leaves out of the authors' backbone, under the authors' keys."""
    state = network.get_submodule("backbone.trunk").state_dict()
    return {**{f"backbone.{authors_key(key)}": list(value.shape) for key, value in state.items()}, **shapes}


def authors_key(key: str) -> str:
    """torchvision's key as the authors of Video Swin have it."""
    if found := re.match(r"features\.(\d)\.", key):
        index = int(found[1])
        part = "downsample" if index % 2 else "blocks"
        key = f"layers.{index // 2}.{part}.{key.removeprefix(found[0])}"
    return key.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")


@checks("ensemble/swin_model_*")
def check_ensemble_swin(component: Component) -> None:
    """The ensemble's classifier normalises inside, per channel; ours is given the normalised clip."""
    shapes: Shapes = component.meta["state"]
    classes = {
        key.split(".")[1].lower(): s[0] for key, s in shapes.items() if re.match(r"classifiers\.\w+\.weight", key)
    }
    x = ensemble_clip(component)
    network = build_swin(shapes, tuple(x.shape[1:]), classes)
    load_swin(network, whole_shapes(shapes, network))
    trunk = network.get_submodule("backbone.trunk")
    inner = ("patch_embed", "norm", *(f"features.{index}" for index in range(7)))
    seen = outputs_of((path, trunk.get_submodule(path)) for path in inner)
    with torch.no_grad():
        outputs = network(x)
    maps = {path: value.permute(0, 4, 1, 2, 3) for path, value in seen.items()}  # ours are channels last
    found = {name.upper(): logits for name, logits in outputs.logits.items()}
    found |= {"backbone": maps["norm"], "patch_embed_mean_hw": mean_over(maps["patch_embed"], 3)}
    for stage in range(4):
        after = maps[f"features.{min(2 * stage + 1, 6)}"]  # a published stage ends with its downsampling
        found |= {f"stage{stage}_mean_hw": mean_over(after, 3), f"stage{stage}": mean_over(after, 2)}
    compare_all(component, found)


def ensemble_clip(component: Component) -> Tensor:
    """Normalised clips (B, 3, T, H, W) from [0, 1] video (b, clips, T, 3, H, W) or one spectrogram channel."""
    if "in_video" in component:
        mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in IMAGENET)
        return (torch.from_numpy(component["in_video"]).flatten(0, 1).transpose(1, 2) - mean) / std
    number = r"(-?[\d.]+\d)"
    mean, std = component.number(rf"mean {number}"), component.number(rf"std {number}")
    channel = next(value for key, value in component.arrays.items() if key.startswith("in_"))
    spectrogram = torch.from_numpy(channel).expand(3, *channel.shape)[None]
    return (spectrogram - mean) / std
