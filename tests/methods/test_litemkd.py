"""Lite-MKD on random episodes: E = 2 episodes, 4 ways, 2 shots, 4 queries each, frames of 5 numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vidistill.core.errors import RecipeError
from vidistill.core.types import ENSEMBLE, Batch, Outputs
from vidistill.methods import MethodContext, build_method
from vidistill.methods.litemkd import class_distances, focal_weights, pearson_loss
from vidistill.methods.litemkd_recipes import DISTILLERS

EPISODES, WAY, SHOT, QUERIES, LENGTH, DIM = 2, 4, 2, 4, 6, 5
ROWS = EPISODES * QUERIES
CONTEXT = MethodContext(DIM, {"teacher": DIM}, {"episode": WAY}, lambda _, __: None, {"teacher": "flow"})
EVERY_TERM = {"patch_weight": 0.1, "feature_weight": 1.0, "support_streams": ["labelled", "distilled"]}
CASES = [
    {},
    EVERY_TERM,
    {**EVERY_TERM, "query": "pearson", "support": "kd"},
    {"support": "similarities"},
    {"focal": "wsl", "query_stream": "labelled"},
    {"focal": "balance", "focal_base": 1.0},
    {"focal": "balance", "focal_base": 1.0, "variant": "released"},
]
every_case = pytest.mark.parametrize("options", CASES, ids=[str(number) for number in range(len(CASES))])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def outputs(seed: int, streams: int = 2, grad: bool = True, dtype: torch.dtype = torch.float32) -> Outputs:
    random = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(dtype).requires_grad_(grad)

    heads = ("episode", "episode_distilled", "episode_patches") if streams == 2 else ("episode",)
    features = {name: tensor(EPISODES, WAY, SHOT, LENGTH, DIM) for name in ("support", "support_distilled")[:streams]}
    features |= {"queries": tensor(ROWS, LENGTH, DIM), "similarities": tensor(ROWS, WAY, WAY)}
    return Outputs({head: tensor(ROWS, WAY) for head in heads}, tensor(ROWS, DIM), features)


def batch(absent: tuple[int, ...] = ()) -> Batch:
    labels = torch.arange(ROWS) % WAY
    present = torch.ones(ROWS, dtype=torch.bool)
    present[list(absent)] = False
    return Batch({}, {"episode": labels}, torch.arange(ROWS), torch.zeros(ROWS), {"flow": present})


def losses(options: dict, student: Outputs, teacher: Outputs, where: Batch | None = None) -> dict:
    return build_method("litemkd", CONTEXT, options)(student, {"teacher": teacher}, where or batch())


def total(terms: dict) -> Tensor:
    return torch.stack([loss.weight * loss.values.mean() for loss in terms.values()]).sum()


def tensors(found: Outputs) -> list[Tensor]:
    return [*found.logits.values(), *found.features.values()]


def softmax(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(values / temperature)
    return powers / powers.sum()


def test_the_default_is_the_papers_loss_written_with_loops() -> None:
    student, teacher = outputs(0, dtype=torch.float64), outputs(1, 1, dtype=torch.float64)
    terms = losses({}, student, teacher)
    ours, theirs = (
        {k: v.detach().numpy() for k, v in (found.logits | found.features).items()} for found in (student, teacher)
    )
    for q in range(ROWS):
        p_t, p_s = softmax(theirs["episode"][q], 4.0), softmax(ours["episode_distilled"][q], 4.0)
        np.testing.assert_allclose(terms["query"].values[q].item(), 16 * (p_t * np.log(p_t / p_s)).sum())
        correlations = []
        for i in range(WAY):
            rows = []
            for found in (ours, theirs):
                means = [np.mean([found["support"][q // QUERIES, c, k] for k in range(SHOT)], 0) for c in range(WAY)]
                apart = [-np.sum((means[i] - means[j]) ** 2) / LENGTH for j in range(WAY) if j != i]
                rows.append(softmax(np.array(apart)))
            correlations.append(1 - np.corrcoef(*rows)[0, 1])
        np.testing.assert_allclose(terms["support"].values[q].item(), np.mean(correlations), atol=1e-7)
    assert {name: loss.weight for name, loss in terms.items()} == {"query": 1.0, "support": 0.5}


@every_case
def test_terms_have_a_finite_value_a_query_and_gradient_at_the_student_only(options) -> None:
    student, teacher = outputs(0), outputs(1)
    terms = losses(options, student, teacher)
    total(terms).backward()
    for name, loss in terms.items():
        assert loss.values.shape == (ROWS,) and loss.values.isfinite().all()
        assert loss.distillation == (name != "label_focal")
    assert any(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in tensors(student))
    assert all(leaf.grad is None for leaf in tensors(teacher))


@pytest.mark.parametrize("options", CASES[:4])
def test_equal_networks_give_zero_and_no_gradient(options) -> None:
    student = outputs(0, streams=1)
    options = {key: value for key, value in options.items() if key != "patch_weight"}
    terms = losses(options, student, student.detach())
    total(terms).backward()
    for loss in terms.values():
        torch.testing.assert_close(loss.values, torch.zeros(ROWS), rtol=0, atol=1e-6)
    for leaf in tensors(student):
        assert leaf.grad is None or leaf.grad.abs().max() < 1e-6


@every_case
def test_permuting_the_queries_of_an_episode_permutes_their_values(options) -> None:
    student, teacher = outputs(0), outputs(1)
    order = torch.cat([torch.randperm(QUERIES), QUERIES + torch.randperm(QUERIES)])

    def pick(found: Outputs) -> Outputs:
        features = {k: v if k.startswith("support") else v[order] for k, v in found.features.items()}
        return Outputs({k: v[order] for k, v in found.logits.items()}, found.embedding[order], features)

    shuffled = replace(batch(), labels={"episode": batch().labels["episode"][order]})
    before, after = losses(options, student, teacher), losses(options, pick(student), pick(teacher), shuffled)
    for name, loss in before.items():
        torch.testing.assert_close(after[name].values, loss.values[order])


def test_renaming_classes_and_reordering_shots_changes_no_support_value() -> None:
    student, teacher = outputs(0), outputs(1)
    before = losses({}, student, teacher)["support"].values
    for found in (student, teacher):
        found.features["support"] = found.features["support"][:, [2, 0, 3, 1]].flip(2)
    torch.testing.assert_close(losses({}, student, teacher)["support"].values, before)


def test_the_support_is_shared_by_the_queries_of_its_episode_alone() -> None:
    student, teacher = outputs(0), outputs(1)
    before = losses({}, student, teacher)["support"].values
    assert (before[:QUERIES] == before[0]).all() and (before[QUERIES:] == before[-1]).all() and before[0] != before[-1]
    with torch.no_grad():
        student.features["support"][1] += torch.randn(WAY, SHOT, LENGTH, DIM)
    after = losses({}, student, teacher)["support"].values
    assert (after[:QUERIES] == before[:QUERIES]).all() and (after[QUERIES:] != before[QUERIES:]).all()


def test_one_episode_may_come_without_its_leading_axis() -> None:
    student, teacher = outputs(0), outputs(1)
    for found in (student, teacher):
        found.logits = {k: v[:QUERIES] for k, v in found.logits.items()}
        found.features["support"] = found.features["support"][0]
    one = batch()
    one = replace(one, clip=one.clip[:QUERIES], labels={"episode": one.labels["episode"][:QUERIES]}, present={})
    values = losses({}, student, teacher, one)["support"].values
    torch.testing.assert_close(values, losses({}, outputs(0), outputs(1))["support"].values[:QUERIES])


def test_a_student_of_one_stream_is_taught_where_it_is_labelled() -> None:
    student, teacher = outputs(0, 1), outputs(1, 1)
    terms, named = (losses({"query_stream": stream}, student, teacher) for stream in ("distilled", "labelled"))
    assert torch.equal(terms["query"].values, named["query"].values)


def test_the_mean_of_the_feature_term_is_the_mean_over_all_frames() -> None:
    student, teacher = outputs(0), outputs(1)
    found = losses({"feature_weight": 1.0}, student, teacher)["features"].values.mean()
    both = [torch.cat([o.features["support"].flatten(0, 2), o.features["queries"]]) for o in (student, teacher)]
    torch.testing.assert_close(found, (both[0] - both[1]).square().mean())


def test_focal_weights_of_each_query_or_of_their_mean() -> None:
    one, other, labels = torch.randn(ROWS, WAY), torch.randn(ROWS, WAY), torch.arange(ROWS) % WAY
    ratio = [torch.nn.functional.cross_entropy(z, labels, reduction="none") for z in (one, other)]
    torch.testing.assert_close(focal_weights(one, other, labels), 1 - torch.exp(-ratio[0] / (ratio[1] + 1e-8)))
    shared = focal_weights(one, other, labels, shared=True)
    torch.testing.assert_close(shared, (1 - torch.exp(-ratio[0].mean() / ratio[1].mean())).expand(ROWS))


@pytest.mark.parametrize("base", [0.5, 1.0])
def test_balance_moves_weight_between_the_teacher_and_the_rest_label_included(base) -> None:
    student, teacher = outputs(0), outputs(1)
    plain, terms = losses({}, student, teacher), losses({"focal": "balance", "focal_base": base}, student, teacher)
    labels = batch().labels["episode"]
    w = focal_weights(student.logits["episode"], student.logits["episode_distilled"], labels)
    label = torch.nn.functional.cross_entropy(student.logits["episode"], labels, reduction="none")
    torch.testing.assert_close(terms["query"].values, (base + w) * plain["query"].values)
    torch.testing.assert_close(terms["support"].values, (base + 1 - w) * plain["support"].values)
    torch.testing.assert_close(label + terms["label_focal"].values, (base + 1 - w) * label)


def test_queries_that_the_teacher_cannot_see_are_not_taught() -> None:
    terms = losses(EVERY_TERM, outputs(0), outputs(1), batch(absent=(1, 6)))
    for loss in terms.values():
        assert (loss.values[[1, 6]] == 0).all() and (loss.values[[0, 2, 3, 4, 5, 7]] > 0).all()


def test_a_teacher_that_cannot_see_does_not_make_a_label_be_unlearned() -> None:
    terms = losses({"focal": "balance"}, outputs(0), outputs(1), batch(absent=(1,)))
    assert terms["label_focal"].values[1] == 0


@every_case
@pytest.mark.parametrize("size", [1e4, 0.0])
def test_extreme_values_stay_finite(options, size) -> None:
    student, teacher = outputs(0), outputs(1)
    with torch.no_grad():
        for leaf in (*tensors(student), *tensors(teacher)):
            leaf.copy_(leaf.sign() * size)
    terms = losses(options, student, teacher)
    total(terms).backward()
    assert all(loss.values.isfinite().all() for loss in terms.values())
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in tensors(student))


@every_case
def test_half_precision_is_close_to_full(options) -> None:
    full = losses(options, outputs(0), outputs(1))
    half = losses(options, outputs(0, dtype=torch.bfloat16), outputs(1, dtype=torch.bfloat16))
    for name, loss in half.items():
        assert loss.values.dtype == torch.float32
        torch.testing.assert_close(loss.values, full[name].values, rtol=0.1, atol=0.1)


@every_case
def test_compiled_gives_the_same_values(options) -> None:
    student, teacher = outputs(0), outputs(1)
    method = build_method("litemkd", CONTEXT, options)
    expected = method(student, {"teacher": teacher}, batch())
    compiled = torch.compile(method, backend="eager", fullgraph=True)(student, {"teacher": teacher}, batch())
    for name, loss in expected.items():
        torch.testing.assert_close(compiled[name].values, loss.values)


def test_distances_leave_out_the_class_itself_and_keep_the_others_in_order() -> None:
    support = torch.tensor([0.0, 1.0, 3.0, 7.0]).view(1, 4, 1, 1, 1)
    expected = [[-1, -9, -49], [-1, -4, -36], [-9, -4, -16], [-49, -36, -16]]
    assert class_distances(support)[0].tolist() == expected


def test_correlation_of_opposite_rankings_is_minus_one_and_of_two_flat_rows_counts_nothing() -> None:
    rows, turned = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(pearson_loss(rows, turned), torch.tensor([2.0, 0.0]))


def test_a_correlation_that_could_only_be_one_is_refused() -> None:
    with pytest.raises(RecipeError, match="over 2 entries teaches nothing.*use 'kd'"):
        pearson_loss(torch.randn(5, 2), torch.randn(5, 2))


def test_there_are_24_published_losses_and_each_can_be_built_and_called() -> None:
    assert len(DISTILLERS) == 24
    for distiller in (*DISTILLERS.values(), *(d.released() for d in DISTILLERS.values())):
        student = outputs(0, distiller.streams)
        if "episode_patches" in distiller.labels:
            student.logits["episode_patches"] = outputs(2).logits["episode"]
        assert set(distiller.labels) <= set(student.logits)
        terms = losses(dict(distiller.options), student, outputs(1, 1))
        assert bool(terms) == (distiller.options.get("query") != "none" or distiller.options.get("support") != "none")


def test_released_divides_label_losses_by_sixteen_and_nothing_else_of_the_papers() -> None:
    released = DISTILLERS["fc_2_sup_dist"].released()
    assert released.labels == {"episode": 1 / 16}
    assert dict(released.options) == {"variant": "released"}
    assert DISTILLERS["fc_2_sup"].released().options["support_weight"] == pytest.approx(0.1 / 16)


def test_the_ensemble_teaches_queries_only() -> None:
    method = build_method("litemkd", CONTEXT, {"teacher": ENSEMBLE, "support": "none"})
    answers = {ENSEMBLE: Outputs({"episode": torch.randn(ROWS, WAY)}, torch.zeros(ROWS, 1))}
    assert set(method(outputs(0), answers, batch())) == {"query"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": ENSEMBLE}, "no teacher 'ensemble'"),
        ({"teacher": "techer"}, "Did you mean 'teacher'"),
        ({"query": "mse"}, "'query'"),
        ({"support_streams": ["both"]}, "'support_streams"),
        ({"temperature": 0}, "'temperature'"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message) -> None:
    with pytest.raises(RecipeError, match=message):
        build_method("litemkd", CONTEXT, options)


def test_which_teacher_must_be_said_where_there_are_several() -> None:
    context = replace(CONTEXT, teacher_dims={"flow": 4, "depth": 4})
    with pytest.raises(RecipeError, match="learns from one teacher and there are 2.*flow, depth"):
        build_method("litemkd", context, {})


def test_what_a_network_does_not_give_is_named() -> None:
    student, teacher = outputs(0), outputs(1)
    del teacher.features["support"]
    with pytest.raises(RecipeError, match="the feature 'support' and teacher 'teacher' gives queries, similarities"):
        losses({}, student, teacher)
    student.logits.pop("episode_patches")
    with pytest.raises(RecipeError, match="needs the logits 'episode_patches' and the student gives"):
        losses({"patch_weight": 1.0}, student, outputs(1))
