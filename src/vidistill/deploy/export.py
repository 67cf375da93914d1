"""The student as one ONNX file that knows its classes, its input and its views."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.core.seeds import generator
from vidistill.deploy.quiet import first_line, silenced
from vidistill.deploy.session import (
    FORMAT_VERSION,
    METADATA_KEY,
    open_session,
    read_metadata,
    require_export,
    run_session,
    written_beside,
)

__all__ = ["INPUT_NAME", "LogitsOnly", "export_onnx", "read_metadata"]

INPUT_NAME = "input"
TOLERANCE = 1e-3
PARITY_BATCHES = (1, 3)


class LogitsOnly(nn.Module):
    """A network whose forward gives a tuple of logits (B, classes), one for each head in `heads`."""

    def __init__(self, network: nn.Module, heads: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.heads = tuple(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of clips x (B, *input_shape), in the order of `heads`."""
        logits = self.network(x).logits
        return tuple(logits[head] for head in self.heads)


def export_onnx(
    network: nn.Module,
    input_shape: Sequence[int],
    classes: Mapping[str, Sequence[str]],
    metadata: Mapping[str, Any],
    path: Path | str,
) -> dict[str, Any]:
    """Writes the network as one ONNX file and proves that onnxruntime gives the network's logits.

    The graph has one input `input` (batch, *input_shape) with a free batch size, and one output a head, named as the
    head: logits (batch, classes). The file's metadata holds, as JSON under the key `vidistill`: format_version,
    classes, input_shape and everything in `metadata`, so that the file alone is enough to predict. The network itself
    is left as it is; a copy on the CPU in float32 and eval mode is exported.

    Args:
        network: returns `Outputs` for a tensor (B, *input_shape).
        input_shape: without batch.
        classes: class names by head, in the order of the logits.
        metadata: JSON values. `Predictor` needs `input` (modality and its encoding options) and `view` (options of
            the view policy); `source` (the modality's prepare options) and `model` (a name) are used where given.
        path: the file to write; it appears only when the parity check has passed.

    Returns:
        file, bytes, opset, max_difference (largest absolute difference of logits over batches of 1 and 3 random
        inputs) and relative_difference (the same over the spread, max - min, of the network's logits).

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        ModelError: heads do not fit the network, the network cannot be exported, or the file's logits differ by more
            than 1e-3 of their spread.
    """
    require_export("export to ONNX")
    path = Path(path)
    student = LogitsOnly(copy.deepcopy(network).cpu().float().eval(), tuple(classes))
    batches = [_random_batch(size, input_shape) for size in PARITY_BATCHES]
    expected = _reference_logits(student, batches, classes, path)
    stored = {**metadata, "format_version": FORMAT_VERSION, "classes": _names(classes), "input_shape": [*input_shape]}
    with written_beside(path) as beside:
        program = _export(student, torch.from_numpy(batches[-1]), path)
        program.model.metadata_props[METADATA_KEY] = json.dumps(stored, ensure_ascii=False, sort_keys=True)
        program.save(str(beside))
        difference, relative = _parity(beside, batches, expected)
        if not relative <= TOLERANCE:
            raise ModelError(
                f"the ONNX model differs from the network by {difference:.2g}, {relative:.2g} of the logits' spread "
                f"(allowed {TOLERANCE:g})",
                where=str(path),
                todo="Nothing was written; please report the network's name and versions of torch and onnxscript.",
            )
        size = beside.stat().st_size
    return {
        "file": path.name,
        "bytes": size,
        "opset": int(program.model.opset_imports[""]),
        "max_difference": difference,
        "relative_difference": relative,
    }


def _names(classes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {head: list(names) for head, names in classes.items()}


def _random_batch(size: int, input_shape: Sequence[int]) -> NDArray[np.float32]:
    return generator("export parity", size, list(input_shape)).standard_normal((size, *input_shape), dtype=np.float32)


def _reference_logits(
    student: LogitsOnly, batches: Sequence[NDArray[np.float32]], classes: Mapping[str, Sequence[str]], path: Path
) -> list[list[NDArray[np.float32]]]:
    """The network's own logits by batch and head, checked against the class names."""
    if not classes or INPUT_NAME in classes:
        raise ModelError(f"heads {sorted(classes)}: at least one, none named {INPUT_NAME!r}", where=str(path))
    with torch.inference_mode():
        try:
            values = [[logits.numpy() for logits in student(torch.from_numpy(batch))] for batch in batches]
        except KeyError as error:
            raise ModelError(f"the network has no head {error}", where=str(path)) from None
    for head, logits in zip(classes, values[0], strict=True):
        if logits.shape[-1] != len(classes[head]):
            raise ModelError(
                f"head {head!r} gives {logits.shape[-1]} logits for {len(classes[head])} class names", where=str(path)
            )
    if not all(np.isfinite(logits).all() for batch in values for logits in batch):
        raise ModelError("the network gives logits that are not finite", where=str(path), todo="Check its weights.")
    return values


def _export(student: LogitsOnly, example: Tensor, path: Path) -> torch.onnx.ONNXProgram:
    try:
        with silenced():
            program = torch.onnx.export(
                student,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=list(student.heads),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exporter raises dozens of classes; all mean the same to a user
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"the network cannot be exported to ONNX ({first_line(cause)})", where=str(path)) from error
    if program is None:
        raise ModelError("the exporter gave no model", where=str(path))
    return program


def _parity(
    path: Path, batches: Sequence[NDArray[np.float32]], expected: Sequence[Sequence[NDArray[np.float32]]]
) -> tuple[float, float]:
    """The largest absolute difference of logits, and the same relative to the spread of the head it occurs in."""
    session = open_session(path, threads=1)
    measured = [list(run_session(session, batch).values()) for batch in batches]
    largest = relative = 0.0
    for head in range(len(expected[0])):
        truth = np.concatenate([batch[head] for batch in expected])
        difference = float(np.abs(np.concatenate([batch[head] for batch in measured]) - truth).max())
        # Constant logits have no spread; their own size is then the scale.
        scale = max(float(np.ptp(truth)), 1e-3 * float(np.abs(truth).max()), 1e-8)
        largest, relative = max(largest, difference), max(relative, difference / scale)
    return largest, relative
