"""Curves over epochs: the students' learning, and helpers for whoever else draws histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vidistill.report import plots, tables
from vidistill.report.folder import RunFolder
from vidistill.report.sections import Missing

Curves = dict[str, list[tuple[list[float], list[float]]]]


def learning(run: RunFolder) -> dict[str, Any]:
    """Loss and accuracy over epochs, alone against distilled, one line a seed."""
    students = {key: epochs for key, epochs in run.histories.items() if key.startswith(("alone", "distilled"))}
    if not students:
        raise Missing(
            "No student has a history yet (models/*/history.jsonl). `vidistill run RECIPE --until distil` trains them."
        )
    figures = []
    metric = first_metric(students)
    if metric:
        groups = grouped(students, lambda epoch: tables.percent((epoch.get("val") or {}).get(metric)))
        if groups:
            label = f"{tables.metric_title(metric, run.document('results'))} on validation, %"
            text = "Validation accuracy over epochs, alone against distilled, one line a seed"
            figures.append((plots.curves(groups, label, "curve-val", text), "On validation, one line a seed."))
    groups = grouped(students, lambda epoch: tables.number(epoch.get("loss")))
    if groups:
        text = "Training loss over epochs, alone against distilled, one line a seed"
        note = "Training loss. The distilled student's holds the teachers' terms too, so heights do not compare."
        figures.append((plots.curves(groups, "training loss", "curve-loss", text), note))
    head = next(iter(next(iter(students.values()))[0].get("accuracy") or {}), None)
    groups = grouped(students, lambda epoch: tables.percent((epoch.get("accuracy") or {}).get(head))) if head else {}
    if groups:
        text = "Training accuracy over epochs, alone against distilled, one line a seed"
        note = "Accuracy on the training clips; far above validation means learning by heart."
        figures.append((plots.curves(groups, "training accuracy, %", "curve-train", text), note))
    figures += _terms(students)
    if not figures:
        raise Missing(
            "The students' histories hold no epoch yet. `vidistill run RECIPE --until distil` goes on training."
        )
    return {"figures": figures}


def _terms(students: Mapping[str, list[dict[str, Any]]]) -> list[tuple[Any, str]]:
    key = next((key for key in students if key.startswith("distilled")), None)
    epochs = students.get(key or "", [])
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.get("terms") or {}))
    if len(names) < 2:
        return []
    groups: Curves = {}
    for name in names[:5]:
        values = [(epoch["epoch"], tables.number((epoch.get("terms") or {}).get(name))) for epoch in epochs]
        known = [(number, value) for number, value in values if value is not None]
        if known:
            groups[name] = [([number for number, _ in known], [value for _, value in known])]
    figure = plots.curves(groups, "weighted loss", "curve-terms", f"Loss terms of {key}: {', '.join(groups)}")
    return [(figure, f"What the distilled student's loss is made of ({key}).")]


def first_metric(histories: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """The validation metric that the histories are judged by: mAP, else top-1, the joint one before a head's."""
    names = dict.fromkeys(name for epochs in histories.values() for epoch in epochs for name in epoch.get("val") or {})
    wanted = [
        [name for name in ("all/top1", *names) if name in names and tables.kind(name) == k] for k in ("map", "top1")
    ]
    return next((found[0] for found in wanted if found), None)


def grouped(histories: Mapping[str, list[dict[str, Any]]], pick: Callable[[dict[str, Any]], float | None]) -> Curves:
    """Curves by role, or by teacher name."""
    groups: Curves = {}
    for key, epochs in histories.items():
        known = [(epoch["epoch"], value) for epoch in epochs if (value := pick(epoch)) is not None]
        if known:
            name = key.removeprefix("teacher-") if key.startswith("teacher-") else key.split("-")[0]
            groups.setdefault(name, []).append(([each for each, _ in known], [value for _, value in known]))
    return groups


def validation_curves(run: RunFolder, role: str) -> list[tuple[list[float], list[float]]]:
    """Validation top-1 in percent over epochs, one curve a seed, of a run's `alone` or `distilled` students."""
    students = {key: epochs for key, epochs in run.histories.items() if key.startswith(role)}
    metric = first_metric(students)
    if metric is None:
        return []
    return grouped(students, lambda epoch: tables.percent((epoch.get("val") or {}).get(metric))).get(role, [])
