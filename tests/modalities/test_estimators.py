from __future__ import annotations

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, KeypointRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.optical_flow import raft_small

from vidistill.core.errors import CheckpointError, MissingExtra, ModelError, RecipeError
from vidistill.core.types import Signal
from vidistill.modalities import estimators
from vidistill.modalities.boxes import Boxes, BoxesSource
from vidistill.modalities.depth import Depth, DepthSource
from vidistill.modalities.estimators import BoxEstimator, DepthEstimator, PoseEstimator, RaftEstimator
from vidistill.modalities.flow import Flow, FlowSource
from vidistill.modalities.pose import Pose, PoseSource

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), np.uint8)


class TinyBackbone(nn.Sequential):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 8, 1), nn.ReLU())


@pytest.fixture(scope="module", autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny_detector(kind: type, **options) -> nn.Module:
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    return kind(
        TinyBackbone(),
        2,
        min_size=40,
        max_size=64,
        rpn_anchor_generator=anchors,
        box_detections_per_img=3,
        rpn_post_nms_top_n_test=6,
        **options,
    )


def tiny_depth():
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1],
        fusion_hidden_size=8, head_hidden_size=8, patch_size=14,
    )  # fmt: skip
    return transformers.AutoModelForDepthEstimation.from_config(config)


def test_raft_gives_a_vector_a_pixel_for_every_pair(monkeypatch) -> None:
    network = raft_small(weights=None)
    flow = RaftEstimator(network, batch=1)(FRAMES)
    assert flow.shape == (2, 40, 56, 2) and np.isfinite(flow).all()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    monkeypatch.setattr(estimators, "torchvision_network", lambda name, weights: network)
    signal = Flow.derive(Signal(FRAMES, 30.0), FlowSource(algorithm="raft"))
    assert signal.values.shape == (3, 40, 56, 2) and signal.values.dtype == np.float16
    np.testing.assert_allclose(signal.values[:2].astype(np.float32), flow, rtol=1e-2, atol=1e-2)


def test_raft_vectors_are_in_pixels_of_the_frames_given() -> None:
    class OnePixel(nn.Module):
        def forward(self, first, second):
            assert first.shape[2] % 8 == 0 and first.shape[3] % 8 == 0 and min(first.shape[2:]) >= 128
            assert first.min() >= -1 and first.max() <= 1
            return [torch.ones(len(first), 2, *first.shape[2:])]

    flow = RaftEstimator(OnePixel())(FRAMES)
    np.testing.assert_allclose(flow[0, 0, 0], [56 / 176, 40 / 128], rtol=1e-5)


def test_depth_by_a_tiny_network_of_the_real_class(tmp_path) -> None:
    tiny_depth().save_pretrained(tmp_path / "net")
    estimator = DepthEstimator.from_weights(str(tmp_path / "net"))
    assert estimator(FRAMES).shape == (3, 40, 56)
    provenance = estimator.provenance()
    assert provenance["tool"].startswith("transformers") and provenance["parameters"]["weights"].endswith("net")
    options = DepthSource(weights=str(tmp_path / "net"))
    signal = Depth.derive(Signal(FRAMES, 30.0), options)
    assert signal.values.shape == (3, 40, 56, 1) and signal.values.min() >= 20 and signal.values.max() == 255
    assert "weights_digest" in options.provenance()["options"]


def test_depth_says_what_it_lacks(tmp_path, monkeypatch) -> None:
    rgb = Signal(FRAMES, 30.0)
    with pytest.raises(RecipeError, match=r"depth\.weights"):
        Depth.derive(rgb, DepthSource())
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=r"config\.json"):
        Depth.derive(rgb, DepthSource(weights=str(tmp_path)))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"vidistill\[depth\]"):
        Depth.derive(rgb, DepthSource(weights="other"))


def test_pose_by_a_tiny_keypoint_network(monkeypatch) -> None:
    network = tiny_detector(KeypointRCNN, num_keypoints=17, keypoint_head=KeypointRCNNHeads(8, (512,)))
    estimator = PoseEstimator(network, least_score=0.0)
    poses = estimator(FRAMES)
    assert poses.shape == (3, 17, 3) and (poses[..., 2] > 0).all()
    assert poses[..., :2].min() >= -0.1 and poses[..., :2].max() <= 1.1
    monkeypatch.setattr(PoseEstimator, "from_weights", classmethod(lambda cls, weights: estimator))
    assert Pose.derive(Signal(FRAMES, 30.0), PoseSource()).values.shape == (3, 17, 3)
    assert not PoseEstimator(network, least_score=1.1)(FRAMES).any(), "nobody found: zeros, not a guess"


def test_the_same_person_is_followed() -> None:
    class TwoPersons(nn.Module):
        def forward(self, images):
            left, right = torch.tensor([0.0, 0, 10, 10]), torch.tensor([40.0, 0, 50, 10])
            points = torch.stack((torch.full((17, 3), 5.0), torch.full((17, 3), 45.0)))
            self.calls = getattr(self, "calls", -1)
            found = []
            for _ in images:
                self.calls += 1
                scores = torch.tensor([0.9, 0.8] if self.calls == 0 else [0.7, 0.95])
                boxes = torch.stack((left, right))
                logits = torch.zeros(2, 17)
                found.append({"scores": scores, "boxes": boxes, "keypoints": points, "keypoints_scores": logits})
            return found

    poses = PoseEstimator(TwoPersons())(FRAMES)
    np.testing.assert_allclose(poses[:, 0, 0], 5 / 56)
    np.testing.assert_allclose(poses[..., 2], 0.5)


def test_boxes_by_a_tiny_detector(monkeypatch) -> None:
    estimator = BoxEstimator(tiny_detector(FasterRCNN), count=3, least_score=0.0)
    boxes = estimator(FRAMES)
    assert boxes.shape == (3, 3, 6) and boxes[..., :4].min() >= 0 and boxes[..., :4].max() <= 1
    assert (np.diff(boxes[..., 4], axis=1) <= 0).all() and set(np.unique(boxes[..., 5])) <= {0.0, 1.0}
    monkeypatch.setattr(BoxEstimator, "from_weights", classmethod(lambda cls, weights, **options: estimator))
    signal = Boxes.derive(Signal(FRAMES, 30.0), BoxesSource(count=3))
    assert signal.values.shape == (3, 3, 6)
    strict = BoxEstimator(estimator.network, least_score=1.1)
    assert not strict(FRAMES).any()


@pytest.mark.parametrize(
    ("detector", "suffix"),
    [("fasterrcnn_mobilenet_v3_large_320_fpn", "pth"), ("ssdlite320_mobilenet_v3_large", "safetensors")],
)
def test_any_detector_of_torchvision_gives_objects_and_hands_from_a_weights_file(detector, suffix, tmp_path) -> None:
    network = get_model(detector, weights=None, weights_backbone=None, num_classes=4)
    file = tmp_path / f"detector.{suffix}"
    save_file(network.state_dict(), file) if suffix == "safetensors" else torch.save(network.state_dict(), file)
    options = BoxesSource(
        detector=detector, classes=4, weights=str(file), count=40, least_score=0.0, category=(1, 3), hands=(3,)
    )
    signal = Boxes.derive(Signal(FRAMES[:1], 30.0), options)
    there = signal.values[..., 4] > 0
    assert there.any() and set(signal.values[there][:, 5]) <= {1.0, 2.0}
    assert detector in options.provenance()["tool"] and "weights_digest" in options.provenance()["options"]
    estimators.torchvision_network.cache_clear()


def test_categories_that_are_kept_become_objects_and_hands() -> None:
    class Four(nn.Module):
        score_thresh = 0.5

        def forward(self, images):
            boxes = torch.tensor([0.0, 0, 14, 10]).repeat(4, 1)
            found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]), "labels": torch.tensor([3, 2, 1, 3])}
            return [found for _ in images]

    def classes(**options) -> list[float]:
        return BoxEstimator(Four(), count=4, **options)(FRAMES)[0, :, 5].tolist()

    assert classes(category=None) == [3, 2, 1, 3]
    assert classes(category=[3, 1]) == [3, 1, 3, 0]
    assert classes(category=3) == [3, 3, 0, 0]
    assert classes(category=None, hands=[3]) == [2, 1, 1, 2]
    assert classes(category=None, hands=[]) == [1, 1, 1, 1]
    network = Four()
    BoxEstimator(network, least_score=0.25)(FRAMES)
    assert network.score_thresh == 0.25, "detectors of one stage spend no time on scores below it either"


def test_an_unknown_detector_and_classes_of_named_weights_are_refused() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'fasterrcnn_resnet50_fpn'"):
        Boxes.derive(Signal(FRAMES, 30.0), BoxesSource(detector="fasterrcnn_resnet50_fpm"))
    with pytest.raises(ModelError, match="Leave classes out"):
        Boxes.derive(Signal(FRAMES, 30.0), BoxesSource(classes=3))


def test_weights_come_from_files_and_must_fit(tmp_path) -> None:
    network = get_model("raft_small", weights=None)
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    loaded = RaftEstimator.from_weights(str(tmp_path / "raft.pth"))
    key = "update_block.flow_head.conv1.weight"
    assert torch.equal(loaded.network.state_dict()[key], network.state_dict()[key])
    assert loaded.provenance()["parameters"]["architecture"] == "raft_small"
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="do not fit RAFT"):
        RaftEstimator.from_weights(str(tmp_path / "other.pth"))
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="noise"):
        RaftEstimator.from_weights(str(tmp_path / "noise.safetensors"))
    with pytest.raises(ModelError, match="no such weights file"):
        RaftEstimator.from_weights(str(tmp_path / "absent.pth"))
    with pytest.raises(ModelError, match="C_T_V2"):
        RaftEstimator.from_weights("IMAGENET")


def test_without_a_network_the_error_names_file_and_folder(tmp_path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    estimators.torchvision_network.cache_clear()
    with pytest.raises(ModelError, match=r"raft_small_C_T_V2.*\.pth into .*checkpoints"):
        RaftEstimator.from_weights("DEFAULT")
