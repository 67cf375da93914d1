"""The support set: what a few-shot model keeps of the example clips of new classes, as a file that can be shared.

A `.safetensors` file, which holds numbers and text and no code. It fits the one model file that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vidistill.core.errors import DataError, ModelError
from vidistill.deploy.session import written_beside

__all__ = ["Skipped", "SupportClip", "SupportSet"]

METADATA_KEY = "vidistill_support"
FORMAT_VERSION = 1
REMAKE = "Make it again with: vidistill enroll FOLDER --model MODEL"


@dataclass(frozen=True)
class SupportClip:
    """An example: the number of its class, its name, and how many views of it are kept (a long clip has several)."""

    label: int
    name: str
    views: int


@dataclass(frozen=True)
class Skipped:
    """A file that is no example: its name below the folder, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Examples of at least two classes.

    Attributes:
        classes: names.
        clips: examples, class by class.
        projected: what is kept, by output of the model: float32 (views of all clips, …), in the order of `clips`.
        digest: SHA-256 of the model's file.
        model: its name, for messages.
        skipped: what lay beside the clips; it is not saved.
    """

    classes: tuple[str, ...]
    clips: tuple[SupportClip, ...]
    projected: Mapping[str, NDArray[np.float32]]
    digest: str
    model: str
    skipped: tuple[Skipped, ...] = ()

    def labels(self) -> NDArray[np.int64]:
        """The number of the class of every view (N,)."""
        return np.repeat([clip.label for clip in self.clips], [clip.views for clip in self.clips]).astype(np.int64)

    def shots(self) -> NDArray[np.int64]:
        """Views of every class (classes,)."""
        return np.bincount(self.labels(), minlength=len(self.classes))

    def require(self, digest: str, shapes: Mapping[str, tuple[int, ...]], model: str, where: str) -> None:
        """Checks that the set was made with a model.

        Args:
            digest: of the model's file.
            shapes: what it keeps of a clip, by output.
            model: the model's file, for messages.
            where: the set's file, for messages.

        Raises:
            ModelError: it was made with another.
        """
        if digest != self.digest:
            raise ModelError(
                f"the support set was made with another model ({self.model}), not with {model}",
                where=where,
                todo=f"Give that model, or make the set again with: vidistill enroll FOLDER --model {model}",
            )
        if {name: values.shape[1:] for name, values in self.projected.items()} != dict(shapes):
            raise DataError("what the support set holds does not fit its model", where=where, todo=REMAKE)

    def save(self, path: Path | str) -> None:
        """Writes the set; the file appears when it is whole."""
        path = Path(path)
        described = {
            "format_version": FORMAT_VERSION,
            "classes": list(self.classes),
            "clips": [{"class": clip.label, "name": clip.name, "views": clip.views} for clip in self.clips],
            "model": {"name": self.model, "sha256": self.digest},
        }
        text = json.dumps(described, ensure_ascii=False, sort_keys=True)
        with written_beside(path) as beside:
            arrays = {name: np.ascontiguousarray(values) for name, values in self.projected.items()}
            save_file(arrays, beside, metadata={METADATA_KEY: text})

    @staticmethod
    def load(path: Path | str) -> SupportSet:
        """Reads a set.

        Raises:
            DataError: the file is missing, no support set, of another format, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError("no such support file", where=str(path), todo=REMAKE)
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(METADATA_KEY)
                projected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (SafetensorError, TypeError, ValueError) as error:
            raise DataError(f"no support set, or a damaged one ({error})", where=str(path), todo=REMAKE) from None
        if text is None:
            raise DataError("the file is no support set", where=str(path), todo=REMAKE)
        try:
            support = _read(json.loads(text), projected)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            problem = str(error) if isinstance(error, _Misfit) else "its description cannot be read"
            raise DataError(f"the support set is damaged: {problem}", where=str(path), todo=REMAKE) from None
        return support


class _Misfit(ValueError):
    """Parts of a file that contradict each other."""


def _read(described: Any, projected: dict[str, NDArray[np.float32]]) -> SupportSet:
    """A set of a file's parts, checked against each other."""
    if described["format_version"] != FORMAT_VERSION:
        raise _Misfit(f"format {described['format_version']}, this version reads {FORMAT_VERSION}")
    classes = tuple(str(name) for name in described["classes"])
    clips = tuple(SupportClip(int(c["class"]), str(c["name"]), int(c["views"])) for c in described["clips"])
    model = described["model"]
    support = SupportSet(classes, clips, projected, str(model["sha256"]), str(model["name"]))
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise _Misfit(f"classes {', '.join(classes)}; at least two different ones are needed")
    if any(not 0 <= clip.label < len(classes) or clip.views < 1 for clip in clips):
        raise _Misfit("a clip belongs to no class, or has no view")
    if {clip.label for clip in clips} != set(range(len(classes))):
        raise _Misfit("a class has no clip")
    views = sum(clip.views for clip in clips)
    if not projected or any(values.ndim < 2 or len(values) != views for values in projected.values()):
        raise _Misfit(f"its arrays do not hold the {views} views of its clips")
    if any(values.dtype != np.float32 or not np.isfinite(values).all() for values in projected.values()):
        raise _Misfit("its arrays hold values that are no finite float32")
    return support
