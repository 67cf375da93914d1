"""Each loss against the paper's equation, written out in NumPy with loops, independently of the code."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidistill.core.errors import RecipeError
from vidistill.core.types import ENSEMBLE
from vidistill.methods.crosskd import align
from vidistill.methods.dist import dist_losses
from vidistill.methods.dkd import dkd_losses
from vidistill.methods.feature_mse import feature_loss
from vidistill.methods.kd import kd_loss
from vidistill.methods.rkd import rkd_losses

RANDOM = np.random.default_rng(5)
STUDENT, TEACHER = RANDOM.normal(size=(2, 6, 5)) * 2
LABELS = np.array([0, 4, 2, 2, 1, 3])
EVERYONE = torch.ones(6, dtype=torch.bool)


def tensors(*values: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(value) for value in values]


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits / temperature)
    return powers / powers.sum(-1, keepdims=True)


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def test_kd_is_the_divergence_times_the_squared_temperature() -> None:
    ours, theirs = softmax(STUDENT, 3.0), softmax(TEACHER, 3.0)
    expected = 9.0 * (theirs * np.log(theirs / ours)).sum(1)
    np.testing.assert_allclose(kd_loss(*tensors(STUDENT, TEACHER), 3.0), expected, rtol=1e-10)


def test_dkd_is_its_two_parts() -> None:
    ours, theirs = softmax(STUDENT, 2.0), softmax(TEACHER, 2.0)
    target, other = np.zeros(6), np.zeros(6)
    for b, y in enumerate(LABELS):
        s, t = ours[b, y], theirs[b, y]
        target[b] = 4.0 * (t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s)))
        q_s, q_t = (np.delete(p[b], y) / (1 - p[b, y]) for p in (ours, theirs))
        other[b] = 4.0 * (q_t * np.log(q_t / q_s)).sum()
    found = dkd_losses(*tensors(STUDENT, TEACHER, LABELS), 2.0)
    np.testing.assert_allclose(found[0], target, rtol=1e-9)
    np.testing.assert_allclose(found[1], other, rtol=1e-9)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (2, 4, 6), elements=st.floats(-8, 8)), st.floats(0.5, 8))
def test_kd_is_dkd_with_the_teachers_own_weights(logits, temperature) -> None:
    student, teacher = tensors(*logits)
    labels = torch.tensor([0, 5, 3, 3])
    target, other = dkd_losses(student, teacher, labels, temperature)
    unsure = 1 - torch.softmax(teacher / temperature, 1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(target + unsure * other, kd_loss(student, teacher, temperature), rtol=1e-6, atol=1e-8)


def test_dkd_does_not_underflow_where_probabilities_do() -> None:
    student = torch.tensor([[500.0, 0.0, 0.0], [-500.0, 0.0, 0.0]], requires_grad=True)
    target, other = dkd_losses(student, torch.zeros(2, 3), torch.tensor([0, 0]), 1.0)
    # p_t = 1/3; log p_s of (label, others): (0, -500 + log 2) and (-500 - log 2, 0)
    pair = 1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3)
    expected = [pair + 2 / 3 * (500 - np.log(2)), pair + 1 / 3 * (500 + np.log(2))]
    np.testing.assert_allclose(target.detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(other.detach(), [0, 0], atol=1e-6)


def test_dkd_gives_nothing_for_clips_without_a_label(make_world) -> None:
    world = make_world()
    world.batch.labels["verb"][2] = world.batch.labels["noun"][2] = -1
    losses = world.build("dkd")(world.student, world.teachers, world.batch)
    assert all(loss.values[2] == 0 and loss.values[1] > 0 for loss in losses.values())


def test_dist_is_one_minus_pearson_by_row_and_by_column() -> None:
    ours, theirs = softmax(STUDENT, 2.0), softmax(TEACHER, 2.0)
    rows = [4 * (1 - np.corrcoef(s, t)[0, 1]) for s, t in zip(ours, theirs, strict=True)]
    columns = [4 * (1 - np.corrcoef(s, t)[0, 1]) for s, t in zip(ours.T, theirs.T, strict=True)]
    inter, intra = dist_losses(*tensors(STUDENT, TEACHER), 2.0, EVERYONE)
    np.testing.assert_allclose(inter, rows, rtol=1e-9)
    np.testing.assert_allclose(intra.mean(), np.mean(columns), rtol=1e-9)


def test_dist_of_part_of_a_batch_is_that_of_the_part_alone() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    student, teacher = tensors(STUDENT, TEACHER)
    whole = dist_losses(student, teacher, 1.0, mask)
    part = dist_losses(student[mask], teacher[mask], 1.0, mask[mask])
    for values, expected in zip(whole, part, strict=True):
        torch.testing.assert_close(values[mask], expected)
        assert (values[~mask] == 0).all()


def test_rkd_is_the_mean_over_pairs_and_triples() -> None:
    embeddings = STUDENT, TEACHER[:, :3]
    distances, cosines = [], []
    for x in embeddings:
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        distances.append(d / d[~np.eye(6, dtype=bool)].mean())
        cosines.append(
            {
                (i, j, k): np.dot(x[j] - x[i], x[k] - x[i]) / (d[i, j] * d[i, k])
                for i, j, k in itertools.permutations(range(6), 3)
            }
        )
    pairs = [huber(distances[0][i, j] - distances[1][i, j]) for i, j in itertools.permutations(range(6), 2)]
    triples = [huber(cosines[0][key] - cosines[1][key]) for key in cosines[0]]
    distance, angle = rkd_losses(*tensors(*embeddings), EVERYONE)
    np.testing.assert_allclose(distance.mean(), np.mean(pairs), rtol=1e-9)
    np.testing.assert_allclose(angle.mean(), np.mean(triples), rtol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_rkd_is_blind_to_scale_shift_and_rotation(scale, seed) -> None:
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(5, 5)))[0]
    moved = scale * STUDENT @ rotation + random.normal(size=5)
    for values in rkd_losses(*tensors(moved, STUDENT), EVERYONE):
        torch.testing.assert_close(values, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-10)


def test_rkd_of_clips_at_one_place_has_no_gradient_but_a_finite_one() -> None:
    student = torch.zeros(4, 3, requires_grad=True)
    distance, angle = rkd_losses(student, torch.randn(4, 3), torch.ones(4, dtype=torch.bool))
    (distance + angle).sum().backward()
    assert student.grad.isfinite().all()


def test_feature_loss_is_the_mean_square_or_two_minus_two_cosines() -> None:
    ours, theirs = tensors(STUDENT[:, None], TEACHER[:, None])
    cosine = (STUDENT * TEACHER).sum(1) / np.linalg.norm(STUDENT, axis=1) / np.linalg.norm(TEACHER, axis=1)
    np.testing.assert_allclose(feature_loss(ours, theirs, False), ((STUDENT - TEACHER) ** 2).mean(1))
    np.testing.assert_allclose(feature_loss(ours, theirs, True), 2 - 2 * cosine)


@pytest.mark.parametrize("feature", ["embedding", "map"])
@pytest.mark.parametrize("normalise", [False, True])
def test_feature_mse_is_zero_where_the_projection_gives_the_teachers_features(feature, normalise, make_world) -> None:
    world = make_world()
    method = world.build("feature_mse", teachers=["flow"], student=feature, teacher=feature, normalise=normalise)
    layer = method.projections["to_flow"]
    torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    world.teachers["flow"] = world.student.detach()
    values = method(world.student, world.teachers, world.batch)["feature_mse"].values
    torch.testing.assert_close(values, torch.zeros(8), rtol=0, atol=1e-10)


def test_feature_mse_averages_positions_where_they_differ(make_world) -> None:
    world = make_world()
    method = world.build("feature_mse", teachers=["flow"], student="map", teacher="map")
    pooled = world.teachers["flow"].features["map"].detach().flatten(2).mean(2)
    world.teachers["flow"].features["map"] = torch.stack([pooled, pooled], 2)  # (B, C, 2)
    values = method(world.student, world.teachers, world.batch)["feature_mse"].values
    ours = method.projections["to_flow"](world.student.features["map"].flatten(2).mean(2))
    torch.testing.assert_close(values, (ours - pooled).square().mean(1))


def test_feature_mse_weighs_only_teachers_that_saw_the_clip(make_world) -> None:
    world = make_world(absent=(0,))
    both = world.build("feature_mse")
    alone = world.build("feature_mse", teachers=["flow"])
    alone.projections["to_flow"].load_state_dict(both.projections["to_flow"].state_dict())
    values = both(world.student, world.teachers, world.batch)["feature_mse"].values
    flow = alone(world.student, world.teachers, world.batch)["feature_mse"].values
    torch.testing.assert_close(values[0], flow[0])
    assert (values[1:] != flow[1:]).all()


def test_crosskd_matches_its_equation_and_gradient(make_world) -> None:
    world = make_world()
    losses = world.build("crosskd", teacher="flow", temperature=2.0, weight=0.9)
    loss = losses(world.student, world.teachers, world.batch)["crosskd"]
    ours, theirs = world.student.embedding, world.teachers["flow"].embedding.detach()
    aligned = (ours - ours.mean(0)) / (ours.std(0) + 1e-6) * theirs.std(0) + theirs.mean(0)
    crossed = world.heads["flow"](aligned)
    logits = world.teachers["flow"].logits
    expected = sum(kd_loss(crossed[head], logits[head], 2.0) for head in crossed) / 2
    torch.testing.assert_close(loss.values, expected)
    assert loss.weight == 0.9
    gradient, wanted = (
        torch.autograd.grad(v.mean(), world.student.embedding, retain_graph=True)[0] for v in (loss.values, expected)
    )
    torch.testing.assert_close(gradient, wanted)
    assert gradient.abs().sum() > 0


def test_crosskd_released_gives_the_value_without_gradient(make_world) -> None:
    world = make_world()
    default, released = (world.build("crosskd", teacher="flow", variant=v) for v in ("default", "released"))
    values = [method(world.student, world.teachers, world.batch)["crosskd"].values for method in (default, released)]
    assert torch.equal(*values)
    assert values[0].requires_grad and not values[1].requires_grad


def test_crosskd_never_trains_a_head_that_someone_thawed(make_world) -> None:
    world = make_world()
    world.heads["flow"].requires_grad_(True)
    world.build("crosskd", teacher="flow")(world.student, world.teachers, world.batch)[
        "crosskd"
    ].values.sum().backward()
    assert all(parameter.grad is None for parameter in world.heads["flow"].parameters())


def test_crosskd_takes_a_network_s_head_method_as_well_as_a_module(make_world) -> None:
    world = make_world()
    as_module = world.build("crosskd", teacher="flow")
    values = as_module(world.student, world.teachers, world.batch)["crosskd"].values
    as_method = world.build("crosskd", teacher="flow")
    as_method.context = replace(world.context, parts=lambda teacher, part: world.heads[teacher].forward)
    assert torch.equal(as_method(world.student, world.teachers, world.batch)["crosskd"].values, values)


def test_crosskd_holds_no_part_of_the_teacher(make_world) -> None:
    assert list(make_world().build("crosskd", teacher="flow").state_dict()) == []
    assert set(make_world().build("crosskd", teacher="audio").state_dict()) == {"projection.weight", "projection.bias"}


def test_alignment_gives_the_teachers_mean_and_spread_and_leaves_a_single_clip_alone() -> None:
    student, teacher = tensors(STUDENT, TEACHER)
    aligned = align(student, teacher, EVERYONE)
    torch.testing.assert_close(aligned.mean(0), teacher.mean(0))
    torch.testing.assert_close(aligned.std(0), teacher.std(0), rtol=1e-5, atol=1e-5)
    assert torch.equal(align(student[:1], teacher[:1], EVERYONE[:1]), student[:1])


def test_the_sum_has_all_terms_with_their_weights(make_world) -> None:
    world = make_world()
    method = world.build(
        "sum",
        weight=0.5,
        methods=[
            {"name": "kd", "weight": 2.0},
            {"name": "kd", "teacher": "audio"},
            {"name": "feature_mse", "student": "map", "teacher": "map"},
        ],
    )
    losses = method(world.student, world.teachers, world.batch)
    assert {name: loss.weight for name, loss in losses.items()} == {"kd": 1.0, "kd_2": 0.5, "feature_mse": 0.5}
    assert method.student_features == ("map",)
    assert set(method.teacher_features.values()) == {("map",)}
    alone = world.build("kd", teacher="audio")(world.student, world.teachers, world.batch)["kd"].values
    assert torch.equal(losses["kd_2"].values, alone)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, "unknown method 'kdd'"),
        ("kd", {"temprature": 2}, "unknown key 'temprature' .Did you mean 'temperature'"),
        ("kd", {"temperature": 0}, "'temperature': Input should be greater than 0"),
        ("kd", {"weight": -1}, "'weight': Input should be greater than or equal to 0"),
        ("kd", {"weight": "much"}, "'weight'"),
        ("kd", {"teacher": "flwo"}, "no teacher 'flwo' .*Did you mean 'flow'"),
        ("kd", {"heads": ["vreb"]}, "no head 'vreb' .*Did you mean 'verb'"),
        ("rkd", {"teachers": [ENSEMBLE]}, "no teacher 'ensemble'"),
        ("crosskd", {}, "needs one teacher's head and there are 2.*flow, audio"),
        ("feature_mse", {"projection": "none"}, "'projection: none' needs features of one size"),
        ("feature_mse", {"student": "mpa"}, "the student has no feature 'mpa'.*Did you mean 'map'"),
        ("feature_mse", {"projection": "cubic"}, "'projection'"),
        ("sum", {"methods": []}, "'methods' of the sum is empty"),
        ("sum", {"methods": [{"weight": 1}]}, "'methods.0' has no name"),
        ("sum", {"methods": [{"name": "kd", "weigth": 1}]}, "methods.0.kd: unknown key 'weigth'"),
    ],
)
def test_wrong_options_are_told_in_one_line(name, options, message, make_world) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make_world().build(name, **options)
    assert "\n" not in str(caught.value)
