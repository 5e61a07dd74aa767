"""What every drawing of the page is made of: elements, text cut to its room, numbers for axes.

A drawing is a tree of ElementTree's elements: a string of a record can become text in it, never markup. It stands
inside HTML, where SVG needs no namespace. Colours, dashes and fonts are the page's style sheet's alone, by class.

A drawing is one image to a screen reader (``role="img"``), named by its <title> and told by its <desc>.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from netns_tw.report.escape import escaped

CELL = 6.7
"""The width of a cell of the style sheet's 11 px monospaced font, in px; the widest in common use has 0.61 em."""
WIDTH = 920.0
"""Of the page's drawings, in px of their own."""


@dataclass(frozen=True)
class Drawing:
    """A finished drawing; a template takes it as markup."""

    svg: str

    def __html__(self) -> str:
        return self.svg


def element(parent: Element | None, tag: str, text: str = "", **attributes: str | float) -> Element:
    """A new element below *parent*; a trailing or inner ``_`` of an attribute's name is none or a ``-``."""
    named = {name.rstrip("_").replace("_", "-"): _value(value) for name, value in attributes.items()}
    found = Element(tag, named) if parent is None else ElementTree.SubElement(parent, tag, named)
    if text:
        found.text = escaped(text)
    return found


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A coordinate, to a tenth of a px."""
    return f"{value:.1f}".removesuffix(".0")


def picture(identity: str, title: str, description: str, height: float, width: float = WIDTH) -> Element:
    """The root of a drawing; *identity* is unique on the page."""
    root = element(
        None,
        "svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{identity}-title",
        aria_describedby=f"{identity}-desc",
        class_="drawing",
    )
    element(root, "title", title, id=f"{identity}-title")
    element(root, "desc", description, id=f"{identity}-desc")
    return root


def finished(root: Element) -> Drawing:
    """The drawing whose root is *root*."""
    return Drawing(ElementTree.tostring(root, encoding="unicode"))


def cells(text: str) -> int:
    """How many cells of a monospaced font *text* takes; the letters of East Asia take two."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, room: float) -> str:
    """*text* cut to *room* px of the style sheet's 11 px monospaced font; empty where not even one letter fits."""
    shown = escaped(text.replace("\n", " ")[:1000])
    most = int(room / CELL)
    if cells(shown) <= most:
        return shown
    while shown and cells(shown) >= most:
        shown = shown[:-1]
    return f"{shown}…" if shown else ""


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from *low* to *high*, at most *most* and two, one of 1, 2, 5 x 10^k apart."""
    step = round_up((high - low) / most)
    if not step:
        return [low]
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, first + most + 2) if index * step <= high * (1 + 1e-12)]


def round_up(value: float) -> float:
    """The least of 1, 2, 5 x 10^k that is not below *value*; 0 for what is not above it."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= value * (1 - 1e-9)), 10 * power)
