"""Image Swins as Video Swins, and Video Swins over clips of spectrograms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models import Network, build_network, save_weights
from vidistill.models.swin_inflation import TABLE, inflate_kernel, inflate_swin, inflate_table, start_from_images


@pytest.fixture(autouse=True)
def quick_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated normal numbers of 28 million weights take seconds."""
    monkeypatch.setattr(nn.init, "trunc_normal_", nn.init.normal_)


def image_state(network: Network) -> dict[str, Tensor]:
    """Image weights of the network's size under the keys of their authors: window 7, patches of one frame."""
    state = {}
    for key, value in network.get_submodule("backbone.trunk").state_dict().items():
        if key.endswith("relative_position_index"):
            state[key] = torch.zeros(49, 49, dtype=torch.long)
            continue
        new = torch.randn(169, value.shape[1]) if key.endswith(TABLE) else value + 1
        if found := re.match(r"features\.(\d)\.", key):
            stage, odd = divmod(int(found[1]), 2)
            key = f"layers.{stage}.{'downsample' if odd else 'blocks'}.{key.removeprefix(found[0])}"
        key = key.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
        state[key] = new[:, :, 0] if key.endswith("patch_embed.proj.weight") else new
    return state | {"head.weight": torch.zeros(1000, 768), "head.bias": torch.zeros(1000)}


def test_a_still_clip_gives_the_patches_of_its_image() -> None:
    torch.manual_seed(0)
    kernel, image = torch.randn(6, 3, 4, 4), torch.randn(2, 3, 8, 12)
    for time in (1, 2, 3):
        clip = image[:, :, None].expand(-1, -1, time, -1, -1)
        patches = functional.conv3d(clip, inflate_kernel(kernel, time), stride=(time, 4, 4))[:, :, 0]
        torch.testing.assert_close(patches, functional.conv2d(image, kernel, stride=4), rtol=1e-4, atol=1e-5)


def test_every_offset_in_time_has_the_biases_of_its_offset_in_the_frame() -> None:
    table = torch.randn(25, 2)
    inflated = inflate_table(table, (2, 3, 3)).view(3, 25, 2)
    assert all(torch.equal(offset, table) for offset in inflated)


@pytest.mark.parametrize("window", [(2, 3, 3), (8, 7, 7), (1, 2, 4)])
def test_a_table_of_another_window_is_resized_and_keeps_constants(window: tuple[int, int, int]) -> None:
    inflated = inflate_table(torch.tensor([[1.0, -2.0]]).expand(81, 2), window)
    time, height, width = (2 * side - 1 for side in window)
    assert inflated.shape == (time * height * width, 2)
    torch.testing.assert_close(inflated, torch.tensor([[1.0, -2.0]]).expand_as(inflated))


def test_a_table_that_is_no_square_is_refused_by_its_key() -> None:
    with pytest.raises(CheckpointError, match=r"^a\.relative_position_bias_table: a table of 24 position biases"):
        inflate_swin({"a.relative_position_bias_table": torch.zeros(24, 2)})


def test_derived_buffers_are_left_out_and_other_tensors_are_copies() -> None:
    state = {"norm.weight": torch.ones(3), "a.attn_mask": torch.zeros(2), "a.relative_position_index": torch.zeros(2)}
    inflated = inflate_swin(state)
    assert list(inflated) == ["norm.weight"]
    inflated["norm.weight"].zero_()
    assert state["norm.weight"].sum() == 3


def test_image_weights_start_a_video_swin_and_leave_its_heads() -> None:
    torch.manual_seed(0)
    network = build_network("swin3d_t", (3, 2, 32, 32), {"action": 2})
    head = network.state_dict()["head.action.weight"].clone()
    state = image_state(network)
    start_from_images(network, state)
    own = network.state_dict()
    assert torch.equal(own["head.action.weight"], head)
    trunk = "backbone.trunk."
    assert torch.equal(own[f"{trunk}features.4.5.mlp.0.weight"], state["layers.2.blocks.5.mlp.fc1.weight"])
    table = own[f"{trunk}features.0.1.attn.{TABLE}"].view(15, 169, 3)
    assert torch.equal(table[3], state[f"layers.0.blocks.1.attn.{TABLE}"])
    assert int(own[f"{trunk}features.0.1.attn.relative_position_index"].max()) == 15 * 169 - 1
    del state["norm.bias"]
    with pytest.raises(
        CheckpointError, match=r"do not fit network 'swin3d_t': 1 missing \(backbone\.trunk\.norm\.bias"
    ):
        start_from_images(network, state)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="network 'compact3d' is no Video Swin"):
        start_from_images(build_network("compact3d", (3, 4, 32, 32), {"a": 2}), {})


def test_video_swins_take_spectrograms_that_are_not_square() -> None:
    """128 mel bands by 335 columns are one published window of 1.116 s."""
    with torch.device("meta"):
        shapes = build_network("swin3d_t", (3, 4, 128, 335), {"verb": 97}).feature_shapes()
    assert shapes["stage1"][1:] == (2, 32, 84)


def test_one_channel_gives_what_its_repetition_gives_to_weights_of_three(tmp_path: Path) -> None:
    """So Kinetics weights serve spectrograms of one channel as the published three equal channels did."""
    torch.manual_seed(0)
    colour = build_network("swin3d_t", (3, 2, 32, 32), {"verb": 3}).eval()
    save_weights(colour, tmp_path / "w.safetensors")
    grey = build_network("swin3d_t", (1, 2, 32, 32), {"verb": 3}, {"weights": str(tmp_path / "w.safetensors")}).eval()
    clip = torch.randn(1, 1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(clip).embedding, colour(clip.expand(-1, 3, -1, -1, -1)).embedding)
