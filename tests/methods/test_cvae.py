from __future__ import annotations

from typing import Any

import pytest
import torch

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Outputs
from vidistill.methods import cvae
from vidistill.methods.base import MethodContext, build_method
from vidistill.methods.generative_losses import cvae_loss, mean_squares

CLIPS = 4
SHAPES: dict[str, tuple[int, ...]] = {"early": (4, 6, 4, 4), "late": (6, 3, 2, 2), "attention": (6, 3)}


def build(shapes: dict[str, tuple[int, ...]] | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    context = MethodContext(6, {}, {"action": 5}, parts=lambda teacher, part: None, student_shapes=shapes or SHAPES)
    return build_method("cvae", context, options)


def outputs(shapes: dict[str, tuple[int, ...]] | None = None) -> Outputs:
    """Maps as after a ReLU, attention between 0 and 1."""
    random = torch.Generator().manual_seed(1)
    shapes = shapes or SHAPES
    features = {name: torch.rand(CLIPS, *shape, generator=random).requires_grad_() for name, shape in shapes.items()}
    return Outputs({"action": torch.zeros(CLIPS, 5)}, torch.zeros(CLIPS, 6), features)


def losses(method: Any, student: Outputs, seed: int = 2) -> Any:
    torch.manual_seed(seed)
    indices = torch.arange(CLIPS)
    return method(student, {}, Batch({}, {"action": indices}, indices, indices, {}))


def test_the_deepest_map_has_a_cvae_of_its_size() -> None:
    method = build()
    assert list(method.cvae) == ["of_late"]
    assert (method.cvae["of_late"].channels, method.cvae["of_late"].pixels) == (6, (2, 2))
    assert method.student_features == ("late", "attention")


def test_the_cvae_learns_and_the_network_does_not() -> None:
    method, student = build(), outputs()
    terms = losses(method, student)
    assert list(terms) == ["cvae"]
    assert terms["cvae"].values.shape == (CLIPS,)
    assert not terms["cvae"].distillation
    terms["cvae"].values.mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert all(leaf.grad is None for leaf in student.features.values())


def test_the_term_is_the_loss_of_a_pass_with_the_noise_drawn() -> None:
    method, student = build(), outputs()
    feature, attention = student.features["late"], student.features["attention"]
    torch.manual_seed(2)
    made, mean, log_variance = method.cvae["of_late"](feature, attention, torch.randn(CLIPS, 3, 6))
    expected = cvae_loss(made, feature, mean, log_variance, attention)
    torch.testing.assert_close(losses(method, student)["cvae"].values, expected)


def test_a_few_steps_bring_the_map_back() -> None:
    method, student = build(hidden=16), outputs()
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    values = []
    for step in range(60):
        loss = losses(method, student, seed=step)["cvae"].values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


@pytest.mark.parametrize("variant", ["default", "released"])
def test_reconstruction_teaches_the_network_and_not_the_cvae(variant: str) -> None:
    method, student = build(reconstruction_weight=0.5, variant=variant), outputs()
    terms = losses(method, student)
    terms["reconstruction"].values.sum().backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert student.features["attention"].grad.abs().sum() > 0
    # Only in the released variant does the map move towards what the decoder gives.
    assert (student.features["late"].grad is not None) == (variant == "released")


def test_the_weight_of_reconstruction_grows_over_twenty_epochs() -> None:
    method, student = build(reconstruction_weight=0.5), outputs()
    found = []
    for epoch in (0, 4, 19, 30):
        method.start_epoch(epoch, 50)
        found.append(losses(method, student)["reconstruction"].weight)
    assert found == pytest.approx([0.025, 0.125, 0.5, 0.5])
    assert cvae.warmed(0, 0) == 1.0


def test_maps_of_sequences_and_attention_of_the_map_itself_will_do() -> None:
    shapes: dict[str, tuple[int, ...]] = {"sequence": (6, 7), "joints": (4, 7, 15)}
    method = build(shapes, maps=["sequence", "joints"], attention="")
    assert method.student_features == ("sequence", "joints")
    assert losses(method, outputs(shapes))["cvae"].values.isfinite().all()


def test_several_maps_are_summed() -> None:
    shapes = {**SHAPES, "early_attention": (4, 6)}
    both = build(shapes, maps=["early", "late"], attention=["early_attention", "attention"])
    student = outputs(shapes)
    with torch.no_grad():
        values = losses(both, student)["cvae"].values
        torch.manual_seed(2)
        expected = torch.zeros(CLIPS)
        for name, attention in (("early", "early_attention"), ("late", "attention")):
            feature, condition = student.features[name], student.features[attention]
            made, mean, log_variance = both.cvae[f"of_{name}"](feature, condition, cvae.draw_noise(feature))
            expected += cvae_loss(made, feature, mean, log_variance, condition)
    torch.testing.assert_close(values, expected)


def test_a_frozen_call_has_the_value_and_the_inputs_gradient() -> None:
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    result = cvae.frozen_call(layer, x)
    assert torch.equal(result, layer(x))
    mean_squares(result, torch.zeros(4, 2)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("shapes", "options", "match"),
    [
        (SHAPES, {"maps": ["lade"]}, "the network has no map 'lade'. Did you mean 'late'"),
        (SHAPES, {"maps": ["early"]}, r"'attention' of the network is \(6, 3\) and does not fit its map 'early'"),
        ({"late": (6, 3, 2, 2)}, {}, "has no attention 'attention'. Use network 'attended', or set attention to ''"),
        (SHAPES, {"attention": ["attention", ""]}, "2 attentions for 1 maps"),
        ({"frames": (8,)}, {"attention": ""}, "names no feature map"),
        (SHAPES, {"hidden": 0}, "hidden"),
    ],
)
def test_wrong_maps_are_said_in_one_line(shapes, options, match) -> None:
    with pytest.raises(RecipeError, match=match):
        build(shapes, **options)
