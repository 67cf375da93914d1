"""Networks that derive a modality from RGB frames: flow (RAFT), depth, pose, boxes; behind one interface.

`estimator(frames)` takes uint8 (T, H, W, 3) and gives an array with one entry a frame (flow: a pair of frames). Users
bring the weights, by torchvision's names, a local file, or (depth) a Hugging Face folder or name. An estimator can
also be given its network, which is how tests run without any download.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidistill.core.errors import CheckpointError, MissingExtra, ModelError, RecipeError
from vidistill.core.registry import nearest
from vidistill.modalities.layout import HAND, OBJECT
from vidistill.modalities.rgb import MEAN, STD

FILES = (".pth", ".pt", ".safetensors")
RAFT_LEAST = 128
"""Pixels: RAFT looks at frames of at least this side, a multiple of 8."""


class Estimator(ABC):
    """A frozen network that turns RGB frames into another modality.

    Attributes:
        network: put into eval mode; its parameters are never trained.
        parameters: what provenance tells of it.
        batch: frames a forward pass.
    """

    tool: ClassVar[str]
    package: ClassVar[str] = "torchvision"

    def __init__(self, network: nn.Module, batch: int = 4, **parameters: Any) -> None:
        self.network = network.eval().requires_grad_(False)
        self.batch = batch
        self.parameters = parameters

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Estimates of frames (T, H, W, 3)."""
        tensor = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float().div_(255.0)
        with torch.inference_mode():
            return self.estimate(tensor)

    @abstractmethod
    def estimate(self, frames: torch.Tensor) -> NDArray[np.float32]:
        """Estimates of frames (T, 3, H, W) in [0, 1]."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version and parameters, as JSON-like values."""
        return {"tool": self.tool, "version": version(self.package), "parameters": dict(self.parameters)}


class RaftEstimator(Estimator):
    """Optical flow (T - 1, H, W, 2) in pixels, by torchvision's RAFT."""

    tool = "torchvision.models.optical_flow"

    @classmethod
    def from_weights(cls, weights: str = "DEFAULT", network: str = "raft_small") -> RaftEstimator:
        """RAFT with torchvision's weights by name, or those of a file."""
        return cls(torchvision_network(network, weights), architecture=network, weights=weights)

    def estimate(self, frames: torch.Tensor) -> NDArray[np.float32]:
        """Estimates of frames (T, 3, H, W) in [0, 1]."""
        height, width = frames.shape[2:]
        grow = max(1.0, RAFT_LEAST / min(height, width))
        size = [max(round(side * grow / 8) * 8, RAFT_LEAST) for side in (height, width)]
        images = resize(frames, size).mul_(2.0).sub_(1.0)
        flows = []
        for begin in range(0, len(images) - 1, self.batch):
            end = min(begin + self.batch, len(images) - 1)
            flow = self.network(images[begin:end], images[begin + 1 : end + 1])[-1]
            flows.append(resize(flow, [height, width]))
        scale = torch.tensor([width / size[1], height / size[0]]).view(1, 2, 1, 1)
        return (torch.cat(flows) * scale).permute(0, 2, 3, 1).contiguous().numpy()


class DepthEstimator(Estimator):
    """Relative inverse depth (T, H, W), larger is nearer, by a depth network of `transformers`."""

    tool = "transformers.AutoModelForDepthEstimation"
    package = "transformers"

    @classmethod
    def from_weights(cls, weights: str | None) -> DepthEstimator:
        """A depth network from a local folder, or by its name on the Hugging Face hub (which needs a network).

        Raises:
            RecipeError: no weights named.
            MissingExtra: `transformers` is not installed.
            ModelError: no such model, or no network to fetch it.
        """
        if not weights:
            raise RecipeError(
                "depth from video needs a depth network", where="depth", todo="Set depth.weights to a folder or a name."
            )
        return cls(depth_network(weights), weights=weights)

    def estimate(self, frames: torch.Tensor) -> NDArray[np.float32]:
        """Estimates of frames (T, 3, H, W) in [0, 1]."""
        height, width = frames.shape[2:]
        patch = patch_of(self.network)
        size = [max(round(side / patch), 1) * patch for side in (height, width)]
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        images = (resize(frames, size) - mean) / std
        maps = [self.network(pixel_values=part).predicted_depth[:, None] for part in torch.split(images, self.batch)]
        return resize(torch.cat(maps).float(), [height, width])[:, 0].contiguous().numpy()


class PoseEstimator(Estimator):
    """One person's joints (T, 17, 3): x, y as fractions of the frame, confidence; zeros where nobody is found.

    The most certain person of the first frame is followed: in later frames the one nearest to where it was counts,
    among those at least half as certain as the best.
    """

    tool = "torchvision.models.detection.keypointrcnn_resnet50_fpn"
    joints: ClassVar[int] = 17

    def __init__(self, network: nn.Module, least_score: float = 0.3, **parameters: Any) -> None:
        super().__init__(network, least_score=least_score, **parameters)
        self.least_score = least_score

    @classmethod
    def from_weights(cls, weights: str = "DEFAULT") -> PoseEstimator:
        """Keypoint R-CNN with torchvision's weights by name, or those of a file."""
        return cls(torchvision_network("keypointrcnn_resnet50_fpn", weights), weights=weights)

    def estimate(self, frames: torch.Tensor) -> NDArray[np.float32]:
        """Estimates of frames (T, 3, H, W) in [0, 1]."""
        height, width = frames.shape[2:]
        poses = np.zeros((len(frames), self.joints, 3), np.float32)
        last: torch.Tensor | None = None
        for index, found in enumerate(detections(self.network, frames, self.batch, self.least_score)):
            keep = found["scores"] >= self.least_score
            if not keep.any():
                continue
            scores, boxes = found["scores"][keep], found["boxes"][keep]
            middles = (boxes[:, :2] + boxes[:, 2:]) / 2
            choice = int(scores.argmax())
            if last is not None:
                distance = (middles - last).norm(dim=1).masked_fill(scores < scores.max() / 2, torch.inf)
                choice = int(distance.argmin())
            last = middles[choice]
            points = found["keypoints"][keep][choice, :, :2] / torch.tensor([width, height])
            certain = found["keypoints_scores"][keep][choice].sigmoid()
            poses[index] = torch.cat((points, certain[:, None]), 1).numpy()
        return poses


class BoxEstimator(Estimator):
    """Boxes (T, count, 6): x1, y1, x2, y2 as fractions, score, class; best scores first, then zeros.

    Args:
        network: any detector of torchvision's interface.
        count: boxes kept a frame.
        least_score: detections below it are dropped.
        category: class, or classes, that are kept (None: all).
        hands: classes that are hands; the class is then 1 object, 2 hand instead of the detector's own number.
    """

    tool = "torchvision.models.detection"

    @classmethod
    def from_weights(
        cls,
        weights: str = "DEFAULT",
        network: str = "fasterrcnn_resnet50_fpn",
        classes: int | None = None,
        **options: Any,
    ) -> BoxEstimator:
        """A detector with torchvision's weights by name, or those of a file; options of the constructor.

        Raises:
            RecipeError: no such detector.
            ModelError, CheckpointError: see `torchvision_network`.
        """
        if network not in detectors():
            raise RecipeError(f"unknown detector {network!r}", where="boxes", todo=nearest(network, detectors()))
        built = torchvision_network(network, weights, classes)
        return cls(built, detector=network, classes=classes, weights=weights, **options)

    def __init__(
        self,
        network: nn.Module,
        count: int = 4,
        least_score: float = 0.3,
        category: int | Sequence[int] | None = 1,
        hands: Sequence[int] | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(network, count=count, least_score=least_score, category=category, hands=hands, **parameters)
        self.count, self.least_score = count, least_score
        kept = [category] if isinstance(category, int) else category
        self.category = None if kept is None else torch.tensor(list(kept), dtype=torch.int64)
        self.hands = None if hands is None else torch.tensor(list(hands), dtype=torch.int64)

    def estimate(self, frames: torch.Tensor) -> NDArray[np.float32]:
        """Estimates of frames (T, 3, H, W) in [0, 1]."""
        height, width = frames.shape[2:]
        boxes = np.zeros((len(frames), self.count, 6), np.float32)
        extent = torch.tensor([width, height, width, height])
        for index, found in enumerate(detections(self.network, frames, self.batch, self.least_score)):
            keep = found["scores"] >= self.least_score
            if self.category is not None:
                keep &= torch.isin(found["labels"], self.category)
            best = found["scores"].masked_fill(~keep, -1.0).argsort(descending=True, stable=True)
            best = best[: min(self.count, int(keep.sum()))]
            labels = found["labels"][best, None]
            labels = labels if self.hands is None else torch.where(torch.isin(labels, self.hands), HAND, OBJECT)
            columns = (found["boxes"][best] / extent, found["scores"][best, None], labels.float())
            boxes[index, : len(best)] = torch.cat(columns, 1).numpy()
        return boxes


def detections(
    network: nn.Module, frames: torch.Tensor, batch: int, least_score: float
) -> list[dict[str, torch.Tensor]]:
    """What a torchvision detector finds in each frame (T, 3, H, W); it spends no time on scores below `least_score`."""
    heads: Any = getattr(network, "roi_heads", network)  # detectors of one stage have no heads of their own
    if hasattr(heads, "score_thresh"):
        heads.score_thresh = least_score
    return [found for part in torch.split(frames, batch) for found in network(list(part))]


def resize(images: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Images (N, C, H, W) at another size, bilinear; always a copy."""
    if list(images.shape[2:]) == size:
        return images.clone()
    return nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def patch_of(network: nn.Module) -> int:
    """Side of the patches that a depth network cuts images into (14 where its configuration does not say)."""
    config: Any = getattr(network, "config", None)
    for part in (getattr(config, "backbone_config", None), config):
        patch = getattr(part, "patch_size", None)
        if isinstance(patch, int):
            return patch
    return 14


@lru_cache(maxsize=2)
def depth_network(weights: str) -> nn.Module:
    """A depth network of `transformers`, from a folder or by name."""
    try:
        from transformers import AutoModelForDepthEstimation
    except ImportError:
        raise MissingExtra("transformers", "depth", "depth from video") from None
    try:
        network: nn.Module = AutoModelForDepthEstimation.from_pretrained(weights)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"no depth network {weights!r} ({reason})",
            todo="Name a folder that holds config.json and model.safetensors.",
        ) from None
    return network


@lru_cache(maxsize=4)
def torchvision_network(name: str, weights: str, classes: int | None = None) -> nn.Module:
    """A torchvision network with weights by name (fetched into torch's hub cache) or from a local file.

    `classes` is the number of classes of a file's network, where it is not that of torchvision's own weights.

    Raises:
        ModelError: unknown weights, no such file, or no network to fetch them.
        CheckpointError: the file's weights are of another network.
    """
    from torchvision.models import get_model, get_model_weights

    if weights.endswith(FILES):
        options = {} if classes is None else {"num_classes": classes}
        network: nn.Module = get_model(name, weights=None, **_no_backbone(name), **options)
        load_file(network, Path(weights))
        return network
    if classes is not None:
        raise ModelError("torchvision's weights have their own classes", todo="Leave classes out, or name a file.")
    known = {entry.name: entry for entry in get_model_weights(name)}
    entry = get_model_weights(name).DEFAULT if weights == "DEFAULT" else known.get(weights)
    if entry is None:
        raise ModelError(
            f"unknown weights {weights!r} of {name}", todo=f"Known: DEFAULT, {', '.join(known)}, or a file."
        )
    try:
        loaded: nn.Module = get_model(name, weights=entry, **_no_backbone(name))
    except (URLError, OSError) as error:
        file = entry.url.rsplit("/", 1)[-1]
        raise ModelError(
            f"the weights of {name} cannot be fetched ({error})",
            todo=f"Put {file} into {Path(torch.hub.get_dir()) / 'checkpoints'}, or name a local file.",
        ) from None
    return loaded


def _no_backbone(name: str) -> dict[str, Any]:
    """Detectors would fetch ImageNet weights for their backbone, only to overwrite them."""
    return {"weights_backbone": None} if name in detectors() else {}


def detectors() -> list[str]:
    """Names of torchvision's detection networks."""
    from torchvision.models import detection, list_models

    names: list[str] = list_models(module=detection)
    return names


def load_file(network: nn.Module, path: Path) -> None:
    """Loads a state dict strictly; no code in the file is ever run.

    Raises:
        ModelError: no such file.
        CheckpointError: unreadable, or of another network.
    """
    if not path.is_file():
        raise ModelError("no such weights file", where=str(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as read

            state = read(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the weights do not fit {type(network).__name__} ({reason})", where=str(path)) from None
