"""One clip: load what has a source, derive what is asked for and absent, and say by name what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidistill.core.errors import DataError, DecodeError, VidistillError
from vidistill.core.types import Clip, Signal
from vidistill.data.manifest import Problem, resolve
from vidistill.data.shards import Record
from vidistill.data.store_index import reference

BUGS = (MemoryError, ImportError, NameError, AttributeError, TypeError, AssertionError)
"""Raised for what is no clip's fault: these are not counted as unusable clips but stop the preparation."""

COVERED = 0.9
"""A clip whose frames cover less than this part of the time that the manifest states is short."""


@dataclass(frozen=True)
class ModalitySource:
    """How one modality of a clip is made. Travels to worker processes: functions must be picklable.

    `load(path, key, clip)` reads the clip's own source, cut to the clip's start and end. Where the file is sound but
    has no such signal (a video without an audio track) it gives None or raises one of `absent`. `derive(rgb)` makes the
    signal from the prepared RGB frames. `provenance` (options, tool, version; JSON values) is stored and decides, with
    the files, whether a store is up to date. `store=False`: only needed for deriving others from it.
    """

    name: str
    load: Callable[[Path, str | None, Clip], Signal | None]
    derive: Callable[[Signal], Signal | None] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    store: bool = True
    absent: tuple[type[Exception], ...] = ()


class _UnusableError(Exception):
    """Why a clip cannot be used; becomes its `Problem`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)


def prepare_clip(root: Path, clip: Clip, sources: Mapping[str, ModalitySource], min_frames: int) -> Record:
    """All stored modalities of one clip, or the problem that makes it unusable.

    RGB is decoded once and only if it is stored or something is derived from it. A modality that the clip neither has
    nor can derive is left out; a source that is listed but absent, empty or broken makes the clip unusable.

    Raises:
        VidistillError: what is not the clip's fault, e.g. weights or a package that a derivation needs.
    """
    try:
        signals, derived = _signals(root, clip, sources, min_frames)
    except _UnusableError as error:
        kind, message = error.args
        message = " ".join(message.replace(f"{root}{os.sep}", "").split())  # the same wherever the data lies
        return Record(clip.id, {}, problem=Problem(clip.id, kind, message))
    return Record(clip.id, signals, frozenset(derived))


def _signals(
    root: Path, clip: Clip, sources: Mapping[str, ModalitySource], min_frames: int
) -> tuple[dict[str, Signal], set[str]]:
    stored = sorted(name for name, source in sources.items() if source.store)
    derivable = {name for name in stored if sources[name].derive is not None and name not in clip.sources}
    wanted = [name for name in stored if name in clip.sources]
    if derivable and "rgb" in sources and "rgb" in clip.sources and "rgb" not in wanted:
        wanted.append("rgb")
    signals: dict[str, Signal] = {}
    for name in sorted(wanted, key=lambda name: name != "rgb"):
        signal = _load(root, clip, sources[name])
        if signal is not None:
            signals[name] = signal
            if name == reference([*signals, *wanted]):
                _check_length(clip, name, signal, min_frames)
    derived = set()
    for name in sorted(derivable) if "rgb" in signals else ():
        signal = _derive(sources[name], signals["rgb"])
        if signal is not None:
            signals[name] = signal
            derived.add(name)
    kept = {name: signal for name, signal in signals.items() if name in stored}
    if not kept:
        raise _UnusableError("missing", f"has none of the modalities asked for ({', '.join(stored)})")
    return kept, derived


def _load(root: Path, clip: Clip, source: ModalitySource) -> Signal | None:
    listed = clip.sources[source.name]
    path, key = resolve(root, listed)
    if not path.exists():
        raise _UnusableError("missing", f"{source.name}: {listed} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise _UnusableError("empty", f"{source.name}: {listed} has no bytes")
    with _named(source.name, listed):
        try:
            signal = source.load(path, key, clip)
        except source.absent:
            signal = None
    return _sound(source.name, signal)


def _derive(source: ModalitySource, rgb: Signal) -> Signal | None:
    assert source.derive is not None
    with _named(source.name, "derived from rgb"):
        signal = source.derive(rgb)
    return _sound(source.name, signal)


@contextmanager
def _named(name: str, what: str) -> Iterator[None]:
    """Turns what a decoder or a derivation raises into the clip's problem, unless it is no clip's fault.

    Decoders raise whatever they like; what is systematic is caught by the limit on unusable clips.
    """
    try:
        yield
    except DecodeError as error:
        raise _UnusableError("corrupt", f"{name}: {error}") from None
    except DataError as error:
        raise _UnusableError("unreadable", f"{name}: {error}") from None
    except FileNotFoundError as error:
        raise _UnusableError("missing", f"{name}: {what}: {error}") from None
    except (*BUGS, VidistillError):
        raise
    except Exception as error:
        raise _UnusableError("unreadable", f"{name}: {what}: {type(error).__name__}: {error}") from None


def _sound(name: str, signal: Signal | None) -> Signal | None:
    """The signal, if there is one, with at least one sample and finite times."""
    if signal is None:
        return None
    if len(signal) == 0 or signal.values.size == 0:
        raise _UnusableError("empty", f"{name}: no samples")
    if not (np.isfinite(signal.rate) and signal.rate > 0 and np.isfinite(signal.duration)):
        raise _UnusableError("corrupt", f"{name}: rate {signal.rate} and times are not usable")
    return signal


def _check_length(clip: Clip, name: str, signal: Signal, min_frames: int) -> None:
    """Whether the reference modality has enough frames and covers the time that the manifest states."""
    if len(signal) < min_frames:
        raise _UnusableError("short", f"{name}: {len(signal)} frames, at least {min_frames} are needed")
    stated = None
    if clip.end is not None:
        stated = clip.end - clip.start
    elif clip.frames and clip.fps and clip.start == 0:
        stated = clip.frames / clip.fps
    if stated is not None and signal.duration < COVERED * stated - 1 / signal.rate:
        raise _UnusableError("short", f"{name}: {signal.duration:.2f} s of {stated:.2f} s listed")
