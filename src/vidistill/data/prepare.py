"""The prepare stage: every clip validated, missing modalities derived, all of it stored in few large files.

The clips are cut into fixed shards by the manifest's order, whatever the number of workers. A finished shard is never
made again, so a preparation that was killed goes on where it stood and ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vidistill.core.errors import DataError, RecipeError, StoreError
from vidistill.core.seeds import digest
from vidistill.core.types import Clip
from vidistill.data.manifest import Manifest, Problem, annotation, resolve
from vidistill.data.prepare_clip import ModalitySource, prepare_clip
from vidistill.data.prepare_index import build_index
from vidistill.data.prepare_workers import Task, run_shards
from vidistill.data.shards import FORMAT, read_json, read_shard, shard_problems, write_json, writing
from vidistill.data.store import Store

__all__ = ["ModalitySource", "content_hash", "prepare", "prepare_clip", "store_hash"]

Sources = Mapping[str, ModalitySource]
FEWEST, MOST, SHARDS = 8, 512, 64
SHOWN = 5


def content_hash(manifest: Manifest, sources: Sources, *, min_frames: int = 2) -> str:
    """Hash of what decides the shards: ids, time ranges, source files and options; not labels and splits.

    A source file counts by its size and modification time, or by size and checksum where the manifest has one.
    """
    options = {name: [dict(source.provenance), source.store] for name, source in sources.items()}
    stamps: dict[Path, tuple[int, int] | None] = {}
    rows = []
    for clip in manifest.clips:
        used = sorted(name for name in clip.sources if name in sources)
        files = [(name, clip.sources[name], *_stamp(manifest.root, clip, name, stamps)) for name in used]
        rows.append((clip.id, clip.start, clip.end, clip.fps, clip.frames, files))
    return digest("shards", FORMAT, options, min_frames, _digest_rows(rows))


def _digest_rows(rows: list[Any]) -> list[str]:
    """Hashes of rows, many at a time: one hash a row would take most of the time, one of all much memory."""
    return [digest(rows[start : start + 1024]) for start in range(0, len(rows), 1024)]


def store_hash(manifest: Manifest, sources: Sources, *, min_frames: int = 2) -> str:
    """Hash of a whole store: its shards, and labels, splits, groups, fixed classes and listed problems of its clips."""
    return _store_hash(manifest, content_hash(manifest, sources, min_frames=min_frames))


def _store_hash(manifest: Manifest, key: str) -> str:
    rows = [(*annotation(clip), clip.group) for clip in manifest.clips]
    problems = [(problem.clip, problem.kind, problem.message) for problem in manifest.problems]
    fixed = [[head, names] for head, names in manifest.classes.items() if head in manifest.fixed_classes]
    return digest("store", key, _digest_rows(rows), problems, *([fixed] if fixed else []))


def _stamp(root: Path, clip: Clip, name: str, stamps: dict[Path, tuple[int, int] | None]) -> tuple[Any, ...]:
    path, _ = resolve(root, clip.sources[name])
    if path not in stamps:
        try:
            status = path.stat()
            stamps[path] = (status.st_size if stat.S_ISREG(status.st_mode) else -1, status.st_mtime_ns)
        except OSError:
            stamps[path] = None
    stamp = stamps[path]
    if stamp is None:
        return (None,)
    return (stamp[0], clip.checksum) if clip.checksum else stamp


def prepare(
    manifest: Manifest,
    folder: Path | str,
    sources: Sources,
    *,
    workers: int = 2,
    skip_limit: float = 0.05,
    min_frames: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Prepares all clips of a manifest into `folder` and opens the result; does nothing where that is done already.

    Where only labels or splits have changed, the index is written anew and the shards stay.

    Args:
        manifest: the clips.
        folder: where the store lies; best named by `store_hash`. Must be new, or hold a preparation of the same data.
        sources: by modality, how it is loaded, derived and whether it is stored.
        workers: processes; with 1 all is done in this one. The number changes nothing in the result. With more, the
            functions in `sources` must be importable, and a script that calls this needs a `__main__` guard.
        skip_limit: part of the listed clips, in [0, 1], that may be unusable and are then left out.
        min_frames: a clip with fewer frames (of its reference modality) is short, hence unusable.
        progress: called with (clips done, clips in all) after each shard.

    Raises:
        DataError: too many unusable clips (the first are named), or none is left.
        StoreError: the folder holds something else or is in use by another process; disk full; a worker died.
        RecipeError: an argument out of its range.
    """
    folder = Path(folder)
    _check_arguments(manifest, sources, workers, skip_limit, min_frames)
    key = content_hash(manifest, sources, min_frames=min_frames)
    done = _finished(folder, _store_hash(manifest, key))
    if done is not None:
        _check_limit(manifest, list(done.problems), skip_limit)
        return done
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _claim(folder, key)
        _run(manifest, folder, sources, key, (workers, skip_limit, min_frames), progress)
        build_index(manifest, folder, sources, key, _store_hash(manifest, key), len(_tasks(manifest)))
    return Store.open(folder)


def _check_arguments(manifest: Manifest, sources: Sources, workers: int, skip_limit: float, min_frames: int) -> None:
    if not manifest.clips:
        raise DataError("there are no clips to prepare", where=str(manifest.root))
    ids = Counter(clip.id for clip in manifest.clips)
    twice, count = ids.most_common(1)[0]
    if count > 1:
        raise DataError(f"clip id {twice!r} is listed {count} times", where=str(manifest.root), todo="Make ids unique")
    if not any(source.store for source in sources.values()):
        raise RecipeError("no modality is to be stored")
    if workers < 1 or min_frames < 1 or not 0 <= skip_limit <= 1:
        raise RecipeError(
            f"workers={workers} and min_frames={min_frames} must be at least 1, skip_limit={skip_limit} in [0, 1]"
        )


def _finished(folder: Path, expected: str) -> Store | None:
    header = read_json(folder / "store.json")
    if header is None or header.get("hash") != expected:
        return None
    try:
        store = Store.open(folder, expected=expected)
    except StoreError:
        return None
    return store if store.complete() else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from preparing the same folder; the system lets go of it if this one is killed."""
    path = folder / "prepare.lock"
    with writing(path):
        file = open(path, "wb")  # noqa: SIM115  # closed by the block below
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError("another process is preparing this folder", where=str(folder)) from None
        yield


def _claim(folder: Path, key: str) -> None:
    """Refuses a folder of other contents, removes what a killed process left, and marks the folder as this one's."""
    mark = read_json(folder / "prepare.json")
    if mark is not None and mark.get("key") != key:
        todo = "Use another folder, or remove this one"
        raise StoreError("holds data prepared from other clips, files or options", where=str(folder), todo=todo)
    _remove_temporary(folder)
    if mark is None:
        found = sorted(path.name for path in folder.iterdir() if path.name not in ("prepare.lock", "prepare.json"))
        if found:
            todo = "Use a new or empty folder"
            raise StoreError(f"is not a folder of prepared data ({found[0]!r} is there)", where=str(folder), todo=todo)
        write_json(folder / "prepare.json", {"format": FORMAT, "key": key})


def _remove_temporary(folder: Path) -> None:
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def _tasks(manifest: Manifest) -> list[Task]:
    size = min(MOST, max(FEWEST, -(-len(manifest.clips) // SHARDS)))
    starts = range(0, len(manifest.clips), size)
    return [Task(number, manifest.clips[start : start + size]) for number, start in enumerate(starts)]


def _run(
    manifest: Manifest,
    folder: Path,
    sources: Sources,
    key: str,
    numbers: tuple[int, float, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Makes the shards that are absent; stops as soon as more clips are unusable than allowed."""
    workers, skip_limit, min_frames = numbers
    problems: list[Problem] = []
    waiting: list[Task] = []
    done = 0
    for task in _tasks(manifest):
        header = read_shard(folder, task.number, key)
        if header is None:
            waiting.append(task)
        else:
            done += len(task.clips)
            problems += shard_problems(header)
    _check_limit(manifest, problems, skip_limit)
    if progress is not None:
        progress(done, len(manifest.clips))
    try:
        setting = (manifest.root, folder, dict(sources), min_frames, key)
        with closing(run_shards(setting, waiting, workers)) as made:
            for task, found in made:
                done += len(task.clips)
                problems += found
                if progress is not None:
                    progress(done, len(manifest.clips))
                _check_limit(manifest, problems, skip_limit)
    finally:
        _remove_temporary(folder)


def _check_limit(manifest: Manifest, problems: list[Problem], skip_limit: float) -> None:
    problems = [*manifest.problems, *problems]
    clips = {clip.id for clip in manifest.clips}
    listed = len(clips | {problem.clip for problem in manifest.problems})
    bad = {problem.clip: problem for problem in reversed(problems)}
    if not bad or (len(bad) <= skip_limit * listed and not clips <= bad.keys()):
        return
    order = {clip.id: number for number, clip in enumerate(manifest.clips)}
    first = sorted(bad.values(), key=lambda problem: order.get(problem.clip, -1))[:SHOWN]
    names = "; ".join(f"{problem.clip!r} {problem.kind} ({problem.message})" for problem in first)
    more = f"; and {len(bad) - len(first)} more" if len(bad) > len(first) else ""
    raise DataError(
        f"{len(bad)} of {listed} clips are unusable, allowed are {skip_limit:.0%}: {names}{more}",
        where=str(manifest.root),
        todo="Repair or remove them, or raise the limit of skipped clips",
    )
