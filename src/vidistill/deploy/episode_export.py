"""A few-shot student as two ONNX files: what is kept of a clip, and the comparison of what is kept.

`student.onnx` maps a clip (B, *input_shape) to all tensors that the episode head keeps of it, of all streams.
`student.compare.onnx` maps those of support clips (way, shot, …) and of queries (Q, …) to logits (Q, way), summed over
streams; way, shot and Q are free. The first file names the second and knows its digest, so that parts of different
exports do not meet.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.errors import ModelError
from vidistill.core.seeds import generator
from vidistill.deploy.export import INPUT_NAME, PARITY_BATCHES, TOLERANCE
from vidistill.deploy.quiet import first_line, silenced
from vidistill.deploy.session import FORMAT_VERSION, METADATA_KEY, open_session, require_export, written_beside
from vidistill.models.episode_heads import EpisodeHead, Projected
from vidistill.models.episode_network import EpisodeNetwork

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["FEWSHOT", "LOGITS", "QUERY", "SUPPORT", "compare_path", "export_episode_onnx", "file_digest"]

FEWSHOT = "fewshot"
"""Name of the task in the metadata of a few-shot model."""
LOGITS = "logits"
SUPPORT, QUERY = "support_", "query_"
"""The comparison's inputs are the clip part's outputs under these prefixes."""
EPISODES = ((3, 2, 4), (5, 1, 3), (2, 3, 1))
"""(way, shot, queries) that the comparison is checked on; the first is the one it is traced with."""

Array = NDArray[np.float32]


class ClipPart(nn.Module):
    """Clips (B, *input_shape) to what the head keeps of them, one tensor (B, …) for each name in `names`."""

    def __init__(self, network: EpisodeNetwork) -> None:
        super().__init__()
        self.backbone, self.streams = network.backbone, network.streams
        self.projection: nn.Module = Projection(network.head)
        self.names: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Projected:
        """All streams' tensors, stream by stream."""
        _, found = self.backbone(x)
        return tuple(part for name in self.streams for part in self.projection(found[name]))


class Projection(nn.Module):
    """`EpisodeHead.project` as a forward."""

    def __init__(self, head: EpisodeHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, frames: Tensor) -> Projected:
        """What is kept of clips (B, L, D)."""
        return self.head.project(frames)


class ComparisonPart(nn.Module):
    """What is kept of support clips (way, shot, …) and queries (Q, …) to logits (Q, way), summed over `streams`."""

    def __init__(self, head: EpisodeHead, streams: int) -> None:
        super().__init__()
        self.head, self.streams = head, streams
        for part in head.modules():
            if isinstance(part, EpisodeHead):
                # Sizes are free in the file, so it cannot be cut into chunks by them; whoever runs it cuts.
                part.episode_bytes = _no_bytes  # type: ignore[method-assign]

    def forward(self, support: Projected, queries: Projected) -> Tensor:
        """One episode."""
        kept = len(support) // self.streams
        total: Tensor | None = None
        for start in range(0, len(support), kept):
            known = tuple(values[None] for values in support[start : start + kept])
            asked = tuple(values[None] for values in queries[start : start + kept])
            logits = self.head.compare(known, asked)[0]
            total = logits if total is None else total + logits
        assert total is not None
        return total


def _no_bytes(support: Projected, queries: Projected) -> int:
    return 0


def export_episode_onnx(
    network: EpisodeNetwork, input_shape: Sequence[int], metadata: Mapping[str, Any], path: Path | str
) -> dict[str, Any]:
    """Writes a few-shot network as two ONNX files and proves that onnxruntime gives the network's numbers with both.

    `path` has one input `input` (batch, *input_shape) and outputs `<stream>_<number>`, each (batch, …). The comparison
    lies beside it, named as `compare_path` says, with inputs `support_<output>` (way, shot, …) and `query_<output>`
    (queries, …) and one output `logits` (queries, way). Metadata is that of `export_onnx` with no classes, and
    `comparison`: file, sha256, streams, and classwise (whether a class's logit depends on its own support alone, so
    that classes may have different numbers of shots). The network itself is left as it is.

    Args:
        network: an `EpisodeNetwork`.
        input_shape: of a clip, without batch.
        metadata: JSON values as of `export_onnx`; `task` is {"name": "fewshot", …}.
        path: the file to write; both files appear only when their parity checks have passed.

    Returns:
        file, bytes, opset, max_difference and relative_difference of the clip part as `export_onnx` gives them; under
        `comparison` the same of the comparison, and classwise.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        ModelError: the task is another, a part cannot be exported or gives numbers that are not finite, or a file's
            numbers differ by more than 1e-3 of their spread.
    """
    require_export("export to ONNX")
    path = Path(path)
    if (metadata.get("task") or {}).get("name") != FEWSHOT:
        raise ModelError(f"the task is {metadata.get('task')}, not few-shot", where=str(path), todo="Use export_onnx.")
    network = copy.deepcopy(network).cpu().float().eval()
    clip_part, comparison = ClipPart(network), ComparisonPart(network.head, len(network.streams))
    batches = [_random_clips(size, input_shape) for size in PARITY_BATCHES]
    with torch.inference_mode():
        expected = [_arrays(clip_part(torch.from_numpy(batch))) for batch in batches]
        _, frames = network.backbone(torch.from_numpy(batches[-1]))
        asked = [_episode(network, frames, *sizes) for sizes in EPISODES]
        each = len(asked[0][0]) // len(network.streams)
        clip_part.names = tuple(f"{stream}_{number}" for stream in network.streams for number in range(each))
        answers = [comparison(*episode).numpy() for episode in asked]
    _check_finite([*answers, *(values for batch in expected for values in batch)], path)
    classwise = _is_classwise(comparison, asked[0], answers[0])
    beside_path = compare_path(path)
    stored = {**metadata, "format_version": FORMAT_VERSION, "classes": {}, "input_shape": [*input_shape]}
    with written_beside(beside_path) as beside_compare, written_beside(path) as beside:
        about = {"format_version": FORMAT_VERSION, "comparison_of": path.name, "model": metadata.get("model")}
        _save(_exported_comparison(comparison, asked[0], clip_part.names, beside_path), about, beside_compare)
        compared = _compared_parity(beside_compare, clip_part.names, asked, answers, beside_path)
        stored["comparison"] = {
            "file": beside_path.name,
            "sha256": file_digest(beside_compare),
            "streams": list(network.streams),
            "classwise": classwise,
        }
        program = _exported_clip_part(clip_part, torch.from_numpy(batches[-1]), path)
        _save(program, stored, beside)
        report = _clip_parity(beside, clip_part.names, batches, expected, path)
        sizes = beside.stat().st_size, beside_compare.stat().st_size
    opset = {"opset": int(program.model.opset_imports[""])}
    described = {"file": beside_path.name, "bytes": sizes[1], **compared, "classwise": classwise}
    return {"file": path.name, "bytes": sizes[0], **opset, **report, "comparison": described}


def compare_path(path: Path) -> Path:
    """Where the comparison of an exported clip part lies: `student.compare.onnx` beside `student.onnx`."""
    return path.with_name(f"{path.stem}.compare.onnx")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _random_clips(count: int, input_shape: Sequence[int]) -> Array:
    random = generator("export parity", count, list(input_shape))
    return random.standard_normal((count, *input_shape), dtype=np.float32)


def _arrays(parts: Projected) -> list[Array]:
    return [part.numpy() for part in parts]


def _episode(
    network: EpisodeNetwork, like: Mapping[str, Tensor], way: int, shot: int, queries: int
) -> tuple[Projected, Projected]:
    """What is kept of random support clips and queries of classes that differ, stream by stream.

    Noise looks all the same to many networks, and logits of clips that are all the same are rounding alone. So frames
    are random themselves, of the size that the network's frames `like` (B, L, D) have, at least 1: far smaller than the
    positions that a head adds, they would be all the same again.
    """
    known: list[Tensor] = []
    asked: list[Tensor] = []
    for stream in network.streams:
        size = max(1.0, float(like[stream].square().mean().sqrt()))
        length, width = like[stream].shape[1:]
        random = generator("episode parity", stream, way, shot, queries, length, width)
        patterns = random.standard_normal((way, length, width), dtype=np.float32)
        classes = np.concatenate([np.repeat(np.arange(way), shot), np.arange(queries) % way])
        noise = random.standard_normal((len(classes), length, width), dtype=np.float32)
        kept = network.head.project(size * torch.from_numpy(patterns[classes] + noise / 2))
        known.extend(part[: way * shot].reshape(way, shot, *part.shape[1:]).clone() for part in kept)
        asked.extend(part[way * shot :].clone() for part in kept)
    return tuple(known), tuple(asked)


def _check_finite(values: Sequence[Array], path: Path) -> None:
    if not all(np.isfinite(each).all() for each in values):
        raise ModelError("the network gives numbers that are not finite", where=str(path), todo="Check its weights.")


def _is_classwise(comparison: ComparisonPart, episode: tuple[Projected, Projected], answer: Array) -> bool:
    """Whether each class alone gets the logits that it gets among others."""
    support, queries = episode
    with torch.inference_mode():
        alone = [
            comparison(tuple(part[label : label + 1] for part in support), queries) for label in range(len(answer[0]))
        ]
    return _relative(torch.cat(alone, dim=1).numpy(), answer)[1] <= TOLERANCE


def _exported_clip_part(part: ClipPart, example: Tensor, path: Path) -> torch.onnx.ONNXProgram:
    shapes = ({0: torch.export.Dim("batch")},)
    with torch.inference_mode():
        frames = part.backbone(example)[1][part.streams[0]].clone()
    with _one_line("what the head keeps of a clip", path), silenced():
        # A head may take the number of clips by len(), which would be a constant of the graph where tracing is not
        # strict. The strict kind knows better, but takes long for a backbone.
        strict = torch.export.export(part.projection, (frames,), dynamic_shapes=shapes, strict=True)
    free = copy.copy(part)
    free._modules = {**part._modules, "projection": strict.module()}
    return _exported(free, (example,), [INPUT_NAME], list(part.names), shapes, "the network", path)


def _exported_comparison(
    part: ComparisonPart, example: tuple[Projected, Projected], names: Sequence[str], path: Path
) -> torch.onnx.ONNXProgram:
    way, shot, queries = (torch.export.Dim(name) for name in ("way", "shot", "queries"))
    shapes = (tuple({0: way, 1: shot} for _ in names), tuple({0: queries} for _ in names))
    inputs = [f"{prefix}{name}" for prefix in (SUPPORT, QUERY) for name in names]
    what = f"the comparison {type(part.head).__name__!r}"
    return _exported(part, example, inputs, [LOGITS], shapes, what, path)


def _exported(
    part: nn.Module,
    example: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[Any, ...],
    what: str,
    path: Path,
) -> torch.onnx.ONNXProgram:
    with _one_line(what, path), silenced():
        program = torch.onnx.export(
            part,
            example,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
        )
    if program is None:
        raise ModelError("the exporter gave no model", where=str(path))
    return program


@contextmanager
def _one_line(what: str, path: Path) -> Iterator[None]:
    """Any failure of the block as a `ModelError` with its first cause."""
    try:
        yield
    except Exception as error:  # the exporter raises dozens of classes; all mean the same to a user
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"{what} cannot be exported to ONNX ({first_line(cause)})", where=str(path)) from error


def _save(program: torch.onnx.ONNXProgram, metadata: Mapping[str, Any], path: Path) -> None:
    program.model.metadata_props[METADATA_KEY] = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    program.save(str(path))


def _clip_parity(
    file: Path, names: Sequence[str], batches: Sequence[Array], expected: Sequence[Sequence[Array]], path: Path
) -> dict[str, float]:
    session = open_session(file, threads=1)
    with _one_line("batches of any size", path):
        measured = [session.run(list(names), {INPUT_NAME: batch}) for batch in batches]
    pairs = [
        (np.concatenate([batch[at] for batch in measured]), np.concatenate([batch[at] for batch in expected]))
        for at in range(len(names))
    ]
    return _accepted(pairs, "the ONNX model differs from the network", path)


def _compared_parity(
    file: Path,
    names: Sequence[str],
    episodes: Sequence[tuple[Projected, Projected]],
    expected: Sequence[Array],
    path: Path,
) -> dict[str, float]:
    session = open_session(file, threads=1)
    with _one_line("episodes of any size", path):
        measured = [compare(session, names, _arrays(support), _arrays(queries)) for support, queries in episodes]
    return _accepted(list(zip(measured, expected, strict=True)), "the ONNX comparison differs from the network's", path)


def compare(
    session: InferenceSession, names: Sequence[str], support: Sequence[Array], queries: Sequence[Array]
) -> Array:
    """Logits (Q, way) of one run of the comparison.

    Args:
        session: of `student.compare.onnx`.
        names: outputs of the clip part, in the order of the arrays.
        support: (way, shot, …) each.
        queries: (Q, …) each.
    """
    feed = {f"{SUPPORT}{name}": values for name, values in zip(names, support, strict=True)}
    feed |= {f"{QUERY}{name}": values for name, values in zip(names, queries, strict=True)}
    logits: Array = session.run([LOGITS], feed)[0]
    return logits


def _accepted(pairs: Sequence[tuple[Array, Array]], what: str, path: Path) -> dict[str, float]:
    """The largest differences of (measured, expected).

    Raises:
        ModelError: they are beyond the tolerance.
    """
    found = [_relative(measured, expected) for measured, expected in pairs]
    difference, relative = (max(each[kind] for each in found) for kind in (0, 1))
    if not relative <= TOLERANCE:
        raise ModelError(
            f"{what} by {difference:.2g}, {relative:.2g} of the numbers' spread (allowed {TOLERANCE:g})",
            where=str(path),
            todo="Nothing was written; please report the network's name and versions of torch and onnxscript.",
        )
    return {"max_difference": difference, "relative_difference": relative}


def _relative(measured: Array, expected: Array) -> tuple[float, float]:
    """The largest absolute difference, and the same relative to the spread of what is expected."""
    if measured.shape != expected.shape:
        return float("inf"), float("inf")
    difference = float(np.abs(measured - expected).max())
    # Constant numbers have no spread; their own size is then the scale.
    scale = max(float(np.ptp(expected)), 1e-3 * float(np.abs(expected).max()), 1e-8)
    return difference, difference / scale
