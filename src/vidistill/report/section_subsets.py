"""Accuracy on subsets of the test clips, such as those of rare classes or of people that train never shows."""

from __future__ import annotations

from typing import Any

from vidistill.report import tables
from vidistill.report.folder import RunFolder
from vidistill.report.sections import Missing, needed


def subsets(run: RunFolder) -> dict[str, Any]:
    """A table a subset: the models as rows, every head's accuracy and that of all heads together as columns."""
    results = needed(run, "results")
    gain = results.get("gain") or {}
    heads = tables.heads(results)
    parts = []
    for name, clips in (results.get("subsets") or {}).items():
        columns = [f"{head}/top1@{name}" for head in ("all", *heads)]
        columns = [column for column in columns if any(column in (row.get("metrics") or {}) for row in _rows(results))]
        plain = [column.partition("@")[0] for column in columns]
        parts.append(
            {
                "name": name.replace("_", " "),
                "clips": clips,
                "titles": [tables.metric_title(each, results, unit=True) for each in plain],
                "lines": [
                    (tables.row_label(row), row.get("role"), [(c, row["metrics"].get(c)) for c in columns])
                    for row in _rows(results)
                ],
                "gain": [(column, gain[column], tables.judge(column, gain[column])) for column in columns if gain],
            }
        )
    if not parts:
        raise Missing("results.json names no subsets. `vidistill run RECIPE --until evaluate` makes them.")
    return {"parts": parts}


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in tables.rows(results) if row.get("metrics")]
