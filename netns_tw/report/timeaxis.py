"""The time axis that all charts and port maps of one run share, with its steps and the moment of exhaustion.

One geometry for all, so that what lies below each other happened at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from netns_tw.report.svg import CELL, WIDTH, cells, cut, element, number, ticks

LEFT, RIGHT = 64.0, 14.0
"""Px beside the plot; labels of rows and values stand to the left."""
PLOT = WIDTH - LEFT - RIGHT
"""Width of the plot, in px."""
TOP, BOTTOM = 40.0, 24.0
"""Px above the plot, for the names of steps and the mark of exhaustion, and below it, for the scale."""
MOST_TICKS = 10
MOST_STEPS = 40
"""More steps than these are not marked."""
SHORTEST_MS = 1.0


@dataclass(frozen=True)
class Span:
    """A step's name and its bounds, in ms."""

    name: str
    began_ms: float
    ended_ms: float


@dataclass(frozen=True)
class TimeAxis:
    """From *began_ms* to *ended_ms*, in ms of the record; shown are seconds since *began_ms*."""

    began_ms: float
    ended_ms: float
    steps: Sequence[Span] = ()
    exhausted_ms: float | None = None

    @property
    def width_ms(self) -> float:
        return max(SHORTEST_MS, self.ended_ms - self.began_ms)

    def x(self, ms: float) -> float:
        """Where a time lies inside the plot, in px; times outside lie on its edges."""
        return min(PLOT, max(0.0, (ms - self.began_ms) / self.width_ms * PLOT))

    def seconds(self, ms: float) -> str:
        """A time as it is shown: seconds since the axis begins."""
        return f"{(ms - self.began_ms) / 1000:,.3f}"

    def labels(self) -> list[tuple[str, float]]:
        """The scale: its words and their times in ms."""
        width_s = self.width_ms / 1000
        found = ticks(0.0, width_s, MOST_TICKS)
        step = found[1] if len(found) > 1 else 1.0
        digits = max(0, len(f"{step:.6f}".rstrip("0").split(".")[1]))
        return [(f"{one:,.{digits}f} s", self.began_ms + one * 1000) for one in found]

    @property
    def unit(self) -> str:
        """What ``seconds`` shows."""
        return "Seconds"

    @property
    def extent(self) -> str:
        """All of it in words."""
        return f"{self.width_ms / 1000:,.3f} s"

    @property
    def words(self) -> str:
        """The steps and the moment of exhaustion, for those who do not see the marks."""
        parts = [
            f"Step {index}, {one.name}, from {self.seconds(one.began_ms)} s to {self.seconds(one.ended_ms)} s."
            for index, one in enumerate(self.steps[:MOST_STEPS], 1)
        ]
        if self.exhausted_ms is not None:
            parts.append(f"Ports exhausted at {self.seconds(self.exhausted_ms)} s.")
        return " ".join(parts)

    def draw_scale(self, plot: Element, height: float, is_guided: bool) -> None:
        """Draw the scale below a plot of *height* px, with a vertical line at each value where *is_guided*."""
        for words, ms in self.labels():
            x = self.x(ms)
            mark = height if is_guided else 5
            element(plot, "path", d=f"M{number(x)} {number(height)}v{number(-mark)}", class_="guide")
            element(plot, "text", words, x=x, y=height + 16, class_="tick-x")

    def draw_marks(self, plot: Element, height: float) -> None:
        """Draw the bounds and names of the steps and the moment of exhaustion over a plot of *height* px."""
        for index, one in enumerate(self.steps[:MOST_STEPS]):
            self._draw_step(plot, height, index, one)
        if self.exhausted_ms is None:
            return
        x = self.x(self.exhausted_ms)
        words = f"ports exhausted at {self.seconds(self.exhausted_ms)} s"
        is_left = x + (cells(words) + 2) * CELL > PLOT
        element(plot, "path", d=f"M{number(x)} -6V{number(height)}", class_="exhausted")
        element(plot, "path", d=f"M{number(x - 5)} -13h10l-5 8z", class_="exhausted-point")
        shift, end = (-8, " end") if is_left else (8, "")
        element(plot, "text", words, x=x + shift, y=-6, class_=f"exhausted-words{end}")

    def _draw_step(self, plot: Element, height: float, index: int, one: Span) -> None:
        left, right = self.x(one.began_ms), self.x(one.ended_ms)
        band = f"step{' even' if index % 2 else ''}"
        element(plot, "rect", x=left, y=-TOP + 4, width=max(1.0, right - left), height=15, class_=band)
        element(plot, "path", d=f"M{number(left)} {number(-TOP + 4)}V{number(height)}", class_="bound")
        element(plot, "path", d=f"M{number(right)} {number(-TOP + 4)}V{number(height)}", class_="bound")
        room = right - left - 8
        words = cut(f"{index + 1} {one.name}", room)
        if cells(words) < 3:
            words = cut(str(index + 1), room)
        element(plot, "text", words, x=left + 4, y=-TOP + 15, class_="step-words")


PERCENT = 1000.0
"""A per cent of a step on a FillAxis, which counts as a TimeAxis counts ms."""


@dataclass(frozen=True)
class FillAxis(TimeAxis):
    """From the first connection of a step to its last, in per cent of them."""

    began_ms: float = 0.0
    ended_ms: float = 100 * PERCENT

    def seconds(self, ms: float) -> str:
        return f"{ms / PERCENT:.0f}"

    def labels(self) -> list[tuple[str, float]]:
        return [(f"{one} %", one * PERCENT) for one in range(0, 101, 10)]

    @property
    def unit(self) -> str:
        return "Per cent of the connections"

    @property
    def extent(self) -> str:
        return "the connections of a step, in per cent"
