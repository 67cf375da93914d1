"""Tables of late fusion: single streams beside all together, and the gain over the better stream."""

from __future__ import annotations

from typing import Any

from vidistill.report import tables
from vidistill.report.results_page import markdown_table


def fusion_table(results: dict[str, Any]) -> list[list[str]]:
    """Single streams, fused, and the gain, student by student, as text with the header first."""
    names = tables.metrics(results)
    table = [["model", *(tables.metric_title(name, results, unit=True) for name in names), "seeds"]]
    for role, gain in results["gains"].items():
        for row in results["rows"]:
            if row["name"] == role:
                scores = [tables.score_with_bounds(name, row["metrics"][name]) for name in names]
                table.append([f"{tables.row_label(row)}: {row['stream']}", *scores, str(len(row["seeds"]))])
        scores = [tables.score_with_bounds(name, gain["metrics"][name], sign=True) for name in names]
        table.append([f"gain over {gain['over']}", *scores, ""])
    return table


def fused_page(results: dict[str, Any]) -> str:
    """`fused.md`: the table, what was fused and how."""
    runs = [f"- {run['name']}: input `{run['input']}`, weight {run['weight']:g}" for run in results["runs"]]
    lines = [
        f"# Late fusion: {' + '.join(run['name'] for run in results['runs'])}",
        "",
        *runs,
        f"- Test clips: {results['clips']} (split `{results['test_split']}`), task {results['task']}",
        *(f"- {note}" for note in results["notes"]),
        "",
        markdown_table(fusion_table(results)),
        "95 % intervals over clips and seeds. The gain is paired, and over the stream that is better on these clips.",
    ]
    return "\n".join(lines) + "\n"
