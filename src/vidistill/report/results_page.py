"""`docs/results.md`: the results of several runs as Markdown, written from their files alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vidistill.core.errors import DataError
from vidistill.report import tables
from vidistill.report.compare import labels
from vidistill.report.folder import RunFolder, read_archive, read_run, write_archive
from vidistill.report.page import write_beside

_ABSOLUTE_PATH = re.compile(r"(?<![\w.~:/\\])(?:/[^\s/'\",\]}]+)+/(?=[^\s/'\",\]}]+)")
FUSED = "fused.md"
"""In a folder of late fusion."""
_HEADER = """# Results

This page is written by a command from the `results.json` of the runs below; it is not edited by hand. Every number is
measured on the run's test split, with its 95 % interval in brackets. "Alone" and "distilled" are the same student with
the same schedule and budget; the gain is distilled minus alone. An interval without zero decides what paid.
"""


def write_results_markdown(runs: list[Path], output: Path, keep: Path | None = None) -> Path:
    """Write the result tables of several runs, and plainly what paid and what did not.

    Args:
        runs: Run folders, and folders of late fusion (`vidistill fuse`).
        output: The Markdown file, for example `docs/results.md`.
        keep: A folder, for example `docs/results`: what the tables of `runs` are made of is kept there as JSON, and the
            page shows everything that is kept there, also by earlier calls. A `.md` file there is shown as it is.

    Returns:
        `output`.

    Raises:
        DataError: No run is given, one is not a folder, or one has no readable results.
    """
    if not runs and keep is None:
        raise DataError("there is no run to write results of", todo="Give at least one run folder.")
    texts = {f"fused_{path.name}": _fused(path) for path in runs if (path / FUSED).is_file()}
    folders = [read_run(path) for path in runs if not (path / FUSED).is_file()]
    for run in folders:
        if not tables.rows(run.document("results")):
            where = str(run.path / "results.json")
            raise DataError(
                "there are no results", where=where, todo="Run `vidistill run RECIPE --until evaluate` first."
            )
    if keep is not None:
        for run in folders:
            write_archive(run, keep)
        for name, text in texts.items():
            write_beside(keep / f"{name}.md", text)
        folders = [read_archive(path) for path in sorted(keep.glob("*.json"))]
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(keep.glob("*.md"))}
    named = list(zip(labels(folders), folders, strict=True))
    parts = [_HEADER, _summary(named), *(_run(name, run) for name, run in named), *texts.values()]
    return write_beside(output, "\n".join(parts).rstrip() + "\n")


def _fused(folder: Path) -> str:
    """What `vidistill fuse` wrote, as a part of the page."""
    text = (folder / FUSED).read_text(encoding="utf-8")
    return text.replace("# ", "## ", 1) if text.startswith("# ") else text


def markdown_table(table: list[list[str]]) -> str:
    """Rows, header first, as a Markdown table; the first column is left-aligned, the others right-aligned."""
    header, *lines = [[_cell(cell) for cell in row] for row in table]
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *lines)) + "\n"


def _cell(text: str) -> str:
    escaped = re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;")


def _summary(named: list[tuple[str, RunFolder]]) -> str:
    groups: dict[str, list[str]] = {"paid": [], "cost": [], "unclear": [], "unknown": []}
    for name, run in named:
        results = run.document("results")
        judged = tables.verdict(results)
        notes = " ".join([*judged.notes, *_variants(results)])
        groups[judged.kind].append(f"- **{_cell(name)}**: {_cell(judged.headline)}. {_cell(notes)}")
    titles = {
        "paid": "### What paid",
        "cost": "### What did not pay",
        "unclear": "### Where this test set shows no difference",
        "unknown": "### Not judged",
    }
    blocks = [f"{titles[kind]}\n\n" + "\n".join(lines) + "\n" for kind, lines in groups.items() if lines]
    return "## In short\n\n" + "\n".join(blocks)


def _variants(results: dict[str, Any]) -> list[str]:
    """A sentence on each further way to distil."""
    metric = tables.main_metric(results)
    found = []
    for name, gain in (results.get("variant_gains") or {}).items():
        if metric is not None and metric in gain:
            found.append(f"{name} against alone: {tables.score_with_bounds(metric, gain[metric], sign=True)}.")
    return found


def _run(name: str, run: RunFolder) -> str:
    results = run.document("results")
    lines = [
        f"## {_cell(name)}",
        "",
        *_command(run),
        "",
        *_facts(run),
        "",
        markdown_table(tables.result_table(results)),
    ]
    calibration = tables.calibration_table(results)
    if calibration:
        lines += ["Calibration, lower is better:", "", markdown_table(calibration)]
    others = _other_gains(results)
    if others:
        lines += ["Gains in the other measures:", "", *others, ""]
    seeds = _seed_table(results)
    if seeds:
        lines += ["By seed:", "", markdown_table(seeds)]
    if run.recipe:
        recipe = _ABSOLUTE_PATH.sub(".../", run.recipe.rstrip())
        fence = "`" * max(3, 1 + max((len(each) for each in re.findall(r"`+", recipe)), default=0))
        lines += ["<details><summary>Recipe</summary>", "", f"{fence}yaml", recipe, fence, "", "</details>", ""]
    return "\n".join(lines)


def _command(run: RunFolder) -> list[str]:
    command = run.document("environment").get("command")
    text = " ".join(command) if isinstance(command, list) else str(command or "vidistill run RECIPE")
    text = _ABSOLUTE_PATH.sub(".../", text).replace("`", "'")
    return [f"Command: `{text}`" + ("" if command else " (the recipe is below)")]


def _facts(run: RunFolder) -> list[str]:
    data, environment, results = (run.document(key) for key in ("data", "environment", "results"))
    split = results.get("test_split", "test")
    found = [f"- Test {tables.units(results)}: {results.get('clips', tables.ABSENT)} (split `{split}`)"]
    if data:
        unusable = len(data.get("problems") or [])
        found.append(
            f"- Clips: {data.get('listed')} listed, {data.get('prepared')} usable, {unusable} named as unusable"
        )
        found.append(f"- Split hash: `{data.get('split_hash')}`")
    machine = [f"{key} {environment[key]}" for key in ("vidistill", "torch", "cpu", "cores") if environment.get(key)]
    if machine:
        found.append(f"- Measured with {_cell(', '.join(machine))}")
    return found


def _other_gains(results: dict[str, Any]) -> list[str]:
    main = tables.main_metric(results)
    words = {"paid": "better", "cost": "worse", "unclear": "no difference shown"}
    found = []
    for metric, entry in (results.get("gain") or {}).items():
        if metric != main and isinstance(entry, dict) and tables.number(entry.get("value")) is not None:
            text = tables.score_with_bounds(metric, entry, sign=True)
            found.append(
                f"- {_cell(tables.metric_title(metric, results))}: {text}, {words[tables.judge(metric, entry)]}"
            )
    return found


def _seed_table(results: dict[str, Any]) -> list[list[str]]:
    main = tables.main_metric(results)
    if main is None:
        return []
    found: list[list[str]] = []
    seeds: list[Any] = []
    for role in ("alone", "distilled"):
        row = tables.by_role(results, role)
        values = ((row.get("metrics") or {}).get(main) or {}).get("per_seed") or []
        seeds = row.get("seeds") or list(range(len(values)))
        found.append([tables.row_label(row) if row else role, *(tables.score(main, value) for value in values)])
    gains = ((results.get("gain") or {}).get(main) or {}).get("per_seed") or []
    found.append(["gain", *(tables.score(main, value, sign=True) for value in gains)])
    if len({len(line) for line in found}) != 1 or len(found[0]) < 3 or len(seeds) != len(found[0]) - 1:
        return []
    title = tables.metric_title(main, results, unit=True)
    return [[title, *(f"seed {seed}" for seed in seeds)], *found]
