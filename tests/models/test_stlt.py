"""The layout transformer: slots without order, padding that changes nothing, time that runs one way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidistill.core.errors import CheckpointError, ModelError, RecipeError
from vidistill.deploy.measure import gmacs
from vidistill.modalities.layout import CLASS, COLUMNS
from vidistill.models import Network, build_network
from vidistill.models.published import load_published, published_keys
from vidistill.models.published_layout import PUBLISHED_PREFIXES

TINY = {"width": 16, "heads": 2, "spatial_layers": 2, "temporal_layers": 2}
FRAMES, SLOTS = 5, 6
HEADS = {"verb": 4, "noun": 3}


def built(slots: int = SLOTS, heads: dict[str, int] | None = None, **options) -> Network:
    torch.manual_seed(0)
    return build_network("stlt", (FRAMES, slots * COLUMNS), heads or HEADS, {**TINY, **options}).eval()


def layouts(fill: int = 3, clips: int = 3, slots: int = SLOTS) -> Tensor:
    """Clips whose frames have 1 to `fill` boxes, one frame none, and the last frame of the last clip all `fill`."""
    torch.manual_seed(1)
    x = torch.rand(clips, FRAMES, slots, COLUMNS)
    counts = torch.randint(1, fill + 1, (clips, FRAMES, 1))
    counts[0, 0], counts[-1, -1] = 0, fill
    x[..., CLASS] = torch.randint(1, 3, x.shape[:3])
    x[..., CLASS + 1 :] = torch.randint(0, 3, (*x.shape[:3], 2)).float()
    return x * (torch.arange(slots) < counts)[..., None]


def rows_seen(network: Network) -> list[int]:
    """Where the numbers of slots that a forward pass embeds will stand."""
    seen: list[int] = []
    network.backbone.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[2]))
    return seen


@pytest.mark.parametrize("fill", [1, 3, SLOTS])
def test_slots_that_nobody_fills_are_left_out_and_the_outputs_are_the_same(fill: int) -> None:
    x = layouts(fill).flatten(2)
    dynamic, fixed = built(padding="dynamic"), built(padding="fixed")
    seen, all_seen = rows_seen(dynamic), rows_seen(fixed)
    with torch.no_grad():
        one, other = dynamic(x, features=("frames",)), fixed(x, features=("frames",))
    assert (seen, all_seen) == ([fill], [SLOTS])
    torch.testing.assert_close(one.embedding, other.embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.features["frames"], other.features["frames"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.logits["noun"], other.logits["noun"], atol=1e-5, rtol=1e-5)


def test_any_number_of_slots_gives_the_same_outputs() -> None:
    x = layouts(3)
    wide = nn.functional.pad(x, (0, 0, 0, 30))
    with torch.no_grad():
        one = built(padding="fixed")(x.flatten(2)).embedding
        other = built(SLOTS + 30, padding="fixed")(wide.flatten(2)).embedding
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_slots_have_no_order_and_frames_do() -> None:
    network, x = built(), layouts(SLOTS)
    with torch.no_grad():
        straight = network(x.flatten(2)).embedding
        shuffled = network(x[:, :, torch.randperm(SLOTS)].flatten(2)).embedding
        reversed_ = network(x.flip(1).flatten(2)).embedding
    torch.testing.assert_close(straight, shuffled, atol=1e-5, rtol=1e-5)
    assert (straight - reversed_).abs().max() > 1e-3


def test_what_padding_holds_changes_nothing() -> None:
    network, x = built(padding="fixed"), layouts(3)
    noisy = torch.where(x[..., CLASS, None] > 0, x, torch.rand_like(x))
    noisy[..., CLASS] = x[..., CLASS]
    with torch.no_grad():
        torch.testing.assert_close(network(noisy.flatten(2)).embedding, network(x.flatten(2)).embedding)


def test_a_frame_knows_only_those_before_it() -> None:
    network, x = built(), layouts(3)
    later = x.clone()
    later[:, 3:, :, :4] += 0.1
    with torch.no_grad():
        one, other = (network(clip.flatten(2), features=("sequence",)) for clip in (x, later))
    torch.testing.assert_close(one.features["sequence"][..., :3], other.features["sequence"][..., :3])
    assert (one.features["sequence"][..., 3:] - other.features["sequence"][..., 3:]).abs().amax((0, 1)).min() > 1e-4
    assert (one.embedding - other.embedding).abs().max() > 1e-4


def test_features_have_the_shapes_told_whatever_is_left_out() -> None:
    network, x = built(), layouts(2).flatten(2)
    shapes = network.feature_shapes()
    assert shapes == {"slots": (16, FRAMES, SLOTS), "frames": (16, FRAMES), "sequence": (16, FRAMES)}
    with torch.no_grad():
        outputs = network(x, features=tuple(shapes))
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == shapes
    assert torch.equal(network.head(outputs.embedding)["verb"], outputs.logits["verb"])


def test_gradient_reaches_every_parameter_but_the_padding_rows() -> None:
    network = built(dropout=0.0).train()
    logits = network(layouts(SLOTS).flatten(2)).logits
    sum(value.square().sum() for value in logits.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert not network.backbone.embedding.category.weight.grad[0].any()


def test_an_empty_clip_is_valid_and_costs_what_a_full_one_costs() -> None:
    network = built(padding="auto")
    with torch.no_grad():
        assert torch.isfinite(network(torch.zeros(1, FRAMES, SLOTS * COLUMNS)).embedding).all()
    shape = (FRAMES, SLOTS * COLUMNS)
    assert gmacs(network, shape) == gmacs(built(padding="fixed"), shape) > 1e-5


@pytest.mark.slow
def test_an_exported_graph_keeps_all_slots_and_gives_the_same_logits_for_any_batch() -> None:
    network = built(spatial_layers=1, temporal_layers=1)
    batch = torch.export.Dim("batch", min=1)
    graph = torch.export.export(network, (layouts(2).flatten(2),), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        for clips in (layouts(4)[:1].flatten(2), layouts(5, clips=4).flatten(2)):
            torch.testing.assert_close(graph(clips).logits["verb"], network(clips).logits["verb"], atol=1e-5, rtol=1e-4)


def test_the_published_size_is_the_default() -> None:
    with torch.device("meta"):
        network = build_network("stlt", (16, 14 * COLUMNS), {"action": 174})
    assert sum(parameter.numel() for parameter in network.parameters()) == 85_219_758


def test_other_encodings_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match="kind: layout"):
        build_network("stlt", (FRAMES, 4 * 5), HEADS, TINY)
    with pytest.raises(ModelError, match="3 heads do not share out"):
        build_network("stlt", (FRAMES, COLUMNS), HEADS, {**TINY, "heads": 3})


def published_state(network: Network) -> dict[str, Tensor]:
    """This network's weights under the published keys."""
    ours = {new: old for old, new in PUBLISHED_PREFIXES.items() if new}
    ours |= {f"head.{head}.": f"classifiers.{head.upper()}." for head in network.classes}
    return {
        next(old + key.removeprefix(new) for new, old in ours.items() if key.startswith(new)): value
        for key, value in network.state_dict().items()
    }


def test_published_keys_bring_weights_and_heads_over() -> None:
    source = built()
    torch.manual_seed(5)
    network = build_network("stlt", (FRAMES, COLUMNS), HEADS, TINY)
    load_published(network, "stlt", {f"_orig_mod.{key}": value for key, value in published_state(source).items()})
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in source.state_dict().items())


def test_an_only_head_takes_the_classifier_of_actions_by_any_name() -> None:
    keys = published_keys("stlt", built(heads={"label": 3}))
    assert callable(keys) and keys("classifiers.ACTION.weight") == "head.label.weight"


def test_what_is_not_published_is_refused() -> None:
    with pytest.raises(RecipeError, match="epsilon: 0.1 only"):
        published_keys("stlt", built(epsilon=1e-5))
    with pytest.raises(RecipeError, match="Choose stlt"):
        published_keys("stlt", build_network("gru", (4, 8), HEADS))
    state = published_state(built())
    state["temporal_transformer.more"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"unexpected \(temporal_transformer\.more\)"):
        load_published(built(), "stlt", state)


def test_a_tiny_one_learns_where_a_hand_moves() -> None:
    options = {**TINY, "spatial_layers": 1, "temporal_layers": 1, "dropout": 0.0}
    torch.manual_seed(3)
    network = build_network("stlt", (FRAMES, 2 * COLUMNS), {"verb": 2}, options)
    label = torch.arange(8) % 2
    x = torch.zeros(8, FRAMES, 2, COLUMNS)
    x[..., 0, :6] = torch.tensor([0.4, 0.4, 0.6, 0.6, 1.0, 2.0])
    moved = 0.1 * torch.arange(FRAMES) * (2 * label[:, None] - 1)
    x[..., 0, 0] += moved
    x[..., 0, 2] += moved
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x.flatten(2)).logits["verb"], label)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
