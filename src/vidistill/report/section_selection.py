"""What a curriculum chose: strength over training, classes and clips by survey, difficulty against right answers."""

from __future__ import annotations

from typing import Any

from vidistill.report import plots, plots_selection
from vidistill.report.folder import RunFolder
from vidistill.report.sections import Missing, needed


def selection(run: RunFolder) -> dict[str, Any]:
    """Figures of the surveys of one training, and examples of its easiest and hardest clips."""
    found = needed(run, "selection")
    surveys = found["surveys"]
    if not surveys:
        raise Missing("No survey was made yet. `vidistill run RECIPE --until distil` makes them.")
    epochs = [float(each["epoch"]) for each in surveys]
    bands = {name: [([*epochs], [each["strength"][name] for each in surveys])] for name in surveys[0]["strength"]}
    first, last = surveys[0], surveys[-1]
    figures = [
        (
            plots.curves(bands, "strength", "curve-strength", "Strength of distillation over epochs, by quantile"),
            "How strongly clips are taught by teachers rather than by labels: median and middle 80 %.",
        ),
        (
            plots_selection.shares(found["classes"], epochs, [each["chosen"] for each in surveys], "selected"),
            "Part of each class's clips that was chosen at each survey, in percent.",
        ),
    ]
    for each, name in ((first, "first"), (last, "last"))[: len(surveys)]:
        counts = each["difficulty"]
        groups = {"right": counts["right"], "wrong": counts["wrong"]}
        text = f"Difficulty of the clips that the student has right and wrong at the {name} survey"
        figure = plots_selection.two_histograms(
            counts["edges"], groups, "difficulty (distillation loss)", f"hard-{name}", text
        )
        figures.append((figure, f"{text} (epoch {int(each['epoch'])})."))
    return {"figures": figures, "examples": found["examples"], "name": found["name"], "clips": found["clips"]}
