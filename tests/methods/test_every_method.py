"""What holds for each method: values a clip, gradients, missing modalities, permutations, extreme values."""

from __future__ import annotations

import inspect

import pytest
import torch

from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.methods import METHODS

SUM = {"methods": [{"name": "kd"}, {"name": "feature_mse", "weight": 0.5}]}
CASES = [
    ("kd", {}),
    ("kd", {"teacher": "audio", "heads": ["verb"]}),
    ("dkd", {}),
    ("dist", {}),
    ("rkd", {}),
    ("feature_mse", {}),
    ("feature_mse", {"normalise": True, "student": "map", "teacher": "map"}),
    ("crosskd", {"teacher": "flow"}),
    ("crosskd", {"teacher": "audio"}),
    ("ctkd", {}),
    ("graph", {}),
    ("graph", {"metric": "l1", "prior": {"flow": 2.0, "audio": 1.0}}),
    ("graph", {"metric": "kl", "variant": "released", "projection": "linear"}),
    ("sum", SUM),
]
OTHER_ROWS = {"cvae", "generative", "litemkd"}
"""Methods of other rows than clips, or with random numbers by place in the batch, tested by themselves."""
every_method = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])


def total(losses) -> torch.Tensor:
    return torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()


def pick(outputs: Outputs, order: torch.Tensor) -> Outputs:
    return Outputs(
        {head: values[order] for head, values in outputs.logits.items()},
        outputs.embedding[order],
        {name: values[order] for name, values in outputs.features.items()},
    )


def test_every_registered_method_is_tested_here() -> None:
    assert {name for name, _ in CASES} | OTHER_ROWS == set(METHODS.names()) | OTHER_ROWS


def test_every_method_file_cites_its_source_and_explains_its_symbols() -> None:
    for name in METHODS.names():
        page = inspect.getmodule(METHODS.get(name)).__doc__
        assert "symbol" in page and ("arXiv" in page or name == "sum"), name


@every_method
def test_terms_have_one_finite_value_a_clip(name, options, make_world) -> None:
    world = make_world()
    losses = world.build(name, **options)(world.student, world.teachers, world.batch)
    assert losses
    for loss in losses.values():
        assert loss.values.shape == (8,)
        assert loss.values.isfinite().all()
        assert (loss.values >= -1e-6).all()
        assert loss.distillation and (loss.per_clip or name == "graph")


@every_method
def test_gradient_reaches_student_and_parameters_and_never_a_teacher(name, options, make_world) -> None:
    world = make_world()
    method = world.build(name, **options)
    total(method(world.student, world.teachers, world.batch)).backward()
    assert any(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in world.leaves())
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert all(tensor.grad is None for tensor in world.teacher_tensors())
    for head in world.heads.values():
        assert all(parameter.grad is None for parameter in head.parameters())


@every_method
def test_teachers_in_inference_mode_can_be_learned_from(name, options, make_world) -> None:
    world = make_world()
    expected = total(world.build(name, **options)(world.student, world.teachers, world.batch))
    with torch.inference_mode():
        answers = {
            teacher: Outputs(
                {k: v.clone() for k, v in outputs.logits.items()},
                outputs.embedding.clone(),
                {k: v.clone() for k, v in outputs.features.items()},
            )
            for teacher, outputs in world.teachers.items()
        }
    loss = total(world.build(name, **options)(world.student, answers, world.batch))
    loss.backward()
    assert loss == expected


@every_method
def test_permuting_the_batch_permutes_the_values(name, options, make_world) -> None:
    world = make_world(absent=(2,))
    method = world.build(name, **options)
    order = torch.randperm(8)
    before = method(world.student, world.teachers, world.batch)
    shuffled = Batch(
        {},
        {head: values[order] for head, values in world.batch.labels.items()},
        world.batch.clip[order],
        world.batch.view[order],
        {key: values[order] for key, values in world.batch.present.items()},
    )
    teachers = {key: pick(outputs, order) for key, outputs in world.teachers.items()}
    after = method(pick(world.student, order), teachers, shuffled)
    for term in before:
        torch.testing.assert_close(after[term].values, before[term].values[order], rtol=1e-4, atol=1e-5)


@every_method
@pytest.mark.parametrize("size", [1e4, -1e4, 0.0])
def test_extreme_values_stay_finite(name, options, size, make_world) -> None:
    world = make_world()
    method = world.build(name, **options)

    def extreme(outputs: Outputs, sign: float) -> Outputs:
        def scaled(values: torch.Tensor) -> torch.Tensor:
            return (values.detach().sign() * sign * size).requires_grad_()

        return Outputs(
            {k: scaled(v) for k, v in outputs.logits.items()},
            scaled(outputs.embedding),
            {k: scaled(v) for k, v in outputs.features.items()},
        )

    student = extreme(world.student, 1.0)
    losses = method(student, {k: extreme(v, -1.0) for k, v in world.teachers.items()}, world.batch)
    assert all(loss.values.isfinite().all() for loss in losses.values())
    total(losses).backward()
    for leaf in (*student.logits.values(), student.embedding, *student.features.values(), *method.parameters()):
        assert leaf.grad is None or leaf.grad.isfinite().all()


@every_method
def test_half_precision_is_close_to_full(name, options, make_world) -> None:
    world, half = make_world(), make_world(dtype=torch.bfloat16)
    full = world.build(name, **options)(world.student, world.teachers, world.batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = half.build(name, **options)(half.student, half.teachers, half.batch)
    total(losses).backward()
    for term, loss in losses.items():
        assert loss.values.dtype == torch.float32
        torch.testing.assert_close(loss.values, full[term].values, rtol=0.1, atol=0.05)


@every_method
def test_a_batch_of_one_clip_is_finite(name, options, make_world) -> None:
    world = make_world(count=1)
    method = world.build(name, **options)
    loss = total(method(world.student, world.teachers, world.batch))
    assert loss.isfinite()
    if loss.requires_grad:
        loss.backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in world.leaves())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kd", {"teacher": "audio"}),
        ("dkd", {"teacher": "audio"}),
        ("dist", {"teacher": "audio"}),
        ("rkd", {"teachers": ["audio"]}),
        ("feature_mse", {"teachers": ["audio"]}),
        ("crosskd", {"teacher": "audio"}),
    ],
)
def test_what_a_teacher_says_of_clips_it_cannot_see_changes_nothing(name, options, make_world) -> None:
    world = make_world(absent=(1, 4))
    method = world.build(name, **options)
    before = method(world.student, world.teachers, world.batch)
    with torch.no_grad():
        for values in (*world.teachers["audio"].logits.values(), world.teachers["audio"].embedding):
            values[[1, 4]] = 7.0
    after = method(world.student, world.teachers, world.batch)
    for term in before:
        assert (before[term].values[[1, 4]] == 0).all()
        assert torch.equal(before[term].values, after[term].values)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_clips_that_no_teacher_sees_are_not_taught_by_the_ensemble(name, make_world) -> None:
    world = make_world(absent=(1, 4))
    world.batch.present["flow"][4] = False
    for loss in world.build(name)(world.student, world.teachers, world.batch).values():
        assert loss.values[4] == 0
        assert loss.values[1] > 0  # flow saw it


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_equal_logits_give_zero_and_no_gradient(name, make_world) -> None:
    world = make_world()
    teachers = {ENSEMBLE: world.student.detach()}
    losses = world.build(name)(world.student, teachers, world.batch)
    total(losses).backward()
    for loss in losses.values():
        torch.testing.assert_close(loss.values, torch.zeros(8), rtol=0, atol=1e-5)
    for logits in world.student.logits.values():
        torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-5)


@every_method
def test_compiled_gives_the_same_values(name, options, make_world) -> None:
    world = make_world(absent=(3,))
    method = world.build(name, **options)
    expected = method(world.student, world.teachers, world.batch)
    compiled = torch.compile(method, backend="eager", fullgraph=True)(world.student, world.teachers, world.batch)
    for term in expected:
        torch.testing.assert_close(compiled[term].values, expected[term].values)
