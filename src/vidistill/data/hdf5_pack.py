"""Packing: clips of any source become the published HDF5 files, one a modality (Radevski et al., ICCV 2023).

By clip, datasets are `/<clip>`, as published for Something-Something. By recording they are `/<recording>/<clip>`, and
the sound is the whole recording's, `/<recording>`, as for EPIC-KITCHENS; a recording is named by its file.

An HDF5 file that is being written does not survive a killed process. Clips are therefore written to part files, each
beside its place and renamed; when all are there, the parts and what was packed before are copied into a new file that
takes the old one's place. A killed packing goes on where it stood. While parts are joined, they need the disk twice.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py

from vidistill.core.errors import DataError, RecipeError, StoreError, VidistillError
from vidistill.core.seeds import digest
from vidistill.data.hdf5_frames import opened
from vidistill.data.hdf5_plan import By, Sources, Unit, packed_manifest, plan, stamps_of, without
from vidistill.data.hdf5_write import PACKED, PackOptions, packed_stamps, write_signal
from vidistill.data.manifest import Manifest, Problem, resolve, write_manifest
from vidistill.data.prepare_clip import prepare_clip
from vidistill.data.shards import writing

PART = 32
"""Clips of a part file: as much work as a killed process loses."""
PROBLEMS = "problems"
SHOWN = 5


@dataclass(frozen=True)
class Packed:
    """What became of a manifest: its files by modality, how many datasets are new, and the clips that are unusable.

    `manifest` has the clips that are packed, as sources of the packed files; it is written beside them.
    """

    files: Mapping[str, Path]
    manifest: Manifest
    new: int
    kept: int
    problems: tuple[Problem, ...] = field(default=())


def pack(
    manifest: Manifest,
    folder: Path,
    sources: Sources,
    options: PackOptions | None = None,
    *,
    by: By = "clip",
    workers: int = 1,
    skip_limit: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Writes `<modality>.hdf5` for each of `sources`, and `manifest.csv`; what is there and up to date is kept.

    Args:
        manifest: the clips.
        folder: where the files go; made where it is not there.
        sources: by modality (rgb, flow, audio) how a clip's signal is loaded or derived; with `store=False` only to
            derive others from it. A clip without a source of sound is looked through for it where its pictures are a
            video file.
        options: how frames are encoded.
        by: see above.
        workers: processes; the number changes nothing in the files.
        skip_limit: part of the clips that may be unusable and are then left out.
        progress: called with (clips done, clips in all).

    Raises:
        DataError: too many unusable clips (the first are named), or two clips of one key.
        StoreError: the disk is full, or a worker died.
        RecipeError: a modality that has no such file, or a number out of its range.
    """
    options = options or PackOptions()
    stored = [name for name, source in sources.items() if source.store]
    if workers < 1 or not 0 <= skip_limit <= 1 or not stored or not set(stored) <= set(PACKED):
        raise RecipeError(f"packed are {', '.join(PACKED)}; workers is 1 or more, skip_limit in [0, 1]", where="pack")
    parts = folder / "parts"
    with writing(folder):
        parts.mkdir(parents=True, exist_ok=True)
    units = plan(manifest, sources, options, by)
    there = {name: stamps_of(folder / f"{name}.hdf5") for name in stored}
    todo = [left for unit in units if (left := without(unit, there)) is not None]
    kept = sum(len(unit.keys) for unit in units) - sum(len(unit.keys) for unit in todo)
    chunks = [todo[i : i + PART] for i in range(0, len(todo), PART)]
    files = [parts / f"{digest([dict(unit.stamps) for unit in chunk])}.hdf5" for chunk in chunks]
    done = len(manifest.clips) - sum(not unit.whole for unit in todo)
    with closing(_write_parts(manifest.root, files, chunks, dict(sources), options, workers)) as made:
        for number in made:
            done += sum(not unit.whole for unit in chunks[number])
            if progress is not None:
                progress(done, len(manifest.clips))
    problems = _problems(manifest, files, skip_limit)
    new = sum(join(folder / f"{name}.hdf5", name, files) for name in stored)
    listed = packed_manifest(manifest, folder, units, stored, {problem.clip for problem in problems})
    with writing(folder):
        write_manifest(listed, folder / "manifest.csv")
        shutil.rmtree(parts)
    return Packed({name: folder / f"{name}.hdf5" for name in stored}, listed, new, kept, tuple(problems))


def write_part(root: Path, path: Path, units: Sequence[Unit], sources: Sources, options: PackOptions) -> None:
    """One part file, `/<modality>/<key>`, and the problems of its clips as JSON; beside and renamed.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    problems: list[tuple[str, str, str]] = []
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with h5py.File(temporary, "w") as file:
                for unit in units:
                    wanted = {m: replace(source, store=m in unit.keys) for m, source in sources.items()}
                    record = prepare_clip(root, unit.clip, wanted, 1)
                    if record.problem is not None and not _silent(root, unit, sources):
                        problems.append((unit.clip.id, record.problem.kind, record.problem.message))
                    try:
                        for m, signal in record.signals.items():
                            write_signal(file, f"{m}/{unit.keys[m]}", m, signal, options, unit.stamps[m])
                    except DataError as error:
                        problems.append((unit.clip.id, "unreadable", str(error)))
                file[PROBLEMS] = json.dumps(problems)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _silent(root: Path, unit: Unit, sources: Sources) -> bool:
    """Whether all that was left of a clip was its sound, and there is none: that is no problem."""
    if set(unit.keys) != {"audio"}:
        return False
    path, key = resolve(root, unit.clip.sources["audio"])
    try:
        return sources["audio"].load(path, key, unit.clip) is None
    except sources["audio"].absent:
        return True
    except (VidistillError, OSError):
        return False


def _write_part_in_worker(*arguments: Any) -> str | None:
    """`write_part` in a process of its own; an error comes back as its line, exceptions do not all survive the way."""
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        write_part(*arguments)
    except VidistillError as error:
        return str(error)
    return None


def _write_parts(
    root: Path, files: list[Path], chunks: list[list[Unit]], sources: Sources, options: PackOptions, workers: int
) -> Generator[int, None, None]:
    """The numbers of the parts as they are done; those that are there from an earlier call first.

    Raises:
        VidistillError: as `write_part`; StoreError also when a worker dies.
    """
    waiting = [number for number, path in enumerate(files) if not path.exists()]
    yield from (number for number in range(len(files)) if number not in set(waiting))
    if workers == 1 or len(waiting) < 2:
        for number in waiting:
            write_part(root, files[number], chunks[number], sources, options)
            yield number
        return
    pool = ProcessPoolExecutor(min(workers, len(waiting)), multiprocessing.get_context("spawn"))
    try:
        futures = {
            pool.submit(_write_part_in_worker, root, files[number], chunks[number], sources, options): number
            for number in waiting
        }
        for future in as_completed(futures):
            line = future.result()
            if line is not None:
                raise StoreError(line)
            yield futures[future]
    except BrokenProcessPool:
        todo = "Run the same command again; finished parts are kept"
        raise StoreError("a worker process ended unexpectedly", where=str(files[0].parent), todo=todo) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _problems(manifest: Manifest, files: Sequence[Path], limit: float) -> list[Problem]:
    """The clips that could not be packed.

    Raises:
        DataError: too many of them. The parts are kept; a clip whose file changes is tried again.
    """
    found: list[Problem] = []
    for path in files:
        with opened(path) as file:
            found += [Problem(*row) for row in json.loads(file[PROBLEMS].asstr()[()])]
    bad = {problem.clip: problem for problem in (*manifest.problems, *found)}
    listed = len({clip.id for clip in manifest.clips} | bad.keys())
    if len(bad) <= limit * listed:
        return found
    first = "; ".join(f"{p.clip!r} {p.kind} ({p.message})" for p in list(bad.values())[:SHOWN])
    raise DataError(
        f"{len(bad)} of {listed} clips are unusable, allowed are {limit:.0%}: {first}",
        where=str(manifest.root),
        todo="Repair or remove them, or raise the limit of skipped clips",
    )


def join(path: Path, modality: str, parts: Sequence[Path]) -> int:
    """Puts what parts hold of a modality into its file, beside and renamed; says how many datasets came in.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    count = 0
    parts = [part for part in parts if _holds(part, modality)]
    if not parts and path.exists():
        return 0
    with writing(path):
        if path.exists():
            shutil.copyfile(path, temporary)
        with h5py.File(temporary, "a" if path.exists() else "w") as file:
            for part in parts:
                with h5py.File(part, "r") as source:
                    for key in packed_stamps(source[modality]):
                        if key in file:
                            del file[key]
                        parent, _, name = f"/{key}".rpartition("/")
                        source.copy(source[f"{modality}/{key}"], file.require_group(parent or "/"), name)
                        count += 1
        os.replace(temporary, path)
    return count


def _holds(part: Path, modality: str) -> bool:
    with opened(part) as file:
        return modality in file
