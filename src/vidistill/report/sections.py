"""What each part of the page shows: plain values and figures, computed from the run's files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from vidistill.report import plots, tables
from vidistill.report.folder import DOCUMENTS, RunFolder

T = TypeVar("T")
D = TypeVar("D")
FORM_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)
STAGES = {
    "results": "evaluate",
    "data": "prepare",
    "audit": "audit",
    "selection": "evaluate",
    "export": "export",
}
CLASSES_A_CHART = 34


class Missing(Exception):
    """A part has nothing to show; the text says what is missing and which command makes it."""


def guarded(build: Callable[[], T], otherwise: D) -> T | D:
    """The built value, or `otherwise` when the run's files lack something or have another form."""
    try:
        return build()
    except (Missing, *FORM_ERRORS):
        return otherwise


def needed(run: RunFolder, key: str) -> dict[str, Any]:
    """A document that a part cannot do without.

    Raises:
        Missing: It is absent or damaged.
    """
    if key in run.documents:
        return run.documents[key]
    stage = STAGES[key]
    fault = run.damaged.get(key) or f"{DOCUMENTS[key]} is not there yet"
    raise Missing(f"{fault}. `vidistill run RECIPE --until {stage}` makes it.")


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """One line of facts under the headline."""
    results, data, environment = (run.document(key) for key in ("results", "data", "environment"))
    alone = tables.by_role(results, "alone")
    found = [
        (f"test {tables.units(results)}", results.get("clips")),
        ("classes", " + ".join(str(len(names)) for names in (data.get("classes") or {}).values())),
        ("teachers", len([row for row in tables.rows(results) if row.get("role") == "teacher"]) or None),
        ("seeds", len(alone.get("seeds") or []) or None),
        ("student", f"{tables.amount(alone['parameters'])} parameters" if alone.get("parameters") else None),
        ("date", str(environment.get("date") or "")[:10]),
    ]
    return [(name, str(value)) for name, value in found if value]


def result(run: RunFolder) -> dict[str, Any]:
    """The result table with its forest plot and the pairs of seeds."""
    results = needed(run, "results")
    names = tables.metrics(results)
    lines = tables.rows(results)
    if not lines or not names:
        raise Missing("results.json has no rows. `vidistill run RECIPE --until evaluate` makes them.")
    main = tables.main_metric(results) or names[0]
    title = tables.metric_title(main, results)
    per_seed = _per_seed(results, names)
    gain = results.get("gain") or {}
    return {
        "metrics": [(name, tables.metric_title(name, results, unit=True)) for name in names],
        "lines": [
            (tables.row_label(row), row, tables.cost_cells(row), tables.partial_clips(row, results)) for row in lines
        ],
        "gain": gain,
        "judged": {name: tables.judge(name, entry) for name, entry in gain.items()},
        "variant_gains": [
            (name, each, {metric: tables.judge(metric, entry) for metric, entry in each.items()})
            for name, each in (results.get("variant_gains") or {}).items()
        ],
        "forest": _forest(lines, main, title),
        "pairs": _pairs(lines, main, title),
        "per_seed": per_seed,
        "split": results.get("test_split", "test"),
        "clips": results.get("clips"),
        "units": tables.units(results),
        "title": title,
    }


def _forest(lines: list[dict[str, Any]], metric: str, title: str) -> str:
    tones = {"alone": "alone", "distilled": "accent"}
    points = []
    for row in lines:
        entry = (row.get("metrics") or {}).get(metric) or {}
        value, low, high = (tables.number(entry.get(key)) for key in ("value", "low", "high"))
        if value is not None:
            low, high = (None if each is None else 100 * each for each in (low, high))
            label, tone = tables.row_label(row), tones.get(str(row.get("role")), "")
            points.append({"label": label, "value": 100 * value, "low": low, "high": high, "tone": tone})
    text = "; ".join(f"{point['label']} {tables.fixed(point['value'])} %" for point in points)
    return plots.forest(points, f"{title}, %", "forest", f"{title} with 95 % intervals: {text}")


def _pairs(lines: list[dict[str, Any]], metric: str, title: str) -> str | None:
    values = {}
    for row in lines:
        seeds = ((row.get("metrics") or {}).get(metric) or {}).get("per_seed") or []
        values[row.get("role")] = [100 * each for each in seeds if tables.number(each) is not None]
    alone, distilled = values.get("alone") or [], values.get("distilled") or []
    if not alone or len(alone) != len(distilled):
        return None
    pairs = "; ".join(
        f"{tables.fixed(a)} to {tables.fixed(b)} %" for a, b in zip(alone, distilled, strict=True)
    )  # fmt: skip
    return plots.seed_pairs(alone, distilled, f"{title}, %", "pairs", f"{title} alone to distilled by seed: {pairs}")


def _per_seed(results: Mapping[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    found = []
    for row in tables.rows(results):
        for name in names:
            values = ((row.get("metrics") or {}).get(name) or {}).get("per_seed") or []
            if len(values) > 1:
                seeds = row.get("seeds") or list(range(len(values)))
                cells = [(seed, tables.score(name, value)) for seed, value in zip(seeds, values, strict=False)]
                title = tables.metric_title(name, results, unit=True)
                found.append({"model": tables.row_label(row), "metric": title, "values": cells})
    return found


def classes(run: RunFolder) -> dict[str, Any]:
    """Gain in points of each class, sorted, for each head."""
    results = needed(run, "results")
    parts: list[dict[str, Any]] = []
    for head, table in (results.get("per_class") or {}).items():
        entries = [
            (name, tables.percent(each.get("alone")), tables.percent(each.get("distilled")), each.get("clips"))
            for name, each in table.items()
        ]
        known = [(name, a, d, clips, d - a) for name, a, d, clips in entries if a is not None and d is not None]
        known.sort(key=lambda entry: (-entry[4], entry[0]))
        if known:
            parts.append(_class_part(head, known, len(parts)))
    if not parts:
        raise Missing(
            "results.json has no classes of both students. `vidistill run RECIPE --until evaluate` makes them."
        )
    return {"parts": parts, "several": len(parts) > 1}


def _class_part(head: str, known: list[tuple[str, float, float, Any, float]], place: int) -> dict[str, Any]:
    span = (known[-1][4], known[0][4])
    count = max(-(-len(known) // CLASSES_A_CHART), 2 if len(known) > 14 else 1)
    length = -(-len(known) // count)
    charts = []
    for start in range(0, len(known), length):
        part = [(entry[0], entry[4]) for entry in known[start : start + length]]
        text = (
            f"Gain in points by class, {head}, places {start + 1} to {start + len(part)} of {len(known)}; numbers below"
        )
        charts.append(
            plots.class_gains(
                part, f"gain-{place}-{start}", text, span=span, rows=length, width=330 if count > 2 else 440
            )
        )
    better, worse = (sum(sign * entry[4] > 1e-9 for entry in known) for sign in (1, -1))
    return {
        "head": head,
        "charts": charts,
        "rows": [(name, tables.fixed(a), tables.fixed(d), tables.fixed(g, sign=True), n) for name, a, d, n, g in known],
        "summary": f"{better} classes better, {worse} worse, {len(known) - better - worse} the same.",
    }


def confusion(run: RunFolder) -> dict[str, Any]:
    """Confusion matrices of the two students and the most frequent mistakes."""
    results = needed(run, "results")
    parts: list[dict[str, Any]] = []
    for place, (head, matrices) in enumerate((results.get("confusion") or {}).items()):
        known = [(results.get("per_class") or {}).get(head), (run.document("data").get("classes") or {}).get(head)]
        count = len(next(iter(matrices.values()), []))
        names = next((list(each) for each in known if each and len(each) == count), [])
        figures = []
        occurring = _occurring([matrices[role] for role in ("alone", "distilled") if matrices.get(role)])
        for role in ("alone", "distilled"):
            if matrices.get(role):
                every = names if len(names) == count else [str(number + 1) for number in range(count)]
                labels = [every[number] for number in occurring]
                matrix = [[matrices[role][true][answer] for answer in occurring] for true in occurring]
                text = f"Confusion matrix of the student {role}, {head}, {len(matrix)} classes"
                figure = plots.confusion(matrix, labels, f"confusion-{place}-{role}", text)
                figures.append((f"Student {role}", figure, _mistakes(matrix, labels)))
        if figures:
            absent = count - len(occurring)
            part = {"head": head, "figures": figures, "numbered": len(matrix) > 30, "names": labels, "absent": absent}
            parts.append(part)
    if not parts:
        raise Missing("results.json has no confusion matrix. `vidistill run RECIPE --until evaluate` makes it.")
    return {"parts": parts, "several": len(parts) > 1}


def _occurring(matrices: list[list[list[float]]]) -> list[int]:
    """The classes that some test clip has or some model answers; all, where none is."""
    count = len(matrices[0]) if matrices else 0
    found = [n for n in range(count) if any(any(m[n]) or any(row[n] for row in m) for m in matrices)]
    return found or list(range(count))


def _mistakes(matrix: list[list[float]], names: list[str], most: int = 3) -> list[tuple[str, str, int]]:
    """The most frequent confusions: true class, answer, times."""
    wrong = [
        (count, true, answer)
        for true, row in enumerate(matrix)
        for answer, count in enumerate(row)
        if true != answer and count
    ]
    wrong.sort(key=lambda each: (-each[0], each[1], each[2]))
    return [(names[true], names[answer], round(count)) for count, true, answer in wrong[:most]]


def calibration(run: RunFolder) -> dict[str, Any]:
    """Reliability diagrams, each with its ECE, and a table of all measures."""
    results = needed(run, "results")
    flat: dict[tuple[str, str], Any] = {}
    names = tables.heads(results)
    for role, bins in (results.get("reliability") or {}).items():
        if "confidence" in bins:
            flat[(names[0] if names else "", role)] = bins
        else:
            flat.update({(role, inner): each for inner, each in bins.items()})
    figures = []
    for place, ((head, role), bins) in enumerate(flat.items()):
        row = tables.by_role(results, role) or next(
            (r for r in tables.rows(results) if role in (r.get("name"), r.get("key"))), {}
        )
        ece = (row.get("metrics") or {}).get(f"{head}/ece")
        caption = tables.row_label(row) if row else role
        caption = f"{caption}, {head}" if len(names) > 1 else caption
        text = f"Reliability diagram of {caption}, ECE {tables.score_with_bounds('ece', ece)} %"
        tone = "alone" if role == "alone" else "accent"
        figure = plots.reliability(bins, f"reliability-{place}", text, tone=tone)
        figures.append((caption, figure, tables.score_with_bounds("ece", ece)))
    if not figures:
        raise Missing("results.json has no reliability bins. `vidistill run RECIPE --until evaluate` makes them.")
    return {"figures": figures, "table": tables.calibration_table(results)}


def cost(run: RunFolder) -> dict[str, Any]:
    """Sizes, int8's price and latency, as the export stage measured them."""
    export = needed(run, "export")
    latency = export.get("latency") or {}
    slowest = max((tables.number(each.get("median_ms")) or 0 for each in latency.values()), default=0) or 1
    onnx, int8 = export.get("onnx") or {}, export.get("int8") or {}
    return {
        "student": export.get("student"),
        "parameters": export.get("parameters"),
        "gmacs": export.get("gmacs"),
        "onnx": {key: onnx.get(key) for key in ("bytes", "opset", "max_difference", "file")},
        "int8": {key: int8.get(key) for key in ("bytes", "top1_fp32", "top1_int8", "drop")} if int8 else None,
        "latency": [
            (name, each, 100 * (tables.number(each.get("median_ms")) or 0) / slowest) for name, each in latency.items()
        ],
        "decode_ms": export.get("decode_ms"),
    }


def data(run: RunFolder) -> dict[str, Any]:
    """What was listed, what could be used, and what could not, by name."""
    document = needed(run, "data")
    problems, kinds = _problems(document.get("problems") or [])
    listed, prepared = document.get("listed"), document.get("prepared")
    modalities = document.get("modalities") or {}
    return {
        "listed": listed,
        "prepared": prepared,
        "unnamed": max((listed or 0) - (prepared or 0) - len(problems), 0),
        "problems": problems,
        "kinds": sorted(kinds.items(), key=lambda each: (-each[1], each[0])),
        "splits": document.get("splits") or {},
        "split_hash": document.get("split_hash"),
        "classes": [(head, list(names)) for head, names in (document.get("classes") or {}).items()],
        "modalities": [(name, each.get("clips"), _flat(each.get("provenance"))) for name, each in modalities.items()],
    }


def _problems(entries: Any) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    """Unusable clips as (clip, kind, message) and counts by kind; a bare mapping kind -> count is taken as well."""
    if isinstance(entries, Mapping):
        return [], {str(word): int(count) for word, count in entries.items()}
    keys = ("clip", "kind", "message")
    named = []
    for each in entries:
        values = [each.get(key) for key in keys] if isinstance(each, Mapping) else [*each, "", "", ""][:3]
        named.append((str(values[0] or ""), str(values[1] or "other"), str(values[2] or "")))
    kinds: dict[str, int] = {}
    for _, word, _ in named:
        kinds[word] = kinds.get(word, 0) + 1
    return named, kinds


def _flat(value: Any, prefix: str = "") -> str:
    """Nested provenance as `tool opencv, version 4.10`."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    parts = []
    for key, each in value.items():
        if each is None:
            continue
        inner = _flat(each, f"{prefix}{key} ")
        parts.append(inner if isinstance(each, Mapping) else f"{prefix}{key} {inner}")
    return ", ".join(part for part in parts if part)


def recipe(run: RunFolder) -> dict[str, Any]:
    """The resolved recipe, the environment and what each stage took."""
    environment, stages = run.document("environment"), run.document("stages")
    if not (run.recipe or environment or stages):
        raise Missing(
            "recipe.yaml, environment.json and stages.json are not there yet. `vidistill run RECIPE` writes them."
        )
    timed = [
        (name, tables.duration(each.get("seconds")), str(each.get("hash", ""))[:12]) for name, each in stages.items()
    ]
    total = sum(tables.number(each.get("seconds")) or 0 for each in stages.values())
    return {
        "text": run.recipe,
        "environment": [(name, _flat(value)) for name, value in environment.items()],
        "stages": timed,
        "total": tables.duration(total) if timed else None,
    }
