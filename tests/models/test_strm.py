"""STRM: patch attention, frame mixer, tuple distances and their sum with TRX."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from vidistill.core.errors import ModelError
from vidistill.models.episode_heads import PATCH_LEVEL, WHOLE, build_episode_head
from vidistill.models.strm import FrameMixer, PatchAttention, Strm, TupleDistance, nearest_distance


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patch_attention_takes_patches_and_maps_alike() -> None:
    attention = PatchAttention(6, 12).eval()
    torch.nn.init.ones_(attention.gamma)
    maps = random(2, 6, 3, 4)
    patches = attention(maps.flatten(2).transpose(1, 2))
    assert attention(maps).shape == maps.shape
    torch.testing.assert_close(attention(maps).flatten(2).transpose(1, 2), patches)
    with pytest.raises(ModelError, match="built for 12 patches a frame, not 9"):
        attention(random(2, 6, 3, 3))


def test_patch_attention_starts_without_attention_and_is_not_scaled() -> None:
    attention = PatchAttention(6, 4).eval()
    x = random(2, 4, 6)
    placed = attention.positions(x)
    torch.testing.assert_close(attention(x), placed + attention.mlp(placed))
    torch.nn.init.ones_(attention.gamma)
    weights = (attention.query(placed) @ attention.key(placed).transpose(1, 2)).softmax(-1)
    attended = placed + weights @ attention.value(placed)
    torch.testing.assert_close(attention(x), attended + attention.mlp(attended))


def test_the_frame_mixer_lets_every_frame_see_the_others() -> None:
    mixer = FrameMixer(6, 4).eval()
    frames = random(1, 4, 6).requires_grad_()
    mixer(frames)[0, 0].sum().backward()
    assert frames.grad is not None and (frames.grad[0].abs().sum(-1) > 0).all()


def test_tuple_distances_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    head = TupleDistance(5, 8, (3,)).eval()
    clips = random(7, 5, 8)
    branch = head.branches[0]

    def embedded(clip: Tensor) -> Tensor:
        return torch.relu(branch.linear(torch.stack([clip[list(t)].flatten() for t in combinations(range(5), 3)])))

    expected = [
        -torch.cdist(embedded(clips[query]), torch.cat([embedded(clip) for clip in known])).min(1).values.mean()
        for query in (4, 5, 6)
        for known in (clips[:2], clips[2:4])
    ]
    logits = head(clips, torch.arange(4).reshape(1, 2, 2), torch.tensor([[4, 5, 6]]))
    torch.testing.assert_close(logits.flatten(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_distances_of_close_tuples_far_from_zero_are_exact() -> None:
    # By the expansion |x|^2 - 2 x.y + |y|^2 alone the rounding of 1e6 would hide a distance of 0.01.
    support = 1000 + torch.arange(4.0).reshape(1, 1, 1, 4, 1).expand(1, 1, 1, 4, 3)
    queries = support[:, :, 0, :1] + torch.tensor([0.01, 0.0, 0.0])
    found = nearest_distance(support.double(), queries.double())
    assert found.item() == pytest.approx(0.01, rel=1e-2)
    assert nearest_distance(support, queries).item() == pytest.approx(0.01, rel=1e-2)
    assert nearest_distance(support, support[:, :, 0]).item() == 0.0


def test_the_head_is_trx_of_mixed_frames_plus_a_share_of_the_distances_of_plain_frames() -> None:
    torch.manual_seed(0)
    head = build_episode_head("strm", 5, 8, {"projection": 6, "cardinalities": [2, 3], "distance_weight": 0.3}).eval()
    assert isinstance(head, Strm)
    clips, episode = random(7, 5, 8), (torch.arange(4).reshape(1, 2, 2), torch.tensor([[4, 5, 6]]))
    expected = head.trx(head.mixer(clips), *episode) + 0.3 * head.distance(clips, *episode)
    torch.testing.assert_close(head(clips, *episode), expected)


def test_a_width_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ModelError, match="must be 2 or more"):
        build_episode_head("strm", 4, 1, {"projection": 4})


def test_while_training_both_parts_are_apart_and_add_up_to_the_whole() -> None:
    head = build_episode_head("strm", 4, 6, {"projection": 5, "dropout": 0.0, "distance_weight": 0.4})
    frames, support, queries = random(8, 4, 6), torch.arange(6).reshape(1, 3, 2), torch.tensor([[6, 7]])
    parts = head.train().classifiers(frames, support, queries)
    whole = head.eval().classifiers(frames, support, queries)
    assert set(parts) == {WHOLE, PATCH_LEVEL} and set(whole) == {WHOLE}
    torch.testing.assert_close(parts[WHOLE] + 0.4 * parts[PATCH_LEVEL], whole[WHOLE])
    torch.testing.assert_close(whole[WHOLE], head(frames, support, queries))
