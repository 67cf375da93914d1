"""Figures of a curriculum's surveys: which classes it chose when, and how hard right and wrong clips are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from vidistill.report.plots import _RIGHT, _axes
from vidistill.report.svg import ACCENT, BAD, page_style, plain, render

CLASSES = 40
"""Rows of the picture of classes; of more classes those whose share varies most are shown."""


def shares(names: Sequence[str], epochs: Sequence[float], chosen: Sequence[Sequence[float | None]], key: str) -> Markup:
    """Part of each class (rows) that was chosen at each survey (columns), in percent, darker for more.

    Args:
        names: class names.
        epochs: epoch of each survey.
        chosen: by survey, the part of each class in [0, 1]; None for a class without clips.
        key: unique on the page.
    """
    part = np.array(chosen, dtype=np.float64).T
    kept = np.sort(np.argsort(-np.nan_to_num(part).std(1), kind="stable")[:CLASSES])
    part = np.nan_to_num(part[kept])
    image = np.zeros((*part.shape, 4), dtype=np.uint8)
    image[..., :3] = _RIGHT
    image[..., 3] = np.round(255 * part / max(float(part.max()), 1e-9))
    with page_style():
        figure, axes = _axes(60 + 15 * len(kept))
        axes.grid(visible=False)
        axes.imshow(image, interpolation="none", aspect="auto")
        axes.set_yticks(range(len(kept)), [plain(names[row], 22) for row in kept], fontsize=9)
        axes.set_xticks(range(len(epochs)), [str(int(epoch)) for epoch in epochs])
        axes.set_xlabel("epoch of the survey")
        if part.size <= 400:
            for row, column in np.ndindex(part.shape):
                strong = part[row, column] > 0.55 * part.max()
                text = f"{100 * part[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if strong else None)
        title = f"Part of each class's clips chosen at each survey: {len(kept)} classes, {len(epochs)} surveys"
        return render(figure, key, title)


def two_histograms(
    edges: Sequence[float], groups: Mapping[str, Sequence[int]], label: str, key: str, title: str
) -> Markup:
    """Counts of right clips upwards and of wrong clips downwards over one axis of values.

    Args:
        edges: limits of the bins (K + 1).
        groups: counts (K) of "right" and "wrong".
        label: what the values are.
        key: unique on the page.
        title: text for readers who do not see the figure.
    """
    middle = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
    width = 0.9 * (edges[-1] - edges[0]) / max(len(middle), 1)
    with page_style():
        figure, axes = _axes(270)
        for name, sign, tone in (("right", 1, ACCENT), ("wrong", -1, BAD)):
            axes.bar(middle, sign * np.asarray(groups[name]), width=width, color=tone, label=name)
        reach = max(max(groups["right"], default=1), max(groups["wrong"], default=1), 1)
        axes.set_ylim(-1.1 * reach, 1.1 * reach)
        ticks = [-reach, 0, reach]
        axes.set_yticks(ticks, [str(abs(tick)) for tick in ticks])
        axes.set_xlabel(label)
        axes.set_ylabel("clips")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2, fontsize=11)
        return render(figure, key, title)
