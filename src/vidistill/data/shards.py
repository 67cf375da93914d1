"""Shards: a few large files that hold the prepared signals of many clips.

`shard-00000.bin` holds the raw little-endian arrays back to back, each at a multiple of 64 bytes, so that a memory map
gives them without a copy. `shard-00000.json` says what lies where. Both are written beside their place and renamed, the
`.bin` first: a shard counts as written when its `.json` is there, whatever killed the process that wrote it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vidistill.core.errors import StoreError
from vidistill.core.types import Signal
from vidistill.data.manifest import Problem

FORMAT = 1
"""Version of the layout of shards and index; a store of another version is refused."""

ALIGNMENT = 64


@dataclass(frozen=True)
class Record:
    """What became of one clip: its signals by modality (`derived`: not from a source of their own), or a problem."""

    id: str
    signals: Mapping[str, Signal]
    derived: frozenset[str] = frozenset()
    problem: Problem | None = None


def shard_path(folder: Path, number: int, suffix: str = ".bin") -> Path:
    """Where shard `number` lies."""
    return folder / f"shard-{number:05d}{suffix}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what can go wrong while `path` is written into one line.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "Free some space and run the same command again; what is finished is kept"
            raise StoreError("the disk is full", where=str(path), todo=todo) from None
        raise StoreError(f"cannot be written ({error.strerror or error})", where=str(path)) from None


@contextmanager
def beside(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place at `path` only when the block ends well; otherwise nothing is left.

    The temporary name holds the process number, so that no two processes ever write into the same file.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        file = open(temporary, "wb")  # noqa: SIM115  # closed below, before the rename
    try:
        with file:
            yield file
            with writing(path):
                file.flush()
                os.fsync(file.fileno())
        with writing(path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """One JSON document, beside and renamed; the same value gives the same bytes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    with beside(path) as file, writing(path):
        file.write(text.encode("utf-8", "surrogateescape"))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object at `path`, or None where it is absent or is not one."""
    try:
        value = json.loads(path.read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _append(file: BinaryIO, path: Path, values: NDArray[Any]) -> int:
    """Writes an array at the next multiple of ALIGNMENT; returns its offset in bytes."""
    dtype = values.dtype.newbyteorder("<")
    if dtype.kind not in "biuf":
        raise TypeError(f"signals of type {values.dtype} cannot be stored")
    little = np.ascontiguousarray(values, dtype)
    with writing(path):
        padding = -file.tell() % ALIGNMENT
        file.write(b"\0" * padding)
        offset = file.tell()
        file.write(little.reshape(-1).view(np.uint8).data)
    return offset


def _write_signal(file: BinaryIO, path: Path, signal: Signal, derived: bool) -> dict[str, Any]:
    times = None if signal.times is None else _append(file, path, np.asarray(signal.times, np.float64))
    return {
        "offset": _append(file, path, signal.values),
        "shape": list(signal.values.shape),
        "dtype": signal.values.dtype.newbyteorder("<").str,
        "rate": float(signal.rate),
        "start": float(signal.start),
        "end": float(signal.duration),
        "times": times,
        "derived": derived,
    }


def write_shard(folder: Path, number: int, records: Iterable[Record], *, key: str) -> dict[str, Any]:
    """Writes one shard, a record at a time, and returns what its `.json` says.

    `key` is the hash of everything that decides the contents; a shard of another key is not taken for this one.

    Raises:
        StoreError: disk full or not writable. Nothing half-written is left, whatever is raised.
    """
    path = shard_path(folder, number)
    rows: list[dict[str, Any]] = []
    with beside(path) as file:
        for record in records:
            signals = {
                name: _write_signal(file, path, signal, name in record.derived)
                for name, signal in sorted(record.signals.items())
            }
            problem = None if record.problem is None else [record.problem.kind, record.problem.message]
            rows.append({"id": record.id, "problem": problem, "signals": signals})
        size = file.tell()
    header = {"format": FORMAT, "key": key, "number": number, "bytes": size, "clips": rows}
    write_json(shard_path(folder, number, ".json"), header)
    return header


def read_shard(folder: Path, number: int, key: str) -> dict[str, Any] | None:
    """What a finished shard's `.json` says; None where the shard is absent, unfinished, cut or of another key."""
    header = read_json(shard_path(folder, number, ".json"))
    path = shard_path(folder, number)
    if header is None or header.get("format") != FORMAT or header.get("key") != key:
        return None
    return header if path.is_file() and path.stat().st_size == header["bytes"] else None


def shard_problems(header: Mapping[str, Any]) -> list[Problem]:
    """The clips of a shard that could not be prepared."""
    return [Problem(row["id"], *row["problem"]) for row in header["clips"] if row["problem"]]
