"""The teachers' part of the page: audit, agreement, weights over epochs, their own learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidistill.report import plots, tables
from vidistill.report.folder import RunFolder
from vidistill.report.section_curves import first_metric, grouped
from vidistill.report.sections import Missing, guarded, needed


def teachers(run: RunFolder) -> dict[str, Any]:
    """The audit, the agreement, the weights and the teachers' own learning."""
    audit = needed(run, "audit")
    every = audit.get("teachers") or {}
    if not every:
        raise Missing("audit.json names no teacher. `vidistill run RECIPE --until audit` audits them.")
    names = list(dict.fromkeys(head for each in every.values() for head in each.get("accuracy") or {}))
    table = [
        (name, head, each) for name, each in every.items() for head in names if head in (each.get("accuracy") or {})
    ]
    return {
        "split": audit.get("split", "val"),
        "heads": names,
        "table": [_audit_row(audit, *entry) for entry in table],
        "ensemble": _ensemble_rows(audit, names),
        "scheme": {key: value for key, value in (audit.get("ensemble") or {}).items() if key in ("scheme", "gamma")},
        "agreement": _agreement(audit),
        "figures": guarded(lambda: _teacher_figures(run), None) or [],
    }


def _audit_row(audit: Mapping[str, Any], name: str, head: str, each: Mapping[str, Any]) -> dict[str, Any]:
    value, low, high = (list(each["accuracy"][head]) + [None, None])[:3]
    return {
        "name": name,
        "head": head,
        "input": each.get("input", ""),
        "clips": each["clips"] if each.get("clips") != audit.get("clips") and "clips" in each else None,
        "accuracy": {"value": value, "low": low, "high": high},
        "chance": (audit.get("chance") or {}).get(head),
        "verdict": str(each.get("verdict", "")),
        **{key: (each.get(key) or {}).get(head) for key in ("ece", "nll", "temperature", "weight")},
    }


def _ensemble_rows(audit: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
    found = []
    for head in names:
        entry = ((audit.get("ensemble") or {}).get("accuracy") or {}).get(head)
        if entry:
            value, low, high = (list(entry) + [None, None])[:3]
            chance = (audit.get("chance") or {}).get(head)
            found.append({"head": head, "accuracy": {"value": value, "low": low, "high": high}, "chance": chance})
    return found


def _agreement(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for head, each in (audit.get("agreement") or {}).items():
        lines = [
            (name, [(tables.score("top1", value), tables.number(value) or 0.0) for value in row])
            for name, row in zip(each["names"], each["matrix"], strict=False)
        ]
        found.append({"head": head, "names": each["names"], "lines": lines})
    return found


def _teacher_figures(run: RunFolder) -> list[tuple[Any, str]]:
    figures: list[tuple[Any, str]] = []
    bands = _weights(run, "teacher_weights")
    if bands:
        epochs, weights = bands
        text = "Mean weight of each teacher over epochs, mean over seeds: " + ", ".join(
            f"{name} {tables.fixed(100 * values[-1], 0)} % at the end" for name, values in weights.items()
        )
        figures.append(
            (plots.weight_bands(epochs, weights, "weights", text), "Mean weight of each teacher while distilling.")
        )
    edges = _weights(run, "edges")
    if edges:
        epochs, weights = edges
        text = "Who teaches whom, when: mean edge weight of each teacher over epochs: " + ", ".join(
            f"{name} {tables.fixed(100 * values[-1], 0)} % at the end" for name, values in weights.items()
        )
        caption = "Who teaches whom, when: mean edge weight of the distillation graph over training."
        figures.append((plots.weight_bands(epochs, weights, "edges", text), caption))
    histories = {key: epochs for key, epochs in run.histories.items() if key.startswith("teacher-")}
    metric = first_metric(histories)
    groups = grouped(histories, lambda epoch: tables.percent((epoch.get("val") or {}).get(metric))) if metric else {}
    if groups:
        label = "validation accuracy, %"
        text = f"Validation accuracy of the teachers over epochs: {', '.join(groups)}"
        figures.append((plots.curves(groups, label, "curve-teachers", text), "The teachers' own learning."))
    return figures


def _weights(run: RunFolder, column: str) -> tuple[list[int], dict[str, list[float]]] | None:
    """Teacher or edge weights over the epochs that every distilled seed has, mean over seeds."""
    seeds = []
    for key, epochs in run.histories.items():
        known = {each["epoch"]: each[column] for each in epochs if each.get(column)}
        if key.startswith("distilled") and known:
            seeds.append(known)
    common = sorted(set.intersection(*(set(each) for each in seeds))) if seeds else []
    if not common:
        return None
    names = list(seeds[0][common[0]])
    weights = {
        name: [sum(float(each[epoch].get(name, 0)) for each in seeds) / len(seeds) for epoch in common]
        for name in names
    }
    return common, weights
