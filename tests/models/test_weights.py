"""Weights: round trips, misfits in words, torchvision's weights from the hub cache, published checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models import build_network, load_weights, save_weights
from vidistill.models.import_ import import_checkpoint, prefix_map
from vidistill.models.trunks import adapt_channels

HEADS = {"action": 4}
SHAPE = (3, 4, 32, 32)
RESNET18_FILE = "resnet18-f37072fd.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache and no network."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("name", "shape"), [("compact3d", SHAPE), ("gru", (8, 6)), ("mobilenet_v3_small", SHAPE)])
def test_saved_weights_come_back_exactly(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    network, other = build_network(name, shape, HEADS).eval(), build_network(name, shape, HEADS).eval()
    save_weights(network, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(network(x).logits["action"], other(x).logits["action"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(build_network("gru", (8, 6), HEADS), file)
    network = build_network("temporal_conv", (8, 6), HEADS)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(network, file)
    message = str(error.value)
    assert "\n" not in message
    assert "weights of network 'gru' do not fit network 'temporal_conv'" in message
    assert "missing (backbone.stem.0.weight" in message
    assert "unexpected (backbone.normalisation.bias" in message
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_of_other_classes_name_the_key_and_both_shapes(tmp_path: Path) -> None:
    save_weights(build_network("gru", (8, 6), {"action": 7}), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.action\.weight \(7, 256\) instead of \(4, 256\)"):
        load_weights(build_network("gru", (8, 6), HEADS), tmp_path / "model.safetensors")


def test_garbage_and_absent_weights_name_the_file(tmp_path: Path) -> None:
    network = build_network("gru", (8, 6), HEADS)
    (tmp_path / "garbage.safetensors").write_bytes(b"not tensors")
    for name, words in (("garbage.safetensors", "not a readable safetensors"), ("absent.safetensors", "no such file")):
        with pytest.raises(CheckpointError, match=f"{name}: {words}"):
            load_weights(network, tmp_path / name)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_torchvision_weights_come_from_the_hub_cache(hub: Path, weights: str, channels: int) -> None:
    published = torchvision.models.resnet18()
    torch.save(published.state_dict(), hub / RESNET18_FILE)
    network = build_network("resnet18", (channels, 2, 32, 32), HEADS, {"weights": weights})
    own, given = network.backbone.trunk.state_dict(), published.state_dict()
    assert torch.equal(own["layer4.1.conv2.weight"], given["layer4.1.conv2.weight"])
    assert torch.equal(own["conv1.weight"], adapt_channels(given["conv1.weight"], channels))


def test_weights_absent_offline_name_the_file_and_the_folder(hub: Path) -> None:
    with pytest.raises(ModelError) as error:
        build_network("r3d_18", (3, 4, 32, 32), HEADS, {"weights": "DEFAULT"})
    message = str(error.value)
    assert "r3d_18-b3b3357e.pth" in message
    assert str(hub) in message
    assert "\n" not in message
    assert list(hub.iterdir()) == []


def test_unknown_weights_name_the_known_ones(hub: Path) -> None:
    with pytest.raises(ModelError, match="has no weights 'IMAGENET1K_V3'.*IMAGENET1K_V1"):
        build_network("resnet18", SHAPE, HEADS, {"weights": "IMAGENET1K_V3"})


def test_a_cached_file_of_another_network_is_refused(hub: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), hub / RESNET18_FILE)
    with pytest.raises(CheckpointError, match=r"do not fit 'resnet18': \d+ unexpected"):
        build_network("resnet18", SHAPE, HEADS, {"weights": "DEFAULT"})


def test_a_file_of_our_own_starts_another_network_with_other_channels(tmp_path: Path) -> None:
    source = build_network("resnet18", SHAPE, {"action": 9})
    save_weights(source, tmp_path / "rgb.safetensors")
    network = build_network("resnet18", (2, 4, 32, 32), HEADS, {"weights": str(tmp_path / "rgb.safetensors")})
    kernel = source.backbone.trunk.conv1.weight
    assert torch.equal(network.backbone.trunk.conv1.weight, adapt_channels(kernel, 2))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_adapted_kernels_answer_a_grey_clip_as_before(channels: int) -> None:
    kernel = torch.randn(4, 3, 3, 3)
    grey = torch.randn(1, 1, 8, 8)
    before = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernel)
    after = torch.nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapt_channels(kernel, channels))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_imported_checkpoints_lose_the_prefixes_of_wrappers(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"module._orig_mod.fc.weight": torch.ones(2)}}, tmp_path / "x.pth")
    assert list(import_checkpoint(tmp_path / "x.pth")) == ["fc.weight"]


def test_a_key_map_renames_drops_and_refuses_the_unknown(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2), "aux": torch.ones(1)}, tmp_path / "x.pth")
    assert list(import_checkpoint(tmp_path / "x.pth", {"fc.weight": "head.a.weight", "aux": None})) == ["head.a.weight"]
    assert list(import_checkpoint(tmp_path / "x.pth", prefix_map({"fc.": "head.a."}))) == ["head.a.weight", "aux"]
    with pytest.raises(CheckpointError, match=r"x\.pth: 1 keys are not in the key map \(aux\)"):
        import_checkpoint(tmp_path / "x.pth", {"fc.weight": "head.a.weight"})
    with pytest.raises(CheckpointError, match="two keys map to 'same'"):
        import_checkpoint(tmp_path / "x.pth", lambda _: "same")


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def test_a_checkpoint_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"x": 1}, protocol=2))
    for name in ("harmful.pth", "plain.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match=name) as error:
            import_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()
