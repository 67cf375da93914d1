"""Checks of what comes after a temporal detector: segments, windows, suppression, average precision."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from components import Component, checks

from vidistill.tasks.average_precision import ap_by_class, match_detections, mean_of_present, precision_recall_area
from vidistill.tasks.detection_statistics import average_precisions, step_statistics
from vidistill.tasks.detection_truth import numbered
from vidistill.tasks.detections_file import read_detections
from vidistill.tasks.metrics import probabilities
from vidistill.tasks.pku_precision import pku_ap, pku_matches
from vidistill.tasks.segments import (
    Detections,
    Segments,
    activity_runs,
    average_windows,
    detect_segments,
    step_times,
    window_starts,
)
from vidistill.tasks.soft_nms import hard_nms, soft_nms
from vidistill.tasks.temporal_iou import tiou

PUBLISHED_THRESHOLD = 0.4
"""Of activity, in Graph Distillation's detection test."""


@checks("graph/activity_segments*")
def check_activity_segments(component: Component) -> None:
    for match in component.outputs(r"(?P<whole>\d+)_(?P<part>\d+)"):
        threshold = float(f"{match['whole']}.{match['part']}")
        runs = activity_runs(component["in_scores"], threshold=threshold, variant="released")
        component.compare(match[0], np.stack([runs.first, runs.end, runs.label, runs.score], axis=1))


def hand_made(rows: list[list[Any]]) -> tuple[Segments, Detections]:
    """Rows [class, start, end, confidence, video] as annotations and as detections."""
    label, start, end, score, video = zip(*rows, strict=True) if rows else ((),) * 5
    names = np.array(video, dtype=str)
    return Segments(names, start, end, np.array(label, int)), Detections(names, start, end, np.array(label, int), score)


@checks("graph/ap_match*")
def check_pku_cases(component: Component) -> None:
    ours = []
    for name, expected in sorted(component.meta["expected"].items()):
        case, threshold = name.rsplit("@", 1)
        proposals = component.meta["proposals"]
        ground, rows = component.meta["ground"], proposals.get(case)
        if rows is None:  # a case without ground truth, whatever is proposed
            ground, rows = [], next(rows for rows in proposals.values() if rows)
        rows = sorted(rows, key=lambda row: row[3])  # stable: the expected matches are of this order
        truth, found = hand_made(ground)[0], hand_made(rows)[1]
        names = {
            "videos": np.unique(np.append(truth.clip, found.clip)),
            "classes": np.unique(np.append(truth.label, found.label)),
        }
        value = pku_ap(truth, found, [float(threshold)], by="set", **names)[0, 0]
        assert value == pytest.approx(expected["ap"], abs=1e-9), name
        if "match" in expected:
            taken = pku_matches(numbered(truth, found, **names), [float(threshold)])[0]
            assert taken.tolist() == expected["match"], name
            counts = np.bincount(taken[taken >= 0], minlength=len(truth))
            assert counts.tolist() == expected["count"], name
            assert np.count_nonzero(counts) == expected["positive"], name
        ours.append(value)
    component.compare("out_ap", ours)


@checks("graph/detection_map*")
def check_pku_evaluation(component: Component) -> None:
    step, length, down = (int(component.number(rf"{word}=(\d+)")) for word in ("step_size", "n_frames", "downsample"))
    threshold = component.number(r"activity threshold ([\d.]+)", PUBLISHED_THRESHOLD)
    names = component.meta["names"]
    scores = [component[f"in_scores_{number}"] for number in range(len(names))]
    times = [step_times(len(values), step * down, length * down, last_frame=True) for values in scores]
    clip = np.repeat(np.arange(len(names)), [len(values) for values in scores])
    found = detect_segments(
        np.concatenate(scores), np.concatenate(times), clip=clip, threshold=threshold, variant="released"
    )
    columns = [found.clip, found.label, found.start, found.end, found.score]
    component.compare("out_proposals", np.stack(columns, axis=1))
    rows = [
        [int(cell) for cell in line.split(",")] + [names.index(file.removesuffix(".txt"))]
        for file, text in component.meta["files"].items()
        for line in text.split()
    ]
    label, start, end, _, video = np.array(rows).T
    truth = Segments(video, start, end, label)
    limits = component.meta["thresholds"]
    sets = {"videos": np.arange(len(names)), "classes": np.arange(1, scores[0].shape[1])}
    by_class, by_video = (pku_ap(truth, found, limits, by=by, **sets) for by in ("class", "video"))
    component.compare("out_ap_per_class", by_class)
    component.compare("out_ap_per_video", by_video)
    component.compare("out_mean_ap", by_class.mean(1))


@checks("graph/clip_stats*")
def check_step_statistics(component: Component) -> None:
    logits, labels = component["in_logits"], component["in_label"].astype(np.int64)
    ours = step_statistics(logits, labels)
    component.compare("out_ap", ours["step_map"])
    component.compare("out_acc", ours["step_accuracy"])
    component.compare("out_acc_cls", ours["step_accuracy"])
    component.compare("out_acc_bg", ours["background_accuracy"])
    component.compare("out_acc_action", ours["action_accuracy"])
    component.compare("out_ratio_bg", ours["background_share"])
    by_class = average_precisions(probabilities(logits), labels)
    assert np.isnan(by_class[0]).tolist() == [k not in labels for k in range(logits.shape[1])]


@checks("graph/segments_windows*")
def check_windows(component: Component) -> None:
    for number, (length, size) in enumerate(component.meta["cases"]):
        starts = window_starts(length, size)
        component.compare(f"out_starts_{number}", starts)
        component.compare(f"out_segments_{number}", (starts[:, None] + np.arange(size))[..., None])
        ours = average_windows(component[f"in_window_logits_{number}"], starts, length)
        component.compare(f"out_mean_logits_{number}", ours)


def find_beside(component: Component, name: str) -> Path:
    """A file that a component names: beside it, or among the annotations that lie beside the parity folder."""
    beside = (component.folder / component.name).resolve().parent
    shared = [component.folder.resolve().parent, Path(__file__).resolve().parents[4] / "shared"]
    places = [beside / name, *(file for root in shared for file in root.glob(f"data/annotations/*/{name}"))]
    found = [place for place in places if place.is_file()]
    if not found:
        pytest.skip(f"{component.name} needs {name}, which lies neither beside it nor in data/annotations")
    return found[0]


def activitynet_truth(path: Path, subset: str) -> Segments:
    database = json.loads(path.read_text())["database"]
    rows = [
        (video, *map(float, each["segment"]), each["label"])
        for video, entry in database.items()
        if entry["subset"] == subset
        for each in entry["annotations"]
    ]
    video, start, end, label = zip(*rows, strict=True)
    return Segments(np.array(video), start, end, np.array(label))


@checks("generative/map_thumos14*")
def check_interpolated_map(component: Component) -> None:
    files = dict(re.findall(r"(gt|predictions)=(?:\S*/)?([\w.-]+\.json)", component.meta["call"]))
    subset = re.search(r"subset=(\w+)", component.meta["call"])[1]
    truth = activitynet_truth(find_beside(component, files["gt"]), subset)
    found = read_detections(find_beside(component, files["predictions"]))
    # Stored as float32, whose 0.3 is above 0.3; overlaps of exactly 0.3 occur.
    limits = np.round(component["out_tious"].astype(np.float64), 6)
    matches = match_detections(truth, found, limits, classes=component["out_class_names"])
    ours = ap_by_class(matches)[0]
    component.compare("out_ap", ours)
    component.compare("out_mAP", mean_of_present(ours))
    component.compare("out_average", ours.mean())
    component.compare("out_num_gt", len(truth))
    component.compare("out_num_pred", len(matches.label))
    component.compare("out_tious", matches.thresholds)
    assert sorted(component["out_class_names"]) == sorted(set(truth.label))
    component.settle("out_class_names")
    component.compare("out_ap_small", precision_recall_area(component["in_prec"], component["in_rec"]))
    component.compare("out_tiou", tiou(component["in_target"], component["in_cands"]))


@checks("generative/soft_nms*")
def check_suppression(component: Component) -> None:
    call = component.meta["call"]
    sigma = {case: float(value) for case, value in re.findall(r"\b(\w+):(\d*\.?\d+)", call)}
    first = next(iter(sigma.values()))  # of cases that the json gives no sigma for
    top_k = [int(value) for value in re.search(r"top_k ([\d,]+)", call)[1].split(",")]
    floor = component.number(r"score_threshold ([\d.e-]+)")
    cases = [key.removeprefix("in_") for key in component.arrays if key.startswith("in_")]
    for case in cases:
        rows = component[f"in_{case}"]
        most = top_k[ord(case) - ord("a")] if len(case) == 1 and ord(case) - ord("a") < len(top_k) else top_k[0]
        kept, scores = soft_nms(
            rows[:, :2], rows[:, 2], sigma=sigma.get(case, first), floor=floor, top_k=most, variant="released"
        )
        component.compare(f"out_{case}", np.column_stack([rows[kept, :2], scores]))
        component.compare(f"out_count_{case}", len(kept))
    v1 = re.search(r"soft_nms\(overlap ([\d.]+), sigma ([\d.]+)\)", call)
    for match in component.outputs(r"v1_(?!count)(?P<case>\w+)"):
        rows = component[f"in_{match['case']}"]
        kept, scores = soft_nms(
            rows[:, :2], rows[:, 2], overlap=float(v1[1]), sigma=float(v1[2]), floor=floor, variant="released_v1"
        )
        component.compare(match[0], np.column_stack([rows[kept, :2], scores]))
        component.compare(f"out_v1_count_{match['case']}", len(kept))
    overlap = float(re.search(r"(?<!_)\bnms\(overlap ([\d.]+)\)", call)[1])
    for match in component.outputs(r"nms_keep_(?P<case>\w+)"):
        rows = component[f"in_{match['case']}"]
        component.compare(match[0], hard_nms(rows[:, :2], rows[:, 2], overlap=overlap))
