"""The learned kernel of graph distillation and the three terms of one receiving node, as functions of tensors.

Luo, Hsieh, Jiang, Niebles, Fei-Fei, ECCV 2018, arXiv 1712.00108; the equations and symbols are in `methods/graph.py`.
Shapes: B rows, N senders (the networks that teach the receiver), C classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidistill.methods.base import frozen, module_key, precise

PRIOR_TEMPERATURE = 0.25
"""Softmax temperature of the prior over senders (released code)."""
SHARED = "shared"

Distance = Callable[[Tensor, Tensor], Tensor]
"""(receiver (B, C), sender (B, C)) -> (B,)."""


class Node(NamedTuple):
    """One network of the graph: its name, its logits (B, C) one tensor a head, its embedding (B, D)."""

    name: str
    logits: tuple[Tensor, ...]
    embedding: Tensor


class GraphTerms(NamedTuple):
    """What one receiver learns from its senders, unweighted.

    `edges` and `prior` are (N, B), zero where a sender is absent, and sum to 1 over the senders present. `regulariser`
    is one number for the batch; `logits` and `embeddings` are (B,), zero where no sender is present.
    """

    edges: Tensor
    prior: Tensor
    regulariser: Tensor
    logits: Tensor
    embeddings: Tensor


class Kernel(nn.Module):
    """Scores e_jk of the edges into one receiver: linear maps of logits and embeddings, and a linear map of a pair.

    Args:
        classes: number of classes, all heads together (the heads are read side by side).
        dims: size of the embedding by node, receiver and senders. One map reads all embeddings where the sizes agree;
            otherwise each node has its own.
        size: width of each message half.
    """

    def __init__(self, classes: int, dims: Mapping[str, int], size: int) -> None:
        super().__init__()
        self.shared = len(set(dims.values())) == 1
        by_key = {SHARED: next(iter(dims.values()))} if self.shared else {module_key(n): d for n, d in dims.items()}
        self.from_logits = nn.Linear(classes, size)
        self.from_embedding = nn.ModuleDict({key: nn.Linear(dim, size) for key, dim in by_key.items()})
        self.edge = nn.Linear(4 * size, 1)

    def message(self, node: Node) -> Tensor:
        """Symbol z of a node: (B, 2 * size)."""
        key = SHARED if self.shared else module_key(node.name)
        logits = self.from_logits(torch.cat(node.logits, dim=1))
        return torch.cat([logits, self.from_embedding[key](node.embedding)], dim=1)

    def forward(self, receiver: Node, senders: Sequence[Node]) -> Tensor:
        """Scores (N, B). Autocast is off: edges differ by less than half precision resolves."""
        with torch.autocast(receiver.embedding.device.type, enabled=False):
            theirs = torch.stack([self.message(node) for node in senders])  # (N, B, 2 * size)
            ours = self.message(receiver).expand_as(theirs)
            return self.edge(torch.cat([ours, theirs], dim=2)).squeeze(2)


def present_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores (N, B) over the senders present (N, B) bool; zero where absent, all zero where none is."""
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    return torch.softmax(torch.where(present, scores, lowest), dim=0) * present


def softmax_prior(weights: Tensor, present: Tensor) -> Tensor:
    """Prior p (N, B) from weights (N,): softmax(weights / 0.25), scaled to sum to 1 over the senders present (N, B)."""
    return present_softmax((weights / PRIOR_TEMPERATURE)[:, None].expand(present.shape), present)


def regulariser(edges: Tensor, prior: Tensor, present: Tensor) -> Tensor:
    """sum_j ( mean_i G_jk(i) - p_j(i) )^2 over the rows i in which sender j is present; one number."""
    return ((edges - prior).sum(1) / present.sum(1).clamp(min=1)).square().sum()


def graph_terms(
    kernel: Kernel,
    receiver: Node,
    senders: Sequence[Node],
    present: Tensor,
    prior_weights: Tensor,
    distance: Distance,
    *,
    alpha: float = 0.125,
    detach: bool = True,
    projections: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> GraphTerms:
    """Edges from senders to a receiver and the losses they weigh.

    Args:
        kernel: gives the scores.
        receiver: who learns; gradient flows into it through the distances.
        senders: who teaches; as imitation targets they get no gradient.
        present: (N, B) bool: which sender answers for which row.
        prior_weights: (N,) before the softmax.
        distance: of logits, head by head, and of embeddings.
        alpha: factor of the scores.
        detach: keep the kernel's inputs out of the gradient. False reproduces the released code, in which edges
            differentiate into the receiver's and the senders' logits and embeddings.
        projections: by sender's module key, maps from the receiver's embedding to the sender's size; None: sizes agree.

    Returns:
        The terms, unweighted.
    """
    receiver = _usable(receiver, present.any(0))
    senders = [_usable(node, mask) for node, mask in zip(senders, present, strict=True)]
    reader, read = (_detached(receiver), [_detached(node) for node in senders]) if detach else (receiver, senders)
    edges = present_softmax(alpha * kernel(reader, read), present)
    prior = softmax_prior(prior_weights, present)
    factors = edges + prior
    by_logits = [torch.stack([distance(*pair) for pair in _heads(receiver, node)]).mean(0) for node in senders]
    by_embedding = [
        distance(projections[module_key(node.name)](receiver.embedding) if projections else receiver.embedding, target)
        for node, target in ((node, node.embedding) for node in senders)
    ]
    return GraphTerms(
        edges,
        prior,
        regulariser(edges, prior, present),
        (factors * torch.stack(by_logits)).sum(0),
        (factors * torch.stack(by_embedding)).sum(0),
    )


def frozen_node(node: Node) -> Node:
    """The node safe to differentiate against: no gradient, no inference tensors, at least float32."""
    return Node(node.name, tuple(frozen(values) for values in node.logits), frozen(node.embedding))


def _heads(receiver: Node, sender: Node) -> list[tuple[Tensor, Tensor]]:
    return list(zip(receiver.logits, sender.logits, strict=True))


def _usable(node: Node, mask: Tensor) -> Node:
    """At least float32, and zeros in rows nobody may use: what stands there reaches neither values nor gradients."""

    def kept(values: Tensor) -> Tensor:
        return precise(torch.where(mask[:, None], values, torch.zeros_like(values)))

    return Node(node.name, tuple(kept(values) for values in node.logits), kept(node.embedding))


def _detached(node: Node) -> Node:
    return Node(node.name, tuple(values.detach() for values in node.logits), node.embedding.detach())
