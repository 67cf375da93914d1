"""Examples of new classes to a support set: no training, one pass of the clip part of a few-shot model a view.

A clip is seen as `Predictor` sees it: through the test views of the whole clip, or where it is longer than two training
clips through those of windows over it. Every view is a shot of its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, ModelError
from vidistill.core.progress import progress
from vidistill.data.containers import IMAGES, natural_key
from vidistill.data.formats.base import VIDEOS, need_folder
from vidistill.deploy.episode_export import FEWSHOT, file_digest
from vidistill.deploy.inputs import ARRAYS, IN_VIDEO, SOUNDS, Extent, InputPipeline, Pipeline
from vidistill.deploy.predict import BATCH
from vidistill.deploy.quiet import first_line
from vidistill.deploy.session import open_session, run_session, session_metadata
from vidistill.deploy.support_set import Skipped, SupportClip, SupportSet

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Enroller", "SupportSet", "projected_views"]

Kept = dict[str, NDArray[np.float32]]
"""What is kept of views, by output of the clip part: (views, …)."""


class Enroller:
    """A few-shot model that learns classes by examples.

    Args:
        model: the clip part, a file of `export_episode_onnx` or an int8 copy of it.
        threads: threads of one run; None lets onnxruntime choose.

    Raises:
        ModelError: the file is missing, no model, or no few-shot model.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, model: Path | str, threads: int | None = None) -> None:
        self._path = Path(model)
        self._session = open_session(self._path, threads)
        self.metadata = session_metadata(self._session, str(self._path))
        require_fewshot(self.metadata, self._path)
        self._pipeline = InputPipeline(self.metadata, str(self._path))

    def enroll(self, folder: Path | str) -> SupportSet:
        """The support set of `FOLDER/<class>/<clip>`: videos, folders of frames, or arrays of the model's modality.

        Classes may have different numbers of clips. Hidden files are passed over; other files that are no clips, and
        clips that cannot be read, are `skipped`, by name and reason.

        Raises:
            DataError: fewer than two classes, a class without a usable clip, or numbers of shots that differ where
                the model's comparison needs them equal.
        """
        folder = Path(folder)
        listed, skipped = list_examples(folder, self._endings())
        clips: list[SupportClip] = []
        kept: list[Kept] = []
        with progress("enroll", sum(map(len, listed.values()))) as counter:
            for label, (name, paths) in enumerate(listed.items()):
                failed: list[Skipped] = []
                for path in paths:
                    try:
                        views = self._encode(path)
                    except DataError as error:
                        failed.append(Skipped(path.relative_to(folder).as_posix(), _reason(error, path)))
                    else:
                        kept.append(views)
                        clips.append(SupportClip(label, path.name, len(next(iter(views.values())))))
                    counter.advance()
                if len(failed) == len(paths):
                    raise DataError(
                        f"no clip of class {name!r} can be read ({failed[0].name}: {failed[0].reason})",
                        where=str(folder),
                        todo="Put a readable clip into its folder, or take the folder away.",
                    )
                skipped.extend(failed)
        projected = {output: np.concatenate([views[output] for views in kept]) for output in kept[0]}
        name = str(self.metadata.get("model") or self._path.name)
        support = SupportSet(tuple(listed), tuple(clips), projected, file_digest(self._path), name, tuple(skipped))
        require_shots(support, self.metadata, str(folder))
        return support

    def _encode(self, path: Path) -> Kept:
        """What is kept of all views of a clip.

        Raises:
            DataError: it cannot be read, or the model gives no finite answer for it.
        """
        try:
            extent = self._pipeline.extent(path)
            parts = list(projected_views(self._session, self._pipeline, path, None, extent))
        except (ValueError, IndexError) as error:
            raise DataError(f"cannot be read as {self._pipeline.modality} ({first_line(error)})") from error
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _endings(self) -> tuple[str, ...]:
        """Endings of files that can hold the model's modality."""
        modality = self._pipeline.modality
        if modality == "audio":
            return (*VIDEOS, *SOUNDS)
        return (*VIDEOS, ".npy", ".npz") if modality in IN_VIDEO else (*VIDEOS, *ARRAYS)


def projected_views(
    session: InferenceSession, pipeline: Pipeline, path: Path, key: str | None, extent: Extent
) -> Iterator[Kept]:
    """What the clip part keeps of all views of a file, a few views at a time.

    Raises:
        DataError: the file cannot be read, or the model gives no finite answer for it.
    """
    for looks in pipeline.looks(path, key, extent):
        encoded = looks.numpy()
        for start in range(0, len(encoded), BATCH):
            kept = run_session(session, encoded[start : start + BATCH])
            if not all(np.isfinite(values).all() for values in kept.values()):
                raise DataError("the model gives no finite answer for it", where=str(path), todo="Check its values.")
            yield kept


def require_fewshot(metadata: dict[str, Any], path: Path) -> None:
    """Checks that a model is the clip part of a few-shot one.

    Raises:
        ModelError: it is not; says what to give.
    """
    if "comparison_of" in metadata:
        todo = f"Give {metadata['comparison_of']}, which lies beside it."
        raise ModelError("this is the comparison of a few-shot model, not the model", where=str(path), todo=todo)
    if (metadata.get("task") or {}).get("name") != FEWSHOT or "comparison" not in metadata:
        raise ModelError(
            "the model knows its own classes and learns none by examples",
            where=str(path),
            todo="Leave the examples out, or give a model of a few-shot run (task: fewshot).",
        )


def require_shots(support: SupportSet, metadata: dict[str, Any], where: str) -> None:
    """Checks that all classes have as many shots where the model's comparison sets classes against each other.

    Raises:
        DataError: they have not.
    """
    shots = support.shots()
    if metadata["comparison"]["classwise"] or len(set(shots.tolist())) == 1:
        return
    counts = ", ".join(f"{name} {count}" for name, count in zip(support.classes, shots, strict=True))
    raise DataError(
        f"this model compares classes of equally many views only, and these have: {counts}",
        where=where,
        todo="Give as many clips, of similar length, of every class.",
    )


def list_examples(folder: Path, endings: Sequence[str]) -> tuple[dict[str, list[Path]], list[Skipped]]:
    """Clips by class in natural order, and what is no clip.

    Raises:
        DataError: no folder, fewer than two classes, or a class without a clip.
    """
    listed: dict[str, list[Path]] = {}
    skipped: list[Skipped] = []
    for below in _inside(need_folder(folder)):
        if not below.is_dir():
            skipped.append(Skipped(below.name, "lies in no class folder"))
            continue
        listed[below.name] = []
        for path in _inside(below):
            reason = _no_clip(path, endings)
            if reason is None:
                listed[below.name].append(path)
            else:
                skipped.append(Skipped(path.relative_to(folder).as_posix(), reason))
    empty = [name for name, paths in listed.items() if not paths]
    if empty:
        raise DataError(
            f"class {empty[0]!r} has no clip", where=str(folder), todo="Put one into its folder, or take it away."
        )
    if len(listed) < 2:
        found = f"there is one class, {next(iter(listed))!r}" if listed else "there are no class folders"
        raise DataError(f"{found}; at least two are told apart", where=str(folder), todo="Use FOLDER/<class>/<clip>.")
    return listed, skipped


def _inside(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in natural order."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_key(p.name))


def _no_clip(path: Path, endings: Sequence[str]) -> str | None:
    """Why a path is no clip; None where it is one."""
    if path.is_dir():
        return None if any(file.suffix.lower() in IMAGES for file in path.iterdir()) else "a folder without images"
    return None if path.suffix.lower() in endings else "no video"


def _reason(error: DataError, path: Path) -> str:
    """What an error says, without the path that it begins with."""
    return str(error).removeprefix(f"{path}: ")
