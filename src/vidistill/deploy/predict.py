"""Predictions for one file with one exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, DecodeError, ModelError, RecipeError
from vidistill.deploy import detect
from vidistill.deploy.inputs import Extent, InputPipeline
from vidistill.deploy.joint_inputs import JointPipeline, open_pipeline
from vidistill.deploy.quiet import first_line
from vidistill.deploy.session import open_session, run_session, session_metadata

BATCH = 4


class Predictor:
    """An exported model and all it needs to answer for a file.

    Args:
        onnx_path: a file of `export_onnx` or `quantise_int8`; everything else is read from its metadata.
        threads: threads of one run; None lets onnxruntime choose.

    Raises:
        ModelError: the file is missing, no model, or was not exported by vidistill.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, onnx_path: Path | str, threads: int | None = None) -> None:
        self._path = Path(onnx_path)
        self._session = open_session(self._path, threads)
        self.metadata = session_metadata(self._session, str(self._path))
        if "classes" not in self.metadata:
            raise ModelError(
                "the model knows no classes of its own",
                where=str(self._path),
                todo="Give it examples: vidistill enroll FOLDER --model MODEL, then predict with --support.",
            )
        self.classes: dict[str, list[str]] = self.metadata["classes"]
        self._pipeline = open_pipeline(self.metadata, str(self._path))

    def predict(self, path: Path | str, top: int = 5) -> dict[str, Any]:
        """The most probable classes of a file, of every head; or the segments that a temporal detector finds in it.

        A video as long as a training clip is seen through the model's test views; a longer one through the test views
        of windows spread evenly over it. Logits are averaged over all views before the softmax.

        Args:
            path: a video, a folder of frames, or an array `file.npy`, `file.npz`, `file.npz#key` of the model's
                modality.
            top: classes a head (>= 1).

        Returns:
            file, seconds, rate (frames per second), frames, model (its name, else its file name), and of a recogniser
            predictions {head: [{label, probability in [0, 1]}]}, views (how many were averaged) and, where the model
            takes several modalities, missing (those that the file lacks); of a detector
            steps (how many were classified) or windows (how many were looked at), and in order of time segments
            [{label, score, segment: [start, end] in seconds}]. All values are JSON values.

        Raises:
            DecodeError: the file is missing or broken.
            DataError: the file does not hold what the model needs.
        """
        if top < 1:
            raise RecipeError(f"top is {top}, at least 1 is needed", where="predict")
        file, key = split_key(path)
        try:
            extent = self._pipeline.extent(file, key)
            found = self._detected(file, key, extent) if self.detects else self._recognised(file, key, extent, top)
        except DataError as error:
            if file.name in str(error):
                raise
            raise DataError(str(error), where=str(path)) from None
        except (ValueError, IndexError) as error:
            raise DecodeError(
                f"cannot be read as {self._pipeline.modality} ({first_line(error)})",
                where=str(path),
                todo=f"Give a file with the {self._pipeline.modality} of a clip.",
            ) from error
        return {
            "file": str(path),
            "seconds": round(extent.seconds, 3),
            "rate": round(extent.rate, 3),
            "frames": extent.frames,
            **found,
            "model": str(self.metadata.get("model") or self._path.name),
        }

    @property
    def detects(self) -> bool:
        """Whether the model finds segments in untrimmed video instead of saying what a clip shows."""
        return bool((self.metadata.get("task") or {}).get("name") in ("detection", "anchor_detection"))

    def _recognised(self, file: Path, key: str | None, extent: Extent, top: int) -> dict[str, Any]:
        logits, views = self._logits(file, key, extent)
        ranked = {head: self._ranked(head, logits[head], top) for head in self.classes}
        found: dict[str, Any] = {"predictions": ranked, "views": views}
        if isinstance(self._pipeline, JointPipeline):
            found["missing"] = self._pipeline.missing(file, key)
        return found

    def _detected(self, file: Path, key: str | None, extent: Extent) -> dict[str, Any]:
        task = self.metadata["task"]
        assert isinstance(self._pipeline, InputPipeline), "windows of untrimmed clips are seen by one input"
        if task["name"] == "anchor_detection":
            names = self.classes[task["head"]]
            windows, found = detect.proposed_segments(self._session, self._pipeline, file, key, extent, task, names)
            return {"windows": windows, "segments": found}
        logits = detect.step_logits(self._session, self._pipeline, file, key, extent, task["head"])
        if not np.isfinite(logits).all():
            raise DataError("the model gives no finite answer for it", where=str(file), todo="Check its values.")
        found = detect.segments(logits, extent, self._pipeline, task, self.classes[task["head"]])
        return {"steps": len(logits), "segments": found}

    def _logits(self, file: Path, key: str | None, extent: Extent) -> tuple[dict[str, NDArray[np.float64]], int]:
        """Logits (classes,) by head, averaged over all views, and the number of views."""
        totals = {head: np.zeros(len(names)) for head, names in self.classes.items()}
        views = 0
        for looks in self._pipeline.looks(file, key, extent):
            encoded = looks.numpy()
            for start in range(0, len(encoded), BATCH):
                for head, values in run_session(self._session, encoded[start : start + BATCH]).items():
                    totals[head] += values.sum(axis=0, dtype=np.float64)
            views += len(encoded)
        means = {head: total / views for head, total in totals.items()}
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise DataError("the model gives no finite answer for it", where=str(file), todo="Check its values.")
        return means, views

    def _ranked(self, head: str, logits: NDArray[np.float64], top: int) -> list[dict[str, Any]]:
        if (self.metadata.get("task") or {}).get("name") == "multilabel":
            probabilities = 1.0 / (1.0 + np.exp(-logits))
        else:
            powers = np.exp(logits - logits.max())
            probabilities = powers / powers.sum()
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [{"label": self.classes[head][i], "probability": float(probabilities[i])} for i in order]


def split_key(path: Path | str) -> tuple[Path, str | None]:
    """`file#key` as file and key; a `#` that is part of an existing file's name stays in it."""
    text = str(path)
    name, separator, key = text.rpartition("#")
    if not separator or Path(text).exists() or not name:
        return Path(text), None
    return Path(name), key
