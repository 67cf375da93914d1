"""The processes of the prepare stage: each makes whole shards, one clip at a time, and ends with the main process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from vidistill.core import errors
from vidistill.core.errors import StoreError, VidistillError
from vidistill.core.types import Clip
from vidistill.data.manifest import Problem
from vidistill.data.prepare_clip import ModalitySource, prepare_clip
from vidistill.data.shards import shard_problems, write_shard

Setting = tuple[Path, Path, Mapping[str, ModalitySource], int, str]
"""Root of the sources, folder of the store, sources by modality, fewest frames, key of the shards."""


@dataclass(frozen=True)
class Task:
    """One shard to make."""

    number: int
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class _Failure:
    """A one-line error on its way from a worker; exceptions with arguments of their own do not survive pickling."""

    kind: str
    line: str

    def error(self) -> VidistillError:
        kind = getattr(errors, self.kind, VidistillError)
        error: VidistillError = kind.__new__(kind, self.line)
        return error


_setting: Setting | None = None


def _make(setting: Setting, task: Task) -> list[Problem]:
    root, folder, sources, min_frames, key = setting
    records = (prepare_clip(root, clip, sources, min_frames) for clip in task.clips)
    return shard_problems(write_shard(folder, task.number, records, key=key))


def _make_in_worker(task: Task) -> list[Problem] | _Failure:
    assert _setting is not None
    try:
        return _make(_setting, task)
    except VidistillError as error:
        return _Failure(type(error).__name__, str(error))


def _start_worker(setting: Setting, alive: Connection) -> None:
    global _setting
    _setting = setting
    os.environ["OMP_NUM_THREADS"] = "1"
    _single_threaded()
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    """Blocks until the main process closes its end of the pipe, on purpose or by being killed, and then ends at once.

    A worker that outlived its parent would write into a folder that the next run has taken over.
    """
    try:
        alive.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _single_threaded() -> tuple[int, int | None]:
    """One thread a process: the processes share the cores already. Returns the earlier numbers (OpenCV, torch)."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    torch = sys.modules.get("torch")
    threads = None
    if torch is not None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
    return before, threads


@contextmanager
def _threads_kept() -> Iterator[None]:
    before, threads = _single_threaded()
    try:
        yield
    finally:
        import cv2

        cv2.setNumThreads(before)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits while workers start; they inherit that and never see it: the main process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_shards(setting: Setting, tasks: list[Task], workers: int) -> Generator[tuple[Task, list[Problem]], None, None]:
    """Makes shards and yields each as it is done, with the clips that could not be prepared; in no order.

    When the caller stops early (error, Ctrl-C), the workers are ended at once.

    Raises:
        VidistillError: as `prepare_clip` and `write_shard` do; StoreError also when a worker process dies.
    """
    if min(workers, len(tasks)) <= 1:
        with _threads_kept():
            for task in tasks:
                yield task, _make(setting, task)
        return
    alive, keep = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start_worker, (setting, alive)
    )
    try:
        with _interrupts_held():
            futures: dict[Future[list[Problem] | _Failure], Task] = {
                pool.submit(_make_in_worker, task): task for task in tasks
            }
        for future in as_completed(futures):
            result = future.result()
            if isinstance(result, _Failure):
                raise result.error()
            yield futures.pop(future), result
        pool.shutdown()
    except BrokenProcessPool:
        todo = "Run the same command again, with fewer workers if memory was short; finished shards are kept"
        raise StoreError("a worker process ended unexpectedly", where=str(setting[1]), todo=todo) from None
    finally:
        keep.close()
        pool.shutdown(cancel_futures=True)
        alive.close()
