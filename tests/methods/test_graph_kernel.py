"""The learned kernel and the terms of one receiver, against the equations written out in NumPy with loops."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from vidistill.methods.distances import row_distance
from vidistill.methods.graph_kernel import Kernel, Node, graph_terms, present_softmax, regulariser, softmax_prior

CLASSES, DIM, ROWS = 5, 6, 7
NAMES = ("k", "a", "b", "c")


def nodes(grad: bool = False) -> list[Node]:
    torch.manual_seed(1)
    return [
        Node(name, (torch.randn(ROWS, CLASSES, requires_grad=grad),), torch.randn(ROWS, DIM, requires_grad=grad))
        for name in NAMES
    ]


def kernel(size: int = 3, **dims: int) -> Kernel:
    torch.manual_seed(2)
    return Kernel(CLASSES, dims or dict.fromkeys(NAMES, DIM), size)


def terms(present: torch.Tensor, made: list[Node], weights: torch.Tensor | None = None, **options):
    made_kernel = options.pop("kernel", None) or kernel()
    prior = torch.ones(3) if weights is None else weights
    distance = partial(row_distance, metric=options.pop("metric", "l2"))
    return graph_terms(made_kernel, made[0], made[1:], present, prior, distance, **options)


EVERYONE = torch.ones(3, ROWS, dtype=torch.bool)


def test_terms_are_those_of_the_equations() -> None:
    weights = np.array([1.0, 2.0, 1.5])
    made, made_kernel = nodes(), kernel()
    ours = terms(EVERYONE, made, torch.tensor(weights, dtype=torch.float32), kernel=made_kernel, alpha=0.5)
    state = {key: value.numpy().astype(np.float64) for key, value in made_kernel.state_dict().items()}
    logits = [node.logits[0].numpy().astype(np.float64) for node in made]
    embeddings = [node.embedding.numpy().astype(np.float64) for node in made]

    def message(m: int, i: int) -> np.ndarray:
        by_logits = state["from_logits.weight"] @ logits[m][i] + state["from_logits.bias"]
        by_embedding = state["from_embedding.shared.weight"] @ embeddings[m][i] + state["from_embedding.shared.bias"]
        return np.concatenate([by_logits, by_embedding])

    prior = np.exp(weights / 0.25) / np.exp(weights / 0.25).sum()
    edges, by_logits, by_embedding = np.zeros((3, ROWS)), np.zeros(ROWS), np.zeros(ROWS)
    for i in range(ROWS):
        pairs = [np.concatenate([message(0, i), message(j, i)]) for j in (1, 2, 3)]
        scores = np.array([float((state["edge.weight"] @ pair + state["edge.bias"])[0]) for pair in pairs])
        edges[:, i] = np.exp(0.5 * scores) / np.exp(0.5 * scores).sum()
        for j in range(3):
            factor = edges[j, i] + prior[j]
            by_logits[i] += factor * ((logits[0][i] - logits[j + 1][i]) ** 2).sum()
            by_embedding[i] += factor * ((embeddings[0][i] - embeddings[j + 1][i]) ** 2).sum()
    np.testing.assert_allclose(ours.edges.detach(), edges, rtol=1e-5)
    np.testing.assert_allclose(ours.prior[:, 0], prior, rtol=1e-5)
    np.testing.assert_allclose(ours.logits.detach(), by_logits, rtol=1e-5)
    np.testing.assert_allclose(ours.embeddings.detach(), by_embedding, rtol=1e-5)
    np.testing.assert_allclose(ours.regulariser.detach(), ((edges.mean(1) - prior) ** 2).sum(), rtol=1e-5)


def test_edges_and_prior_sum_to_one_over_the_senders_present() -> None:
    present = torch.tensor([[1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 1]], dtype=torch.bool)
    found = terms(present, nodes(), torch.tensor([1.0, 2.0, 1.5]))
    for shares in (found.edges, found.prior):
        assert (shares[~present] == 0).all()
        torch.testing.assert_close(shares.sum(0), present.any(0).float())
    assert found.logits[5] == 0 and found.embeddings[5] == 0  # nobody is present
    assert found.edges[2, 3] == 1  # alone


def test_edges_start_near_uniform() -> None:
    edges = terms(EVERYONE, nodes(), kernel=kernel(size=32)).edges
    assert ((edges > 0.25) & (edges < 0.42)).all()
    assert edges.std() > 0


def test_the_regulariser_compares_means_over_the_rows_that_a_sender_saw() -> None:
    edges = torch.tensor([[0.8, 1.0, 0.6], [0.2, 0.0, 0.4]])
    prior = torch.tensor([[0.5, 1.0, 0.5], [0.5, 0.0, 0.5]])
    present = torch.tensor([[True, True, True], [True, False, True]])
    expected = ((0.3 + 0.0 + 0.1) / 3) ** 2 + ((-0.3 - 0.1) / 2) ** 2
    torch.testing.assert_close(regulariser(edges, prior, present), torch.tensor(expected))


def test_detached_edges_train_the_kernel_alone() -> None:
    made, made_kernel = nodes(grad=True), kernel()
    found = terms(EVERYONE, made, kernel=made_kernel)
    (found.edges.square().sum() + found.regulariser).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made_kernel.edge.parameters() if parameter.ndim > 1)
    assert all(tensor.grad is None for node in made for tensor in (*node.logits, node.embedding))


def test_released_edges_differentiate_into_receiver_and_senders() -> None:
    made = nodes(grad=True)
    terms(EVERYONE, made, detach=False).edges.square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for node in made[1:] for tensor in (*node.logits, node.embedding))
    # The receiver's part of the score is the same for all senders and cancels in the softmax: a linear kernel's edges
    # depend on the senders only.
    assert made[0].embedding.grad.abs().max() < 1e-6


@pytest.mark.parametrize("detach", [True, False])
def test_targets_get_no_gradient_from_the_distances(detach) -> None:
    made = nodes(grad=True)
    found = terms(EVERYONE, made, detach=detach, alpha=0.0)  # edges are constant
    (found.logits + found.embeddings).sum().backward()
    assert made[0].embedding.grad.abs().sum() > 0
    sent = [tensor.grad for node in made[1:] for tensor in (*node.logits, node.embedding)]
    assert all(grad is None or (grad == 0).all() for grad in sent)


def test_what_stands_in_rows_of_an_absent_sender_reaches_nothing() -> None:
    present = EVERYONE.clone()
    present[1, 2:4] = False
    made, made_kernel = nodes(grad=True), kernel()
    before = terms(present, made, kernel=made_kernel)
    with torch.no_grad():
        made[2].embedding[2:4] = torch.nan
        made[2].logits[0][2:4] = torch.inf
    after = terms(present, made, kernel=made_kernel)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (after.logits.sum() + after.embeddings.sum() + after.regulariser).backward()
    assert made[0].embedding.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in made_kernel.parameters())


def test_embeddings_of_other_sizes_are_read_each_through_a_map_of_its_own() -> None:
    made = kernel(k=6, a=4, b=6)
    assert {key: layer.in_features for key, layer in made.from_embedding.items()} == {"of_k": 6, "of_a": 4, "of_b": 6}
    assert list(kernel().from_embedding) == ["shared"]


def test_the_prior_is_a_softmax_at_a_quarter() -> None:
    prior = softmax_prior(torch.tensor([1.0, 2.0, 1.5]), EVERYONE)
    torch.testing.assert_close(prior[:, 0], torch.softmax(torch.tensor([4.0, 8.0, 6.0]), 0))
    assert prior.shape == (3, ROWS)


def test_the_softmax_over_senders_survives_extreme_scores() -> None:
    scores = torch.tensor([[1e30, -1e30], [1e30, 1e30]], requires_grad=True)
    shares = present_softmax(scores, torch.tensor([[True, False], [False, False]]))
    shares.sum().backward()
    torch.testing.assert_close(shares.detach(), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert scores.grad.isfinite().all()
