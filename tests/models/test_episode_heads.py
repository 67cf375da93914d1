"""Every episode head keeps the contract of `EpisodeHead`; the heads that average frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from vidistill.core.errors import ModelError, RecipeError
from vidistill.models import episode_heads
from vidistill.models.episode_heads import EPISODE_HEADS, EpisodeHead, build_episode_head, gather

LENGTH, WIDTH = 5, 12
SMALL = {"projection": 8, "cardinalities": [2, 3]}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "trx": ("trx", SMALL),
    "otam": ("otam", {}),
    "otam released": ("otam", {"variant": "released"}),
    "strm": ("strm", SMALL),
    "mean of distances": ("prototype", {}),
    "distance to mean": ("prototype", {"distance": "distance_to_mean"}),
    "cosine": ("cosine", {}),
    "fixed cosine": ("cosine", {"learn_scale": False}),
}
EVERY = pytest.mark.parametrize("case", HEADS)


def build(case: str, length: int = LENGTH, width: int = WIDTH) -> EpisodeHead:
    torch.manual_seed(0)
    name, options = HEADS[case]
    return build_episode_head(name, length, width, options).eval()


def draw(clips: int, length: int = LENGTH, width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.randn(clips, length, width, generator=torch.Generator().manual_seed(seed))


def indices(clips: int, episodes: int, way: int, shot: int, queries: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    drawn = torch.stack([torch.randperm(clips, generator=random) for _ in range(episodes)])
    return drawn[:, : way * shot].reshape(episodes, way, shot), drawn[:, way * shot : way * shot + queries]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=3e-5)


def test_all_heads_are_known_by_name() -> None:
    assert EPISODE_HEADS.names() == ["cosine", "otam", "prototype", "strm", "trx"]
    assert "otam" in EPISODE_HEADS
    with pytest.raises(RecipeError, match="unknown episode head 'trxx'. Did you mean 'trx'"):
        build_episode_head("trxx", 8, 64)
    with pytest.raises(RecipeError, match=r"here: unknown key 'smothing' \(Did you mean 'smoothing'"):
        build_episode_head("otam", 8, 64, {"smothing": 1}, where="here")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("otam", {"smoothing": 0}, "'smoothing': Input should be greater than 0"),
        ("trx", {"cardinalities": []}, "'cardinalities'"),
        ("prototype", {"distance": "cos"}, "'distance'"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_episode_head(name, 8, 64, options)


@pytest.mark.parametrize(("cardinalities", "said"), [([6], "6 is not within 1 and the 5"), ([2, 2], "given twice")])
@pytest.mark.parametrize("name", ["trx", "strm"])
def test_cardinalities_that_clips_do_not_have_are_refused(name: str, cardinalities: list[int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_episode_head(name, LENGTH, WIDTH, {"cardinalities": cardinalities})


@EVERY
def test_clips_of_another_shape_are_refused(case: str) -> None:
    for frames in (draw(2, LENGTH + 1), draw(2, LENGTH, WIDTH + 1), draw(2)[0]):
        with pytest.raises(ModelError, match="5 frames of 12 features"):
            build(case).project(frames)


@EVERY
def test_learned_heads_are_those_with_parameters(case: str) -> None:
    assert build(case).learned == (case in ("trx", "strm", "cosine"))


@EVERY
@settings(max_examples=6, deadline=None)
@given(
    way=st.integers(1, 4), shot=st.integers(1, 3), queries=st.integers(1, 4), length=st.integers(3, 6), data=st.data()
)
def test_any_sizes_give_one_finite_logit_a_query_and_class(
    case: str, way: int, shot: int, queries: int, length: int, data: st.DataObject
) -> None:
    episodes = data.draw(st.integers(1, 3))
    clips = way * shot + queries
    logits = build(case, length)(draw(clips, length), *indices(clips, episodes, way, shot, queries))
    assert logits.shape == (episodes, queries, way)
    assert torch.isfinite(logits).all()


@EVERY
def test_the_order_of_a_classs_clips_changes_nothing(case: str) -> None:
    head, frames = build(case), draw(14)
    support, queries = indices(14, 2, 3, 3, 4)
    close(head(frames, support.flip(2), queries), head(frames, support, queries))


@EVERY
def test_logits_move_with_their_classes_and_queries(case: str) -> None:
    head, frames = build(case), draw(14)
    support, queries = indices(14, 2, 3, 3, 4)
    logits = head(frames, support, queries)
    order = [2, 0, 1]
    close(head(frames, support[:, order], queries), logits[:, :, order])
    close(head(frames, support, queries.flip(1)), logits.flip(1))


@EVERY
def test_a_query_that_is_the_support_clip_of_a_class_is_of_that_class(case: str) -> None:
    support = torch.arange(4)[None, :, None]
    logits = build(case)(draw(4), support, torch.arange(4)[None])
    assert logits[0].argmax(-1).tolist() == [0, 1, 2, 3]


@EVERY
def test_many_episodes_at_once_equal_one_by_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, frames = build(case), draw(14)
    support, queries = indices(14, 3, 3, 2, 4)
    together = head(frames, support, queries)
    close(torch.cat([head(frames, support[e : e + 1], queries[e : e + 1]) for e in range(3)]), together)
    monkeypatch.setattr(episode_heads, "CHUNK_BYTES", 1)
    projected = head.project(frames)
    close(head.compare(gather(projected, support), gather(projected, queries)), together)
    close(head(frames, support, queries), together)


@EVERY
def test_memory_bounds_the_episodes_that_are_compared_at_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = build(case)
    part = head.trx if case == "strm" else head
    seen, logits = [], part.logits
    monkeypatch.setattr(part, "logits", lambda known, asked: seen.append(len(asked[0])) or logits(known, asked))
    projected = head.project(draw(14))
    support, queries = (gather(projected, index) for index in indices(14, 5, 3, 2, 4))
    kept = head.kept if case == "strm" else len(projected)
    needed = part.episode_bytes(support[:kept], queries[:kept])
    monkeypatch.setattr(episode_heads, "CHUNK_BYTES", 2 * needed)
    head.compare(support, queries)
    assert seen == [2, 2, 1]


@EVERY
def test_projecting_clips_once_equals_projecting_them_for_each_episode(case: str) -> None:
    head, frames = build(case), draw(14)
    support, queries = indices(14, 3, 3, 2, 4)
    once = head.episodes(head.project(frames), support, queries)
    for number in range(3):
        known = head.project(frames[support[number].flatten()])
        asked = head.project(frames[queries[number]])
        arranged = tuple(part.reshape(1, 3, 2, *part.shape[1:]) for part in known)
        close(head.compare(arranged, tuple(part[None] for part in asked))[0], once[number])


@EVERY
def test_every_projected_tensor_has_the_clips_first(case: str) -> None:
    assert {len(part) for part in build(case).project(draw(7))} == {7}


@EVERY
@pytest.mark.parametrize("kind", ["all alike", "all zero", "query is support"])
def test_gradients_are_finite_where_distances_are_zero(case: str, kind: str) -> None:
    frames = draw(8)
    if kind == "all alike":
        frames = frames[:1].repeat(8, 1, 1)
    elif kind == "all zero":
        frames = torch.zeros_like(frames)
    frames.requires_grad_()
    head = build(case)
    support = torch.arange(4).reshape(1, 2, 2)
    queries = torch.tensor([[0, 1, 4]])
    loss = functional.cross_entropy(head(frames, support, queries)[0], torch.tensor([0, 1, 0]))
    for gradient in torch.autograd.grad(loss, [frames, *head.parameters()], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@EVERY
def test_frames_and_all_parameters_learn(case: str) -> None:
    frames = draw(8).requires_grad_()
    head = build(case)
    head(frames, torch.arange(4).reshape(1, 2, 2), torch.tensor([[4, 5]])).square().sum().backward()
    assert frames.grad is not None and (frames.grad[:6].abs().sum((1, 2)) > 0).all()
    assert all(parameter.grad is not None for parameter in head.parameters())


@EVERY
def test_half_precision_is_compared_in_single_precision(case: str) -> None:
    head = build(case)
    support, queries = indices(8, 1, 2, 2, 3)
    frames = 0.1 * draw(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(frames, support, queries)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(frames, support, queries), rtol=0.03, atol=0.03)


@EVERY
def test_a_copy_in_double_precision_and_one_without_numbers_work(case: str) -> None:
    support, queries = indices(8, 1, 2, 2, 3)
    single = build(case)(draw(8), support, queries)
    torch.testing.assert_close(build(case).double()(draw(8).double(), support, queries).float(), single)
    empty = build(case).to("meta")(draw(8).to("meta"), support.to("meta"), queries.to("meta"))
    assert empty.shape == single.shape


def test_prototypes_are_the_distances_they_say() -> None:
    frames = draw(9)
    support, queries = torch.arange(6).reshape(1, 2, 3), torch.tensor([[6, 7, 8]])
    clips = frames.mean(1)
    each = torch.cdist(clips[6:], clips[:6]).reshape(3, 2, 3).mean(-1)
    mean = torch.cdist(clips[6:], clips[:6].reshape(2, 3, -1).mean(1))
    close(build("mean of distances")(frames, support, queries)[0], -each)
    close(build("distance to mean")(frames, support, queries)[0], -mean)


def test_with_one_shot_both_prototype_distances_are_the_same() -> None:
    frames = draw(6)
    support, queries = torch.arange(3).reshape(1, 3, 1), torch.tensor([[3, 4, 5]])
    close(build("mean of distances")(frames, support, queries), build("distance to mean")(frames, support, queries))


def test_the_cosine_does_not_see_how_long_clips_are_and_is_scaled() -> None:
    frames = draw(6)
    support, queries = torch.arange(3).reshape(1, 3, 1), torch.tensor([[0, 4, 5]])
    logits = build("cosine")(frames, support, queries)
    close(build("cosine")(frames * torch.arange(1, 7)[:, None, None], support, queries), logits)
    assert logits[0, 0, 0].item() == pytest.approx(10.0)
    assert logits.abs().max() <= 10.0 + 1e-4
