"""All stages of a run in their order. Each is skipped where nothing it depends on has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidistill.core.recipe import Recipe
from vidistill.core.seeds import digest
from vidistill.report.page import write_report
from vidistill.stages.check import check_recipe
from vidistill.stages.distil import check_methods, distilled_key, student_key, train_students, ways
from vidistill.stages.evaluate import describe_data, evaluate_run
from vidistill.stages.export import export_run
from vidistill.stages.run import Run, read_json, start, write_json
from vidistill.stages.selection import describe_selection
from vidistill.stages.subsets import subset_key
from vidistill.stages.teachers import audit_teachers, teacher_key, train_teachers

STAGES = ("prepare", "teachers", "audit", "distil", "evaluate", "export", "report")
RESULT_FORMAT = 8
"""Raised when what evaluate, export or report write changes, so that they are written anew."""


def run_recipe(recipe: Recipe, until: str = "report") -> Run:
    """Run all stages up to `until`."""
    check_recipe(recipe)
    run = Run(recipe)
    start(run)
    for stage in STAGES[: STAGES.index(until) + 1]:
        run_stage(run, stage)
    return run


def run_stage(run: Run, stage: str) -> None:
    """Run one stage unless its outputs are there and its inputs are what they were."""
    record = read_json(run.folder / "stages.json") or {}
    key = stage_key(run, stage)
    if record.get(stage, {}).get("hash") == key and all((run.folder / f).exists() for f in OUTPUTS[stage]):
        run.say(f"[dim]{stage}: done before[/dim]")
        return
    started = time.perf_counter()
    run.say(f"[bold]{stage}[/bold]")
    WORK[stage](run)
    if run.main:
        entry = {"hash": key, "seconds": round(time.perf_counter() - started, 2), "finished": time.time()}
        write_json(run.folder / "stages.json", {**(read_json(run.folder / "stages.json") or {}), stage: entry})
    run.accelerator.wait_for_everyone()


def stage_key(run: Run, stage: str) -> str:
    """Digest of what a stage depends on."""
    recipe = run.recipe
    if stage == "prepare":
        return digest(str(run.store_folder))
    teachers = [teacher_key(run, name) for name in recipe.teachers]
    if stage == "teachers":
        return digest(teachers)
    judged = digest(RESULT_FORMAT, teachers, recipe.ensemble.model_dump(mode="json", exclude={"dropout"}))
    if stage == "audit":
        return judged
    trained = recipe.teachers and all(
        (run.folder / "models" / f"teacher-{n}" / "model.safetensors").is_file() for n in recipe.teachers
    )
    keys: list[Any] = [student_key(run, seed) for seed in recipe.seeds]
    if trained:
        keys += [[role, distilled_key(way, s)] for role, way in ways(run).items() for s in way.recipe.seeds]
    if stage == "distil":
        return digest(judged, keys)
    if stage == "evaluate":
        return digest(RESULT_FORMAT, judged, keys, recipe.export.latency, *subset_key(run))
    if stage == "export":
        return digest(RESULT_FORMAT, judged, keys, recipe.export.model_dump(mode="json"))
    return digest(RESULT_FORMAT, judged, keys, recipe.model_dump(mode="json"), *subset_key(run))


def _prepare(run: Run) -> None:
    describe_data(run)
    check_methods(run)


def _evaluate(run: Run) -> None:
    evaluate_run(run)
    describe_selection(run)


def _audit(run: Run) -> None:
    if run.recipe.teachers:
        audit_teachers(run)
    elif run.main:
        write_json(run.folder / "audit.json", {"teachers": {}})


def _export(run: Run) -> None:
    if run.recipe.export.onnx and run.main:
        export_run(run)


def _report(run: Run) -> None:
    if run.main:
        write_report(run.folder)


WORK: dict[str, Callable[[Run], Any]] = {
    "prepare": _prepare,
    "teachers": train_teachers,
    "audit": _audit,
    "distil": train_students,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
}
OUTPUTS: dict[str, tuple[str | Path, ...]] = {
    "prepare": ("data.json",),
    "teachers": (),
    "audit": ("audit.json",),
    "distil": (),
    "evaluate": ("results.json",),
    "export": (),
    "report": ("report.html",),
}
