from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from vidistill.tasks.anchor_losses import (
    WEIGHTS,
    anchor_losses,
    background_loss,
    boundary_terms,
    segment_terms,
    weighted_sum,
)
from vidistill.tasks.anchor_targets import background_intervals, boundary_maps, match_anchors, match_refined

FRAMES, CLASSES = 64, 4
PRIORS = torch.cat([(torch.arange(steps) + 0.5) / steps for steps in (16, 8, 4)])
A = len(PRIORS)
VARIANTS = pytest.mark.parametrize("variant", ["default", "released"])
SEGMENTS = torch.tensor(
    [
        [[0.1, 0.3, 3], [0.25, 0.7, 1], [0.8, 0.95, 2]],
        [[0.4, 0.9, 1], [0, 0, -1], [0, 0, -1]],
        [[0, 0, -1]] * 3,
    ]
)


def make_outputs(seed: int = 0, clips: int = 3, *, grad: bool = False) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    outputs = {
        "loc": (normal(clips, A, 2) * 0.3 + 2.3).exp(),
        "conf": normal(clips, A, CLASSES + 1),
        "prop_loc": 0.2 * normal(clips, A, 2),
        "prop_conf": normal(clips, A, CLASSES + 1),
        "center": normal(clips, A, 1),
        **{side: normal(clips, 6, FRAMES).relu() for side in ("start", "end")},
        **{f"{side}_{kind}_prop": normal(clips, 6, FRAMES // 4).relu() for side in ("start", "end") for kind in KINDS},
    }
    return {name: values.requires_grad_(grad) for name, values in outputs.items()} | {"priors": PRIORS}


KINDS = ("loc", "conf")


def perfect_outputs(segments: Tensor) -> dict[str, Tensor]:
    matches = match_anchors(PRIORS, segments, frames=FRAMES)
    sure = 40.0 * torch.nn.functional.one_hot(matches.label, CLASSES + 1).float()
    maps = boundary_maps(segments, frames=FRAMES)
    outputs = {"loc": matches.distances, "conf": sure, "prop_loc": torch.zeros_like(matches.distances)}
    outputs |= {"prop_conf": sure, "center": torch.full((len(segments), A), 40.0), "priors": PRIORS[:, None]}
    for number, side in enumerate(("start", "end")):
        outputs[side] = 12 * maps[:, number, None].expand(-1, 6, -1)
        outputs |= {f"{side}_{kind}_prop": outputs[side][..., ::4] for kind in KINDS}
    return outputs


@VARIANTS
def test_perfect_outputs_cost_nothing(variant) -> None:
    terms = anchor_losses(perfect_outputs(SEGMENTS), SEGMENTS, frames=FRAMES, variant=variant)
    assert terms.keys() == WEIGHTS.keys()
    for name, values in terms.items():
        torch.testing.assert_close(values, torch.zeros(3), atol=1e-5, rtol=0, msg=name)


def test_any_other_output_costs_more() -> None:
    perfect = anchor_losses(perfect_outputs(SEGMENTS), SEGMENTS, frames=FRAMES)
    other = anchor_losses(make_outputs(), SEGMENTS, frames=FRAMES)
    for name in WEIGHTS:
        assert (other[name][:2] > perfect[name][:2]).all(), name


@settings(max_examples=20)
@given(st.integers(0, 999), st.permutations(range(3)), st.permutations(range(3)))
def test_orders_of_clips_and_of_segments_mean_nothing(seed, clips, rows) -> None:
    outputs = make_outputs(seed)
    moved = {name: values if name == "priors" else values[clips] for name, values in outputs.items()}
    one = anchor_losses(outputs, SEGMENTS, frames=FRAMES)
    other = anchor_losses(moved, SEGMENTS[clips][:, rows], frames=FRAMES)
    for name, values in one.items():
        torch.testing.assert_close(values[clips], other[name])


def test_a_clips_loss_does_not_depend_on_its_neighbours_unless_released() -> None:
    outputs = make_outputs()
    alone = {name: values if name == "priors" else values[:1] for name, values in outputs.items()}
    one, other = (anchor_losses(each, SEGMENTS[: len(each["loc"])], frames=FRAMES) for each in (alone, outputs))
    for name, values in one.items():
        torch.testing.assert_close(values[0], other[name][0])
    released = segment_terms(outputs, SEGMENTS, frames=FRAMES, variant="released")
    assert not torch.isclose(released["loc"][0], one["loc"][0])


def test_the_mean_of_released_values_is_the_batch_sum_over_the_batch_count() -> None:
    outputs = make_outputs()
    own, released = (segment_terms(outputs, SEGMENTS, frames=FRAMES, variant=each) for each in ("default", "released"))
    matches = match_anchors(PRIORS, SEGMENTS, frames=FRAMES)
    counts = matches.positive.sum(1)
    sure = match_refined(outputs["loc"], matches).positive.sum(1)
    for name, by in {"loc": counts, "conf": counts, "center": counts, "prop_loc": sure, "prop_conf": sure}.items():
        expected = (own[name] * by.clamp(min=1)).sum() / by.sum().clamp(min=1)
        torch.testing.assert_close(released[name].mean(), expected, msg=name)


def gradients(term: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients that are not zero throughout, by output."""
    names = [name for name in outputs if name != "priors"]
    found = torch.autograd.grad(term.sum(), [outputs[name] for name in names], allow_unused=True, retain_graph=True)
    return {name: each for name, each in zip(names, found, strict=True) if each is not None and each.any()}


def test_each_term_teaches_its_own_outputs_only() -> None:
    outputs = make_outputs(grad=True)
    terms = anchor_losses(outputs, SEGMENTS, frames=FRAMES)
    taught = {name: set(gradients(values, outputs)) for name, values in terms.items()}
    assert taught == {
        **{name: {name} for name in ("loc", "conf", "prop_loc", "prop_conf", "center", "start", "end")},
        **{f"{side}_prop": {f"{side}_{kind}_prop" for kind in KINDS} for side in ("start", "end")},
    }


def test_the_released_centre_term_also_moves_the_segments() -> None:
    outputs = make_outputs(grad=True)
    term = segment_terms(outputs, SEGMENTS, frames=FRAMES, variant="released")["center"]
    assert set(gradients(term, outputs)) == {"center", "loc", "prop_loc"}


@VARIANTS
def test_only_positive_anchors_learn_where_and_all_learn_what(variant) -> None:
    outputs = make_outputs(grad=True)
    terms = segment_terms(outputs, SEGMENTS, frames=FRAMES, variant=variant)
    matches = match_anchors(PRIORS, SEGMENTS, frames=FRAMES)
    sure = match_refined(outputs["loc"], matches).positive
    assert 0 < sure.sum() < matches.positive.sum()
    for name, where in {"loc": matches.positive, "center": matches.positive, "prop_loc": sure}.items():
        moved = gradients(terms[name], outputs)[name].abs().sum(-1) > 0
        assert torch.equal(moved, where), name
    for name in ("conf", "prop_conf"):
        assert (gradients(terms[name], outputs)[name].abs().sum(-1) > 0).all()


@VARIANTS
def test_outputs_of_other_anchors_may_be_anything_finite_or_not(variant) -> None:
    outputs = make_outputs()
    positive = match_anchors(PRIORS, SEGMENTS, frames=FRAMES).positive.unsqueeze(-1)
    for value in (0.0, 1e30, torch.inf):
        wild = torch.where(positive, outputs["loc"], value).requires_grad_()
        terms = segment_terms({**outputs, "loc": wild}, SEGMENTS, frames=FRAMES, variant=variant)
        weighted_sum(terms).sum().backward()
        assert all(values.isfinite().all() for values in terms.values()) and wild.grad.isfinite().all()


@VARIANTS
@pytest.mark.parametrize("row", [(0.5, 0.5, 1), (0.9, 0.1, 1), (1.5, 2.0, 1), (float("nan"), 0.9, 1)])
def test_segments_that_are_none_are_harmless(row, variant) -> None:
    outputs = make_outputs(clips=1)
    ours = anchor_losses(outputs, torch.tensor([[row, (0.2, 0.6, 3)]]), frames=FRAMES, variant=variant)
    alone = anchor_losses(outputs, torch.tensor([[(0.2, 0.6, 3)]]), frames=FRAMES, variant=variant)
    for name, values in ours.items():
        torch.testing.assert_close(values, alone[name], msg=name)


@VARIANTS
def test_background_segments_say_what_the_background_loss_says(variant) -> None:
    outputs = make_outputs()
    terms = segment_terms(outputs, background_intervals(SEGMENTS), frames=FRAMES, variant=variant)
    for name in ("loc", "prop_loc", "center"):
        assert not terms[name].any()
    ours = background_loss(outputs)
    torch.testing.assert_close(ours, terms["conf"] if variant == "default" else terms["conf"] / len(ours))
    torch.testing.assert_close(ours[2], segment_terms(outputs, SEGMENTS, frames=FRAMES)["conf"][2])


@pytest.mark.parametrize("shape", [(1, -1), (-1, 1), (-1,)])
def test_priors_may_be_given_once_or_for_each_clip(shape) -> None:
    outputs = make_outputs()
    priors = PRIORS.reshape(shape)
    each = priors.expand(3, -1) if shape == (1, -1) else priors
    ours, once = (anchor_losses({**outputs, "priors": p}, SEGMENTS, frames=FRAMES) for p in (each, PRIORS))
    torch.testing.assert_close(ours, once)


def test_maps_given_are_used_and_made_from_segments_otherwise() -> None:
    outputs, maps = make_outputs(), boundary_maps(SEGMENTS, frames=FRAMES)
    made, given_ = (anchor_losses(outputs, SEGMENTS, each, frames=FRAMES) for each in (None, maps))
    torch.testing.assert_close(made, given_)
    swapped = boundary_terms(outputs, maps.flip(1))
    assert not torch.isclose(swapped["start"][0], made["start"][0])


def test_the_weighted_sum_is_of_the_terms_that_there_are() -> None:
    terms = {"loc": torch.tensor([1.0, 2.0]), "start_prop": torch.tensor([5.0, 0.0])}
    torch.testing.assert_close(weighted_sum(terms), torch.tensor([10.5, 20.0]))


@VARIANTS
def test_no_loss_looks_at_a_value_of_the_device(variant) -> None:
    with FakeTensorMode() as mode:  # its tensors have no values: to ask for one is an error
        outputs = {name: mode.from_tensor(values) for name, values in make_outputs().items()}
        segments = mode.from_tensor(SEGMENTS)
        terms = anchor_losses(outputs, segments, frames=FRAMES, variant=variant)
        background_intervals(segments, variant=variant)
        assert {values.shape for values in (*terms.values(), background_loss(outputs))} == {(3,)}
        with pytest.raises(RuntimeError):
            bool(terms["loc"][0])
