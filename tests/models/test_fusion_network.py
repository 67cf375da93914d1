"""Fusions with an episode head; late fusion of scores."""

from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import ModelError, RecipeError
from vidistill.models.episode_heads import EpisodeHead
from vidistill.models.fusion_network import FusionNetwork, build_fusion

WIDTHS = {"rgb": 8, "depth": 6, "pose": 5}
LENGTH, WAY, SHOT, QUERIES = 4, 3, 2, 5
OPTIONS = {"mfm": {"bottleneck": 6, "layers": 1, "feedforward": 8}, "cross_attention": {}, "score_fusion": {}}
TRX = {"name": "trx", "projection": 7, "cardinalities": [2]}


def build(name: str, **more: object) -> FusionNetwork:
    torch.manual_seed(0)
    options = {**OPTIONS[name], **more}
    return build_fusion(name, WIDTHS, LENGTH, 8, {"action": 9}, TRX, options).eval()


def clips(count: int) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(count)
    return {name: torch.randn(count, LENGTH, width, generator=source) for name, width in WIDTHS.items()}


def logits(head: EpisodeHead, support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Logits (Q, way) of one episode of fused frames, support in order of class."""
    asked = torch.arange(QUERIES)[None] + WAY * SHOT
    return head(torch.cat([support, queries]), torch.arange(WAY * SHOT).reshape(1, WAY, SHOT), asked)[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_fusion_answers_as_an_episode_network_does(name: str) -> None:
    network = build(name)
    with torch.no_grad():
        outputs = network(clips(2), {"pose": torch.tensor([True, False])})
    assert outputs.logits == {}
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == network.feature_shapes()
    assert outputs.embedding.shape == (2, network.embedding_dim)
    torch.testing.assert_close(outputs.embedding, outputs.features["frames"].mean(1))
    assert (network.name, network.classes, network.streams) == (name, {"action": 9}, ("frames",))
    assert network.input_shape["pose"] == (LENGTH, 5)
    assert "missing" in network.options
    with pytest.raises(RecipeError, match="has no feature 'frame'. Did you mean 'frames'"):
        network(clips(2), features=("frame",))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_episode_teaches_every_modality(name: str) -> None:
    network = build(name).train()
    support, queries = clips(WAY * SHOT), clips(QUERIES)
    for value in support.values():
        value.requires_grad_()
    scores = logits(network.head, *(network(x).features["frames"] for x in (support, queries)))
    assert scores.shape == (QUERIES, WAY)
    torch.nn.functional.cross_entropy(scores, torch.arange(QUERIES) % WAY).backward()
    assert all(float(value.grad.abs().sum()) > 0 for value in support.values())


def test_scores_are_the_weighted_sum_of_each_modalitys_own() -> None:
    weights = {"rgb": 1.0, "depth": 0.25, "pose": 2.0}
    network = build("score_fusion", weights=weights)
    support, queries = clips(WAY * SHOT), clips(QUERIES)
    with torch.no_grad():
        together = logits(network.head, *(network(x).features["frames"] for x in (support, queries)))
        heads = zip(network.head.heads, WIDTHS, strict=True)
        alone = [weights[name] * logits(head, support[name], queries[name]) for head, name in heads]
    torch.testing.assert_close(together, sum(alone))


def test_score_weights_are_one_for_the_first_and_a_third_for_the_others_unless_said() -> None:
    assert build("score_fusion").fusion.weights == {"rgb": 1.0, "depth": 0.3, "pose": 0.3}
    with pytest.raises(RecipeError, match="differ in 'pose'"):
        build("score_fusion", weights={"rgb": 1.0, "depth": 1.0})


def test_unknown_fusions_options_and_no_modalities_are_refused() -> None:
    with pytest.raises(RecipeError, match="unknown fusion 'mfn'. Did you mean 'mfm'"):
        build_fusion("mfn", WIDTHS, LENGTH)
    with pytest.raises(RecipeError, match="unknown key 'layer'"):
        build_fusion("mfm", WIDTHS, LENGTH, options={"layer": 1})
    with pytest.raises(ModelError, match="needs modalities"):
        build_fusion("mfm", {}, LENGTH)
