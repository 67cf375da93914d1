"""One self-contained HTML page for several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vidistill import __version__
from vidistill.core.errors import DataError
from vidistill.report import plots, section_curves, sections, tables
from vidistill.report.folder import RunFolder, read_run
from vidistill.report.page import environment, write_beside

MOST_DIFFERENCES = 80


def write_comparison(runs: list[Path], output: Path) -> Path:
    """Write one page that compares runs: verdicts, gains, costs, and what their recipes do differently.

    Args:
        runs: Run folders; unfinished ones are shown as such.
        output: The HTML file to write.

    Returns:
        `output`.

    Raises:
        DataError: No run is given, or one is not a folder.
    """
    if not runs:
        raise DataError("there is no run to compare", todo="Give at least one run folder.")
    folders = [read_run(path) for path in runs]
    named = list(zip(labels(folders), folders, strict=True))
    lines = [sections.guarded(partial(_line, name, run), _broken(name)) for name, run in named]
    page = environment().get_template("comparison.html.j2").render(
        runs=lines,
        warnings=sections.guarded(lambda: warnings_of(named), None) or (),
        figures=sections.guarded(lambda: _figures(named), None),
        differences=sections.guarded(lambda: differences(named), None),
        classes=sections.guarded(lambda: _classes(named), None),
        version=__version__,
    )  # fmt: skip
    return write_beside(output, page)


def labels(folders: list[RunFolder]) -> list[str]:
    """Folder names, with the parent's name where two runs share one, and a number where that does not help."""
    names = [run.name for run in folders]
    found: list[str] = []
    for run, name in zip(folders, names, strict=True):
        label = f"{run.path.parent.name}/{name}" if names.count(name) > 1 else name
        found.append(label if label not in found else f"{label} ({len(found) + 1})")
    return found


def warnings_of(named: list[tuple[str, RunFolder]]) -> list[str]:
    """Why these runs' numbers may not compare."""
    found = []
    hashes = {run.document("data").get("split_hash") for _, run in named} - {None}
    if len(hashes) > 1:
        found.append("The runs have different splits (split hash): their scores are not about the same clips.")
    clips = {run.document("results").get("clips") for _, run in named} - {None}
    if len(clips) > 1:
        found.append("The runs were tested on different numbers of clips.")
    every = [run.document("results") for _, run in named]
    titles = {tables.metric_title(metric, each) for each in every if (metric := tables.main_metric(each))}
    if len(titles) > 1:
        found.append(f"The runs are judged by different measures: {', '.join(sorted(titles))}.")
    return found


def _broken(name: str) -> dict[str, Any]:
    empty = dict.fromkeys(("metric", "alone", "distilled", "gain", "best"))
    return {"name": name, "verdict": tables.verdict({}), "costs": ["–"] * 5, "facts": [], "title": "", **empty}


def _line(name: str, run: RunFolder) -> dict[str, Any]:
    results = run.document("results")
    metric = tables.main_metric(results)
    if metric is None:
        return _broken(name) | {"facts": _run_facts(run)}
    teachers = [row for row in tables.rows(results) if row.get("role") in ("teacher", "ensemble")]
    scored = [(tables.number(_entry(row, metric).get("value")), row) for row in teachers]
    best = max(((value, tables.row_label(row)) for value, row in scored if value is not None), default=None)
    alone, distilled = (tables.by_role(results, role) for role in ("alone", "distilled"))
    return {
        "name": name,
        "verdict": tables.verdict(results),
        "metric": metric,
        "title": tables.metric_title(metric, results),
        "alone": _entry(alone, metric),
        "distilled": _entry(distilled, metric),
        "gain": (results.get("gain") or {}).get(metric),
        "best": best,
        "costs": tables.cost_cells(distilled or alone),
        "facts": _run_facts(run),
    }


def _entry(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    return (row.get("metrics") or {}).get(metric) or {}


def _run_facts(run: RunFolder) -> list[tuple[str, str]]:
    data, audit = run.document("data"), run.document("audit")
    method = _recipe(run).get("method")
    method = method.get("name", "") if isinstance(method, Mapping) else method
    problems = data.get("problems")
    found = [
        ("method", method),
        ("teachers", ", ".join(audit.get("teachers") or {})),
        ("clips", f"{data.get('prepared')} of {data.get('listed')} usable" if data else None),
        ("problems", len(problems) if problems else None),
        ("split hash", str(data.get("split_hash") or "")[:12]),
        (f"test {tables.units(run.document('results'))}", run.document("results").get("clips")),
    ]
    return [(name, str(value)) for name, value in found if value]


def _figures(named: list[tuple[str, RunFolder]]) -> list[tuple[Any, str]]:
    gains, scores, curves = [], [], {}
    tones = {"paid": "accent", "cost": "bad"}
    for name, run in named:
        results = run.document("results")
        metric = tables.main_metric(results)
        gain = (results.get("gain") or {}).get(metric or "")
        if metric and gain and tables.number(gain.get("value")) is not None:
            gains.append(_point(name, gain, tones.get(tables.judge(metric, gain), "alone")))
        for role, tone in (("alone", "alone"), ("distilled", "accent")):
            entry = _entry(tables.by_role(results, role), metric or "")
            if tables.number(entry.get("value")) is not None:
                scores.append(_point(f"{name}, {role}", entry, tone))
        series = section_curves.validation_curves(run, "distilled")
        if series:
            curves[name] = series
    figures: list[tuple[Any, str]] = []
    if gains:
        spoken = "; ".join(f"{each['label']} {tables.fixed(each['value'], sign=True)}" for each in gains)
        figure = plots.forest(gains, "gain, points", "gains", f"Gain of distillation by run: {spoken}", zero=True)
        figures.append((figure, "Gain with 95 % interval; left of the dashed line is worse than alone."))
    if scores:
        spoken = "; ".join(f"{each['label']} {tables.fixed(each['value'])} %" for each in scores)
        figure = plots.forest(scores, "score, %", "scores", f"Scores of the students: {spoken}")
        figures.append((figure, "The students alone (grey) and distilled, with 95 % intervals."))
    if curves:
        spoken = f"Validation accuracy of the distilled students over epochs: {', '.join(curves)}"
        figure = plots.curves(curves, "validation, %", "curves", spoken)
        figures.append((figure, "The distilled students' learning, one line a seed."))
    return figures


def _point(label: str, entry: Mapping[str, Any], tone: str) -> dict[str, Any]:
    numbers = {key: tables.number(entry.get(key)) for key in ("value", "low", "high")}
    return {
        "label": label,
        "tone": tone,
        **{key: None if each is None else 100 * each for key, each in numbers.items()},
    }


def _recipe(run: RunFolder) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(run.recipe or "")
    except yaml.YAMLError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def differences(named: list[tuple[str, RunFolder]]) -> list[tuple[str, list[str]]]:
    """Recipe keys whose values are not the same in all runs, each with one value a run (`–` where absent)."""
    flat = [dict(_flattened(_recipe(run))) for _, run in named]
    keys = dict.fromkeys(key for each in flat for key in each)
    lines = [(key, [each.get(key, tables.ABSENT) for each in flat]) for key in keys]
    return [(key, values) for key, values in lines if len(set(values)) > 1][:MOST_DIFFERENCES]


def _flattened(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flattened(each, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _classes(named: list[tuple[str, RunFolder]]) -> dict[str, Any] | None:
    """Accuracy by class of the distilled students, for the first head that every evaluated run has."""
    evaluated = [(name, run.document("results").get("per_class") or {}) for name, run in named]
    evaluated = [(name, table) for name, table in evaluated if table]
    head = next(
        (head for head in (evaluated[0][1] if evaluated else {}) if all(head in each for _, each in evaluated)), None
    )
    if head is None or len(evaluated) < 2:
        return None
    names = sorted({label for _, table in evaluated for label in table[head]})
    lines = [
        (label, [tables.score("top1", (table[head].get(label) or {}).get("distilled")) for _, table in evaluated])
        for label in names
    ]
    return {"head": head, "runs": [name for name, _ in evaluated], "lines": lines}
