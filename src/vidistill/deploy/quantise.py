"""Static int8 for the CPU: 8-bit weights by channel, 8-bit activations with ranges measured on real clips."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import DataError, ModelError
from vidistill.deploy.quiet import first_line, silenced
from vidistill.deploy.session import METADATA_KEY, open_session, predict_logits, require_export, written_beside

__all__ = ["predict_logits", "quantise_int8"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""ONNX operators that multiply by weights."""


class CalibrationClips:
    """What onnxruntime reads during calibration: one feed a batch, each checked; counts the clips."""

    def __init__(self, batches: Iterable[NDArray[np.generic]], name: str, shape: tuple[int, ...], where: str) -> None:
        self._batches = iter(batches)
        self._name, self._shape, self._where = name, shape, where
        self.clips = 0

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed, or None at the end."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        if tuple(batch.shape[1:]) != self._shape:
            raise DataError(
                f"calibration clips of shape {tuple(batch.shape[1:])}, the model takes {self._shape}", where=self._where
            )
        values = np.ascontiguousarray(batch, dtype=np.float32)
        if not np.isfinite(values).all():
            raise DataError("calibration clips hold values that are not finite", where=self._where)
        self.clips += len(values)
        return {self._name: values}


def quantise_int8(
    onnx_path: Path | str,
    calibration_batches: Iterable[NDArray[np.generic]],
    path: Path | str,
    *,
    reduce_range: bool = True,
) -> dict[str, Any]:
    """Writes an int8 copy of an exported model; its metadata is kept. The caller measures the accuracy it costs.

    Args:
        onnx_path: a model of `export_onnx`.
        calibration_batches: encoded clips (B, *input_shape), finite; about 64 clips of the training split do. They
            are read one batch at a time.
        path: the file to write; it appears only when onnxruntime can run it and its logits are finite.
        reduce_range: weights use 7 of their 8 bits, so that CPUs without VNNI cannot saturate and the file gives the
            same accuracy on every CPU.

    Returns:
        file, bytes, calibration_clips.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        DataError: no calibration clips, of another shape, or not finite.
        ModelError: the model cannot be quantised.
    """
    require_export("int8 quantisation", ("onnx", "onnxruntime"))
    onnx_path, path = Path(onnx_path), Path(path)
    session = open_session(onnx_path, threads=1)
    entry, metadata = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    shape = tuple(entry.shape[1:])
    reader = CalibrationClips(calibration_batches, entry.name, shape, str(onnx_path))
    # The first batch is read before anything is written: an empty set has its own message.
    first = reader.get_next()
    if first is None or not reader.clips:
        raise DataError("no clips to calibrate int8 with", where=str(onnx_path), todo="Give clips of the train split.")
    with written_beside(path) as beside:
        _quantise(onnx_path, _Chained(first, reader), beside, reduce_range)
        _restore_metadata(beside, metadata)
        logits = predict_logits(beside, [next(iter(first.values()))], threads=1)
        if not all(np.isfinite(values).all() for values in logits.values()):
            raise ModelError("int8 logits are not finite", where=str(onnx_path), todo="Ship the fp32 model.")
        size = beside.stat().st_size
    return {"file": path.name, "bytes": size, "calibration_clips": reader.clips}


class _Chained:
    """A batch already read, then the rest of its reader."""

    def __init__(self, first: dict[str, NDArray[np.float32]], rest: CalibrationClips) -> None:
        self._first: dict[str, NDArray[np.float32]] | None = first
        self._rest = rest

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        first, self._first = self._first, None
        return first if first is not None else self._rest.get_next()


def _quantise(source: Path, clips: _Chained, target: Path, reduce_range: bool) -> None:
    try:
        with silenced(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
            from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            prepared = Path(folder) / "prepared.onnx"
            # Symbolic shapes change nothing of the result, and onnxruntime stumbles over those of TRX.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                clips,
                nodes_to_exclude=_decoding(prepared),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except (DataError, OSError):
        raise
    except Exception as error:  # the quantiser raises whatever its passes raise; all mean the same to a user
        raise ModelError(
            f"the model cannot be quantised ({first_line(error)})", where=str(source), todo="Ship the fp32 model."
        ) from error


def _decoding(path: Path) -> list[str]:
    """Names of the nodes between the last layers with weights and the outputs; nodes without a name get one.

    What is done there (scores of anchors, their logarithms) is no work, and 8 bits cannot hold it: 1e-12 becomes 0.
    """
    import onnx

    model = onnx.load(str(path))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    onnx.save(model, str(path))
    makers = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, None] = {}
    waiting = [makers[output.name] for output in model.graph.output if output.name in makers]
    while waiting:
        node = waiting.pop()
        if node.op_type not in WEIGHTED and node.name not in found:
            found[node.name] = None
            waiting += [makers[name] for name in node.input if name in makers]
    return list(found)


def _restore_metadata(path: Path, metadata: dict[str, str]) -> None:
    """The quantiser's passes may drop what the fp32 file says of itself."""
    import onnx

    model = onnx.load(str(path))
    if METADATA_KEY not in metadata:
        return
    kept = [entry for entry in model.metadata_props if entry.key not in metadata]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
