"""ONNX models opened for inference, with what was stored in them. No torch here: latency workers import this alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import MissingExtra, ModelError
from vidistill.deploy.quiet import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA_KEY = "vidistill"
FORMAT_VERSION = 1
ERRORS_ONLY = 3


def require_export(purpose: str, packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Checks that the packages of the extra `export` are installed.

    Raises:
        MissingExtra: naming the first absent package and how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "export", purpose)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block succeeds and removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def open_session(path: Path | str, threads: int | None = None) -> InferenceSession:
    """An onnxruntime session on the CPU.

    Args:
        path: an ONNX file.
        threads: threads of one run (>= 1); None lets onnxruntime choose.

    Raises:
        ModelError: the file is missing or is no ONNX model.
        MissingExtra: onnxruntime is not installed.
    """
    require_export("running an ONNX model", ("onnxruntime",))
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise ModelError("no such model file", where=str(path), todo="Export one with: vidistill export RUN")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes share no base that it exports
        raise ModelError(
            f"onnxruntime cannot load the model ({first_line(error)})",
            where=str(path),
            todo="Give an ONNX file that vidistill exported.",
        ) from error


def session_metadata(session: InferenceSession, where: str) -> dict[str, Any]:
    """What `export_onnx` stored in the model: format_version, classes, input_shape and the caller's metadata.

    Raises:
        ModelError: the model was not exported by vidistill, or by a version with another format.
    """
    todo = "Export it again with: vidistill export RUN"
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError("the ONNX model carries no vidistill metadata", where=where, todo=todo)
    try:
        metadata: dict[str, Any] = json.loads(text)
        version = metadata["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ModelError("the model's vidistill metadata is damaged", where=where, todo=todo) from None
    if version != FORMAT_VERSION:
        raise ModelError(f"metadata format {version}, this version reads {FORMAT_VERSION}", where=where, todo=todo)
    return metadata


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The metadata of an exported ONNX file; see `session_metadata`."""
    return session_metadata(open_session(path, threads=1), str(path))


def run_session(session: InferenceSession, batch: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Logits (B, classes) by head for one batch (B, *input_shape)."""
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: np.ascontiguousarray(batch, dtype=np.float32)})
    return dict(zip(names, values, strict=True))


def predict_logits(
    onnx_path: Path | str, batches: Iterable[NDArray[np.generic]], threads: int | None = None
) -> dict[str, NDArray[np.float32]]:
    """Logits (N, classes) by head of any exported model over batches (B, *input_shape) that add up to N rows.

    Raises:
        ModelError: the file is no model, or a batch does not fit its input.
    """
    session = open_session(onnx_path, threads)
    rows: dict[str, list[NDArray[np.float32]]] = {output.name: [] for output in session.get_outputs()}
    expected = session.get_inputs()[0].shape[1:]
    for batch in batches:
        if list(batch.shape[1:]) != list(expected):
            raise ModelError(
                f"input of shape {tuple(batch.shape[1:])}, the model takes {tuple(expected)}", where=str(onnx_path)
            )
        for head, logits in run_session(session, batch).items():
            rows[head].append(logits)
    if not next(iter(rows.values())):
        raise ModelError("no batches to run the model on", where=str(onnx_path))
    return {head: np.concatenate(parts) for head, parts in rows.items()}
