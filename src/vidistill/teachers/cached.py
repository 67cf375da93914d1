"""Teacher outputs on disk: what a live teacher said about every (clip, view), as memory-mapped rows.

A cache is a folder named by the digest of its key (weights, input pipeline, view policy, seed, clips, views). It holds
one `.npy` file an output and shard, `key.json`, and nothing else. It is filled in a folder `<digest>.partial` that
records how far it came, and renamed when complete, so an interrupted fill goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidistill.core.errors import StoreError, TeacherError
from vidistill.core.progress import progress
from vidistill.core.seeds import digest, generator
from vidistill.core.types import Batch, Outputs
from vidistill.data.batches import Key, ViewDataset, loader
from vidistill.teachers.live import LiveTeacher

FORMAT = 1
SHARD_ROWS = 1 << 17
BATCH = 32


def cache_folder(root: Path, key: Mapping[str, Any]) -> Path:
    """Where the cache of this key lies."""
    return root / digest(key)


def fill_cache(
    root: Path, key: dict[str, Any], teacher: LiveTeacher, dataset: ViewDataset, clips: NDArray[np.int64], views: int
) -> Path:
    """Write the teacher's outputs for `views` views of `clips`, view by view; a complete cache is left alone.

    Args:
        root: folder of all caches.
        key: what the outputs depend on, JSON-like.
        teacher: the frozen network.
        dataset: training views that make at least the teacher's input.
        clips: store indices (N,), in the order of the rows.
        views: views a clip; row = view * N + position in `clips`.
    """
    folder = cache_folder(root, key)
    if (folder / "key.json").is_file():
        return folder
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    rows = [(int(c), v) for v in range(views) for c in clips]
    done = _read_progress(partial)
    with progress(f"teacher {teacher.name}: caching", len(rows), "views") as counter:
        counter.skip(done)
        writer: _Writer | None = None
        batches = [rows[i : i + BATCH] for i in range(done, len(rows), BATCH)]
        for number, batch in enumerate(loader(dataset, batches)):
            device = next(teacher.network.parameters()).device
            outputs = flatten(teacher(batch.to(device)))
            writer = writer or _Writer(partial, len(rows), outputs)
            writer.write(done, outputs)
            done += len(batch)
            counter.advance(len(batch))
            if number % 50 == 49:
                writer.flush(done)
        if writer:
            writer.flush(done)
    beside = partial / "key.tmp"
    beside.write_text(json.dumps({"format": FORMAT, **key}, indent=1, sort_keys=True), encoding="utf-8")
    beside.replace(partial / "key.json")
    (partial / "progress.json").unlink(missing_ok=True)
    partial.replace(folder)
    return folder


def flatten(outputs: Outputs) -> dict[str, Tensor]:
    """Outputs as named rows: `logits.<head>`, `embedding`, `feature.<name>`."""
    return {
        **{f"logits.{head}": value for head, value in outputs.logits.items()},
        "embedding": outputs.embedding,
        **{f"feature.{name}": value for name, value in outputs.features.items()},
    }


def unflatten(rows: Mapping[str, Tensor]) -> Outputs:
    """The inverse of `flatten`."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in rows.items() if k.startswith(prefix)}

    return Outputs(part("logits."), rows["embedding"], part("feature."))


class CachedTeacher:
    """Reads what a live teacher said. Same interface and same numbers as `LiveTeacher`.

    Args:
        name: the teacher's name.
        input_name: the input it saw.
        folder: a complete cache.
        key: the key the caller expects.
        clips: store indices in the order of the rows.
        parts: loads the frozen network for methods that ask for a part of it.

    Raises:
        StoreError: the cache was made under another key; the message names what differs.
    """

    def __init__(
        self,
        name: str,
        input_name: str,
        folder: Path,
        key: Mapping[str, Any],
        clips: NDArray[np.int64],
        parts: Callable[[], nn.Module],
    ) -> None:
        self.name, self.input_name, self._parts = name, input_name, parts
        check_key(folder, key)
        self._position = np.full(int(clips.max()) + 1, -1, dtype=np.int64)
        self._position[clips] = np.arange(len(clips))
        self._count = len(clips)
        names = sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.npy")})
        self._rows = {n: [np.load(p, mmap_mode="r") for p in sorted(folder.glob(f"{n}-*.npy"))] for n in names}
        self._total = sum(len(shard) for shard in self._rows["embedding"])

    def __call__(self, batch: Batch) -> Outputs:
        """The stored answers (B, ...) for the batch's clips and views, on the batch's device."""
        clip, view = batch.clip.cpu().numpy(), batch.view.cpu().numpy()
        position = self._position[np.minimum(clip, len(self._position) - 1)]
        rows = view * self._count + position
        if (position < 0).any() or (clip >= len(self._position)).any() or (rows >= self._total).any():
            raise TeacherError("a clip or view is not in the cache", where=f"teacher {self.name!r}")
        device = batch.clip.device
        return unflatten({n: torch.from_numpy(_gather(s, rows)).to(device) for n, s in self._rows.items()})

    def part(self, name: str) -> nn.Module:
        """A frozen part of the teacher's network."""
        return LiveTeacher(self.name, self._parts(), self.input_name).part(name)

    def spot_check(self, teacher: LiveTeacher, dataset: ViewDataset, fraction: float, tolerance: float) -> float:
        """Run a sample of rows again and compare; returns the largest difference relative to 1 + |value|.

        Raises:
            StoreError: a stored row differs from what the teacher says now.
        """
        count = min(self._total, max(8, round(fraction * self._total)))
        random = generator("spot check", teacher.name)
        clips = np.flatnonzero(self._position >= 0)[np.argsort(self._position[self._position >= 0])]
        rows = np.sort(random.choice(self._total, count, replace=False))
        keys: list[Key] = [(int(clips[r % self._count]), int(r // self._count)) for r in rows]
        worst = 0.0
        for batch in loader(dataset, [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]):
            device = next(teacher.network.parameters()).device
            batch = batch.to(device)
            live, stored = flatten(teacher(batch)), flatten(self(batch))
            for name, value in live.items():
                difference = (value - stored[name]).abs() / (1 + value.abs())
                worst = max(worst, float(difference.max()))
        if not worst <= tolerance:
            raise StoreError(
                f"cached rows differ from the live teacher by {worst:.2g} (tolerance {tolerance:.2g})",
                where=f"teacher {self.name!r}",
                todo="Delete the run's cache folder to fill it again",
            )
        return worst


def check_key(folder: Path, key: Mapping[str, Any]) -> None:
    """Compare a cache's key with the expected one."""
    path = folder / "key.json"
    if not path.is_file():
        raise StoreError("no complete teacher cache here", where=str(folder), todo="Run the teachers stage")
    stored = json.loads(path.read_text(encoding="utf-8"))
    expected = json.loads(json.dumps({"format": FORMAT, **key}))
    different = sorted(k for k in stored.keys() | expected.keys() if stored.get(k) != expected.get(k))
    if different:
        raise StoreError(
            f"this cache belongs to another teacher or other views ({', '.join(different)} differ)",
            where=str(folder),
            todo="Delete the folder, or use the recipe that made it",
        )


class _Writer:
    """Preallocated shards of a partial cache."""

    def __init__(self, folder: Path, total: int, example: dict[str, Tensor]) -> None:
        self.folder = folder
        self._shards = {name: list(self._open(name, total, value)) for name, value in example.items()}

    def _open(self, name: str, total: int, value: Tensor) -> Iterator[NDArray[Any]]:
        for number, start in enumerate(range(0, total, SHARD_ROWS)):
            path = self.folder / f"{name}-{number:03d}.npy"
            shape = (min(SHARD_ROWS, total - start), *value.shape[1:])
            mode = "r+" if path.is_file() else "w+"
            try:
                yield np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=shape)
            except OSError as error:
                raise StoreError(
                    f"cannot write the cache ({error})", where=str(path), todo="Free disk space"
                ) from error

    def write(self, start: int, outputs: dict[str, Tensor]) -> None:
        for name, value in outputs.items():
            rows = value.float().cpu().numpy()
            for offset in range(0, len(rows), SHARD_ROWS):
                _scatter(self._shards[name], start + offset, rows[offset : offset + SHARD_ROWS])

    def flush(self, done: int) -> None:
        for shards in self._shards.values():
            for shard in shards:
                shard.flush()  # type: ignore[attr-defined]
        beside = self.folder / "progress.tmp"
        beside.write_text(json.dumps({"rows": done}), encoding="utf-8")
        beside.replace(self.folder / "progress.json")


def _read_progress(partial: Path) -> int:
    path = partial / "progress.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else 0


def _scatter(shards: list[NDArray[Any]], start: int, rows: NDArray[Any]) -> None:
    number, offset = divmod(start, SHARD_ROWS)
    here = min(len(rows), SHARD_ROWS - offset)
    shards[number][offset : offset + here] = rows[:here]
    if here < len(rows):
        shards[number + 1][: len(rows) - here] = rows[here:]


def _gather(shards: list[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
    if len(shards) == 1:
        return np.asarray(shards[0][rows])
    return np.stack([shards[r // SHARD_ROWS][r % SHARD_ROWS] for r in rows])
