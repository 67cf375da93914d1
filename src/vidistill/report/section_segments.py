"""Segments of a few test recordings: what was annotated and what the students found, over time."""

from __future__ import annotations

from typing import Any

from vidistill.report import plots, tables
from vidistill.report.folder import RunFolder
from vidistill.report.sections import Missing, needed

SURE = 0.3
"""Detections with a lower score are left out of the picture; the metrics count them."""


def segments(run: RunFolder) -> dict[str, Any]:
    """One picture a recording."""
    lines = needed(run, "results").get("timelines") or []
    figures = []
    for place, line in enumerate(lines):
        rows = {"annotated": [(start, end, label) for start, end, label in line["truth"]]}
        for role in ("alone", "distilled"):
            found = [(start, end, label) for start, end, label, score in line.get(role) or [] if score >= SURE]
            rows[f"student {role}"] = found
        counts = ", ".join(f"{name} {len(each)}" for name, each in rows.items())
        text = f"Segments over time in {line['clip']}: {counts}"
        figure = plots.timeline(rows, float(line["seconds"]), f"segments-{place}", text)
        figures.append((figure, f"{line['clip']}, {tables.duration(line['seconds'])}"))
    if not figures:
        raise Missing("results.json has no segments. `vidistill run RECIPE --until evaluate` makes them.")
    return {"figures": figures, "sure": SURE}
