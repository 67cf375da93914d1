"""TRX: equal to the definition, tuple by tuple; what it costs and keeps."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidistill.models.episode_heads import build_episode_head
from vidistill.models.trx import Trx, TupleAttention, TupleParts


def make(length: int = 6, width: int = 10, **options: object) -> Trx:
    torch.manual_seed(0)
    head = build_episode_head("trx", length, width, {"projection": 7, **options}).eval()
    assert isinstance(head, Trx)
    return head


def tuples_of(frames: Tensor, size: int) -> Tensor:
    """(tuples, size x D) of one clip (L, D)."""
    return torch.stack([frames[list(places)].flatten() for places in combinations(range(len(frames)), size)])


def by_definition(branch: TupleAttention, size: int, support: Tensor, query: Tensor) -> Tensor:
    """The logit of a query (L, D) for the class of clips (shot, L, D), as the paper writes it."""
    table = branch.positions.table
    asked = tuples_of(query + table, size)
    known = torch.cat([tuples_of(clip + table, size) for clip in support])
    keys, values = (branch.key_normalisation(branch.key(part)) for part in (asked, known))
    attention = (keys @ values.T / keys.shape[1] ** 0.5).softmax(-1)
    return -(branch.value(asked) - attention @ branch.value(known)).square().sum() / len(asked)


@pytest.mark.parametrize("cardinalities", [(1,), (2,), (3,), (2, 3), (6,)])
def test_logits_are_those_of_the_definition(cardinalities: tuple[int, ...]) -> None:
    head = make(cardinalities=cardinalities)
    frames = torch.randn(9, 6, 10, generator=torch.Generator().manual_seed(1))
    support, queries = torch.arange(6).reshape(1, 3, 2), torch.tensor([[6, 7, 8]])
    expected = torch.stack(
        [
            torch.stack(
                [by_definition(branch, size, frames[2 * c : 2 * c + 2], frames[q]) for q in (6, 7, 8) for c in range(3)]
            )
            for branch, size in zip(head.branches, cardinalities, strict=True)
        ]
    )
    torch.testing.assert_close(head(frames, support, queries)[0].flatten(), expected.mean(0), rtol=1e-5, atol=3e-5)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 7), data=st.data())
def test_parts_added_are_the_projection_of_the_tuples_and_folded_weights_sum_the_same(
    length: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, length))
    torch.manual_seed(length * 10 + size)
    parts, linear = TupleParts(length, size), nn.Linear(size * 3, 4)
    frames = torch.randn(2, length, 3)
    kept = parts.project(frames, linear)
    assert kept.shape == (2, size * (length - size + 1), 4)
    expected = torch.stack([linear(tuples_of(clip, size)) for clip in frames])
    torch.testing.assert_close(parts.add(kept), expected)
    weights, vector = torch.rand(2, 1, parts.count), torch.rand(4)
    torch.testing.assert_close(parts.fold(weights) @ kept, weights @ expected)
    torch.testing.assert_close(parts.unfold(kept @ vector), expected @ vector)


def test_prototypes_are_averages_of_the_classs_values() -> None:
    head = make(cardinalities=[2, 3])
    frames = torch.randn(8, 6, 10, generator=torch.Generator().manual_seed(1))
    known = tuple(part[:6].reshape(1, 3, 2, *part.shape[1:]) for part in head.project(frames))
    asked = tuple(part[6:][None] for part in head.project(frames))
    pairs, triples = head.prototypes(known, asked)
    assert (pairs.shape, triples.shape) == ((1, 3, 2, 15, 7), (1, 3, 2, 20, 7))
    values = head.branches[0].parts.add(known[2]).flatten(2, 3)[0]  # (way, shot x tuples, O)
    assert (pairs[0].flatten(1, 2) <= values.amax(1, keepdim=True) + 1e-5).all()
    assert (pairs[0].flatten(1, 2) >= values.amin(1, keepdim=True) - 1e-5).all()


def test_it_has_the_published_parameters_but_for_the_unused_normalisation() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in Trx(8, 2048, chosen).parameters()) for chosen in ((2,), (2, 3))]
    assert sizes == [9_444_096 - 2 * 1152, 23_606_784 - 4 * 1152]


def test_a_clip_costs_a_projection_of_each_frame_a_place_and_not_one_a_tuple() -> None:
    with torch.device("meta"):
        head = Trx(8, 2048).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            head.project(torch.zeros(1, 8, 2048))
    assert counter.get_total_flops() / 2 == 2 * 14 * 2048 * 1152  # published: 2 x 56


def test_dropout_acts_while_training_only() -> None:
    frames = torch.randn(2, 6, 10)
    head = make(dropout=0.5)
    assert torch.equal(head.project(frames)[0], head.project(frames)[0])
    assert not torch.equal(head.train().project(frames)[0], head.eval().project(frames)[0])
    silent = make(dropout=0.0)
    assert torch.equal(silent.train().project(frames)[0], silent.eval().project(frames)[0])


def test_the_order_of_frames_matters() -> None:
    head = make()
    frames = torch.randn(1, 6, 10)
    logits = head(torch.cat([frames, frames.flip(1)]), torch.tensor([[[0]]]), torch.tensor([[0, 1]]))
    assert logits[0, 0, 0] > logits[0, 1, 0]
