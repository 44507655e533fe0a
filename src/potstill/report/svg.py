"""matplotlib -> SVG that lives inside a page: coloured by the page's CSS, labelled for screen readers, no addresses."""

from __future__ import annotations

import contextlib
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from potstill.report.words import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stand for the page's variables: the SVG follows its light and dark mode.
INK, QUIET, FAINT, TEACHER, STUDENT, CONTROL, PAPER = (f"#01020{i}" for i in range(1, 8))
VARIABLES = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    FAINT: "var(--faint)",
    TEACHER: "var(--teacher)",
    STUDENT: "var(--student)",
    CONTROL: "var(--control)",
    PAPER: "var(--paper)",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "potstill",  # the same run gives the same page
    "text.parse_math": False,  # a class may be called "$x$"
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.wspace": 0.05,
    "figure.constrained_layout.hspace": 0.06,
}
COLOURS = {"teacher": TEACHER, "student": STUDENT, "control": CONTROL}
NAMES = {"teacher": "teacher", "student": "student", "control": "alone"}
MARKERS = {"teacher": "s", "student": "o", "control": "D"}
WIDTH = 720  # CSS pixels, as drawn
NARROWEST = 520  # below, letters are too small: the page scrolls the figure sideways
SHOWN_SEEDS = 20
FONT = re.compile(r"font: (?:(\d+) )?([\d.]+)px [^;]*")  # the reader's own font stands for the family
NUMERIC = {"d", "x", "y", "width", "height", "transform"}
LINK = "{http://www.w3.org/1999/xlink}href"


def figure(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """A figure of so many CSS pixels and its axes; ``squeeze=False``. Draw inside :func:`style`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", frameon=False)
    FigureCanvasSVG(drawn)
    return drawn, drawn.subplots(squeeze=False, **subplots)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The settings in which the figures of the page are drawn: the user's own neither reach them nor are changed."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = mpl.rcParams  # its keys are literals to mypy
        settings.update(STYLE)
        yield


def log_scale(ax: Any, which: str) -> None:
    """A logarithmic ``x`` or ``y`` with plain numbers: matplotlib's own are formulas, which :data:`STYLE` turns off."""
    from matplotlib.ticker import LogLocator

    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(lambda x, _: f"{x:g}" if high < 1e4 * low else "")


def inline(drawn: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page.

    Args:
        name: a word that no other figure of the page has: its ids begin with it.
        title, description: what a screen reader says: what is shown, and what is to be seen in it.
    """
    file = io.BytesIO()
    drawn.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ET.fromstring(file.getvalue())
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', file.getvalue().decode()))
    for parent in root.iter():
        for child in [c for c in parent if c.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)  # the style would reach the whole page, the metadata holds addresses
    for element in root.iter():
        _adopt(element, name, used)
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "style": f"max-width:{width:.0f}px;min-width:{min(width, NARROWEST):.0f}px",
    }
    for tag, words in (("desc", description), ("title", title)):
        label = ET.Element(tag, {"id": f"{name}-{tag}"})
        label.text = clean(words, 2000)
        root.insert(0, label)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _adopt(element: ET.Element, name: str, used: set[str]) -> None:
    """Take the namespaces off (HTML has none), keep only ids that something points to, made the figure's own."""
    element.tag = element.tag.rpartition("}")[2]
    if (target := element.attrib.pop(LINK, None)) is not None:
        element.set("href", f"#{name}-{target.removeprefix('#')}")
    if (identity := element.attrib.pop("id", None)) in used:
        element.set("id", f"{name}-{identity}")
    for key, value in element.attrib.items():
        value = value.replace("url(#", f"url(#{name}-")
        if key == "style":
            value = re.sub(r"#01020\d", lambda m: VARIABLES[m[0]], value)
            value = FONT.sub(lambda m: f"font-weight: {m[1] or 400}; font-size: {m[2]}px", value)
        elif key in NUMERIC:
            value = re.sub(r"(\d+\.\d)\d+", r"\1", value)
        element.set(key, re.sub(r"\s+", " ", value).strip())
    if element.text and not element.text.strip():
        element.text = None
    if element.tail:
        element.tail = element.tail.strip() or None
