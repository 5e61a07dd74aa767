"""Charts of step functions over time, drawn by pygal: lines without dots, static, no script and no style of their own.

What pygal draws is kept (the lines, the guides); its scripts, styles, comments and ids are not: a page has one style
sheet, whose custom properties turn light and dark, and no script. Its own margins are undone, so that all charts of a
run have the same time axis (timeaxis.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pygal

from netns_tw.report import stepfunction, svg
from netns_tw.report.stepfunction import Points
from netns_tw.report.svg import Drawing
from netns_tw.report.timeaxis import BOTTOM, LEFT, PLOT, RIGHT, TOP, TimeAxis

# On Python 3.11 this finder of pygal's, for plugins that draw maps, turns each import that fails into an ImportWarning.
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != "pygal"]

HEIGHT = 120.0
"""Of a plot, in px."""
MOST_ROWS = 30
"""Rows of a chart's table."""
_PYGAL_MARGIN = 0.02
"""Pygal widens a plot by this share of itself on each side (pygal.view.Box.margin)."""
_LABEL_CELLS = 7
_LABEL_PX = 10.0
_SPACING = 10
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_DIGITS = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Series:
    """One step function of a chart."""

    name: str
    points: Points
    kind: str = "other"
    """What it counts, which gives its colour: time-wait, established, free, good, bad or other."""


@dataclass(frozen=True)
class Key:
    """A line of a chart's legend."""

    name: str
    style: str
    """The classes of its line: colour and dashes."""
    most: int
    last: int


@dataclass(frozen=True)
class Chart:
    """A chart, its legend, and its numbers as a table."""

    title: str
    drawing: Drawing
    keys: list[Key]
    rows: list[tuple[str, list[str]]]
    """Seconds, and the value of each series from then on."""
    moments: int
    """How many moments there are; the table shows the first, the last, and evenly picked ones."""
    unit: str = "Seconds"
    """Of the rows."""


def chart(identity: str, title: str, axis: TimeAxis, series: Sequence[Series]) -> Chart | None:
    """Draw step functions over one time axis; None where there is nothing to draw. *identity* is unique on the page."""
    cropped = [stepfunction.within(one.points, axis.began_ms, axis.ended_ms) for one in series]
    found = [(one, points) for one, points in zip(series, cropped, strict=True) if points]
    if not found:
        return None
    kinds: dict[str, int] = {}
    keys = []
    for one, points in found:
        kinds[one.kind] = kinds.get(one.kind, 0) + 1
        style = f"series {one.kind} dash{(kinds[one.kind] - 1) % 4}"
        keys.append(Key(one.name, style, max(value for _, value in points), points[-1][1]))
    top = _top(max(key.most for key in keys))
    root = _framed(identity, title, axis, keys)
    plot = svg.element(root, "g", transform=f"translate({svg.number(LEFT)} {svg.number(TOP)})", class_="plot")
    axis.draw_scale(plot, HEIGHT, is_guided=True)
    lines = [stepfunction.corners(stepfunction.thinned(points), axis.ended_ms) for _, points in found]
    _plotted(plot, axis, top, list(zip(keys, lines, strict=True)))
    axis.draw_marks(plot, HEIGHT)
    times, count = stepfunction.moments([points for _, points in found], MOST_ROWS)
    rows = [(axis.seconds(at), [_shown(stepfunction.value_at(points, at)) for _, points in found]) for at in times]
    return Chart(title, svg.finished(root), keys, rows, count, axis.unit)


def _framed(identity: str, title: str, axis: TimeAxis, keys: Sequence[Key]) -> Element:
    words = "; ".join(f"{key.name}: at most {key.most:,}, at the end {key.last:,}" for key in keys)
    told = f"Lines over {axis.extent}. {words}. {axis.words}"
    return svg.picture(identity, title, told, TOP + HEIGHT + BOTTOM)


def _shown(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _top(most: int) -> float:
    """The end of the scale of values: a round number that is not below *most*."""
    values = svg.ticks(0, max(1, most), 4)
    step = values[1] if len(values) > 1 else 1.0
    return values[-1] if values[-1] >= most else values[-1] + step


def _plotted(plot: Element, axis: TimeAxis, top: float, lines: Sequence[tuple[Key, Points]]) -> None:
    """Have pygal draw *lines* into *plot*, from 0 to *top*."""
    width, began = axis.width_ms, axis.began_ms
    drawn = pygal.XY(
        width=LEFT + PLOT + RIGHT,
        height=TOP + HEIGHT + BOTTOM,
        js=[],
        css=[],
        classes=[],
        show_legend=False,
        show_dots=False,
        show_x_labels=False,
        margin_left=LEFT - _SPACING - _LABEL_CELLS * 0.6 * _LABEL_PX,
        margin_right=RIGHT,
        margin_top=TOP,
        margin_bottom=BOTTOM,
        xrange=_inner(0.0, width),
        range=(0.0, top),
        disable_xml_declaration=True,
    )
    values = [value for value in svg.ticks(0, top, 4) if value == int(value)]
    drawn.y_labels = [{"value": value, "label": _short(value).rjust(_LABEL_CELLS)} for value in values]
    for key, points in lines:
        drawn.add(key.style, [(at - began, value) for at, value in points])
    tree = ElementTree.fromstring(drawn.render(is_unicode=True))
    found = next(one for one in tree.iter(f"{_NAMESPACE}g") if one.get("class") == "plot")
    for group in found:
        if "axis y" in group.get("class", ""):
            _copy_guides(plot, group)
        elif "series" in group.get("class", ""):
            index = int(re.findall(r"serie-(\d+)", group.get("class", ""))[0])
            for line in group.iter(f"{_NAMESPACE}path"):
                svg.element(plot, "path", d=_rounded(line.get("d", "")), class_=lines[index][0].style)


def _copy_guides(plot: Element, group: Element) -> None:
    for one in group.iter():
        if one.tag == f"{_NAMESPACE}path":
            svg.element(plot, "path", d=_rounded(one.get("d", "")), class_="guide")
        elif one.tag == f"{_NAMESPACE}text":
            at = {"x": float(one.get("x", 0)), "y": float(one.get("y", 0))}
            svg.element(plot, "text", (one.text or "").strip(), **at, class_="tick-y")


def _inner(low: float, high: float) -> tuple[float, float]:
    """The range that pygal widens to *low* to *high*."""
    width = high - low
    inset = width * _PYGAL_MARGIN / (1 + 2 * _PYGAL_MARGIN)
    return low + inset, high - inset


def _short(value: float) -> str:
    """A value of the scale, in at most seven letters."""
    if value < 1e6:
        return f"{value:,.0f}"
    return f"{value:.0e}".replace("e+", "e")


def _rounded(path: str) -> str:
    return _DIGITS.sub(lambda one: svg.number(float(one[0])), path)
