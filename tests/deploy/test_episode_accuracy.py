from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vidistill.data.episodes import Episodes, EpisodeSampler
from vidistill.deploy.episode_accuracy import episode_top1
from vidistill.models.base import Backbone
from vidistill.models.episode_heads import build_episode_head
from vidistill.models.episode_network import DISTILLED, FRAMES, EpisodeNetwork

LENGTH, WIDTH = 4, 6
CLIPS = np.arange(100, 130)
LABELS = np.arange(30) % 5


class Nothing(Backbone):
    """Two streams that are never computed: what is kept of clips comes from a file."""

    embedding_dim, feature_names = WIDTH, (FRAMES, DISTILLED)


def network() -> EpisodeNetwork:
    torch.manual_seed(0)
    head = build_episode_head("trx", LENGTH, WIDTH, {"projection": 5})
    return EpisodeNetwork(Nothing(), head, (3, LENGTH, 8, 8), {"action": 5}).eval()


def kept(student: EpisodeNetwork, streams: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        parts = {name: student.head.project(frames) for name, frames in streams.items()}
    return {f"{name}_{n}": part.numpy() for name, each in parts.items() for n, part in enumerate(each)}


def test_the_streams_are_summed_and_the_right_queries_counted() -> None:
    student = network()
    frames = torch.randn(2, 30, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    frames += 0.5 * torch.randn(2, 5, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))[:, LABELS]
    streams = dict(zip((FRAMES, DISTILLED), frames, strict=True))
    episodes = EpisodeSampler(LABELS, CLIPS, 3, 2, 2, 0).batch(np.arange(40))
    support, queries = (torch.from_numpy(part - 100) for part in (episodes.support, episodes.queries))
    with torch.no_grad():
        logits = sum(student.head(each, support, queries) for each in frames)
    expected = (logits.argmax(-1).numpy() == episodes.query_labels).mean()  # type: ignore[union-attr]
    assert 0.4 < expected < 0.95
    assert episode_top1(student, kept(student, streams), CLIPS, episodes) == pytest.approx(expected)


def test_no_episodes_have_no_accuracy() -> None:
    student = network()
    none = Episodes(*(np.zeros((0, *shape), np.int64) for shape in ((3, 2), (6,), (6,), (3,))))
    assert math.isnan(episode_top1(student, {}, CLIPS[:0], none))
