"""Predictions for one file with a few-shot model and a support set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, ModelError, RecipeError
from vidistill.deploy.enroll import Kept, projected_views, require_fewshot, require_shots
from vidistill.deploy.episode_export import FEWSHOT, compare, file_digest
from vidistill.deploy.inputs import Extent
from vidistill.deploy.predict import Predictor
from vidistill.deploy.session import open_session, read_metadata
from vidistill.deploy.support_set import SupportSet

HEAD = "class"
"""The head that predictions are given under."""
CLASSES = 32
"""Classes compared at a time, which bounds the memory; exact where a class's logit depends on its support alone."""


class SupportPredictor(Predictor):
    """A few-shot model and the examples that say which classes there are.

    Args:
        onnx_path: the clip part, a file of `export_episode_onnx` or an int8 copy; its comparison lies beside it.
        support: a file of `SupportSet.save`.
        threads: threads of one run; None lets onnxruntime choose.

    Raises:
        ModelError: a file is missing, no few-shot model or of another export, or the support is of another model.
        DataError: the support file is missing or damaged.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, onnx_path: Path | str, support: Path | str, threads: int | None = None) -> None:
        require_fewshot(read_metadata(onnx_path), Path(onnx_path))
        super().__init__(onnx_path, threads)
        self.support = SupportSet.load(support)
        self._support_path = str(support)
        outputs = {output.name: tuple(output.shape[1:]) for output in self._session.get_outputs()}
        self.support.require(file_digest(self._path), outputs, str(self._path), self._support_path)
        require_shots(self.support, self.metadata, self._support_path)
        self.classes = {HEAD: list(self.support.classes)}
        self._names = tuple(outputs)
        self._comparison = open_session(self._compare_file(), threads)
        self._groups = list(self._grouped())

    def predict(self, path: Path | str, top: int = 5) -> dict[str, Any]:
        """The most probable of the enrolled classes.

        As `Predictor.predict`, with the one head `class`, and `support`: the support file.
        """
        return {**super().predict(path, top), "support": self._support_path}

    def _compare_file(self) -> Path:
        """The comparison's file.

        Raises:
            ModelError: it is missing or of another export.
        """
        about = self.metadata["comparison"]
        path = self._path.with_name(about["file"])
        if not path.is_file():
            raise ModelError(
                f"the model's comparison {path.name} is not beside it",
                where=str(self._path),
                todo=f"Copy {path.name} to the same folder, or export again with: vidistill export RUN",
            )
        if file_digest(path) != about["sha256"]:
            raise ModelError(
                f"the comparison is of another export than {self._path.name}",
                where=str(path),
                todo="Copy both files of one export, or export again with: vidistill export RUN",
            )
        return path

    def _grouped(self) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """Classes with the same number of shots, and their support (way, shot, …) by output.

        Each class's logit depends on its support alone, or `require_shots` has seen to it that there is one group.
        """
        labels, shots = self.support.labels(), self.support.shots()
        order = np.argsort(labels, kind="stable")
        starts = np.cumsum(shots) - shots
        step = CLASSES if self.metadata["comparison"]["classwise"] else len(shots)
        for shot in np.unique(shots):
            same = np.flatnonzero(shots == shot)
            for first in range(0, len(same), step):
                here = same[first : first + step]
                rows = order[starts[here][:, None] + np.arange(shot)]
                yield here, [self.support.projected[name][rows] for name in self._names]

    def compare(self, queries: Kept) -> NDArray[np.float32]:
        """Logits (Q, classes) of views that the clip part has seen, (Q, …) by output."""
        asked = [queries[name] for name in self._names]
        logits = np.empty((len(asked[0]), len(self.support.classes)), np.float32)
        for here, support in self._groups:
            logits[:, here] = compare(self._comparison, self._names, support, asked)
        return logits

    def _logits(self, file: Path, key: str | None, extent: Extent) -> tuple[dict[str, NDArray[np.float64]], int]:
        """Logits (classes,) averaged over all views, and the number of views."""
        total, views = np.zeros(len(self.support.classes)), 0
        for queries in projected_views(self._session, self._pipeline, file, key, extent):
            logits = self.compare(queries)
            total += logits.sum(axis=0, dtype=np.float64)
            views += len(logits)
        mean = total / views
        if not np.isfinite(mean).all():
            raise DataError("the model gives no finite answer for it", where=str(file), todo="Check its values.")
        return {HEAD: mean}, views


def open_predictor(model: Path | str, support: Path | str | None = None, threads: int | None = None) -> Predictor:
    """The predictor that a model needs: with examples for a few-shot model, without for any other.

    Raises:
        ModelError, DataError, MissingExtra: as `Predictor` and `SupportPredictor`.
        RecipeError: a few-shot model without a support file.
    """
    if support is not None:
        return SupportPredictor(model, support, threads)
    metadata = read_metadata(model)
    if "comparison_of" in metadata:
        require_fewshot(metadata, Path(model))
    if (metadata.get("task") or {}).get("name") == FEWSHOT:
        raise RecipeError(
            "the model knows classes by examples only, and none are given",
            where=str(model),
            todo=f"Make a support file with: vidistill enroll FOLDER --model {model}; then give it as --support FILE",
        )
    return Predictor(model, threads)
