from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Outputs
from vidistill.methods import cvae, generative
from vidistill.methods.base import Method, MethodContext, build_method
from vidistill.methods.generative_losses import attention_loss, cvae_loss, mean_squares
from vidistill.models.attention import plain_attention

CLIPS = 4
SHAPES: dict[str, tuple[int, ...]] = {"early": (4, 6, 4, 4), "late": (6, 3, 2, 2), "attention": (6, 3)}
CLASSES = {"action": 5}
TERMS = ("cvae", "generative", "attention", "reconstruction")


def outputs(shapes: dict[str, tuple[int, ...]]) -> Outputs:
    """Maps as after a ReLU, attention between 0 and 1."""
    features = {name: torch.rand(CLIPS, *shape).requires_grad_() for name, shape in shapes.items()}
    return Outputs({"action": torch.randn(CLIPS, 5)}, torch.randn(CLIPS, 6), features)


class World:
    """One student and one teacher with its trained CVAE; `build` makes a method between them."""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]] | None = None,
        teacher_shapes: dict[str, tuple[int, ...]] | None = None,
        absent: tuple[int, ...] = (),
        **teacher_options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.shapes, self.teacher_shapes = shapes or SHAPES, teacher_shapes or SHAPES
        self.student, self.teachers = outputs(self.shapes), {"rgb": outputs(self.teacher_shapes)}
        alone = MethodContext(6, {}, CLASSES, parts=lambda teacher, part: None, student_shapes=self.teacher_shapes)
        self.trained = build_method("cvae", alone, teacher_options).requires_grad_(False).eval()
        present = torch.ones(CLIPS, dtype=torch.bool)
        present[list(absent)] = False
        labels = {"action": torch.zeros(CLIPS, dtype=torch.long)}
        self.batch = Batch({}, labels, torch.arange(CLIPS), torch.zeros(CLIPS, dtype=torch.long), {"video": present})
        self.context = MethodContext(
            6,
            {"rgb": 6},
            CLASSES,
            parts=lambda teacher, part: {"method": self.trained}[part],
            teacher_inputs={"rgb": "video"},
            student_shapes=self.shapes,
            teacher_shapes={"rgb": self.teacher_shapes},
        )

    def build(self, **options: Any) -> Any:
        torch.manual_seed(3)
        return build_method("generative", self.context, options)

    def losses(self, method: Method, seed: int = 5) -> Any:
        torch.manual_seed(seed)
        return method(self.student, self.teachers, self.batch)

    def gradients(self, losses: Any, method: Method) -> dict[str, Tensor]:
        """Of the student's maps and the method's parameters, where there are some; then forgotten."""
        leaves = {**self.student.features, **dict(method.named_parameters())}
        torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum().backward()
        found = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        for leaf in leaves.values():
            leaf.grad = None
        return found


def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise in every call and for every clip."""

    def noise(feature: Tensor) -> Tensor:
        batch, channels, steps = feature.shape[:3]
        return torch.linspace(-2, 2, steps * channels).reshape(1, steps, channels).expand(batch, -1, -1)

    monkeypatch.setattr(generative, "draw_noise", noise)
    monkeypatch.setattr(cvae, "draw_noise", noise)


def test_all_terms_have_one_value_a_clip_and_the_published_weights() -> None:
    world = World()
    method = world.build()
    method.start_epoch(4, 200)
    losses = world.losses(method)
    assert tuple(losses) == TERMS
    assert all(loss.values.shape == (CLIPS,) and (loss.values > 0).all() for loss in losses.values())
    assert [loss.weight for loss in losses.values()] == pytest.approx([1.0, 0.01, 0.1, 0.125])
    assert method.student_features == ("attention", "late")
    assert method.teacher_features == {"rgb": ("attention",)}


def test_the_terms_are_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World()
    method = world.build()
    losses = world.losses(method)
    feature, ours = world.student.features["late"], world.student.features["attention"]
    theirs = world.teachers["rgb"].features["attention"]
    noise = generative.draw_noise(feature)
    made, mean, log_variance = method.cvae["of_late"](feature, ours, noise)
    target = world.trained.cvae["of_late"](feature, ours, noise)[0]  # of the student's map and attention
    expected = {
        "cvae": cvae_loss(made, feature, mean, log_variance, ours),
        "generative": mean_squares(made, target),
        "attention": attention_loss(ours, theirs),
        "reconstruction": mean_squares(method.cvae["of_late"].inference(ours, noise), feature),
    }
    for name, values in expected.items():
        torch.testing.assert_close(losses[name].values, values)


@pytest.mark.parametrize(
    ("term", "learners"),
    [
        ("cvae", {"cvae"}),
        ("generative", {"cvae"}),
        ("attention", {"attention"}),
        ("reconstruction", {"attention"}),
    ],
)
def test_each_term_teaches_what_it_should_and_never_the_teacher(term: str, learners: set[str]) -> None:
    world = World()
    method = world.build()
    found = world.gradients({term: world.losses(method)[term]}, method)
    assert {name.split(".")[0] for name in found} == learners
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    assert all(leaf.grad is None for leaf in world.teachers["rgb"].features.values())
    assert all(parameter.grad is None for parameter in world.trained.parameters())


def test_released_reconstruction_also_pulls_the_map() -> None:
    world = World()
    method = world.build(variant="released")
    losses = world.losses(method)
    found = world.gradients({"reconstruction": losses["reconstruction"]}, method)
    assert set(found) == {"attention", "late"}
    torch.testing.assert_close(losses["reconstruction"].values, world.losses(world.build())["reconstruction"].values)


def test_merged_phases_give_the_gradients_of_alternating_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World()
    for attention in ("attention", ""):
        for variant in ("default", "released"):
            options = {"attention": attention, "variant": variant}
            merged = world.build(**options)
            merged.start_phase("representation")  # not its own: nothing changes
            expected = world.gradients(world.losses(merged), merged)
            alternating = world.build(phases="alternating", **options)
            found: dict[str, Tensor] = {}
            for phase in alternating.phases:
                alternating.start_phase(phase)
                part = world.gradients(world.losses(alternating), alternating)
                assert not set(part) & set(found)
                found |= part
            assert set(found) == set(expected)
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient)


def test_alternating_phases_say_who_learns() -> None:
    world = World()
    method = world.build(phases="alternating")
    assert method.phases == ("representation", "distillation")
    assert tuple(world.losses(method)) == TERMS  # without the loop
    method.start_phase("representation")
    assert (method.student_learns, tuple(world.losses(method))) == (False, ("cvae", "generative"))
    method.start_phase("distillation")
    assert (method.student_learns, tuple(world.losses(method))) == (True, ("attention", "reconstruction"))
    method.start_phase("another method's")
    assert world.losses(method) == {}
    assert (world.build().phases, world.build().student_learns) == ((), True)


def test_the_representation_phase_needs_no_gradient_of_the_student() -> None:
    world = World()
    method = world.build(phases="alternating")
    method.start_phase("representation")
    losses = method(world.student.detach(), world.teachers, world.batch)
    assert set(world.gradients(losses, method)) == {name for name, _ in method.named_parameters()}


@pytest.mark.parametrize(
    ("options", "terms", "asked"),
    [
        ({"generative_weight": 0, "reconstruction_weight": 0}, ("attention",), ("attention",)),
        ({"attention_weight": 0, "reconstruction_weight": 0}, ("cvae", "generative"), ("attention", "late")),
        ({"generative_weight": 0}, ("cvae", "attention", "reconstruction"), ("attention", "late")),
    ],
)
def test_parts_of_weight_0_are_left_out(options, terms, asked) -> None:
    world = World()
    method = world.build(**options)
    assert tuple(world.losses(method)) == terms
    assert method.student_features == asked
    assert bool(list(method.parameters())) == ("cvae" in terms)
    assert bool(method.teacher_features) == ("attention" in terms)


def test_attention_alone_asks_the_teacher_for_no_cvae() -> None:
    world = World()
    world.context = replace(world.context, parts=lambda teacher, part: pytest.fail(f"asked for {part}"))
    method = world.build(generative_weight=0, reconstruction_weight=0)
    assert world.gradients(world.losses(method), method).keys() == {"attention"}


def test_permuting_the_batch_permutes_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World(absent=(2,))
    method = world.build()
    straight = world.losses(method)
    order = torch.tensor([3, 0, 2, 1])
    for answers in (world.student, world.teachers["rgb"]):
        answers.features = {name: values[order] for name, values in answers.features.items()}
    world.batch.present["video"] = world.batch.present["video"][order]
    permuted = world.losses(method)
    for name in TERMS:
        torch.testing.assert_close(permuted[name].values, straight[name].values[order], rtol=1e-4, atol=1e-6)


def test_a_clip_the_teacher_cannot_see_has_no_attention_to_imitate() -> None:
    world = World(absent=(1,))
    losses = world.losses(world.build())
    assert losses["attention"].values[1] == 0
    assert (losses["attention"].values[[0, 2, 3]] > 0).all()
    assert (losses["generative"].values > 0).all()  # the teacher's CVAE sees the student's map


def test_several_rows_a_clip_still_give_one_value_a_clip() -> None:
    world = World(absent=(1,))
    batch = world.batch
    repeated = {"video": batch.present["video"].repeat_interleave(3)}
    rows = Batch({}, {}, batch.clip.repeat_interleave(3), batch.view.repeat_interleave(3), repeated)
    losses = world.build()(world.student, world.teachers, rows)
    assert losses["attention"].values.shape == (CLIPS,)
    assert (losses["attention"].values == 0).tolist() == [False, True, False, False]


def test_equal_attentions_give_zero_and_equal_cvaes_and_noise_give_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World()
    method = world.build()
    method.cvae.load_state_dict(world.trained.cvae.state_dict())
    world.teachers["rgb"].features["attention"] = world.student.features["attention"].detach()
    losses = world.losses(method)
    assert losses["attention"].values.abs().max() == losses["generative"].values.abs().max() == 0


def test_without_an_attention_head_both_networks_make_it_of_their_maps() -> None:
    shapes = {"late": (6, 3, 2, 2)}
    world = World(shapes, shapes, attention="")
    method = world.build(attention="")
    assert (method.student_features, method.teacher_features) == (("late",), {"rgb": ("late",)})
    losses = world.losses(method)
    ours, theirs = (plain_attention(o.features["late"]) for o in (world.student, world.teachers["rgb"]))
    torch.testing.assert_close(losses["attention"].values, attention_loss(ours, theirs))
    assert "late" in world.gradients({"attention": losses["attention"]}, method)


def test_teachers_of_other_names_and_numbers_of_steps_will_do() -> None:
    world = World({"late": (6, 3, 2, 2)}, {"first": (2, 9, 8, 8), "deep": (6, 5, 2, 2), "attention": (6, 5)})
    losses = world.losses(world.build(attention="", teacher_attention="attention"))
    assert all(loss.values.isfinite().all() for loss in losses.values())
    world.build(maps=["late"], teacher_maps=["deep"], attention="", teacher_attention=["attention"])


def test_several_maps_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World(maps=["early", "late"], attention="")
    both = world.build(maps=["early", "late"], attention="")
    assert sorted(both.cvae) == ["of_early", "of_late"]
    values = {name: loss.values for name, loss in world.losses(both).items()}
    for name in ("early", "late"):
        one = world.build(maps=[name], attention="")
        one.cvae.load_state_dict({k: v for k, v in both.cvae.state_dict().items() if k.startswith(f"of_{name}.")})
        for term, loss in world.losses(one).items():
            values[term] = values[term] - loss.values
    for left in values.values():
        torch.testing.assert_close(left, torch.zeros(CLIPS), rtol=0, atol=1e-5)


def test_the_teachers_weights_are_neither_kept_nor_trained() -> None:
    world = World()
    method = world.build()
    kept = set(method.state_dict())
    assert kept == {f"cvae.of_late.{name}" for name in world.trained.cvae["of_late"].state_dict()}
    assert len(list(method.parameters())) == len(kept)


def test_answers_in_inference_mode_and_half_precision_can_be_learned_from() -> None:
    world = World()
    method = world.build()
    expected = world.losses(method)
    with torch.inference_mode():
        answers = world.teachers["rgb"]
        answers.features = {name: values.clone() for name, values in answers.features.items()}
    assert torch.equal(world.losses(method)["attention"].values, expected["attention"].values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = world.losses(method)
    assert world.gradients(losses, method)
    for name, loss in losses.items():
        assert loss.values.dtype == torch.float32
        torch.testing.assert_close(loss.values, expected[name].values, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_extreme_maps_stay_finite(size: float) -> None:
    world = World()
    method = world.build(attention="", variant="released")
    for values in world.student.features.values():
        values.data.mul_(size)
    losses = world.losses(method)
    assert all(loss.values.isfinite().all() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in world.gradients(losses, method).values())


def test_compiled_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    world = World()
    method = world.build()
    expected = world.losses(method)
    losses = torch.compile(method, backend="eager", fullgraph=True)(world.student, world.teachers, world.batch)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.values, expected[name].values)


@pytest.mark.parametrize(
    ("shapes", "options", "match"),
    [
        ({"late": (8, 3, 2, 2), "attention": (8, 3)}, {}, r"'late' is \(8, 3, 2, 2\) .* is \(6, 3, 2, 2\) .* CVAE"),
        ({"late": (6, 3, 4, 4), "attention": (6, 3)}, {}, "needs its own channels, height and width"),
        (
            {"late": (8, 3, 2, 2), "attention": (8, 3)},
            {"generative_weight": 0},
            "attention is compared channel by channel",
        ),
        (SHAPES, {"teacher": "flow"}, "no teacher 'flow'"),
        (SHAPES, {"maps": ["late", "early"], "teacher_maps": ["late"], "attention": ""}, "2 maps and 1 teacher_maps"),
        (SHAPES, {"maps": ["early"], "attention": ""}, "teacher 'rgb' has no CVAE of its map 'early'"),
        (SHAPES, {"attention": "head"}, "the student has no attention 'head'"),
        (
            SHAPES,
            {"generative_weight": 0, "attention_weight": 0, "reconstruction_weight": 0},
            "all weights are 0",
        ),
        (
            SHAPES,
            {"generative_weight": 0, "reconstruction_weight": 0, "phases": "alternating"},
            "'phases: alternating' needs a CVAE",
        ),
    ],
)
def test_what_cannot_be_taught_is_said_in_one_line(shapes, options, match) -> None:
    with pytest.raises(RecipeError, match=match):
        World(shapes).build(**options)


def test_maps_of_other_channels_can_be_reconstructed_without_the_teacher() -> None:
    world = World({"late": (8, 3, 4, 4), "attention": (8, 3)})
    losses = world.losses(world.build(generative_weight=0, attention_weight=0))
    assert tuple(losses) == ("cvae", "reconstruction")


def test_one_of_several_teachers_must_be_named() -> None:
    world = World()
    world.context.teacher_dims["flow"] = 6
    with pytest.raises(RecipeError, match="learns from one teacher's CVAE and there are 2 teachers"):
        world.build()
    assert world.build(teacher="rgb").teacher == "rgb"
