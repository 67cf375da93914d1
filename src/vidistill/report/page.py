"""One self-contained HTML page for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vidistill import __version__
from vidistill.report import (
    section_curves,
    section_segments,
    section_selection,
    section_subsets,
    section_teachers,
    sections,
    tables,
)
from vidistill.report.folder import RunFolder, read_run

Builder = Callable[[RunFolder], dict[str, Any]]


@dataclass(frozen=True)
class Section:
    """A part of the page: either its `html` or a `notice` that says why there is none."""

    anchor: str
    title: str
    html: Markup | None = None
    notice: str | None = None


PARTS: tuple[tuple[str, str, Builder], ...] = (
    ("result", "Result", sections.result),
    ("subsets", "Subsets of the test clips", section_subsets.subsets),
    ("segments", "Segments", section_segments.segments),
    ("curves", "Learning curves", section_curves.learning),
    ("selection", "Selection of clips", section_selection.selection),
    ("classes", "Gain by class", sections.classes),
    ("confusion", "Confusion", sections.confusion),
    ("calibration", "Calibration", sections.calibration),
    ("teachers", "Teachers", section_teachers.teachers),
    ("cost", "Cost", sections.cost),
    ("data", "Data", sections.data),
    ("recipe", "Recipe and environment", sections.recipe),
)


ONLY_FOR = {
    "segments": ("detection", "anchor_detection"),
    "classes": ("recognition", "detection", "fewshot"),
    "confusion": ("recognition", "detection"),
    "calibration": ("recognition", "detection"),
}
"""Parts that only pages of these tasks have; before a run is evaluated its page has what recognition has."""


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; whatever the run lacks is named on the page.

    Args:
        run: A run folder, finished or stopped midway.

    Returns:
        The page's path.

    Raises:
        DataError: `run` is not a folder.
    """
    folder = read_run(run)
    templates = environment()
    task = folder.document("results").get("task", "recognition")
    parts = [part for part in PARTS if task in ONLY_FOR.get(part[0], (task,))]
    parts = [part for part in parts if part[0] != "selection" or "selection" in folder.documents]
    parts = [part for part in parts if part[0] != "subsets" or folder.document("results").get("subsets")]
    page = templates.get_template("page.html.j2").render(
        run=folder,
        verdict=_verdict(folder),
        facts=sections.guarded(lambda: sections.facts(folder), None),
        sections=[_section(folder, templates, *part) for part in parts],
        version=__version__,
    )  # fmt: skip
    return write_beside(folder.path / "report.html", page)


def environment() -> jinja2.Environment:
    """The templates, with escaping on for every one of them."""
    loader = jinja2.PackageLoader("vidistill.report", "templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update({name: getattr(tables, name) for name in ("fixed", "amount", "file_size", "significant")})
    made.filters["score_of"] = lambda value, metric, sign=False: tables.score(metric, value, sign=sign)
    made.filters["bounds_of"] = lambda entry, metric, sign=False: tables.bounds(metric, entry, sign=sign)
    # Not of a word with a capital further on: `mAP` stays as it is.
    made.filters["capitalize_first"] = lambda text: (
        str(text) if str(text)[1:2].isupper() else str(text)[:1].upper() + str(text)[1:]
    )
    return made


def write_beside(path: Path, text: str) -> Path:
    """Write text beside `path` and rename it, so that no reader meets half a page."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8", errors="replace")
    beside.replace(path)
    return path


def _verdict(run: RunFolder) -> tables.Verdict:
    return sections.guarded(lambda: tables.verdict(run.document("results")), tables.verdict({}))


def _section(run: RunFolder, templates: jinja2.Environment, anchor: str, title: str, build: Builder) -> Section:
    """Build one part; a document that does not have the expected form costs its own part only."""
    try:
        html = templates.get_template(f"part_{anchor}.html.j2").render(part=build(run))
    except sections.Missing as missing:
        return Section(anchor, title, notice=str(missing))
    except (jinja2.UndefinedError, *sections.FORM_ERRORS) as error:
        reason = f"{type(error).__name__}: {error}"
        return Section(anchor, title, notice=f"The run's files do not have the expected form here ({reason}).")
    return Section(anchor, title, html=Markup(html))
