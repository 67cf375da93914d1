"""`vidistill fuse`: reads its options and shows what late fusion gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vidistill.core.errors import RecipeError
from vidistill.report import tables
from vidistill.report.fusion_page import fusion_table
from vidistill.stages.late_fusion import fuse_runs

WIDE = 150
"""Columns of a terminal that gets the whole table."""


def fuse_and_show(runs: list[Path], weights: str | None, to: Path | None, output: Console) -> None:
    """Fuse finished runs, print the table and where it was written."""
    results, folder = fuse_runs(runs, None if weights is None else parse_weights(weights, len(runs)), to)
    show(results, output)
    output.print(f"written: {folder / 'fused.json'}, {folder / 'fused.md'}", markup=False, soft_wrap=True)


def parse_weights(text: str, runs: int) -> list[float]:
    """`1,1.5` as one number a run.

    Raises:
        RecipeError: not numbers above 0, or not one a run.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"{text!r} is not a list of numbers", where="--weights", todo="Write e.g. 1,1.5") from None
    if not all(0 < weight < float("inf") for weight in weights):
        raise RecipeError(f"weights {text!r} are not all above 0", where="--weights", todo="Leave out the run")
    if len(weights) != runs:
        raise RecipeError(f"{len(weights)} weights for {runs} runs", where="--weights", todo="Give one weight a run")
    return weights


def show(results: dict[str, Any], output: Console) -> None:
    """The table, what was left out, and a sentence a student on what fusion gained."""
    header, *rows = fusion_table(results)
    # A narrow terminal gets the main measure; the page has the rest.
    kept = range(len(header)) if output.width >= WIDE else [0, 1, len(header) - 1]
    table = Table(*(escape(header[i]) for i in kept), title=f"late fusion: {results['clips']} test clips")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in kept))
    output.print(table)
    for note in results["notes"]:
        output.print(note, markup=False, soft_wrap=True)
    for role, gain in results["gains"].items():
        metric = gain["metric"]
        score = tables.score_with_bounds(metric, gain["metrics"][metric], sign=True)
        title = tables.metric_title(metric, results)
        output.print(f"{role}: fused against {gain['over']}: {score} {title}", markup=False, soft_wrap=True)
