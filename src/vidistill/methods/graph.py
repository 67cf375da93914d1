"""Graph distillation: for each clip, learned edges say which teachers to imitate.

Luo, Hsieh, Jiang, Niebles, Fei-Fei: Graph Distillation for Action Detection with Privileged Modalities, ECCV 2018,
arXiv 1712.00108.

    z_m      = [ W_logit s_m + b ; W_repr r_m + b ]
    e_jk     = W_edge [ z_k ; z_j ] + b
    G_jk[b]  = softmax over j of  alpha * e_jk[b]                    the teachers j that saw clip b
    p_j      = softmax over j of  w_j / 0.25
    L_reg    = lambda * sum_j ( mean_b G_jk[b] - p_j )^2             a loss of the batch: one value for all clips
    L_logit_b = w_0 * sum_j (G_jk[b] + p_j) * d( s_k[b], s_j[b] )    mean over heads of d
    L_repr_b  = w_1 * sum_j (G_jk[b] + p_j) * d( r_k[b], r_j[b] )

    symbol            here                             meaning
    k, j              receiver, senders                the student; its teachers
    s, r              logits, embedding                (B, C), (B, D)
    W_*               Kernel (graph_kernel.py)         from_logits, from_embedding, edge; discarded after training
    alpha             alpha                            1/8
    w_j, p_j          prior                            weights of teachers before learning
    lambda, w_0, w_1  regulariser, logits, embeddings  10, 10, 1
    d                 metric (distances.py)            the target s_j or r_j never gets a gradient

`mutual: true` is the full graph: networks of teachers become peers that learn too, every peer receives edges from all
other networks by a kernel of its own, and learns from labels as the student does.

Deviations:
- The kernel's inputs carry no gradient: edges train the kernel, distances train the student. In the released code
  edges also differentiate into the networks' outputs, teachers' included; `variant: released` keeps the gradient into
  the student. With the published linear kernel that one is zero but for rounding: z_k adds the same to e_jk for all j
  and cancels in the softmax, so edges depend on the teachers' outputs alone.
- Teachers are frozen, in eval mode; the released code leaves their dropout and batch statistics on.
- A teacher that did not see a clip has no edge there, the others share its part, and the regulariser compares means
  over the clips that each teacher saw.
- Where embeddings differ in size, a learned linear map goes from the student's to each teacher's, and the kernel reads
  each network through a map of its own; the published code needs equal sizes.
- `metric: kl` sums over classes. `variant: released` takes the mean over classes, as the published function does; in
  the released loss it raises an error.
- The released code has edges into one student only; the paper speaks of edges among all modalities. One kernel a
  receiver is our reading of it, and a peer's label loss is the plain cross-entropy, averaged over heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import RecipeError
from vidistill.core.registry import nearest
from vidistill.core.types import Batch, Loss, Losses, Outputs
from vidistill.methods.base import METHODS, Method, MethodContext, Temperature, Weight, masked, module_key, precise
from vidistill.methods.distances import Metric, row_distance
from vidistill.methods.graph_kernel import Distance, GraphTerms, Kernel, Node, frozen_node, graph_terms

STUDENT = "student"
PriorWeight = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Receiver(nn.Module):
    """One receiving network of the graph: the kernel of the edges into it, their prior, and maps between sizes.

    Args:
        name: the receiver.
        dims: size of the embedding by network; all but the receiver are senders.
        prior: weight by sender, before the softmax.
        classes: number of classes, all heads together.
        size: width of each half of the kernel's messages.
        projection: "auto" maps the receiver's embedding to a sender's size where the sizes differ, "linear" always,
            "none" never.
        distance: of logits and of embeddings.
        alpha: factor of the scores.
        detach: whether the kernel's inputs carry no gradient.

    Raises:
        RecipeError: `projection: none` with embeddings of different sizes.
    """

    def __init__(
        self,
        name: str,
        dims: Mapping[str, int],
        prior: Mapping[str, float],
        classes: int,
        size: int,
        projection: Literal["auto", "linear", "none"],
        distance: Distance,
        alpha: float,
        detach: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.senders = tuple(sender for sender in dims if sender != name)
        self.distance, self.alpha, self.detach = distance, alpha, detach
        self.prior: Tensor
        self.register_buffer("prior", torch.tensor([prior[sender] for sender in self.senders]), persistent=False)
        self.kernel = Kernel(classes, dims, size)
        self.projections = nn.ModuleDict()
        for sender in self.senders:
            differ = dims[sender] != dims[name]
            if projection == "none" and differ:
                raise RecipeError(
                    f"'projection: none' needs embeddings of one size; {name!r} has {dims[name]}, "
                    f"{sender!r} has {dims[sender]}",
                    todo="Use 'projection: auto'.",
                )
            mapped = projection == "linear" or (projection == "auto" and differ)
            self.projections[module_key(sender)] = nn.Linear(dims[name], dims[sender]) if mapped else nn.Identity()

    def forward(self, nodes: Mapping[str, Node], masks: Mapping[str, Tensor]) -> GraphTerms:
        """The terms into this receiver. `masks` (B,) bool by network: the clips for which it answers."""
        return graph_terms(
            self.kernel,
            nodes[self.name],
            [frozen_node(nodes[sender]) for sender in self.senders],
            torch.stack([masks[sender] & masks[self.name] for sender in self.senders]),
            self.prior,
            self.distance,
            alpha=self.alpha,
            detach=self.detach,
            projections={key: self.projections[key] for key in map(module_key, self.senders)},
        )


@METHODS.register("graph")
class Graph(Method):
    """Imitation of several teachers, weighed for each clip by learned edges.

    Args:
        context: the networks.
        weight: factor of all terms but a peer's label loss.
        regulariser: factor of the term that keeps mean edges near the prior (lambda).
        logits: factor of the imitation of logits (w_0).
        embeddings: factor of the imitation of embeddings (w_1).
        metric: distance of logits and of embeddings.
        temperature: of `metric: kl`.
        alpha: factor of the kernel's scores; small values keep edges near uniform.
        kernel_size: width of each half of the kernel's messages.
        kernel_learning_rate_scale: the kernel's learning rate as a factor of the student's.
        prior: "uniform"; "validation" takes each teacher's accuracy on the validation part as its weight; or a weight a
            teacher. In the full graph the student may have one too (`student`); without, it weighs as teachers do on
            average.
        projection: "auto" learns a linear map from the student's embedding to a teacher's where sizes differ, "linear"
            always, "none" never.
        teachers: which teachers; none named means all.
        heads: which heads; none named means all.
        mutual: the full graph: networks of teachers learn along with the student.
        peers: which teachers learn along; none named means all. The others stay frozen and teach the peers too.
        peer_label: factor of the peers' label loss.
        variant: "default", or "released" for the released code's gradients and `kl`.

    Raises:
        RecipeError: a prior that lacks a teacher, accuracies that were not measured, sizes that do not fit, peers that
            cannot be.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        weight: Weight = 1.0,
        regulariser: Weight = 10.0,
        logits: Weight = 10.0,
        embeddings: Weight = 1.0,
        metric: Metric = "cosine",
        temperature: Temperature = 8.0,
        alpha: Weight = 0.125,
        kernel_size: Annotated[int, Field(ge=1)] = 32,
        kernel_learning_rate_scale: Positive = 1.0,
        prior: Literal["uniform", "validation"] | dict[str, PriorWeight] = "uniform",
        projection: Literal["auto", "linear", "none"] = "auto",
        teachers: tuple[str, ...] = (),
        heads: tuple[str, ...] = (),
        mutual: bool = False,
        peers: tuple[str, ...] = (),
        peer_label: Weight = 1.0,
        variant: Literal["default", "released"] = "default",
    ) -> None:
        super().__init__(context)
        self.weights = (weight * regulariser, weight * logits, weight * embeddings)
        self.peer_label = peer_label
        self.learning_rate_scale = kernel_learning_rate_scale
        self.teachers = self.check_teachers(teachers)
        self.heads = self.check_heads(heads)
        if STUDENT in self.teachers:
            raise RecipeError(f"a teacher of this method may not be called {STUDENT!r}", todo="Give it another name.")
        if mutual:
            self._add_peers(peers or self.teachers)
        elif peers:
            raise RecipeError("'peers' belong to the full graph", todo="Set 'mutual: true'.")
        released = variant == "released"
        make = partial(
            Receiver,
            dims={STUDENT: context.student_dim, **{name: context.teacher_dims[name] for name in self.teachers}},
            prior=self._prior(prior, mutual),
            classes=sum(context.classes[head] for head in self.heads),
            size=kernel_size,
            projection=projection,
            distance=partial(row_distance, metric=metric, temperature=temperature, element_mean=released),
            alpha=alpha,
            detach=not released,
        )
        self.receivers = nn.ModuleDict({module_key(name): make(name) for name in (STUDENT, *self.peer_inputs)})

    def forward(self, student: Outputs, teachers: dict[str, Outputs], batch: Batch) -> Losses:
        """The terms "graph_regulariser" (of the batch), "graph_logits" and "graph_embeddings".

        Watched only, with weight 0: the edges "edge/<teacher>", 0 where the teacher is absent. In the full graph also
        "graph_peer_regulariser", "graph_peer_logits" and "graph_peer_embeddings", summed over the peers,
        "graph_peer_label", and the edges "peer_edge/<peer>/<sender>".
        """
        everyone = torch.ones(len(batch), dtype=torch.bool, device=batch.clip.device)
        masks = {STUDENT: everyone, **{name: self.teacher_mask(name, batch) for name in self.teachers}}
        nodes = {STUDENT: self._node(STUDENT, student)}
        nodes |= {name: self._node(name, teachers[name]) for name in self.teachers}
        terms = self._receive(STUDENT, nodes, masks)
        losses = self._losses("graph", [terms]) | self._edges("edge", STUDENT, terms)
        if self.peer_inputs:
            into = {name: self._receive(name, nodes, masks) for name in self.peer_inputs}
            losses |= self._losses("graph_peer", list(into.values()))
            labelled = [masked(self._label_loss(teachers[name], batch), masks[name]) for name in self.peer_inputs]
            losses["graph_peer_label"] = Loss(torch.stack(labelled).sum(0), self.peer_label, distillation=False)
            for name, received in into.items():
                losses |= self._edges(f"peer_edge/{name}", name, received)
        return losses

    def _node(self, name: str, outputs: Outputs) -> Node:
        return Node(name, tuple(outputs.logits[head] for head in self.heads), outputs.embedding)

    def _receive(self, name: str, nodes: Mapping[str, Node], masks: Mapping[str, Tensor]) -> GraphTerms:
        terms: GraphTerms = self.receivers[module_key(name)](nodes, masks)
        return terms

    def _losses(self, prefix: str, received: list[GraphTerms]) -> Losses:
        """The three terms, summed over receivers."""
        logits = torch.stack([terms.logits for terms in received]).sum(0)
        embeddings = torch.stack([terms.embeddings for terms in received]).sum(0)
        regulariser = torch.stack([terms.regulariser for terms in received]).sum().expand(len(logits))
        return {
            f"{prefix}_regulariser": Loss(regulariser, self.weights[0], per_clip=False),
            f"{prefix}_logits": Loss(logits, self.weights[1]),
            f"{prefix}_embeddings": Loss(embeddings, self.weights[2]),
        }

    def _edges(self, prefix: str, receiver: str, terms: GraphTerms) -> Losses:
        """Edges as terms of weight 0."""
        senders = [name for name in (STUDENT, *self.teachers) if name != receiver]
        # 0 * NaN is NaN: what is only watched must not be able to spoil the loss. Where an edge is not finite the
        # terms above are not either, and the loop says so.
        values = torch.nan_to_num(terms.edges.detach(), nan=0.0)
        return {f"{prefix}/{name}": Loss(edge, 0.0) for name, edge in zip(senders, values, strict=True)}

    def _label_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy (B,), mean over heads; 0 where a label is -1 (absent)."""
        values = [
            functional.cross_entropy(precise(outputs.logits[h]), batch.labels[h], reduction="none", ignore_index=-1)
            for h in self.heads
        ]
        return torch.stack(values).mean(0)

    def _add_peers(self, names: tuple[str, ...]) -> None:
        """Trainable copies of teachers as peers."""
        learner = self.context.learner
        if learner is None:
            raise RecipeError("'mutual: true' needs networks that can learn along, and there are none here")
        for name in names:
            if name not in self.teachers:
                raise RecipeError(f"'peers': no teacher {name!r} in this method", todo=nearest(name, self.teachers))
            self.peers[module_key(name)] = learner(name).requires_grad_(True)
            self.peer_inputs[name] = self.context.teacher_inputs[name]

    def _prior(self, prior: str | dict[str, float], mutual: bool) -> dict[str, float]:
        """Weight by sender, the student's too."""
        if prior == "uniform":
            return dict.fromkeys((STUDENT, *self.teachers), 1.0)
        given = self.context.teacher_accuracy if isinstance(prior, str) else prior
        if not given:
            raise RecipeError(
                "'prior: validation' needs the teachers' accuracy on the validation part, which was not measured"
                if prior == "validation"
                else "'prior' names no teacher",
                todo="Use 'prior: uniform' or give a weight a teacher.",
            )
        missing = [name for name in self.teachers if name not in given]
        if missing:
            raise RecipeError(f"'prior' has no weight for teacher {missing[0]!r}", todo="Give every teacher one.")
        if isinstance(prior, dict):
            known = (*self.teachers, *([STUDENT] if mutual else []))
            for name in prior:
                if name not in known:
                    raise RecipeError(f"'prior': no teacher {name!r} in this method", todo=nearest(name, known))
        weights = {name: given[name] for name in self.teachers}
        return {STUDENT: given.get(STUDENT, sum(weights.values()) / len(weights)), **weights}
