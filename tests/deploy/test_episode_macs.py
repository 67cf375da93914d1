"""What an episode costs, as published and as computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidistill.deploy.episode_macs import EpisodeCost, count_episode_macs, count_modules
from vidistill.models import build_network
from vidistill.models.episode_heads import build_episode_head
from vidistill.models.episode_network import EpisodeNetwork

SHAPE = (3, 8, 224, 224)


def build(trunk: str, cardinalities: list[int], **options: object) -> EpisodeNetwork:
    comparison = {"name": "trx", "cardinalities": cardinalities}
    with torch.device("meta"):
        network = build_network("frame_embedder", SHAPE, {}, {"trunk": trunk, "comparison": comparison, **options})
    assert isinstance(network, EpisodeNetwork)
    return network


@pytest.mark.parametrize(
    ("trunk", "cardinalities", "options", "published"),
    [
        ("mobilenet_v3_large", [2], {"streams": 2}, 72.6),
        ("resnet18", [2], {"streams": 2}, 454.0),
        ("resnet50", [2, 3], {"dim": None}, 1023.3),
        ("resnet50", [2], {"dim": None}, 999.5),
    ],
)
def test_the_published_numbers_come_out(trunk, cardinalities, options, published) -> None:
    cost = count_episode_macs(build(trunk, cardinalities, **options), way=5, shot=5, queries=5)
    assert cost.published is not None
    assert round(cost.published, 1) == published
    # Frames projected once for each place in a tuple, instead of once a tuple.
    assert cost.comparison < cost.published_comparison
    assert cost.ours < cost.published


def test_two_streams_compare_twice_and_more_clips_cost_more() -> None:
    one, two = (build("resnet18", [2], streams=streams) for streams in (1, 2))
    single, double = count_episode_macs(one), count_episode_macs(two)
    assert double.published_comparison == pytest.approx(2 * single.published_comparison)
    assert double.comparison == pytest.approx(2 * single.comparison)
    assert count_episode_macs(one, queries=10).frames == pytest.approx(single.frames * 35 / 30)
    assert count_episode_macs(one, shot=1).comparison < single.comparison


def test_heads_without_a_published_count_say_so() -> None:
    network = build("resnet18", [2])
    network.head = build_episode_head("prototype", 8, 2048)
    cost = count_episode_macs(network)
    assert cost.published_comparison is None
    assert cost.published is None
    assert EpisodeCost(1.0, None, 2.0, 3.0).ours == 5.0


def test_modules_count_by_their_rules() -> None:
    chain = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).append(nn.Linear(6, 5))
    expected = 6 * 25 * (2 * 9) + 4 * 6 * 25 + (6 * 25 + 6) + 6 * 5
    assert count_modules(chain, torch.zeros(1, 4, 5, 5)) == expected


def test_the_network_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    network = build_network("frame_embedder", (3, 2, 32, 32), {}, {"trunk": "resnet18", "dim": 8}).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count_episode_macs(network, 2, 1, 1)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not [module for module in network.modules() if module._forward_hooks]
