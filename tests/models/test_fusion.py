"""Fusions of modalities: shapes, shifts, positions, missing modalities, sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import ModelError
from vidistill.models.fusion import FUSIONS, LEFT, RIGHT, STAY, MultiModalFusion, directions

NAMES = ("rgb", "depth", "flow", "audio", "pose")
SMALL = {"bottleneck": 12, "layers": 1, "feedforward": 16, "dropout": 0.0}


def mfm(count: int = 3, width: int = 6, length: int = 4, **options: object) -> MultiModalFusion:
    torch.manual_seed(0)
    widths = {name: width + index for index, name in enumerate(NAMES[:count])}
    return MultiModalFusion(widths, length, 10, **{**SMALL, "bottleneck": 60, **options}).eval()


def frames(count: int = 3, batch: int = 2, width: int = 6, length: int = 4) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {n: torch.randn(batch, length, width + i, generator=source) for i, n in enumerate(NAMES[:count])}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["mfm", "cross_attention", "score_fusion"]), st.integers(2, 5), st.integers(1, 3), st.integers(1, 9)
)
def test_every_fusion_takes_two_to_five_modalities_of_unequal_widths(name, count, batch, length) -> None:
    widths = {name: 6 + index for index, name in enumerate(NAMES[:count])}
    options = {**SMALL, "bottleneck": 60} if name == "mfm" else {}
    fusion = FUSIONS.get(name)(widths, length, 10, **options).eval()
    with torch.no_grad():
        fused = fusion(frames(count, batch, length=length))
    assert fused.shape == (batch, length, fusion.dim)
    assert fusion.dim == (sum(widths.values()) if name == "score_fusion" else 10)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ("paper", (LEFT, RIGHT, LEFT, RIGHT)),
        ("released_training", (LEFT, STAY, STAY, LEFT)),
        ("released_extraction", (LEFT, LEFT, LEFT, LEFT)),
        ("none", (STAY, STAY, STAY, STAY)),
    ],
)
def test_modalities_move_as_the_shift_says(shift, expected) -> None:
    assert directions(shift, 4) == expected
    assert directions(shift, 2) == expected[:2]


def test_a_pair_meets_the_next_frame_of_the_second_and_the_last_frame_of_the_third_modality() -> None:
    fusion = mfm(3, joint=0)
    x = frames(3)
    moved = {**x, "depth": x["depth"].roll(-1, 1), "flow": x["flow"].roll(1, 1)}
    still = mfm(3, joint=0, shift="none")
    with torch.no_grad():
        torch.testing.assert_close(fusion(x), still(moved))
        assert not torch.allclose(fusion(x), still(x), atol=1e-3)


def test_order_of_frames_matters_through_positions_alone() -> None:
    fusion = mfm(3, shift="none")
    x = frames(3)
    order = [2, 0, 3, 1]
    permuted = {name: value[:, order] for name, value in x.items()}
    with torch.no_grad():
        assert not torch.allclose(fusion(permuted), fusion(x)[:, order], atol=1e-3)
        for name, parameter in fusion.named_parameters():
            if ".positions." in name and parameter.dim() == 2:
                parameter.zero_()
        torch.testing.assert_close(fusion(permuted), fusion(x)[:, order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mfm", "cross_attention", "score_fusion"])
def test_a_missing_modality_is_not_read_and_changes_no_other_clip(name: str) -> None:
    torch.manual_seed(0)
    widths = {name: 6 + index for index, name in enumerate(NAMES[:3])}
    fusion = FUSIONS.get(name)(widths, 4, 10).eval()
    x = frames(3)
    present = {"depth": torch.tensor([True, False])}
    other = {**x, "depth": torch.stack([x["depth"][0], 100 * torch.ones(4, 7)])}
    with torch.no_grad():
        full, one, two = fusion(x), fusion(x, present), fusion(other, present)
    assert torch.equal(one, two)
    torch.testing.assert_close(one[0], full[0])
    assert not torch.allclose(one[1], full[1], atol=1e-3)


def test_the_token_of_a_missing_modality_learns_and_zeros_have_none() -> None:
    x, present = frames(3), {"flow": torch.tensor([False, True])}
    fusion = mfm(3)
    fusion(x, present).square().sum().backward()
    used = [token.grad is not None and bool(token.grad.abs().sum() > 0) for token in fusion.entrance.tokens]
    assert used == [False, False, True]
    plain = mfm(3, missing="zeros")
    assert not [name for name, _ in plain.named_parameters() if "token" in name]
    zeroed = {**x, "flow": x["flow"] * torch.tensor([0.0, 1.0])[:, None, None]}
    with torch.no_grad():
        torch.testing.assert_close(plain(x, present), plain(zeroed))


@pytest.mark.parametrize("name", ["mfm", "cross_attention", "score_fusion"])
def test_clips_of_a_batch_do_not_see_each_other(name: str) -> None:
    torch.manual_seed(0)
    fusion = FUSIONS.get(name)({name: 6 + i for i, name in enumerate(NAMES[:3])}, 4, 10).eval()
    x = frames(3, 3)
    with torch.no_grad():
        permuted = fusion({name: value[[1, 2, 0]] for name, value in x.items()})
        torch.testing.assert_close(permuted, fusion(x)[[1, 2, 0]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_modality_and_every_parameter_is_taught(count: int) -> None:
    fusion = mfm(count, missing="zeros").train()
    x = {name: value.requires_grad_() for name, value in frames(count).items()}
    fusion(x).square().sum().backward()
    assert all(float(value.grad.abs().sum()) > 0 for value in x.values())
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("count", "options", "published"),
    [
        (2, {"pairs": False}, 176_281_600),
        (3, {"pairs": False}, 365_082_624),
        (3, {}, 550_808_320 - 9_444_096),
        (4, {}, 806_718_208 - 9_444_096),
        (5, {"joint": 3}, 550_808_320 - 9_444_096),
    ],
)
def test_without_a_bottleneck_sizes_are_the_published_ones(count, options, published) -> None:
    with torch.device("meta"):
        fusion = MultiModalFusion(
            dict.fromkeys(NAMES[:count], 2048), 8, 2048, bottleneck=None, missing="zeros", **options
        )
    assert sum(parameter.numel() for parameter in fusion.parameters()) == published


def test_the_default_is_a_twenty_fifth_of_the_published_size() -> None:
    with torch.device("meta"):
        fusion = MultiModalFusion(dict.fromkeys(NAMES[:3], 2048), 8, 2048)
    assert sum(parameter.numel() for parameter in fusion.parameters()) < 541_364_224 / 25


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (1, {}, "2 to 5 modalities, not 1"),
        (3, {"joint": 4}, "nothing to fuse"),
        (3, {"joint": 0, "pairs": False}, "nothing to fuse"),
        (3, {"heads": 7}, "7 attention heads cannot share"),
    ],
)
def test_options_that_do_not_fit_are_refused(count, options, words) -> None:
    with pytest.raises(ModelError, match=words):
        mfm(count, **options)


def test_a_modality_that_was_not_given_is_named() -> None:
    with pytest.raises(ModelError, match="was given no flow"):
        mfm(3)({name: value for name, value in frames(3).items() if name != "flow"})
