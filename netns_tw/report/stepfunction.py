"""Step functions: a value that holds until the next point.

They are thinned without changing their shape: points that do not change the value say nothing and go; of what is
still too many, each slice of time keeps its first and last value and its extremes, so no peak and no dip is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Points = Sequence[tuple[float, int]]
"""(ms, value), in the order of their times."""
MOST = 400
"""Points that are drawn of one series."""
_KEPT = 4


def within(points: Points, began: float, ended: float) -> list[tuple[float, int]]:
    """The part from *began* to *ended*, changes only; its first point says what held when it began."""
    found: list[tuple[float, int]] = []
    for at, value in sorted(points, key=lambda one: one[0]):
        if at > ended:
            break
        if at <= began:
            found = [(began, value)]
        elif not found or found[-1][1] != value:
            found.append((at, value))
    return found


def thinned(points: Points, most: int = MOST) -> list[tuple[float, int]]:
    """At most *most* of the *points*: the first and last value of each slice of time, and its extremes."""
    if len(points) <= most:
        return list(points)
    slices = max(1, most // _KEPT)
    began, width = points[0][0], (points[-1][0] - points[0][0]) / slices
    found: list[tuple[float, int]] = []
    rest = list(points)
    while rest:
        number = min(slices - 1, int((rest[0][0] - began) / width)) if width else slices - 1
        until = began + (number + 1) * width
        count = next((index for index, one in enumerate(rest) if one[0] >= until), len(rest))
        count = len(rest) if number == slices - 1 else max(1, count)
        found += _telling(rest[:count])
        rest = rest[count:]
    return found


def _telling(points: Points) -> list[tuple[float, int]]:
    """First, last, lowest and highest of some points, in their order and each once."""
    indices = range(len(points))
    low = min(indices, key=lambda index: points[index][1])
    high = max(indices, key=lambda index: points[index][1])
    return [points[index] for index in sorted({0, low, high, len(points) - 1})]


def value_at(points: Points, at: float) -> int | None:
    """What holds at a time; None before the first point."""
    found = None
    for when, value in points:
        if when > at:
            break
        found = value
    return found


def corners(points: Points, ended: float) -> list[tuple[float, int]]:
    """The points of the line that draws the function up to *ended*: two at each step."""
    found: list[tuple[float, int]] = []
    for at, value in points:
        if found:
            found.append((at, found[-1][1]))
        found.append((at, value))
    return [*found, (ended, found[-1][1])] if found else []


def moments(series: Iterable[Points], most: int) -> tuple[list[float], int]:
    """At most *most* of the times at which any of the *series* changes, evenly picked, and how many there are."""
    found = sorted({at for points in series for at, _ in points})
    if len(found) <= most:
        return found, len(found)
    picked = {found[round(index * (len(found) - 1) / (most - 1))] for index in range(most)}
    return sorted(picked), len(found)
