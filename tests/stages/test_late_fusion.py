"""Late fusion of detection runs: rows meet by clip id and time, and what differs is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vidistill.core.errors import DataError
from vidistill.core.types import Clip
from vidistill.data.views import ViewPolicy
from vidistill.report.fusion_page import fused_page, fusion_table
from vidistill.stages.finished import Stream, check_classes
from vidistill.stages.late_fusion import fused_results, same_rows, shared_students
from vidistill.tasks import AnchorDetection, Detection, Predictions
from vidistill.tasks.late_fusion import fused_predictions

STEPS = 12
CLASSES = {"action": ("background", "run", "walk")}


@dataclass
class Clips:
    """As much of a store as windows are cut from: ids, frames and a rate."""

    ids: tuple[str, ...]
    count: int = 4 * STEPS
    hertz: float = 8.0

    @property
    def clips(self) -> tuple[Clip, ...]:
        return tuple(Clip(id=name, split="test", labels={}, sources={}) for name in self.ids)

    def frames(self, index: int) -> int:
        return self.count

    def rate(self, index: int) -> float:
        return self.hertz

    def frame_size(self, index: int) -> tuple[int, int]:
        return 8, 8


def make_stream(
    folder: Path, name: str, task: Any, store: Clips, said: Predictions, students: dict[str, list[int]] | None = None
) -> Stream:
    """A run whose students all say the same."""
    students = students or {"alone": [0]}
    policy = ViewPolicy(frames=2, stride=2, steps=6)
    recipe = SimpleNamespace(student=SimpleNamespace(input=name))
    run: Any = SimpleNamespace(
        folder=folder / name, store=store, task=task, classes=CLASSES, policy=policy, recipe=recipe
    )
    for role, seeds in students.items():
        for seed in seeds:
            path = folder / name / "models" / f"{role}-seed{seed}"
            path.mkdir(parents=True)
            said.save(path / "predictions.npz")
    return Stream(name, run, students, dict.fromkeys(students, "alone"))


def said_of_steps(store: Clips, sure: float, seed: int) -> Predictions:
    """Steps of all clips; a clip's segment and class follow from its id. `sure` is how much the network knows."""
    random = np.random.default_rng(seed)
    labels, truth = [], []
    for index, name in enumerate(store.ids):
        number = int(name[-1])
        first, label = 2 + number % 3, 1 + number % 2
        steps = np.zeros(STEPS, np.int64)
        steps[first : first + 5] = label
        labels.append(steps)
        truth.append((index, first / 2, (first + 5) / 2, label))
    known = np.concatenate(labels)
    logits = sure * np.eye(3)[known] + random.normal(0, 1, (len(known), 3))
    times = np.tile(np.arange(STEPS) / 2, len(store.ids))
    return Predictions(
        {"action": logits.astype(np.float32)},
        {"action": known},
        np.repeat(np.arange(len(store.ids)), STEPS),
        np.stack([times, times + 0.5], 1),
        np.array(truth, np.float64),
    )


NAMES = tuple(f"clip {number}" for number in range(6))
FIRST, SECOND = Clips(NAMES), Clips(NAMES[::-1])


def steps_task(**options: Any) -> Detection:
    return Detection({"action": 2}, **options)


@pytest.fixture
def steps(tmp_path: Path) -> list[Stream]:
    """Two streams over stores whose clips are numbered the other way round."""
    return [
        make_stream(tmp_path, "rgb", steps_task(), FIRST, said_of_steps(FIRST, 2.0, 0)),
        make_stream(tmp_path, "flow", steps_task(), SECOND, said_of_steps(SECOND, 3.0, 1)),
    ]


def test_rows_of_stores_in_other_orders_meet_by_clip_id(steps: list[Stream]) -> None:
    rgb, flow = same_rows(steps, "alone", 0, NAMES)
    np.testing.assert_array_equal(rgb.labels["action"], flow.labels["action"])
    np.testing.assert_array_equal(rgb.truth, flow.truth)  # type: ignore[arg-type]
    original = steps[1].predictions("alone", 0)
    np.testing.assert_array_equal(flow.logits["action"][:STEPS], original.logits["action"][-STEPS:])


def test_the_gain_is_over_the_stream_with_the_higher_average_precision(steps: list[Stream]) -> None:
    found = fused_results(steps, [1.0, 2.0])
    values = {row["stream"]: row["metrics"]["action/map"] for row in found["rows"]}
    gain = found["gains"]["alone"]
    assert gain["metric"] == "action/map"
    assert gain["over"] == max(("rgb", "flow"), key=lambda name: values[name]["value"])
    assert gain["metrics"]["action/map"]["value"] == pytest.approx(
        values["fused"]["value"] - values[gain["over"]]["value"]
    )
    assert all(each["low"] <= each["value"] <= each["high"] for each in values.values())
    task = steps[0].run.task
    fused = fused_predictions(same_rows(steps, "alone", 0, NAMES), weights=[1.0, 2.0])
    expected = task.statistics(fused)["action/map"](np.ones((1, len(NAMES))))[0]
    assert values["fused"]["value"] == pytest.approx(expected)


def test_the_table_has_a_line_a_stream_and_one_of_the_gain(steps: list[Stream]) -> None:
    found = fused_results(steps)
    header, *lines = fusion_table(found)
    assert header[1] == "mAP, mean over tIoU, %"
    over = found["gains"]["alone"]["over"]
    first = ["student alone: rgb", "student alone: flow", "student alone: fused", f"gain over {over}"]
    assert [line[0] for line in lines] == first
    assert {len(line) for line in lines} == {len(header)}
    assert "- flow: input `flow`, weight 1" in fused_page(found)


def cut(given: Predictions) -> Predictions:
    return Predictions(
        {h: v[:-1] for h, v in given.logits.items()},
        {h: v[:-1] for h, v in given.labels.items()},
        given.clip[:-1],
        given.spans[:-1],  # type: ignore[index]
        given.truth,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "clip 'clip 0' has 11 rows, not 12: use the same views"),
        (lambda p: replace(p, spans=p.spans * 1.01), "the time steps differ"),
        (lambda p: replace(p, truth=p.truth + [0, 0, 1, 0]), "the annotated segments differ"),
        (
            lambda p: replace(p, labels={"action": p.labels["action"] * 0}),
            "labelled 'background' in head 'action', not",
        ),
    ],
)
def test_what_differs_between_streams_is_named(
    tmp_path: Path, steps: list[Stream], change: Callable[[Predictions], Predictions], words: str
) -> None:
    other = make_stream(tmp_path, "other", steps_task(), SECOND, change(said_of_steps(SECOND, 3.0, 1)))
    with pytest.raises(DataError, match=words):
        fused_results([steps[0], other])


def test_clips_that_only_one_stream_has_are_named(tmp_path: Path, steps: list[Stream]) -> None:
    more = Clips((*NAMES, "clip 6"))
    other = make_stream(tmp_path, "other", steps_task(), more, said_of_steps(more, 3.0, 1))
    with pytest.raises(DataError, match="other: has 1 more test clips, e.g. 'clip 6'"):
        fused_results([steps[0], other])
    with pytest.raises(DataError, match="rgb: lacks 1 of the others' test clips, e.g. 'clip 6'"):
        fused_results([other, steps[0]])


def test_other_tasks_classes_and_measures_are_named(tmp_path: Path, steps: list[Stream]) -> None:
    anchors = make_stream(tmp_path, "anchors", AnchorDetection({"action": 2}), FIRST, said_of_steps(FIRST, 1, 0))
    with pytest.raises(DataError, match="its task is anchor_detection, not detection"):
        check_classes(steps[0], anchors)
    strict = make_stream(tmp_path, "strict", steps_task(tious=(0.5,)), FIRST, said_of_steps(FIRST, 1, 0))
    with pytest.raises(DataError, match=r"its task.tious are \(0.5,\), not \(0.1"):
        check_classes(steps[0], strict)
    steps[1].run.classes = {"action": ("background", "run", "jump")}
    with pytest.raises(DataError, match="the classes of head 'action' differ, e.g. 'jump' is not in both"):
        check_classes(*steps)
    steps[1].run.classes = {"gesture": CLASSES["action"]}
    with pytest.raises(DataError, match="its heads are gesture, not action"):
        check_classes(*steps)


def test_only_shared_students_and_seeds_are_fused_and_it_is_said(tmp_path: Path) -> None:
    said = said_of_steps(FIRST, 2.0, 0)
    first = {"alone": [0, 1, 2], "distilled": [0, 1], "kd": [0]}
    second = {"alone": [2, 0], "distilled": [0, 1]}
    both = [make_stream(tmp_path, *each) for each in (("a", steps_task(), FIRST, said, first),)]
    both.append(make_stream(tmp_path, "b", steps_task(), FIRST, said, second))
    shared, notes = shared_students(both)
    assert shared == {"alone": [0, 2], "distilled": [0, 1]}
    assert notes == [
        "alone: only the shared seeds are used, 0, 2 (a has 0, 1, 2; b has 2, 0).",
        "kd: left out, no seed is shared (a has 0; b has none).",
    ]
    lonely = make_stream(tmp_path, "c", steps_task(), FIRST, said, {"alone": [7]})
    with pytest.raises(DataError, match="share no student"):
        shared_students([both[0], lonely])


ANCHORS = (4, 2)


def said_of_anchors(store: Clips, shift: float, seed: int) -> Predictions:
    """Three windows of six anchors a clip; every anchor proposes the clip's one segment, off by `shift` seconds."""
    random = np.random.default_rng(seed)
    count = 3 * sum(ANCHORS)
    spans, truth = [], []
    for index, name in enumerate(store.ids):
        start = 0.5 * int(name[-1])
        spans.append(np.array([start, start + 2]) + shift + random.normal(0, 0.01, (count, 2)))
        truth.append((index, start, start + 2, 1))
    scores = np.tile([0.2, 0.7, 0.1], (count * len(store.ids), 1)) + random.uniform(0, 0.05, (1, 3))
    return Predictions(
        {"action": np.log(scores).astype(np.float32)},
        {"action": np.ones(len(scores), np.int64)},
        np.repeat(np.arange(len(store.ids)), count),
        np.concatenate(spans),
        np.array(truth, np.float64),
    )


def test_anchors_that_err_to_both_sides_are_right_together(tmp_path: Path) -> None:
    task = AnchorDetection({"action": 2}, anchors=ANCHORS, tious=(0.7,))
    streams = [
        make_stream(tmp_path, "early", task, FIRST, said_of_anchors(FIRST, -0.6, 0)),
        make_stream(tmp_path, "late", task, SECOND, said_of_anchors(SECOND, 0.6, 1)),
    ]
    values = {row["stream"]: row["metrics"]["action/map"]["value"] for row in fused_results(streams)["rows"]}
    assert values["early"] < 0.1
    assert values["late"] < 0.1
    assert values["fused"] > 0.9


def test_anchors_of_other_windows_are_not_fused(tmp_path: Path) -> None:
    task = AnchorDetection({"action": 2}, anchors=ANCHORS)
    faster = replace(SECOND, hertz=16.0)
    streams = [
        make_stream(tmp_path, "slow", task, FIRST, said_of_anchors(FIRST, 0, 0)),
        make_stream(tmp_path, "fast", task, faster, said_of_anchors(faster, 0, 1)),
    ]
    with pytest.raises(DataError, match="fast: cannot be fused with slow: clip 'clip 0' is seen in other windows"):
        fused_results(streams)
    fewer = make_stream(
        tmp_path, "fewer", AnchorDetection({"action": 2}, anchors=(4,)), FIRST, said_of_anchors(FIRST, 0, 0)
    )
    with pytest.raises(DataError, match=r"its task.anchors are \(4,\), not \(4, 2\)"):
        check_classes(streams[0], fewer)
