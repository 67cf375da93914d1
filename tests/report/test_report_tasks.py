"""Pages of runs of other tasks than recognition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidistill.report.page import write_report


def of_task(run: Path, task: str, primary: str, **more: Any) -> Path:
    """The fabricated run as one of another task: its metrics under another name."""
    path = run / "results.json"
    text = path.read_text().replace("/top1", f"/{primary}") if primary != "top1" else path.read_text()
    results = {**json.loads(text), "task": task, "primary": primary, **more}
    path.write_text(json.dumps(results))
    return run


def test_a_detection_page_draws_segments_and_is_judged_by_map(make_run: Any) -> None:
    line = {
        "clip": "room <1>",
        "seconds": 60.0,
        "truth": [[0.0, 20.0, "walk"], [20.0, 50.0, "sit & rest"]],
        "alone": [[1.0, 18.0, "walk", 0.9], [30.0, 31.0, "walk", 0.1]],
        "distilled": [],
    }
    page = write_report(of_task(make_run("rooms"), "detection", "map", timelines=[line])).read_text()
    assert "Segments over time in room &lt;1&gt;: annotated 2, student alone 1, student distilled 0" in page
    assert "mAP, mean over tIoU" in page.split("</h1>")[0]
    assert "do not have the expected form" not in page


@pytest.mark.parametrize(("task", "absent"), [("fewshot", "Confusion"), ("recognition", "Segments")])
def test_a_page_has_no_part_that_its_task_does_not_have(make_run: Any, task: str, absent: str) -> None:
    page = write_report(of_task(make_run(task), task, "top1")).read_text()
    assert f">{absent}</h2>" not in page


def test_edges_are_drawn_over_training(make_run: Any) -> None:
    run = make_run("graph")
    for path in (run / "models").glob("distilled*/history.jsonl"):
        records = [json.loads(each) for each in path.read_text().splitlines()]
        for record in records:
            record["edges"] = {"flow": 0.6, "pose": 0.4}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "mean edge weight of each teacher over epochs: flow 60 % at the end" in write_report(run).read_text()
