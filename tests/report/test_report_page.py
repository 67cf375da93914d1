from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vidistill.core.errors import DataError
from vidistill.report import plots
from vidistill.report.page import write_report
from vidistill.report.sections import STAGES

VOID = {"meta", "link", "br", "img", "input", "hr"}
DOCUMENTS = ("results.json", "data.json", "audit.json", "export/export.json", "environment.json", "stages.json")


class Reader(HTMLParser):
    """Collects what the claims below are about; fails on elements that are not closed in order."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.source = page.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(scope="session")
def full_page(full_run: Path) -> Reader:
    return Reader(write_report(full_run))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built but not drawn, for claims that are not about them: drawing is most of the time."""
    monkeypatch.setattr(plots, "render", lambda figure, key, title: "")


def edit(run: Path, name: str, change: Any) -> None:
    document = json.loads((run / name).read_text())
    change(document)
    (run / name).write_text(json.dumps(document))


def test_the_page_says_first_that_distillation_paid(full_page: Reader) -> None:
    headline = re.sub("<[^>]+>", "", full_page.source.split("<h1>")[1].split("</h1>")[0])
    assert (
        headline.replace("\N{NO-BREAK SPACE}", " ")
        == "Distillation paid: +4.1 points top-1 (95 % interval +1.2 to +7.0)"
    )


@pytest.mark.parametrize(
    ("gain", "words"),
    [(-0.06, "Distillation did not pay: −6.0"), (0.01, "No difference that this test set can show: +1.0")],
)
@pytest.mark.usefixtures("undrawn")
def test_the_page_says_plainly_when_distillation_did_not_pay(make_run: Any, gain: float, words: str) -> None:
    assert words in Reader(write_report(make_run(gain=gain, seeds=1))).words


def test_a_full_run_fills_every_part(full_page: Reader) -> None:
    assert "notice card" not in full_page.source
    assert len(full_page.all("section")) == 9
    for words in (
        "student distilled",
        "teachers together",
        "5f0c1c8e9f2c4a71b1d1c1b2e9a77a10",
        "wave/Zoë waving 03",
        "int8 costs",
    ):
        assert words in full_page.words


def test_the_page_names_no_external_resource_and_runs_no_script(full_page: Reader) -> None:
    assert not re.search(r"(?i)https?:|url\((?!#)|@import|javascript:", full_page.source)
    assert not full_page.all("script")
    for tag, attributes in full_page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_the_page_is_small(full_page: Reader) -> None:
    assert len(full_page.source.encode()) < 400_000


def test_a_hundred_classes_and_two_heads_stay_small(make_run: Any) -> None:
    classes = {"verb": [f"verb number {i} of many" for i in range(101)], "noun": [f"noun {i}" for i in range(12)]}
    page = Reader(write_report(make_run(classes=classes)))
    assert "notice card" not in page.source
    assert len(page.source.encode()) < 1_500_000
    assert "verb top-1, %" in page.words and "noun top-1, %" in page.words
    assert "Names of the numbered classes" in page.words


def test_every_figure_has_words_and_every_table_has_headers(full_page: Reader) -> None:
    figures = full_page.all("svg")
    assert len(figures) >= 12
    assert all(each["role"] == "img" and len(each["aria-label"] or "") > 15 for each in figures)
    assert all(each.get("scope") in ("row", "col") for each in full_page.all("th"))
    assert full_page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in full_page.source


def test_ids_are_unique_and_references_arrive(full_page: Reader) -> None:
    ids = [attributes["id"] for _, attributes in full_page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [
        each
        for _, a in full_page.tags
        for each in (a.get("href"), a.get("xlink:href"))
        if each and each.startswith("#")
    ]
    clips = [attributes["clip-path"][5:-1] for _, attributes in full_page.tags if attributes.get("clip-path")]
    assert {each[1:] for each in references} | set(clips) <= set(ids)


def test_figures_take_their_colours_from_the_page(full_page: Reader) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", full_page.source, flags=re.DOTALL))
    styles = re.findall(r'style="([^"]*)"', figures)
    assert not [style for style in styles if re.search(r"(fill|stroke):\s*#", style)]
    assert "prefers-color-scheme: dark" in full_page.source


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_and_in_dark_mode(full_page: Reader) -> None:
    schemes = [
        dict(re.findall(r"--(\w+):(#\w{6})", part))
        for part in re.findall(r":root \{(.*?)\}", full_page.source, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for ground in ("paper", "card", "wash"):
            assert all(contrast(colours[tone], colours[ground]) >= 4.5 for tone in ("ink", "muted", "accent", "bad"))
        assert contrast(colours["alone"], colours["card"]) >= 3  # lines and dots, not text


def test_names_that_look_like_markup_are_text(make_run: Any) -> None:
    evil = "<script>alert(1)</script>"
    run = make_run(name="a&b <b>run", classes={evil[:8]: [evil, "$x^2$ & \"quotes\" 'too'", "\x07bell", "跳ぶ"]})
    edit(
        run,
        "data.json",
        lambda d: d["problems"].append({"clip": evil, "kind": "<i>", "message": "</td></table>" + evil}),
    )
    edit(run, "audit.json", lambda d: d["teachers"].update({evil: d["teachers"]["flow"] | {"input": evil}}))
    edit(run, "export/export.json", lambda d: d["latency"].update({evil: {"median_ms": 1.0}}))
    (run / "recipe.yaml").write_text(f"name: '{evil}</pre>'\n")
    page = Reader(write_report(run))
    assert "notice card" not in page.source
    assert not page.all("script")
    assert evil in page.words and "$x^2$" in page.words and "跳ぶ" in page.words


def test_a_run_that_has_just_begun_says_what_is_missing_and_what_makes_it(minimal_run: Path) -> None:
    page = Reader(write_report(minimal_run))
    assert "Not evaluated yet" in page.words
    for command in ("prepare", "audit", "distil", "evaluate", "export"):
        assert f"vidistill run RECIPE --until {command}" in page.words


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.usefixtures("undrawn")
def test_a_missing_document_costs_only_its_own_part(make_run: Any, name: str) -> None:
    run = make_run()
    (run / name).unlink()
    page = Reader(write_report(run))
    key = Path(name).stem
    assert len(page.all("section")) == 9
    if key in ("results", "data", "audit", "export"):
        assert f"{name} is not there yet. vidistill run RECIPE --until {STAGES[key]} makes it" in page.words


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"rows": 3, "teachers": [], "problems": 1, "latency": 2}', "\x00"]
)
@pytest.mark.usefixtures("undrawn")
def test_damaged_documents_never_break_the_page(make_run: Any, content: str) -> None:
    run = make_run(seeds=1)
    for name in DOCUMENTS:
        (run / name).write_text(content)
    assert len(Reader(write_report(run)).all("section")) == 9


def test_numbers_that_are_not_finite_or_absent_are_dashes(make_run: Any) -> None:
    run = make_run(seeds=1)

    def spoil(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row["metrics"]["action/top1"] = {"value": float("nan"), "low": None, "high": None, "per_seed": None}
            row["parameters"] = None
        results["per_class"]["action"]["clap"] = {"alone": None, "distilled": float("nan"), "clips": None}
        results["reliability"]["alone"]["accuracy"][3] = None

    edit(run, "results.json", spoil)
    page = Reader(write_report(run))
    assert "notice card" not in page.source
    assert not re.search(r"\b(nan|None)\b", page.words)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("problems", [{"short": 3, "empty": 1}, []])
def test_clips_that_are_lost_without_a_name_are_never_passed_over(make_run: Any, problems: Any) -> None:
    run = make_run(seeds=1)
    edit(run, "data.json", lambda document: document.update(problems=problems))
    page = Reader(write_report(run))
    assert "Every listed clip could be used" not in page.words
    assert "4 listed clips are missing from the prepared data without a name" in page.words


def test_a_history_cut_in_mid_line_is_read_up_to_there(make_run: Any) -> None:
    run = make_run(seeds=1)
    for path in run.glob("models/*/history.jsonl"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:2], lines[1], '{"kind": "step", "loss": 1}', lines[2][:30]]))
    assert "notice card" not in Reader(write_report(run)).source


def test_the_same_run_gives_the_same_page_and_leaves_nothing_else(full_run: Path, full_page: Reader) -> None:
    assert write_report(full_run).read_text(encoding="utf-8") == full_page.source
    assert not list(full_run.rglob("*.tmp"))


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such run folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize("width", [1280, 500])
def test_chromium_lays_the_page_out_within_its_window(
    full_run: Path, full_page: Reader, tmp_path: Path, width: int
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: the page was not rendered in a browser")
    # The probe is a copy of the page with a script that measures it; the page itself has none.
    probe = tmp_path / "probe.html"
    script = "<script>document.title='W'+document.documentElement.scrollWidth+'/'+innerWidth</script></body>"
    probe.write_text(full_page.source.replace("</body>", script), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
    ]
    command = [browser, *flags, "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"<title>W(\d+)/(\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])
    assert "CONSOLE" not in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_subsets_have_a_table_each_and_pages_without_them_no_such_part(make_run: Any) -> None:
    assert "Subsets of the test clips" not in write_report(make_run("plain")).read_text(encoding="utf-8")
    run = make_run("subsets", classes={"verb": list("abcdef"), "noun": list("ghijkl")})

    def add(content: dict[str, Any]) -> None:
        content["subsets"] = {"tail_verb": 17}
        entry = {"value": 0.123, "low": 0.1, "high": 0.2}
        for row in content["rows"]:
            row["metrics"] |= {"verb/top1@tail_verb": entry, "noun/top1@tail_verb": dict.fromkeys(entry)}
        content["gain"] |= dict.fromkeys(("verb/top1@tail_verb", "noun/top1@tail_verb"), entry)

    edit(run, "results.json", add)
    page = Reader(write_report(run))
    part = page.source.split('id="subsets"')[1].split("</section>")[0]
    assert "<h3>Tail verb</h3>" in part and "17 of the test clips" in part
    assert part.count("12.3") == part.count("<tr") and "verb top-1, %" in part and "tIoU" not in part


@pytest.mark.usefixtures("undrawn")
def test_calibration_has_a_table_of_every_measure_where_they_were_taken(make_run: Any) -> None:
    assert "Brier" not in write_report(make_run("plain")).read_text(encoding="utf-8")
    run = make_run("measured")

    def add(content: dict[str, Any]) -> None:
        entry = {"value": 0.6543, "low": 0.6, "high": 0.7}
        for row in content["rows"]:
            row["metrics"] |= {"action/adaptive_ece": entry, "action/brier": entry}
        content["gain"] |= {"action/brier": {"value": -0.0321, "low": -0.04, "high": -0.02}}

    edit(run, "results.json", add)
    part = write_report(run).read_text(encoding="utf-8").split('id="calibration"')[1].split("</section>")[0]
    assert "Adaptive ECE, %" in part and "Brier score" in part
    assert "0.654 (0.600 to 0.700)" in part and "65.4 (60.0 to 70.0)" in part
    assert "−0.032 (−0.040 to −0.020)" in part


@pytest.mark.usefixtures("undrawn")
def test_classes_that_nobody_has_or_answers_are_left_out_of_the_confusion_and_counted(make_run: Any) -> None:
    run = make_run("sparse", classes={"action": list("abcde")})

    def empty(content: dict[str, Any]) -> None:
        for role in ("alone", "distilled"):
            matrix = [[0] * 5 for _ in range(5)]
            matrix[0][0], matrix[3][0] = 4, 2
            content["confusion"]["action"][role] = matrix

    edit(run, "results.json", empty)
    part = write_report(run).read_text(encoding="utf-8").split('id="confusion"')[1].split("</section>")[0]
    assert "3 classes that no test clip has and no model answers are left out" in part
    assert "d taken for a (2)" in part
