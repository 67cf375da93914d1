"""Checks of ensembles, calibration error and recognition metrics."""

from __future__ import annotations

import re

import numpy as np
import torch
from components import Component, checks

from vidistill.tasks import Recognition
from vidistill.tasks.metrics import expected_calibration_error, in_top
from vidistill.teachers.ensemble import (
    combine,
    cross_entropies,
    held_out_weights,
    per_sample_weights,
    uniform_weights,
)


@checks("ensemble/teacher_ensemble*")
def check_ensemble(component: Component) -> None:
    for head in [key.removeprefix("in_labels_") for key in component.arrays if key.startswith("in_labels_")]:
        logits = torch.from_numpy(component[f"in_teacher_logits_{head}"])  # (B, M, C)
        labels = torch.from_numpy(component[f"in_labels_{head}"]).long()
        name = re.escape(head)
        for match in component.outputs(f"losses_{name}"):
            component.compare(match[0], cross_entropies(logits, labels))
        for match in component.outputs(rf"weights_full(?:-dataset)?_g(?P<gamma>[\d.]+)_{name}"):
            component.compare(match[0], held_out_weights(logits, labels, float(match["gamma"])))
        for match in component.outputs(rf"logits_(?P<scheme>[A-Za-z-]+)_g(?P<gamma>[\d.]+)_{name}"):
            gamma = float(match["gamma"])
            weights = {
                "None": uniform_weights(logits.shape[1]),
                "full-dataset": held_out_weights(logits, labels, gamma),
                "per-sample": per_sample_weights(logits, labels, gamma),
            }[match["scheme"]]
            everything = torch.ones(logits.shape[:2], dtype=torch.bool)
            for present in (None, everything):
                ours = combine(logits, weights, present)
                # "rtol 1e-5" is of the logits' size: a weighted sum of logits of both signs cancels.
                component.compare(match[0], ours, atol=1e-6 * float(np.abs(component[match[0]]).max()))


@checks("ensemble/ece*")
def check_calibration_error(component: Component) -> None:
    for match in component.outputs(r"(?:(?P<case>\w+)_)?ece(?P<bins>\d+)"):
        case = f"{match['case']}_" if match["case"] else ""
        logits, labels = component[f"in_{case}logits"], component[f"in_{case}labels"]
        component.compare(match[0], expected_calibration_error(logits, labels, int(match["bins"])))


def percent(value: float) -> float:
    """As the published evaluators print it."""
    return round(100.0 * value, 2)


@checks("ensemble/epic_metrics*")
def check_two_heads(component: Component) -> None:
    logits = {head: component[f"in_{head}_mean_logits"] for head in ("noun", "verb")}
    labels = {head: component[f"in_{head}_labels"].astype(np.int64) for head in ("noun", "verb")}
    tail = {head: np.isin(labels[head], component[f"in_tail_{head}s"]) for head in ("noun", "verb")}
    task = Recognition({head: values.shape[1] for head, values in logits.items()})

    def metric(name: str, subset=None) -> float:
        return percent(task.metrics(logits, labels, bootstrap=0, subset=subset)[name].value)

    ours = {
        "noun_acc": metric("noun/top1"),
        "verb_acc": metric("verb/top1"),
        "action_acc": metric("all/top1"),
        "tail_noun_acc": metric("noun/top1", tail["noun"]),
        "tail_verb_acc": metric("verb/top1", tail["verb"]),
        "tail_action_AND_acc": metric("all/top1", tail["noun"] & tail["verb"]),
        "tail_action_OR_acc": metric("all/top1", tail["noun"] | tail["verb"]),
        "noun_top5": metric("noun/top5"),
        "verb_top5": metric("verb/top5"),
    }
    order = re.search(r"out_metrics order: ([^;]+)", component.meta["call"])[1].split(", ")
    component.compare("out_metrics", np.float32([ours[name.strip()] for name in order]), rtol=0, atol=0)
    found = task.metrics(logits, labels, bootstrap=0)
    errors = [100 * found[f"{head}/ece"].value for head in ("noun", "verb")]
    component.compare("out_ece", errors, rtol=0, atol=1e-3)


@checks("ensemble/something_metrics*")
def check_one_head(component: Component) -> None:
    logits = {"action": component["in_logits"].mean(1)}  # (N, views, C) -> (N, C)
    labels = {"action": component["in_labels"].astype(np.int64)}
    found = Recognition({"action": logits["action"].shape[1]}).metrics(logits, labels, bootstrap=0)
    values = [found["action/top1"].value, found["action/top5"].value]
    component.compare("out_top1_top5", np.float32([percent(value) for value in values]))
    component.compare("out_best", np.float32([percent(sum(values) / 2)]))


@checks("adaptive/metric_topk*")
def check_top_k(component: Component) -> None:
    logits, labels = component["in_logits"], component["in_target"]
    size = int(component.number(r"batches of (\d+)", len(labels)))
    for match in component.outputs(r"top(?P<k>\d+)_(?P<kind>full|protocol)"):
        right = in_top(logits, labels, int(match["k"]))
        # The published protocol drops the last incomplete batch; ours counts every clip ("full").
        kept = right if match["kind"] == "full" else right[: len(right) // size * size]
        component.compare(match[0], 100 * kept.mean())
