"""The page of all benchmarks: `python benchmarks/page.py runs/benchmarks docs/benchmarks.md`.

Every line is read from the JSON that the benchmark of that name wrote; one that was not run is named as such.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `make benchmarks` from what each benchmark measured; not edited by hand. Ratios are of two ways to do the
same, measured in turn in one run; each way's answers are compared before anything is reported. One command each:
`python benchmarks/NAME.py RESULT.json`, whose first lines say what is compared and what is claimed.
"""
Line = tuple[str, str]
"""What is compared, and what was found."""


def times(value: float) -> str:
    """A ratio as `12 times`."""
    return f"{value:.0f} times" if value >= 10 else f"{value:.1f} times"


def prepare(found: dict[str, Any]) -> list[Line]:
    return [("clips prepared a second by two workers, against one", times(found["ratio"]))]


def distil(found: dict[str, Any]) -> list[Line]:
    return [("an epoch distilled from three cached teachers, against the student alone", times(found["ratio"]))]


def detection_metrics(found: dict[str, Any]) -> list[Line]:
    def line(row: dict[str, Any]) -> Line:
        compared = f"{row['name']}: loops over detections, against arrays"
        return compared, f"{times(row['ratio'])} as long ({row['loop_seconds']:.2f} s, {row['seconds']:.3f} s)"

    return [line(row) for row in found["rows"]]


def trx(found: dict[str, Any]) -> list[Line]:
    return [
        (
            f"TRX with tuples of {' and '.join(map(str, row['cardinalities']))} frames: as published, against ours",
            times(row["ratio"]),
        )
        for row in found["rows"]
    ]


def curriculum(found: dict[str, Any]) -> list[Line]:
    return [
        (f"a tenth chosen of {row['clips']:,} clips", f"{row['seconds']:.1f} s of processor time")
        for row in found["rows"]
    ]


def stlt_padding(found: dict[str, Any]) -> list[Line]:
    return [
        (f"layout transformer: 14 slots a frame, against {row['fullest']} that are filled", times(row["ratio"]))
        for row in found["rows"]
    ]


def boundary_pooling(found: dict[str, Any]) -> list[Line]:
    ratios = [row["ratios"] for row in found["rows"]]

    def span(name: str) -> str:
        values = [each[name]["both"] for each in ratios]
        return f"{min(values):.2g} to {max(values):.2g} times as long"

    return [
        ("boundary pooling, forward and backward: a mask of every window, against the sparse table", span("mask")),
        ("the same: a loop over windows, against the sparse table", span("loop")),
    ]


def data_pipeline(found: dict[str, Any]) -> list[Line]:
    rates = found["clips_per_second"]
    compared = "views a second: the memory-mapped store, against decoding every JPEG with PIL"
    return [(compared, f"{times(found['ratio'])} ({rates['store']:.0f}, {rates['jpeg']:.0f})")]


def teacher_ensemble(found: dict[str, Any]) -> list[Line]:
    ratios, held = found["ratios"], found["held_megabytes"]
    return [
        ("a step with three live teachers, against cached ones", f"{times(ratios['live/cached']['step'])} as long"),
        ("the teachers' answers alone: live, against cached", f"{times(ratios['live/cached']['answers'])} as long"),
        (
            "memory held: recorded for a backward pass, against inference mode",
            f"{held['plain']:.0f} MB, {held['live']:.0f} MB",
        ),
    ]


def merged_phases(found: dict[str, Any]) -> list[Line]:
    return [
        (
            f"generative distillation, {row['teacher']} teacher: phases in turn, against merged",
            f"{times(row['seconds_ratio'])} as long",
        )
        for row in found["rows"]
    ]


def episode_evaluation(found: dict[str, Any]) -> list[Line]:
    compared = f"{found['episodes']:,} episodes: network passes for every clip of each, against one a clip"
    return [
        (compared, f"{times(found['ratios']['passes'])} as many passes, {times(found['ratios']['seconds'])} as long")
    ]


READERS: dict[str, Callable[[dict[str, Any]], list[Line]]] = {
    each.__name__: each
    for each in (
        prepare,
        distil,
        detection_metrics,
        trx,
        curriculum,
        stlt_padding,
        boundary_pooling,
        data_pipeline,
        teacher_ensemble,
        merged_phases,
        episode_evaluation,
    )
}


def page(folder: Path) -> str:
    """The page of what lies in a folder of results."""
    lines = [HEAD, "| benchmark | compared | found | claim held |", "| :-- | :-- | --: | :-: |"]
    for name, read in READERS.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            lines.append(f"| `{name}` | not run | – | – |")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        held = "yes" if all(each["reached"] for each in found.get("claims", [found])) else "no"
        lines += [f"| `{name}` | {compared} | {value} | {held} |" for compared, value in read(found)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    beside = given.page.with_suffix(".tmp")
    beside.write_text(page(given.results), encoding="utf-8")
    beside.replace(given.page)
