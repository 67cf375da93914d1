"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 20.0
console = Console(stderr=True, highlight=False)


class Counter:
    """What the work calls: `advance(n, note)`; `total` and `done` count items."""

    def __init__(self, description: str, total: int, unit: str, bar: Progress | None) -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, 0
        self._bar = bar
        self._started = self._logged = time.monotonic()
        self._skipped = 0
        self._task = bar.add_task(description, total=total, rate="", note="") if bar else None

    def skip(self, count: int) -> None:
        """Items already done by an earlier, interrupted call: counted, but not in the rate."""
        self._skipped += count
        self.advance(count)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished items; `note` is shown beside them."""
        self.done += count
        elapsed = max(time.monotonic() - self._started, 1e-6)
        rate = (self.done - self._skipped) / elapsed
        text = f"{rate:.1f} {self.unit}/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, rate=text, note=note)
        elif time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            left = (self.total - self.done) / rate if rate > 0 else float("nan")
            console.print(f"{self.description}: {self.done}/{self.total}, {text}, {left:.0f} s left {note}".rstrip())


@contextmanager
def progress(description: str, total: int, unit: str = "clips", quiet: bool = False) -> Iterator[Counter]:
    """Show the progress of `total` items of work while the block runs."""
    if quiet or not sys.stderr.isatty():
        counter = Counter(description, total, unit, None)
        counter._logged = float("inf") if quiet else counter._logged
        yield counter
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Counter(description, total, unit, bar)
