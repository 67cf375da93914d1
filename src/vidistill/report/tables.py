"""Numbers as people read them: formats, result rows and the verdict, shared by page, terminal and documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"
ABSENT = "\N{EN DASH}"
LOWER_IS_BETTER = frozenset({"ece", "adaptive_ece", "nll", "brier"})
_CALIBRATION = ("ece", "adaptive_ece", "nll", "brier")
ROUNDING = 1e-12
"""A bound this near to zero is zero."""
_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class": "mean class",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "nll": "NLL",
    "brier": "Brier score",
    "map": "mAP, mean over tIoU",
    "pku_map_action": "PKU-MMD AP (action), mean over tIoU",
    "pku_map_video": "PKU-MMD AP (video), mean over tIoU",
}
_DETECTION = ("map", "map@", "top1")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "detection": _DETECTION,
    "anchor_detection": _DETECTION,
    "fewshot": ("top1", "nll"),
    "multilabel": ("map", "top1", "top5", "ece", "nll"),
}
_ROLES = {"teacher": 0, "ensemble": 1, "alone": 2, "distilled": 3, "variant": 4, "missing": 5, "peer": 6}
_PHRASES = {
    "paid": "Distillation paid",
    "cost": "Distillation did not pay",
    "unclear": "No difference that this test set can show",
}


def number(value: Any) -> float | None:
    """`value` as a finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: Any) -> float | None:
    """A fraction in percent, or None for what is no number."""
    finite = number(value)
    return None if finite is None else 100 * finite


def kind(metric: str) -> str:
    """The last part of a metric's name: `top1` of `action/top1`."""
    return metric.rsplit("/", 1)[-1]


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction, shown in percent."""
    return kind(metric) not in ("nll", "brier")


def fixed(value: Any, decimals: int = 1, *, sign: bool = False) -> str:
    """A decimal number with a true minus sign; `–` for what is no number."""
    finite = number(value)
    if finite is None:
        return ABSENT
    text = f"{finite:{'+' if sign else ''},.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def score(metric: str, value: Any, *, sign: bool = False) -> str:
    """A metric's value: percent (points when signed) with one decimal for shares, else two decimals (Brier: three)."""
    finite = number(value)
    if finite is None:
        return ABSENT
    if is_share(metric):
        return fixed(finite * 100, 1, sign=sign)
    return fixed(finite, 3 if kind(metric) == "brier" else 2, sign=sign)


def bounds(metric: str, entry: Mapping[str, Any], *, sign: bool = False) -> str:
    """The 95 % interval as `low to high`, or an empty string without one."""
    if number(entry.get("low")) is None or number(entry.get("high")) is None:
        return ""
    return f"{score(metric, entry['low'], sign=sign)} to {score(metric, entry['high'], sign=sign)}"


def score_with_bounds(metric: str, entry: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    """`62.3 (60.1 to 64.5)`."""
    if not entry:
        return ABSENT
    interval = bounds(metric, entry, sign=sign)
    value = score(metric, entry.get("value"), sign=sign)
    return f"{value} ({interval})" if interval else value


def amount(value: Any) -> str:
    """A count with three digits and a unit: `1.52 M`."""
    finite = number(value)
    if finite is None:
        return ABSENT
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(finite) >= size:
            return f"{finite / size:.3g} {unit}"
    return f"{finite:.0f}"


def file_size(value: Any) -> str:
    """Bytes as `5.9 MB` (powers of ten)."""
    finite = number(value)
    if finite is None:
        return ABSENT
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(finite) >= size:
            return f"{finite / size:.1f} {unit}"
    return f"{finite:.0f} bytes"


def significant(value: Any) -> str:
    """Three significant digits without exponents: `0.0312`, `4.18`, `128`."""
    finite = number(value)
    if finite is None:
        return ABSENT
    if finite == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(finite))))
    return fixed(finite, min(decimals, 4))


def duration(value: Any) -> str:
    """Seconds as `42 s`, `3 min 5 s` or `2 h 10 min`."""
    finite = number(value)
    if finite is None:
        return ABSENT
    seconds = round(finite)
    if seconds < 60:
        return f"{finite:.1f} s" if finite < 10 else f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def heads(results: Mapping[str, Any]) -> list[str]:
    """Head names in the order the rows give them, without the joint pseudo-head `all`."""
    found = dict.fromkeys(name.split("/")[0] for row in _rows(results) for name in row.get("metrics") or {})
    return [head for head in found if head != "all"]


def metrics(results: Mapping[str, Any]) -> list[str]:
    """Names of the metrics worth a column: joint accuracy first, then each head's.

    One head shows top-1, top-5, mean class accuracy, ECE and NLL; of several each shows all these but top-5. Top-5 says
    nothing with five classes or fewer and is left out then. Accuracy on subsets has a table of its own.
    """
    present = {name for row in _rows(results) for name in row.get("metrics") or {}}
    names = heads(results)
    top5 = ("top5",) if len(names) == 1 else ()
    kinds: tuple[str, ...] = ("top1", *top5, "mean_class", "ece", "nll")
    wanted = ["all/top1"] + [f"{head}/{each}" for head in names for each in kinds]
    if results.get("task") in _KINDS:
        kinds = _KINDS[results["task"]]
        wanted = [
            name for head in names for each in kinds for name in sorted(present) if _matches(name, f"{head}/{each}")
        ]
    few = {head for head, table in (results.get("per_class") or {}).items() if len(table) <= 5}
    return [name for name in wanted if name in present and not (kind(name) == "top5" and name.split("/")[0] in few)]


def _matches(name: str, wanted: str) -> bool:
    """Whether a metric is the wanted one, or one of its kind where that ends in `@`."""
    return name.startswith(wanted) if wanted.endswith("@") else name == wanted


def units(results: Mapping[str, Any]) -> str:
    """What a test is of: clips, or episodes that are drawn of them."""
    return "episodes" if results.get("task") == "fewshot" else "clips"


def metric_title(metric: str, results: Mapping[str, Any], *, unit: bool = False) -> str:
    """A metric's words: `top-1`, or `verb top-1` when there are several heads; `top-1 on tail verb` on a subset."""
    head, _, last = metric.rpartition("/")
    base, at, level = last.partition("@")
    title = _TITLES.get(last, last.replace("_", " "))
    if at:
        where = f"on {level.replace('_', ' ')}" if base == "top1" else f"at tIoU {level}"
        title = f"{_TITLES.get(base, base).split(',')[0]} {where}"
    rows = {"detection": "steps", "anchor_detection": "anchors", "multilabel": "labels"}.get(str(results.get("task")))
    if rows == "labels":
        title = "mAP over classes" if last == "map" else f"{title} of labels" if last in _CALIBRATION else title
    elif rows and last in ("top1", *_CALIBRATION):
        title = f"{title} of {rows}"
    if head == "all":
        title = f"all heads {title}"
    elif len(heads(results)) > 1:
        title = f"{head} {title}"
    return f"{title}, %" if unit and is_share(metric) else title


def main_metric(results: Mapping[str, Any]) -> str | None:
    """The metric that decides the verdict: the task's, joint over several heads, else the first head's."""
    known = metrics(results) or list(results.get("gain") or {})
    primary = results.get("primary", "top1")
    return next((name for name in known if kind(name) == primary), known[0] if known else None)


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Result rows in reading order: teachers, their ensemble, the student alone, the student distilled."""
    return sorted(_rows(results), key=lambda row: _ROLES.get(str(row.get("role")), 9))


def partial_clips(row: Mapping[str, Any], results: Mapping[str, Any]) -> int | None:
    """On how many clips a row was tested when that is not all of them (a teacher without its input), else None."""
    clips = row.get("clips")
    return clips if isinstance(clips, int) and clips != results.get("clips", clips) else None


def row_label(row: Mapping[str, Any]) -> str:
    """What a row is called: `teacher flow`, `student alone`."""
    role, name = str(row.get("role", "")), str(row.get("name", ""))
    if role == "teacher":
        return f"teacher {name}"
    if role == "variant":
        return f"student, {name}"
    if role == "peer":
        return f"peer {name}"
    return {"ensemble": "teachers together", "alone": "student alone", "distilled": "student distilled"}.get(role, name)


def by_role(results: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The first row of a role, or an empty one."""
    return next((row for row in _rows(results) if row.get("role") == role), {})


def result_table(results: Mapping[str, Any]) -> list[list[str]]:
    """The result table as text, header first, for terminals and Markdown.

    Args:
        results: The content of a run's `results.json`.

    Returns:
        Rows of equal length: model, the metrics with 95 % intervals, seeds, parameters, GMACs, latency, minutes per
        epoch. The last row is the gain of distillation when it is known. An empty list without any row.
    """
    names = metrics(results)
    lines = rows(results)
    if not lines:
        return []
    titles = [metric_title(name, results, unit=True) for name in names]
    table = [["model", *titles, "seeds", "parameters", "GMACs", "latency, ms", "min / epoch"]]
    for row in lines:
        scores = [score_with_bounds(name, (row.get("metrics") or {}).get(name)) for name in names]
        clips = partial_clips(row, results)
        label = row_label(row) + (f" (on {clips} clips)" if clips is not None else "")
        table.append([label, *scores, *cost_cells(row)])
    gain = results.get("gain") or {}
    if gain:
        scores = [score_with_bounds(name, gain.get(name), sign=True) for name in names]
        table.append(["gain", *scores, "", "", "", "", ""])
    for variant, gain in (results.get("variant_gains") or {}).items():
        scores = [score_with_bounds(name, gain.get(name), sign=True) for name in names]
        table.append([f"gain, {variant}", *scores, "", "", "", "", ""])
    return table


def calibration_table(results: Mapping[str, Any]) -> list[list[str]]:
    """How far each model's confidence can be trusted, as text, header first; empty where that was not measured.

    A block of columns a head: expected calibration error, the same over equally full bins, NLL, Brier score.
    """
    names = [f"{head}/{each}" for head in heads(results) for each in _CALIBRATION]
    lines = [row for row in rows(results) if any(kind(name) == "brier" for name in row.get("metrics") or {})]
    if not lines:
        return []
    table = [["model", *(metric_title(name, results, unit=True) for name in names)]]
    for row in lines:
        table.append([row_label(row), *(score_with_bounds(name, row["metrics"].get(name)) for name in names)])
    gain = results.get("gain") or {}
    if gain:
        table.append(["gain", *(score_with_bounds(name, gain.get(name), sign=True) for name in names)])
    return table


def cost_cells(row: Mapping[str, Any]) -> list[str]:
    """Seeds, parameters, GMACs, latency and minutes per epoch of a row."""
    seeds = row.get("seeds") or []
    costs = (significant(row.get(key)) for key in ("gmacs", "latency_ms", "minutes_per_epoch"))
    return [str(len(seeds)) if seeds else ABSENT, amount(row.get("parameters")), *costs]


@dataclass(frozen=True)
class Verdict:
    """Whether distillation paid, in words.

    Attributes:
        kind: `paid`, `cost` (worse than alone), `unclear` (the interval holds zero) or `unknown` (not evaluated).
        headline: One sentence without its full stop.
        notes: Sentences that qualify it.
    """

    kind: str
    headline: str
    notes: tuple[str, ...] = ()


def judge(metric: str, entry: Mapping[str, Any]) -> str:
    """`paid`, `cost` or `unclear` for one gain; the interval decides, `paid` only where there is no interval."""
    low, high = number(entry.get("low")), number(entry.get("high"))
    if low is None or high is None:
        paid = entry.get("paid")
        return "unclear" if paid is None else "paid" if paid else "cost"
    if kind(metric) in LOWER_IS_BETTER:
        low, high = -high, -low
    return "paid" if low > ROUNDING else "cost" if high < -ROUNDING else "unclear"


def verdict(results: Mapping[str, Any]) -> Verdict:
    """Say plainly whether distillation paid.

    Args:
        results: The content of `results.json`; may be empty.
    """
    metric = main_metric(results)
    entry = (results.get("gain") or {}).get(metric) if metric else None
    if metric is None or not entry or number(entry.get("value")) is None:
        if _rows(results) and not by_role(results, "distilled"):
            return Verdict("unknown", "Nothing was distilled: this run has a student alone and no other to compare")
        return Verdict("unknown", "Not evaluated yet: this run has no result to judge")
    outcome = judge(metric, entry)
    unit = " points" if is_share(metric) else ""
    sentence = f"{_PHRASES[outcome]}: {score(metric, entry['value'], sign=True)}{unit} {metric_title(metric, results)}"
    interval = bounds(metric, entry, sign=True)
    sentence += f" (95\N{NO-BREAK SPACE}% interval {interval})" if interval else " (no interval)"
    return Verdict(outcome, sentence, tuple(_notes(results, metric, entry, outcome)))


def _notes(results: Mapping[str, Any], metric: str, entry: Mapping[str, Any], outcome: str) -> list[str]:
    notes = []
    alone = number(_value(by_role(results, "alone"), metric))
    teachers = [row for row in _rows(results) if row.get("role") in ("teacher", "ensemble")]
    teachers = [row for row in teachers if partial_clips(row, results) is None]
    ranked = [(value, row) for row in teachers if (value := number(_value(row, metric))) is not None]
    if outcome == "paid" and alone is not None and ranked and is_share(metric):
        best, row = max(ranked, key=lambda pair: pair[0])
        gap = best - alone
        if gap > 0.005:
            closed = entry["value"] / gap
            label = row_label(row) if row.get("role") == "teacher" else "the teachers together"
            notes.append(f"It closes {fixed(closed * 100, 0)} % of the gap between the student alone and {label}.")
    per_seed = [value for each in entry.get("per_seed") or [] if (value := number(each)) is not None]
    seeds = max((len(by_role(results, role).get("seeds") or []) for role in ("alone", "distilled")), default=0)
    if len(per_seed) > 1:
        better = sum(value < 0 if kind(metric) in LOWER_IS_BETTER else value > 0 for value in per_seed)
        notes.append(f"The distilled student is better in {better} of {len(per_seed)} seeds.")
    elif seeds <= 1:
        notes.append("One seed only: the interval covers the choice of test clips, not the luck of training.")
    if outcome == "unclear":
        notes.append("The interval holds zero: more test clips or more seeds are needed to tell.")
    return notes


def _value(row: Mapping[str, Any], metric: str) -> Any:
    return ((row.get("metrics") or {}).get(metric) or {}).get("value")


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results.get("rows") or [] if isinstance(row, dict)]
