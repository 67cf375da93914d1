"""Turn a matplotlib figure into an inline SVG that takes its colours and fonts from the page.

Inline SVG may use the page's CSS variables, so one figure is legible in light and in dark mode. Figures are drawn with
stand-in colours that are replaced by variables here. Text stays text: it is small, selectable and read aloud.
The output has no date, no metadata and no namespace address, so it is deterministic and names no external resource.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

INK, MUTED, LINE, ACCENT, ALONE, BAD, CARD = (f"#0{digit}0{digit}0{digit}" for digit in range(1, 8))
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", ALONE: "alone", BAD: "bad", CARD: "card"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vidistill",
    "svg.image_inline": True,
    "text.parse_math": False,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 2.0,
}
_DROPPED = ("metadata", "style", "title")


@contextmanager
def page_style() -> Iterator[None]:
    """Draw inside this context: the page's type sizes and stand-in colours, nothing global left changed."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Widths are measured with matplotlib's own font; the reader's browser has the glyphs that it lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message=".*layout not applied")
        warnings.filterwarnings("ignore", message=".*does not support .* natively")
        yield


def plain(text: object, limit: int = 10_000) -> str:
    """User text for a figure: control characters replaced (XML has none), shortened to `limit` characters."""
    characters = (
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text)
    )
    cleaned = "".join(characters)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def render(figure: Figure, key: str, title: str) -> Markup:
    """The figure as one `<svg>` element.

    Args:
        figure: Drawn within `page_style`; its size in inches times 72 is its natural size in CSS pixels.
        key: Unique on the page; prefixes the ids inside.
        title: What the figure shows, for readers who do not see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root)
    _prefix_ids(root, re.sub(r"\W", "-", key))
    _, _, width, _ = (float(each) for each in root.attrib["viewBox"].split())
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": plain(title), "style": f"--natural:{width:.0f}px"})
    label = ElementTree.Element("title")
    label.text = plain(title)
    root.insert(0, label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element) -> None:
    """Drop namespaces, metadata and fonts; put CSS variables where the stand-in colours are."""
    for child in list(element):
        if child.tag.rpartition("}")[2] in _DROPPED:
            element.remove(child)
        else:
            _clean(child)
    element.tag = element.tag.rpartition("}")[2]
    if element.tag != "text":
        element.text = None
    element.tail = None
    for name in list(element.attrib):
        value = element.attrib.pop(name)
        element.attrib[name.rpartition("}")[2]] = _themed(value) if name == "style" else " ".join(value.split())


def _themed(style: str) -> str:
    kept = [each.strip() for each in style.split(";") if each.strip() and not each.strip().startswith("font-family")]
    text = ";".join(re.sub(r":\s+", ":", each) for each in kept)
    return re.sub(r"#0\d0\d0\d\b", lambda found: f"var(--{_VARIABLES.get(found[0], 'ink')})", text)


def _prefix_ids(root: ElementTree.Element, key: str) -> None:
    """Keep only the ids that something refers to, made unique on the page."""
    elements = list(root.iter())
    used = {each.attrib["href"][1:] for each in elements if each.attrib.get("href", "").startswith("#")}
    used |= {each.attrib["clip-path"][5:-1] for each in elements if "clip-path" in each.attrib}
    for element in elements:
        name = element.attrib.pop("id", None)
        if name in used:
            element.attrib["id"] = f"{key}-{name}"
        if element.attrib.get("href", "").startswith("#"):
            element.attrib["href"] = f"#{key}-{element.attrib['href'][1:]}"
        if "clip-path" in element.attrib:
            element.attrib["clip-path"] = f"url(#{key}-{element.attrib['clip-path'][5:-1]})"
        if element.tag == "image":
            encoded = element.attrib["href"].replace(" ", "")
            element.attrib["href"] = encoded
