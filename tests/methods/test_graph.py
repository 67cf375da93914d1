from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import RecipeError
from vidistill.core.types import Batch, Outputs
from vidistill.methods import MethodContext, graph
from vidistill.methods.base import build_method, module_key

ROWS, DIM = 8, 6
CLASSES = {"verb": 5, "noun": 7}
TEACHERS = {"flow": "flow", "audio.v2": "sound", "pose": "pose"}
TERMS = {"graph_regulariser", "graph_logits", "graph_embeddings"}
METRICS = ("cosine", "l1", "l2", "kl")


def answers(size: int = DIM, grad: bool = True, dtype: torch.dtype = torch.float32) -> Outputs:
    def tensor(columns: int) -> Tensor:
        return torch.randn(ROWS, columns).to(dtype).requires_grad_(grad)

    return Outputs({head: tensor(count) for head, count in CLASSES.items()}, tensor(size))


def tensors(outputs: Outputs) -> list[Tensor]:
    return [*outputs.logits.values(), outputs.embedding]


class Peer(nn.Module):
    """A network that learns along: one linear map a head of a linear embedding."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(inputs, size)
        self.heads = nn.ModuleDict({head: nn.Linear(size, count) for head, count in CLASSES.items()})

    def forward(self, x: Tensor) -> Outputs:
        embedding = self.trunk(x)
        return Outputs({head: layer(embedding) for head, layer in self.heads.items()}, embedding)


class World:
    def __init__(self, sizes: dict[str, int] | None = None, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.sizes = sizes or dict.fromkeys(TEACHERS, DIM)
        self.student = answers(dtype=dtype)
        self.teachers = {name: answers(size, dtype=dtype) for name, size in self.sizes.items()}
        present = {TEACHERS[name]: torch.ones(ROWS, dtype=torch.bool) for name in self.sizes}
        labels = {head: torch.randint(count, (ROWS,)) for head, count in CLASSES.items()}
        inputs = {TEACHERS[name]: torch.randn(ROWS, 3) for name in self.sizes}
        self.batch = Batch(inputs, labels, torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.long), present)
        self.context = MethodContext(
            DIM,
            self.sizes,
            CLASSES,
            parts=lambda teacher, part: nn.Identity(),
            teacher_inputs={name: TEACHERS[name] for name in self.sizes},
            learner=lambda name: Peer(3, self.sizes[name]).requires_grad_(False),
        )

    def build(self, **options) -> graph.Graph:
        torch.manual_seed(3)
        return build_method("graph", self.context, options)

    def losses(self, method: graph.Graph):
        return method(self.student, self.teachers, self.batch)

    def run_peers(self, method: graph.Graph) -> None:
        """What the loop does."""
        for name, entry in method.peer_inputs.items():
            self.teachers[name] = method.peers[module_key(name)](self.batch.inputs[entry])


def total(losses) -> Tensor:
    return torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()


def test_terms_have_the_published_weights_and_edges_are_only_watched() -> None:
    world = World()
    losses = world.losses(world.build())
    assert set(losses) == TERMS | {f"edge/{name}" for name in TEACHERS}
    assert [losses[f"graph_{name}"].weight for name in ("regulariser", "logits", "embeddings")] == [10, 10, 1]
    assert not losses["graph_regulariser"].per_clip
    assert losses["graph_regulariser"].values.unique().numel() == 1
    for name, loss in losses.items():
        assert loss.values.shape == (ROWS,)
        if name.startswith("edge/"):
            assert loss.weight == 0 and not loss.values.requires_grad


@pytest.mark.parametrize("metric", METRICS)
def test_imitation_is_zero_at_equality(metric) -> None:
    world = World()
    world.teachers = {name: world.student.detach() for name in TEACHERS}
    losses = world.losses(world.build(metric=metric))
    (losses["graph_logits"].values + losses["graph_embeddings"].values).sum().backward()
    for name in ("graph_logits", "graph_embeddings"):
        torch.testing.assert_close(losses[name].values, torch.zeros(ROWS), rtol=0, atol=1e-5)
    for tensor in tensors(world.student):
        torch.testing.assert_close(tensor.grad, torch.zeros_like(tensor), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["default", "released"])
def test_gradient_reaches_student_and_kernel_and_no_teacher(variant) -> None:
    world = World()
    method = world.build(variant=variant)
    total(world.losses(method)).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors(world.student))
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.receivers["of_student"].kernel.from_logits.weight.grad.abs().sum() > 0
    assert all(tensor.grad is None for outputs in world.teachers.values() for tensor in tensors(outputs))


def test_learning_moves_edges_to_the_teacher_that_is_easy_to_imitate() -> None:
    world = World()
    same = world.student.detach()
    world.teachers["pose"] = Outputs(same.logits, same.embedding)
    method = world.build(regulariser=0.0, alpha=1.0)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    before = world.losses(method)["edge/pose"].values.mean()
    for _ in range(30):
        optimizer.zero_grad()
        total(world.losses(method)).backward()
        optimizer.step()
    assert world.losses(method)["edge/pose"].values.mean() > before + 0.2


def test_one_teacher_alone_has_edge_one_and_no_regulariser() -> None:
    world = World({"flow": DIM})
    losses = world.losses(world.build())
    assert (losses["edge/flow"].values == 1).all()
    assert (losses["graph_regulariser"].values == 0).all()
    cosine = torch.stack(
        [
            1 - torch.cosine_similarity(world.student.logits[head], world.teachers["flow"].logits[head])
            for head in CLASSES
        ]
    ).mean(0)
    torch.testing.assert_close(losses["graph_logits"].values, 2 * cosine)


def test_a_teacher_that_is_absent_has_no_edge_and_the_others_share_its_part() -> None:
    world = World()
    world.batch.present["sound"][[1, 4]] = False
    world.batch.present["pose"][4] = False
    world.batch.present["flow"][5] = world.batch.present["sound"][5] = world.batch.present["pose"][5] = False
    losses = world.losses(world.build())
    edges = torch.stack([losses[f"edge/{name}"].values for name in TEACHERS])
    assert edges[1, 1] == 0 and edges[0, 4] == 1
    assert (edges[:, 5] == 0).all() and losses["graph_logits"].values[5] == 0
    torch.testing.assert_close(edges.sum(0), torch.tensor([1.0, 1, 1, 1, 1, 0, 1, 1]))


def test_a_teacher_that_never_answers_and_is_not_finite_spoils_nothing() -> None:
    world = World()
    world.batch.present["sound"][:] = False
    with torch.no_grad():
        for tensor in tensors(world.teachers["audio.v2"]):
            tensor.fill_(torch.nan)
    method = world.build()
    losses = world.losses(method)
    total(losses).backward()
    assert all(loss.values.isfinite().all() for loss in losses.values())
    assert all(tensor.grad.isfinite().all() for tensor in (*tensors(world.student), *method.parameters()))


def test_edges_stay_finite_where_a_present_teacher_is_not() -> None:
    world = World()
    with torch.no_grad():
        world.teachers["pose"].embedding[2] = torch.inf
    losses = world.losses(world.build())
    assert all(losses[f"edge/{name}"].values.isfinite().all() for name in TEACHERS)
    assert not losses["graph_embeddings"].values.isfinite().all()  # the loop reports it


def test_permuting_the_batch_permutes_the_values() -> None:
    world = World()
    world.batch.present["sound"][2] = False
    method = world.build()
    before = world.losses(method)
    order = torch.randperm(ROWS)

    def pick(outputs: Outputs) -> Outputs:
        return Outputs({h: v[order] for h, v in outputs.logits.items()}, outputs.embedding[order])

    world.batch = replace(world.batch, present={k: v[order] for k, v in world.batch.present.items()})
    after = method(pick(world.student), {k: pick(v) for k, v in world.teachers.items()}, world.batch)
    for name in before:
        torch.testing.assert_close(after[name].values, before[name].values[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("variant", ["default", "released"])
@pytest.mark.parametrize("sizes", [None, {"flow": 6, "audio.v2": 4, "pose": 9}], ids=["equal", "unequal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_metric_variant_and_precision_is_finite_float32(metric, variant, sizes, dtype) -> None:
    world = World(sizes, dtype)
    method = world.build(metric=metric, variant=variant)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = world.losses(method)
    total(losses).backward()
    for loss in losses.values():
        assert loss.values.dtype == torch.float32 and loss.values.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in (*tensors(world.student), *method.parameters()))


def test_half_precision_outside_autocast_is_safe() -> None:
    world = World({"flow": 6, "pose": 9}, torch.bfloat16)
    assert total(world.losses(world.build())).isfinite()


def test_the_released_kl_is_the_mean_over_classes() -> None:
    world = World()
    default = world.losses(world.build(metric="kl", heads=["noun"]))["graph_logits"].values
    released = world.losses(world.build(metric="kl", heads=["noun"], variant="released"))["graph_logits"].values
    torch.testing.assert_close(released * CLASSES["noun"], default)


def test_projections_go_where_sizes_differ() -> None:
    sizes = {"flow": 6, "audio.v2": 4}

    def kinds(**options) -> list[type]:
        return [type(part) for part in World(sizes).build(**options).receivers["of_student"].projections.values()]

    assert kinds() == [nn.Identity, nn.Linear]
    assert kinds(projection="linear") == [nn.Linear, nn.Linear]
    with pytest.raises(RecipeError, match="'audio.v2' has 4"):
        kinds(projection="none")


def prior_of(context: MethodContext, **options) -> list[float]:
    return build_method("graph", context, options).receivers["of_student"].prior.tolist()


def test_the_prior_is_uniform_or_accuracy_or_given() -> None:
    context = World().context
    assert prior_of(context) == [1.0, 1.0, 1.0]
    measured = replace(context, teacher_accuracy={"flow": 0.5, "audio.v2": 0.25, "pose": 0.75, "other": 0.1})
    assert prior_of(measured, prior="validation") == [0.5, 0.25, 0.75]
    assert prior_of(context, prior={"flow": 1, "audio.v2": 2, "pose": 3}) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "validation"}, "not measured"),
        ({"prior": {}}, "names no teacher"),
        ({"prior": {"flow": 1.0}}, "no weight for teacher 'audio.v2'"),
        ({"prior": {"flow": 1.0, "audio.v2": 1.0, "pose": 1.0, "posse": 1.0}}, "Did you mean 'pose'"),
        ({"prior": {"flow": float("nan"), "audio.v2": 1.0, "pose": 1.0}}, "prior"),
        ({"peers": ["flow"]}, "mutual"),
        ({"mutual": True, "teachers": ["flow", "pose"], "peers": ["audio.v2"]}, "no teacher 'audio.v2'"),
        ({"teachers": ["flou"]}, "Did you mean 'flow'"),
        ({"metric": "cosin"}, "metric"),
        ({"kernel_size": 0}, "kernel_size"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        World().build(**options)
    assert "\n" not in str(caught.value)


def test_the_full_graph_needs_networks_that_can_learn() -> None:
    with pytest.raises(RecipeError, match="can learn along"):
        build_method("graph", replace(World().context, learner=None), {"mutual": True})


def test_a_teacher_may_not_be_called_student() -> None:
    with pytest.raises(RecipeError, match="called 'student'"):
        build_method("graph", replace(World().context, teacher_dims={"student": DIM}), {})


def test_the_kernels_learning_rate_is_an_option() -> None:
    assert World().build().learning_rate_scale == 1.0
    assert World().build(kernel_learning_rate_scale=0.1).learning_rate_scale == 0.1


@pytest.mark.parametrize("sizes", [None, {"flow": 6, "audio.v2": 4, "pose": 9}], ids=["equal", "unequal"])
def test_in_the_full_graph_every_peer_learns(sizes) -> None:
    world = World(sizes)
    method = world.build(mutual=True)
    assert method.peer_inputs == TEACHERS
    assert set(method.peers) == {module_key(name) for name in TEACHERS}
    world.run_peers(method)
    losses = world.losses(method)
    assert {f"graph_peer_{kind}" for kind in ("regulariser", "logits", "embeddings", "label")} < set(losses)
    assert not losses["graph_peer_label"].distillation and not losses["graph_peer_regulariser"].per_clip
    total(losses).backward()
    for peer in method.peers.values():
        assert all(parameter.grad.abs().sum() > 0 for parameter in peer.parameters())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_in_the_full_graph_no_target_gets_a_gradient() -> None:
    world = World()
    method = world.build(mutual=True, peers=["pose"])  # flow and audio stay frozen, and teach
    world.run_peers(method)
    world.teachers["pose"].embedding.retain_grad()
    losses = world.losses(method)
    student_terms = total({name: loss for name, loss in losses.items() if name in TERMS})
    student_terms.backward(retain_graph=True)
    assert world.teachers["pose"].embedding.grad is None
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors(world.student))
    for tensor in tensors(world.student):
        tensor.grad = None
    total({name: loss for name, loss in losses.items() if name not in TERMS}).backward()
    assert world.teachers["pose"].embedding.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in tensors(world.student))
    frozen = [tensor for name in ("flow", "audio.v2") for tensor in tensors(world.teachers[name])]
    assert all(tensor.grad is None for tensor in frozen)


def test_each_receiver_of_the_full_graph_has_edges_from_all_others() -> None:
    world = World()
    method = world.build(mutual=True, peers=["pose"])
    world.run_peers(method)
    losses = world.losses(method)
    edges = torch.stack([losses[f"peer_edge/pose/{name}"].values for name in ("student", "flow", "audio.v2")])
    torch.testing.assert_close(edges.sum(0), torch.ones(ROWS))
    assert not any(name.startswith("peer_edge/flow") for name in losses)
    kernels = [receiver.kernel for receiver in method.receivers.values()]
    assert len(kernels) == 2 and not torch.equal(kernels[0].edge.weight, kernels[1].edge.weight)


def test_a_peer_learns_nothing_from_rows_it_did_not_see_or_that_have_no_label() -> None:
    world = World()
    method = world.build(mutual=True, peers=["pose"])
    world.batch.present["pose"][3] = False
    for labels in world.batch.labels.values():
        labels[5] = -1
    world.run_peers(method)
    losses = world.losses(method)
    assert losses["graph_peer_label"].values[3] == 0 and losses["graph_peer_label"].values[5] == 0
    assert (losses["graph_peer_label"].values[[0, 1, 2, 4, 6, 7]] > 0).all()
    assert losses["graph_peer_logits"].values[3] == 0 and losses["graph_peer_logits"].values[5] > 0


def test_the_student_weighs_as_teachers_do_on_average_in_a_peers_prior() -> None:
    measured = replace(World().context, teacher_accuracy={"flow": 0.5, "audio.v2": 0.25, "pose": 0.75})

    def prior(**options) -> Tensor:
        return build_method("graph", measured, {"mutual": True, **options}).receivers["of_pose"].prior

    torch.testing.assert_close(prior(prior="validation"), torch.tensor([0.5, 0.5, 0.25]))
    given = {"student": 0.0, "flow": 1.0, "audio.v2": 2.0, "pose": 3.0}
    torch.testing.assert_close(prior(prior=given), torch.tensor([0.0, 1.0, 2.0]))


def test_compiled_gives_the_same_values() -> None:
    world = World({"flow": 6, "audio.v2": 4})
    world.batch.present["sound"][3] = False
    method = world.build(mutual=True, peers=["flow"])
    expected = world.losses(method)
    compiled = torch.compile(method, backend="eager", fullgraph=True)(world.student, world.teachers, world.batch)
    for name in expected:
        torch.testing.assert_close(compiled[name].values, expected[name].values)
