"""`graph_conv`: a light spatial-temporal graph convolution over joints (C, T, J).

After Yan et al. 2018 (ST-GCN): every joint gathers from itself, from its neighbour towards the body's centre and from
those away from it, each with weights of its own; then a convolution over time. Lighter: fewer, narrower blocks and a
depthwise convolution over time.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.modalities.skeleton_layouts import LAYOUTS, Layout, get_layout, layout_for
from vidistill.models.base import Backbone, Features, Network, expect_rank
from vidistill.models.networks import NETWORKS


def adjacency(layout: Layout) -> NDArray[np.float32]:
    """(3, J, J): itself, neighbours nearer to the body's centre, neighbours as far or farther from it.

    `x @ adjacency[k]` for x (..., J) gathers, for every joint, its neighbours of kind k, each divided by the number of
    all its neighbours and itself (Yan et al. 2018, section 3.3, spatial configuration partitioning).
    """
    linked = np.zeros((layout.count, layout.count), dtype=bool)
    for one, other in layout.bones:
        linked[one, other] = linked[other, one] = True
    hops = _hops(linked, layout.root)
    kinds = np.zeros((3, *linked.shape), dtype=np.float32)
    kinds[0] = np.eye(layout.count)
    kinds[1] = linked & (hops[:, None] < hops[None, :])
    kinds[2] = linked & ~(hops[:, None] < hops[None, :])
    shared: NDArray[np.float32] = kinds / kinds.sum(axis=(0, 1), keepdims=True)
    return shared


def _hops(linked: NDArray[np.bool_], root: tuple[int, ...]) -> NDArray[np.int64]:
    """Bones between each joint and the nearest joint of the root; joints without a way to it are farthest."""
    hops = np.full(len(linked), len(linked), dtype=np.int64)
    hops[list(root)] = 0
    for _ in range(len(linked)):
        through = np.where(linked, hops[:, None] + 1, len(linked)).min(axis=0)
        hops = np.minimum(hops, through)
    return hops


class GraphBlock(nn.Module):
    """Gather along the graph's three kinds of edges, then convolve over time, around a shortcut.

    `adjacency` (3, J, J) is fixed; `importance`, of the same shape, learns how much each edge counts.
    """

    adjacency: Tensor

    def __init__(self, inside: int, outside: int, edges: Tensor, stride: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("adjacency", edges.clone())
        self.importance = nn.Parameter(torch.ones_like(edges))
        kinds = len(edges)
        self.mix = nn.Conv2d(inside * kinds, outside, 1, bias=False)
        self.over_joints = nn.BatchNorm2d(outside)
        self.over_time = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, (kernel, 1), (stride, 1), (kernel // 2, 0), groups=outside, bias=False),
            nn.Conv2d(outside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.Dropout(dropout),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, (stride, 1), bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        gathered = [x @ kind for kind in (self.adjacency * self.importance).unbind()]
        body = self.over_time(self.over_joints(self.mix(torch.cat(gathered, dim=1))))
        return torch.relu(body + self.shortcut(x))


class GraphConvolution(Backbone):
    """Normalise each coordinate of each joint, stages of graph blocks, mean over time and joints.

    Feature `stage<n>`: (B, C, T', J); every stage after the first halves T and doubles the channels.
    """

    def __init__(
        self, channels: int, edges: Tensor, width: int, stages: int, depth: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.normalisation = nn.BatchNorm1d(channels * edges.shape[-1])
        self.stages = nn.ModuleDict()
        inside = channels
        for number in range(1, stages + 1):
            outside = width * 2 ** (number - 1)
            blocks = [GraphBlock(inside, outside, edges, 1 if number == 1 else 2, kernel, dropout)]
            blocks += [GraphBlock(outside, outside, edges, 1, kernel, dropout) for _ in range(depth - 1)]
            self.stages[f"stage{number}"] = nn.Sequential(*blocks)
            inside = outside
        self.feature_names = tuple(self.stages)
        self.embedding_dim = inside

    def forward(self, x: Tensor, features: tuple[str, ...] = ()) -> tuple[Tensor, Features]:
        """Embedding (B, D) of joints (B, C, T, J) and the named stages' maps."""
        maps: Features = {}
        batch, channels, frames, joints = x.shape
        x = self.normalisation(x.transpose(2, 3).reshape(batch, channels * joints, frames))
        x = x.reshape(batch, channels, joints, frames).transpose(2, 3)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in features:
                maps[name] = x
        return x.mean(dim=(2, 3)), maps


@NETWORKS.register("graph_conv")
def build_graph_conv(
    input_shape: tuple[int, ...],
    classes: dict[str, int],
    layout: str | None = None,
    width: Annotated[int, Field(ge=4)] = 32,
    stages: Annotated[int, Field(ge=1, le=6)] = 3,
    depth: Annotated[int, Field(ge=1, le=8)] = 1,
    kernel: Annotated[int, Field(ge=1)] = 9,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> Network:
    """A graph convolution over joints (C, T, J).

    Args:
        input_shape: (C, T, J).
        classes: classes by head.
        layout: joints and bones by a name of `modalities.skeleton_layouts`, e.g. `kinect20`; None: by the number J.
        width: channels of the first stage.
        stages: number of stages, `stage1`…; each after the first halves T and doubles the channels.
        depth: blocks a stage.
        kernel: time steps of a convolution; an even number is raised by one.
        dropout: within blocks and on the embedding, while training.

    Raises:
        RecipeError: unknown layout, or none is known with J joints.
        ModelError: the layout has another number of joints.
    """
    expect_rank("graph_conv", input_shape, "C, T, J")
    name = layout or layout_for(input_shape[2])
    graph = get_layout(name, "network 'graph_conv'")
    if graph.count != input_shape[2]:
        fitting = ", ".join(key for key, known in LAYOUTS.items() if known.count == input_shape[2]) or "none"
        raise ModelError(
            f"layout {name!r} has {graph.count} joints, the input {input_shape[2]}",
            where="network 'graph_conv'",
            todo=f"Layouts that fit: {fitting}.",
        )
    edges = torch.from_numpy(adjacency(graph))
    backbone = GraphConvolution(input_shape[0], edges, width, stages, depth, kernel | 1, dropout)
    return Network(backbone, input_shape, classes, dropout)
