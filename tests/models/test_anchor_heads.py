"""The heads of an anchor-free detector."""

from __future__ import annotations

import pytest
import torch

from vidistill.models.anchor_heads import AnchorHeads

SHAPES = [(6, 8, 3, 3), (10, 4, 2, 2)]


def heads(**options: object) -> AnchorHeads:
    torch.manual_seed(0)
    return AnchorHeads(SHAPES, classes=5, width=8, levels=3, frames=32, **options)


def maps(grad: bool = False) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(2, *shape, generator=random).requires_grad_(grad) for shape in SHAPES]


def test_every_anchor_of_every_level_answers() -> None:
    answers = heads()(maps())
    assert {name: tuple(value.shape) for name, value in vars(answers).items()} == {
        "loc": (2, 14, 2),
        "conf": (2, 14, 5),
        "prop_loc": (2, 14, 2),
        "prop_conf": (2, 14, 5),
        "center": (2, 14, 1),
        "priors": (14,),
        "start": (2, 4, 32),
        "end": (2, 4, 32),
        "start_loc_prop": (2, 8, 8),
        "end_loc_prop": (2, 8, 8),
        "start_conf_prop": (2, 8, 8),
        "end_conf_prop": (2, 8, 8),
        "proposals": (2, 14, 8),
    }
    assert answers.priors[[0, 8, 12]].tolist() == [1 / 16, 1 / 8, 1 / 4]


def test_new_heads_see_segments_of_about_two_frames_and_know_no_class() -> None:
    answers = heads()(maps())
    assert ((answers.loc > 0.5) & (answers.loc < 2)).all()
    assert (answers.conf.softmax(-1) - 1 / 5).abs().max() < 0.1


def test_the_coarse_answers_alone_are_the_same() -> None:
    network = heads()
    answers, coarse = network(maps()), network.coarse(maps())
    assert torch.equal(answers.loc, coarse.loc)
    assert torch.equal(answers.conf, coarse.conf)


def test_the_scale_of_a_level_moves_its_distances_only() -> None:
    network = heads()
    torch.nn.init.ones_(network.loc_head.bias)
    before = network(maps()).loc
    with torch.no_grad():
        network.scales[1].scale.fill_(2.0)
    ratio = (network(maps()).loc / before).detach()
    assert torch.equal(ratio[:, :8], torch.ones(2, 8, 2))
    assert torch.equal(ratio[:, 12:], torch.ones(2, 2, 2))
    torch.testing.assert_close(ratio[:, 8:12], before[:, 8:12].detach())  # exp(2x) / exp(x)


@pytest.mark.parametrize("name", ["prop_loc", "prop_conf", "center"])
def test_a_refinement_learns_by_both_maps_but_not_through_the_coarse_distances(name: str) -> None:
    network, leaves = heads(), maps(grad=True)
    getattr(network(leaves), name).square().sum().backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for leaf in leaves)
    assert network.loc_head.weight.grad is None
    assert network.scales[0].scale.grad is None


def test_the_released_variant_has_the_same_answers_and_other_gradients() -> None:
    found = []
    for variant in ("default", "released"):
        leaves = maps(grad=True)
        answers = heads(variant=variant)(leaves)
        answers.prop_conf.square().sum().backward()
        found.append((answers.prop_conf.detach(), leaves[0].grad))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])
