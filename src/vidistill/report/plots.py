"""The figures of the report, each a function from plain numbers to an inline SVG.

Natural width is 440 px with 12 px type: two stand side by side on a desk, one fills a phone.
Colours mean the same in every figure: accent = distilled or right, grey = alone, orange = worse or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vidistill.report.svg import ACCENT, ALONE, BAD, CARD, INK, LINE, MUTED, page_style, plain, render
from vidistill.report.tables import fixed

WIDTH = 440 / 72
_RIGHT, _WRONG = (26, 143, 136), (217, 113, 60)  # middle tones: images cannot read the page's variables

Series = Sequence[tuple[Sequence[float], Sequence[float]]]


def _axes(height: float, *, width: float = WIDTH, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0)
    axes.grid(axis=grid)
    return figure, axes


def forest(points: Sequence[Mapping[str, Any]], label: str, key: str, title: str, *, zero: bool = False) -> Markup:
    """Values with intervals, one row each.

    Args:
        points: Mappings with `label`, `value`, `low`, `high` (low and high may be None) and `tone`
            (`accent`, `alone`, `bad`, or anything else for plain ink).
        label: Words for the horizontal axis.
        key: Unique on the page.
        title: Text for readers who do not see the figure.
        zero: Draw a line at zero (for gains).
    """
    tones = {"accent": ACCENT, "alone": ALONE, "bad": BAD}
    with page_style():
        figure, axes = _axes(58 + 30 * len(points), grid="x")
        for place, point in enumerate(points):
            tone = tones.get(str(point.get("tone")), INK)
            if point.get("low") is not None and point.get("high") is not None:
                axes.plot(
                    [point["low"], point["high"]], [place, place], color=tone, solid_capstyle="round", lw=3, alpha=0.45
                )
            axes.plot(point["value"], place, "o", ms=8, color=tone, mec=CARD, mew=1.5)
        if zero:
            axes.axvline(0, color=MUTED, lw=1, dashes=(3, 3))
        axes.set_yticks(range(len(points)), [plain(point["label"], 24) for point in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        return render(figure, key, title)


def seed_pairs(alone: Sequence[float], distilled: Sequence[float], label: str, key: str, title: str) -> Markup:
    """A line from alone to distilled for each seed, values in percent."""
    with page_style():
        figure, axes = _axes(240)
        for before, after in zip(alone, distilled, strict=False):
            axes.plot([0, 1], [before, after], color=ACCENT if after >= before else BAD, lw=1.8, alpha=0.8)
        axes.plot(np.zeros(len(alone)), alone, "o", ms=8, color=ALONE, mec=CARD, mew=1.5)
        axes.plot(np.ones(len(distilled)), distilled, "o", ms=8, color=ACCENT, mec=CARD, mew=1.5)
        axes.set_xlim(-0.35, 1.35)
        axes.set_xticks([0, 1], ["alone", "distilled"])
        axes.tick_params(axis="x", labelcolor=INK)
        axes.margins(y=0.15)
        axes.set_ylabel(label)
        return render(figure, key, title)


def curves(groups: Mapping[str, Series], label: str, key: str, title: str) -> Markup:
    """Curves over epochs, one colour a group (`alone`, `distilled`, others), one line a seed."""
    styles = {"alone": (ALONE, "-"), "distilled": (ACCENT, "-")}
    shades = [(INK, "-"), (INK, (0, (5, 2))), (INK, (0, (1.5, 1.5))), (MUTED, "-"), (MUTED, (0, (5, 2)))]
    with page_style():
        figure, axes = _axes(270)
        others = [name for name in groups if name not in styles]
        for name, series in groups.items():
            tone, dash = styles.get(name) or shades[others.index(name) % len(shades)]
            for number, (epochs, values) in enumerate(series):
                marker = "o" if len(epochs) == 1 else None
                axes.plot(
                    epochs, values, color=tone, ls=dash, marker=marker, alpha=0.85, lw=1.7,
                    label=plain(name, 28) if number == 0 else None,
                )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if len(groups) > 1:
            columns = min(3, len(groups))
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0.2, fontsize=11
            )
        return render(figure, key, title)


def class_gains(
    gains: Sequence[tuple[str, float]],
    key: str,
    title: str,
    *,
    span: tuple[float, float],
    rows: int = 0,
    width: float = 440,
) -> Markup:
    """Bars of the gain in points of each class, in the order given.

    Args:
        gains: Class names and gains in points.
        key: Unique on the page.
        title: Text for readers who do not see the figure.
        span: Lowest and highest gain over all parts of the chart, so that parts share one scale.
        rows: Rows of the longest part, so that parts share one bar height.
        width: Natural width in px.
    """
    rows = max(rows, len(gains))
    low, high = min(0.0, span[0]), max(0.0, span[1])
    reach = max(high - low, 1.0)
    with page_style():
        figure, axes = _axes(34 + 19 * rows, width=width / 72)
        values = [gain for _, gain in gains]
        places = range(len(gains))
        axes.barh(places, values, height=0.66, color=[ACCENT if value >= 0 else BAD for value in values])
        for place, value in zip(places, values, strict=True):
            side, pad = ("left", 0.02) if value >= 0 else ("right", -0.02)
            text = fixed(value, 0 if abs(value) >= 10 else 1, sign=True)
            axes.text(value + pad * reach, place, text, ha=side, va="center", fontsize=10.5, color=MUTED)
        axes.plot([0, 0], [-0.6, len(gains) - 0.4], color=MUTED, lw=1)
        axes.set_yticks(places, [plain(name, 22) for name, _ in gains])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(low - (0.16 if low < 0 else 0.02) * reach, high + (0.16 if high > 0 else 0.02) * reach)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xticks([])
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return render(figure, key, title)


def confusion(matrix: Sequence[Sequence[float]], names: Sequence[str], key: str, title: str) -> Markup:
    """Row-normalised confusion: right answers in the accent, wrong ones in orange, ink by share of the true class."""
    counts = np.asarray(matrix, dtype=np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(share)
    image = np.zeros((size, size, 4), dtype=np.uint8)
    image[..., :3] = _WRONG
    image[np.arange(size), np.arange(size), :3] = _RIGHT
    image[..., 3] = np.round(255 * np.sqrt(np.clip(share, 0, 1)))
    with page_style():
        figure, axes = _axes(420)
        axes.grid(visible=False)
        axes.imshow(image, interpolation="none", aspect="equal")
        axes.set_xlabel("answered")
        axes.set_ylabel("true")
        if size <= 30:
            labels = [plain(name, 16) for name in names][:size]
            small = 11 if size <= 12 else 8.5
            axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=small)
            axes.set_yticks(range(len(labels)), labels, fontsize=small)
        else:
            step = 10 if size <= 150 else 50
            ticks = range(0, size, step)
            axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
            axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
        for spine in axes.spines.values():
            spine.set_visible(True)
        return render(figure, key, title)


def reliability(bins: Mapping[str, Sequence[float]], key: str, title: str, *, tone: str = "accent") -> Markup:
    """Accuracy against stated confidence by bin; the bar's strength is the bin's share of the clips."""
    kept = [
        (float(confidence), float(accuracy), float(count))
        for confidence, accuracy, count in zip(bins["confidence"], bins["accuracy"], bins["count"], strict=False)
        if confidence is not None and accuracy is not None and count
    ]
    largest = max((count for _, _, count in kept), default=1.0)
    with page_style():
        figure, axes = _axes(300)
        colour = ALONE if tone == "alone" else ACCENT
        axes.plot([0, 100], [0, 100], color=MUTED, lw=1, dashes=(3, 3))
        width = 100 / max(len(bins["confidence"]), 1) * 0.82
        for confidence, accuracy, count in kept:
            axes.bar(100 * confidence, 100 * accuracy, width=width, color=colour, alpha=0.25 + 0.6 * count / largest)
            axes.plot([100 * confidence] * 2, [100 * accuracy, 100 * confidence], color=BAD, lw=1.6)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("stated confidence, %")
        axes.set_ylabel("right answers, %")
        return render(figure, key, title)


def timeline(rows: Mapping[str, Sequence[tuple[float, float, str]]], seconds: float, key: str, title: str) -> Markup:
    """Labelled segments over time, one line of bars a row; the same label has the same strength in every row.

    Args:
        rows: Segments (start, end in seconds, label) by row name, the first row on top.
        seconds: Length of the recording.
        key: Unique on the page.
        title: Text for readers who do not see the figure.
    """
    labels = sorted({label for each in rows.values() for _, _, label in each})
    strength = {label: 0.25 + 0.6 * place / max(len(labels) - 1, 1) for place, label in enumerate(labels)}
    with page_style():
        figure, axes = _axes(40 + 34 * len(rows), width=2 * WIDTH, grid="x")
        for place, (_name, found) in enumerate(rows.items()):
            tone = INK if place == 0 else ALONE if place == 1 else ACCENT
            for start, end, label in found:
                axes.barh(place, end - start, left=start, height=0.72, color=tone, alpha=strength[label], lw=0)
                if (end - start) / max(seconds, 1e-9) * 110 > len(label):
                    colour = CARD if strength[label] > 0.5 else INK
                    axes.text(
                        (start + end) / 2, place, plain(label, 18), ha="center", va="center", fontsize=9, color=colour
                    )
        axes.set_yticks(range(len(rows)), list(rows))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, seconds)
        axes.set_xlabel("seconds")
        return render(figure, key, title)


def weight_bands(epochs: Sequence[int], weights: Mapping[str, Sequence[float]], key: str, title: str) -> Markup:
    """Stacked shares of the teachers over epochs, each band labelled at its middle."""
    with page_style():
        figure, axes = _axes(270)
        axes.grid(visible=False)
        lower = np.zeros(len(epochs))
        for number, (name, values) in enumerate(weights.items()):
            upper = lower + np.asarray(values, dtype=np.float64)
            # No strength between 0.45 and 0.9: neither dark nor light letters would be legible on it.
            strength = 0.92 if number == 0 else 0.42 - 0.3 * (number - 1) / max(len(weights) - 2, 1)
            axes.fill_between(epochs, lower, upper, color=ACCENT, alpha=strength, lw=0)
            axes.plot(epochs, upper, color=CARD, lw=1.5)
            middle = len(epochs) // 2
            if upper[middle] - lower[middle] > 0.06:
                label = f"{plain(name, 30)}  {fixed(100 * values[middle], 0)} %"
                colour = CARD if strength > 0.5 else INK
                axes.text(epochs[middle], (lower + upper)[middle] / 2, label, ha="center", va="center", color=colour)
            lower = upper
        axes.set_xlim(min(epochs), max(epochs) if len(epochs) > 1 else min(epochs) + 1)
        axes.set_ylim(0, max(1.0, float(lower.max())))
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("epoch")
        axes.spines["left"].set_color(LINE)
        return render(figure, key, title)
