from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.errors import DataError
from vidistill.report import tables
from vidistill.report.compare import write_comparison
from vidistill.report.results_page import markdown_table, write_results_markdown


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_rows_come_as_teachers_ensemble_alone_distilled_gain(full_run: Path) -> None:
    table = tables.result_table(results(full_run))
    names = [
        "teacher flow",
        "teacher pose",
        "teacher rgb-large",
        "teachers together",
        "student alone",
        "student distilled",
        "gain",
    ]
    assert [row[0] for row in table[1:]] == names
    assert len({len(row) for row in table}) == 1
    assert table[0][1] == "top-1, %"
    assert table[-1][1] == "+4.1 (+1.2 to +7.0)"


def test_no_rows_give_an_empty_table() -> None:
    assert tables.result_table({}) == []


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.01, 0.05, "paid"), (-0.05, -0.01, "cost"), (-0.01, 0.01, "unclear"), (0, 0.1, "unclear")],
)
def test_the_interval_decides_what_paid(low: float, high: float, kind: str) -> None:
    assert tables.judge("action/top1", {"value": (low + high) / 2, "low": low, "high": high, "paid": True}) == kind


def test_a_lower_calibration_error_counts_as_better() -> None:
    assert tables.judge("action/ece", {"value": -0.02, "low": -0.03, "high": -0.01}) == "paid"
    assert tables.judge("action/nll", {"value": 0.2, "low": 0.1, "high": 0.3}) == "cost"


def test_joint_accuracy_decides_with_several_heads(make_run: Any) -> None:
    content = results(make_run(classes={"verb": list("abcdef"), "noun": list("ghijkl")}))
    assert tables.main_metric(content) == "verb/top1"
    content["rows"][0]["metrics"]["all/top1"] = {"value": 0.3, "low": 0.2, "high": 0.4}
    content["gain"]["all/top1"] = {"value": 0.03, "low": 0.02, "high": 0.04}
    assert tables.main_metric(content) == "all/top1"
    assert "points all heads top-1" in tables.verdict(content).headline


def test_a_metric_on_a_subset_reads_as_such_and_has_no_column_of_the_result_table(make_run: Any) -> None:
    content = results(make_run(classes={"verb": list("abcdef"), "noun": list("ghijkl")}))
    content["rows"][0]["metrics"]["verb/top1@tail_verb"] = {"value": 0.3, "low": 0.2, "high": 0.4}
    assert tables.metric_title("verb/top1@tail_verb", content, unit=True) == "verb top-1 on tail verb, %"
    assert "verb/top1@tail_verb" not in tables.metrics(content)
    assert {"verb/ece", "noun/ece", "verb/nll", "noun/nll"} <= set(tables.metrics(content))


def test_top5_of_five_classes_is_left_out(make_run: Any) -> None:
    assert "action/top5" not in tables.metrics(results(make_run(classes={"action": list("abcde")})))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tables.fixed(-0.04), "0.0"),
        (tables.fixed(-1.25, 1, sign=True), "−1.2"),
        (tables.fixed(0, sign=True), "0.0"),
        (tables.fixed(None), "–"),
        (tables.fixed(True), "–"),
        (tables.amount(1_523_771), "1.52 M"),
        (tables.amount(812), "812"),
        (tables.file_size(6_140_233), "6.1 MB"),
        (tables.significant(0.0312), "0.0312"),
        (tables.significant(128.4), "128"),
        (tables.duration(3725), "1 h 2 min"),
        (tables.duration(185), "3 min 5 s"),
        (tables.significant("x"), "–"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected


@given(st.one_of(st.floats(), st.integers(), st.none(), st.text(), st.booleans()))
def test_formats_take_anything(value: Any) -> None:
    for show in (tables.fixed, tables.amount, tables.file_size, tables.significant, tables.duration):
        assert isinstance(show(value), str)
        assert "nan" not in show(value) and "inf" not in show(value)


@given(st.lists(st.lists(st.text(max_size=8), min_size=3, max_size=3), min_size=1, max_size=4))
def test_markdown_cells_never_break_the_table(table: list[list[str]]) -> None:
    lines = markdown_table(table).rstrip("\n").split("\n")
    assert len(lines) == len(table) + 1
    assert all(line.replace("\\\\", "").replace("\\|", "").count("|") == 4 for line in lines)


def test_results_markdown_says_what_paid_and_what_did_not(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run("good"), make_run("worse", gain=-0.06), make_run("same", gain=0.0)]
    (runs[0] / "recipe.yaml").write_text("data: {root: /home/someone/data/jhmdb}\nname: good\n")
    text = write_results_markdown(runs, tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    paid, rest = text.split("### What did not pay")
    assert "**good**" in paid and "**worse**" in rest.split("###")[0] and "**same**" in rest.split("no difference")[1]
    assert "+4.1 (+1.2 to +7.0)" in text and "seed 2" in text
    assert "/home/someone" not in text and "jhmdb" in text


def test_kept_results_give_the_same_page_without_their_runs(make_run: Any, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    first = write_results_markdown([make_run("good")], tmp_path / "first.md", keep)
    again = write_results_markdown([], tmp_path / "again.md", keep)
    assert first.read_text(encoding="utf-8") == again.read_text(encoding="utf-8")
    (keep / "earlier.md").write_text("## earlier\n\nas it was\n", encoding="utf-8")
    both = write_results_markdown([make_run("worse", gain=-0.06)], tmp_path / "both.md", keep).read_text()
    assert "## good" in both and "## worse" in both and "as it was" in both


def test_late_fusion_is_a_part_of_the_page_and_kept_with_it(make_run: Any, tmp_path: Path) -> None:
    fused, keep, page = tmp_path / "rgb+flow", tmp_path / "kept", tmp_path / "results.md"
    fused.mkdir()
    (fused / "fused.md").write_text("# Late fusion: rgb + flow\n\n| model |\n| :-- |\n| both |\n", encoding="utf-8")
    write_results_markdown([make_run("rgb"), fused], page, keep)
    text = page.read_text(encoding="utf-8")
    assert "\n## Late fusion: rgb + flow\n" in text and text.count("\n# ") == 0
    assert write_results_markdown([], tmp_path / "again.md", keep).read_text(encoding="utf-8") == text


def test_a_damaged_kept_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x\.json: not a kept result"):
        write_results_markdown([], tmp_path / "results.md", tmp_path)


def test_further_ways_to_distil_are_rows_and_sentences(make_run: Any, tmp_path: Path) -> None:
    run = make_run("several")
    results = json.loads((run / "results.json").read_text())
    metric = next(iter(results["gain"]))
    alone = next(row for row in results["rows"] if row["role"] == "alone")
    results["rows"].append({**alone, "role": "variant", "name": "uniform"})
    results["variant_gains"] = {"uniform": {metric: {"value": 0.05, "low": 0.01, "high": 0.09, "paid": True}}}
    (run / "results.json").write_text(json.dumps(results))
    text = write_results_markdown([run], tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| student, uniform |" in text and "| gain, uniform | +5.0 (+1.0 to +9.0) |" in text
    assert "uniform against alone: +5.0 (+1.0 to +9.0)." in text


def test_results_markdown_refuses_a_run_without_results(minimal_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: there are no results\. Run `vidistill run"):
        write_results_markdown([minimal_run], tmp_path / "results.md")
    assert not (tmp_path / "results.md").exists()


def test_a_comparison_shows_every_run_and_warns_of_other_splits(
    make_run: Any, minimal_run: Path, tmp_path: Path
) -> None:
    runs = [make_run("one"), make_run("two <b>", gain=-0.06), minimal_run]
    data = json.loads((runs[1] / "data.json").read_text())
    (runs[1] / "data.json").write_text(json.dumps(data | {"split_hash": "another"}))
    (runs[1] / "recipe.yaml").write_text("method: {name: dkd}\n")
    page = write_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8")
    for words in (
        "Distillation paid in 1 of 2 runs",
        "different splits",
        "two &lt;b&gt;",
        "just-begun",
        "not evaluated yet",
        "method.name",
        "dkd",
    ):
        assert words in page
    assert "http" not in page and "<script" not in page


def test_a_comparison_of_nothing_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run to compare"):
        write_comparison([], tmp_path / "comparison.html")


def test_a_teacher_tested_on_fewer_clips_says_so_and_sets_no_gap(make_run: Any) -> None:
    content = results(make_run())
    for row in content["rows"]:
        row["clips"] = 120 if row["role"] in ("teacher", "ensemble") else 264
    assert tables.result_table(content)[1][0] == "teacher flow (on 120 clips)"
    assert "gap" not in " ".join(tables.verdict(content).notes)


def test_a_run_without_teachers_is_not_judged(make_run: Any) -> None:
    content = results(make_run(seeds=1))
    content |= {"rows": [row for row in content["rows"] if row["role"] == "alone"], "gain": {}}
    assert tables.verdict(content).headline.startswith("Nothing was distilled")
    assert len(tables.result_table(content)) == 2


def test_a_bound_that_is_zero_but_for_rounding_decides_nothing() -> None:
    assert tables.judge("action/top1", {"low": -0.038, "high": -1e-17}) == "unclear"
    assert tables.judge("action/top1", {"low": 1e-17, "high": 0.1}) == "unclear"
    assert tables.judge("action/nll", {"low": -0.2, "high": -0.1}) == "paid"
