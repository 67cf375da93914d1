"""Stage `evaluate`: the result table. Test clips only; every number with its interval.

Intervals of several seeds resample clips and seeds together: each of 1000 draws takes N clips and S seeds with
replacement and averages the metric over the seeds drawn. The gain is paired: in each draw both students answer for
the same clips and the same seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core.seeds import generator
from vidistill.deploy.measure import gmacs, latency, parameters
from vidistill.stages.distil import ways
from vidistill.stages.episodes import class_table
from vidistill.stages.networks import PEERS, folder_of, load_trained, predict
from vidistill.stages.run import Run, read_json, write_json
from vidistill.stages.subsets import statistics, subset_clips
from vidistill.stages.teachers import combine_predictions, fit_weighting, validation
from vidistill.tasks import AnchorDetection, Detection, MultiLabel, Predictions
from vidistill.tasks import metrics as measure

RESAMPLES = 1000
TIMELINES = 4
"""Test recordings that are drawn."""
LOWER_IS_BETTER = ("/ece", "/adaptive_ece", "/nll", "/brier")
Statistics = dict[str, measure.Statistic]


def evaluate_run(run: Run) -> dict[str, Any]:
    """Predict the test clips with every network of the run and write `results.json`."""
    recipe = run.recipe
    seeds = {"alone": recipe.seeds}
    if recipe.teachers:
        seeds |= {role: way.recipe.seeds for role, way in ways(run).items()}
    groups = {role: [_student(run, f"{role}-seed{seed}") for seed in each] for role, each in seeds.items()}
    rows = _teacher_rows(run)
    for role, predictions in groups.items():
        kind = role if role in ("alone", "distilled") else "variant"
        rows.append(_row(run, kind, role, predictions, list(seeds[role]), f"{role}-seed{seeds[role][0]}"))
    rows += [row for role in groups if role != "alone" for row in _peer_rows(run, role, list(seeds[role]))]
    rows += [row for role in groups for row in _missing_rows(run, role, list(seeds[role]))]
    for row in rows:
        if row["role"] in ("distilled", "variant"):  # the same network with other weights is timed once
            row["latency_ms"] = next(each.get("latency_ms") for each in rows if each["role"] == "alone")
    gains = {role: _gain(run, groups, seeds, role) for role in groups if role != "alone"}
    results = {
        "test_split": "test",
        "task": recipe.task.name,
        "primary": run.task.primary,
        "clips": groups["alone"][0].units,
        "subsets": subset_clips(run),
        "rows": rows,
        "gain": gains.get("distilled", {}),
        "variant_gains": {role: gain for role, gain in gains.items() if role != "distilled"},
        **_details(run, {role: predictions for role, predictions in groups.items() if role not in recipe.variants}),
    }
    if isinstance(run.task, Detection | AnchorDetection):
        results["timelines"] = _timelines(run, run.task, groups)
    if run.main:
        write_json(run.folder / "results.json", results)
    return results


def _timelines(
    run: Run, task: Detection | AnchorDetection, groups: dict[str, list[Predictions]]
) -> list[dict[str, Any]]:
    """What is annotated in some test recordings, and what the first seed's students found there."""
    shown = np.unique(groups["alone"][0].clip)[:TIMELINES].tolist()
    names = run.classes[task.head]
    lines = []
    for clip in shown:
        segments = run.store.clips[clip].segments.get(task.head, ())
        line: dict[str, Any] = {"clip": run.store.ids[clip], "seconds": run.store.duration(clip)}
        line["truth"] = [[each.start, each.end, each.label] for each in segments]
        for role in ("alone", "distilled"):
            if role in groups:
                found = task.detect(groups[role][0])
                here = found.take(found.clip == clip)
                columns = (here.start.tolist(), here.end.tolist(), here.label.tolist(), here.score.tolist())
                line[role] = [
                    [start, end, names[label], score] for start, end, label, score in zip(*columns, strict=True)
                ]
        lines.append(line)
    return lines


def _student(run: Run, name: str) -> Predictions:
    student = run.recipe.student
    return predict(run, name, load_trained(run, name, student), student.input, "test")


def _peer_rows(run: Run, role: str, seeds: list[int]) -> list[dict[str, Any]]:
    """Teachers' networks that learned along with the student (the full graph), as they came out of it."""
    rows = []
    for name, section in run.recipe.teachers.items():
        labels = [f"{role}-seed{seed}/{PEERS}/{name}" for seed in seeds]
        if all(folder_of(run, label).is_dir() for label in labels):
            found = [predict(run, each, load_trained(run, each, section), section.input, "test") for each in labels]
            rows.append(_row(run, "peer", f"{name}, {role}", found, seeds, None))
    return rows


def _missing_rows(run: Run, role: str, seeds: list[int]) -> list[dict[str, Any]]:
    """Students over several modalities, each of which is taken away in turn."""
    student = run.recipe.student
    modalities = dict.fromkeys(run.input(student.input).modalities)  # two inputs may read the same one
    rows = []
    for modality in modalities if len(modalities) > 1 else ():
        labels = [f"{role}-seed{seed}" for seed in seeds]
        trained = [(label, load_trained(run, label, student)) for label in labels]
        found = [predict(run, label, network, student.input, "test", modality) for label, network in trained]
        rows.append(_row(run, "missing", f"{role}, no {modality}", found, seeds, None))
    return rows


def _teacher_rows(run: Run) -> list[dict[str, Any]]:
    if not run.recipe.teachers:
        return []
    rows, predictions = [], {}
    for name, section in run.recipe.teachers.items():
        label = f"teacher-{name}"
        predictions[name] = predict(run, label, load_trained(run, label, section), section.input, "test")
        rows.append(_row(run, "teacher", name, [predictions[name]], [0], label))
    weighting = fit_weighting(run, {name: validation(run, name) for name in run.recipe.teachers})
    together = combine_predictions(run, predictions, weighting)
    rows.append(_row(run, "ensemble", "ensemble", [together], [0], None))
    return rows


def _row(
    run: Run, role: str, name: str, predictions: Sequence[Predictions], seeds: list[int], label: str | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": label or role,
        "role": role,
        "name": name,
        "seeds": seeds,
        "clips": predictions[0].units,
        "metrics": over_seeds([statistics(run, p) for p in predictions], predictions[0].units),
    }
    if label is None:
        return row
    folder = folder_of(run, label)
    section = run.recipe.teachers[name] if role == "teacher" else run.recipe.student
    network = load_trained(run, label, section)
    history = [r["seconds"] for r in read_history(run, label)]
    row["parameters"] = parameters(network)
    row["gmacs"] = gmacs(network, network.input_shape)
    row["minutes_per_epoch"] = float(np.mean(history)) / 60 if history else None
    alone = role in ("teacher", "alone") and not getattr(section, "of", ())  # a fusion runs on others' frames
    if run.recipe.export.latency and alone and run.main:
        measured = latency(model_folder=folder, threads=[1], seconds=0.5)
        row["latency_ms"] = next(iter(measured.values()))["median_ms"]
    return row


def over_seeds(statistics: Sequence[Statistics], clips: int) -> dict[str, dict[str, Any]]:
    """Mean over seeds of every metric, its values a seed, and its 95 % interval over clips and seeds.

    All are None where there is nothing to count, as on a subset that a teacher sees no clip of.
    """
    if not clips:  # too few of the clips are visible to this network to measure it
        nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "per_seed": []}
        return dict.fromkeys(statistics[0], nothing)
    everything = np.ones((1, clips))
    values = {name: [float(s[name](everything)[0]) for s in statistics] for name in statistics[0]}
    drawn = {name: _resample([s[name] for s in statistics], clips) for name in statistics[0]}
    found: dict[str, dict[str, Any]] = {}
    for name, each in values.items():
        interval = measure.percentile_interval(float(np.mean(each)), drawn[name]).as_dict()
        counted = np.isfinite(each).all()
        found[name] = {**interval, "per_seed": each} if counted else {**dict.fromkeys(interval), "per_seed": []}
    return found


def _resample(statistics: Sequence[measure.Statistic], clips: int) -> NDArray[np.float64]:
    """The mean over resampled seeds on resampled clips, (RESAMPLES,)."""
    values = np.concatenate([np.stack([s(d) for s in statistics]) for d in measure.draws(clips, RESAMPLES, 0)], 1)
    seeds = generator(0, "bootstrap seeds").integers(0, len(statistics), (len(statistics), RESAMPLES))
    return np.asarray(np.take_along_axis(values, seeds, 0).mean(0))


def _gain(
    run: Run, groups: dict[str, list[Predictions]], seeds: dict[str, tuple[int, ...]], role: str
) -> dict[str, dict[str, Any]]:
    """Distilled minus alone, paired by seed and clip. `paid`: the interval is on the better side of zero."""
    pairs: list[Statistics] = []
    shared = [seed for seed in seeds[role] if seed in seeds["alone"]]
    for seed in shared:
        alone, distilled = (groups[each][seeds[each].index(seed)] for each in ("alone", role))
        a, d = statistics(run, alone), statistics(run, distilled)
        pairs.append({name: measure.difference(d[name], a[name]) for name in a})
    gains = over_seeds(pairs, groups["alone"][0].units)
    for name, gain in gains.items():
        if gain["value"] is None:
            gain["paid"] = None
            continue
        sign = -1 if name.endswith(LOWER_IS_BETTER) else 1
        better, worse = sorted((sign * gain["low"], sign * gain["high"]))
        gain["paid"] = True if better > 0 else False if worse < 0 else None
    return gains


def _details(run: Run, groups: dict[str, list[Predictions]]) -> dict[str, Any]:
    """Per-class accuracy, confusion and reliability, averaged or pooled over seeds."""
    per_class: dict[str, Any] = {}
    confusion: dict[str, Any] = {}
    if run.task.name == "fewshot":  # an episode offers some of the classes: confusions do not compare
        return {"per_class": class_table(run, groups)}
    # Several labels a clip: it is each single answer, yes or no, that is sure or unsure.
    pairs = groups if isinstance(run.task, MultiLabel) else None
    groups = {role: [run.task.judged(each) for each in predictions] for role, predictions in groups.items()}
    for head, classes in run.task.classes.items():
        names = run.classes[head]
        table: dict[str, dict[str, Any]] = {name: {} for name in names}
        confusion[head] = {}
        for role, predictions in groups.items():
            if not predictions:
                continue
            each = [measure.per_class_accuracy(p.logits[head], p.labels[head], classes) for p in predictions]
            means, counts = np.mean([e[0] for e in each], 0), each[0][1]
            for name, value, count in zip(names, means, counts, strict=True):
                table[name][role] = None if np.isnan(value) else float(value)
                table[name]["clips"] = int(count)
            matrices = [measure.confusion(p.logits[head], p.labels[head], classes) for p in predictions]
            confusion[head][role] = np.sum(matrices, 0).tolist()
        per_class[head] = table
    by_head = {head: _reliability(head, pairs or groups) for head in run.task.classes}
    reliability = by_head if len(by_head) > 1 else next(iter(by_head.values()))
    return {"per_class": per_class, "confusion": confusion, "reliability": reliability}


def _reliability(head: str, groups: dict[str, list[Predictions]]) -> dict[str, Any]:
    """Bins of the reliability diagram of a head by role, pooled over seeds."""
    found = {}
    for role, predictions in groups.items():
        if predictions:
            logits = np.concatenate([p.logits[head] for p in predictions])
            labels = np.concatenate([p.labels[head] for p in predictions])
            found[role] = measure.reliability(logits, labels)
    return found


def read_history(run: Run, label: str) -> list[dict[str, Any]]:
    """The epochs of a network's training."""
    path = folder_of(run, label) / "history.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def describe_data(run: Run) -> None:
    """Write `data.json`: what was listed, what could be used, and what could not and why."""
    content = _data(run)
    if run.main and read_json(run.folder / "data.json") != content:
        write_json(run.folder / "data.json", content)


def _data(run: Run) -> dict[str, Any]:
    store = run.store
    modalities = {
        name: {"clips": int(store.present(name).sum()), "provenance": store.provenance.get(name, {})}
        for name in store.modalities
    }
    splits = {name: len(store.indices(name)) for name in ("train", "val", "test")}
    problems = [{"clip": p.clip, "kind": p.kind, "message": p.message} for p in store.problems]
    return {
        **store.manifest_summary,
        "problems": problems,
        "splits": splits,
        "classes": store.classes,
        "modalities": modalities,
    }
