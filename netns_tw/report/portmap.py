"""A port map: what each ephemeral port of a node was doing, over time, towards one destination.

Up to 64 ports have a row each. A wider range is drawn in bands of equally many ports: the height of a band's filling
is the share of its ports that were busy. Of a range wider than 4096 only the used ports are known; it is one band,
and the height is their number, because a share of 28 thousand would show nothing.

A connection that lasted a millisecond would be too narrow to see, so nothing is drawn narrower than a px and a half.
States differ by pattern and height, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from netns_tw.evidence.portmap import Interval, PortMap
from netns_tw.report import stepfunction, svg
from netns_tw.report.svg import Drawing, number
from netns_tw.report.timeaxis import BOTTOM, LEFT, PLOT, TOP, TimeAxis

MOST_PORTS = 64
"""Ports that have a row each."""
KNOWN_WIDTH = 4096
"""Of a wider range only the used ports are known."""
BANDS = 32
BAND_HEIGHT, ALL_HEIGHT = 26.0, 96.0
NARROWEST = 1.5
"""Px."""
ESTABLISHED, TIME_WAIT = "established", "time-wait"
KINDS = ("established", "time-wait", "closing", "reused", "unusable")
"""What is told apart: an open connection, TIME_WAIT, any other state, a port taken over out of TIME_WAIT, and ports
that connect() never takes."""


@dataclass(frozen=True)
class Map:
    """A port map, its legend, and its numbers as a table."""

    title: str
    drawing: Drawing
    kinds: list[str]
    """Those of KINDS that it shows."""
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    """What one row is, where it is not one port."""


@dataclass(frozen=True)
class _Row:
    """Some neighbouring ports and all their intervals."""

    first: int
    last: int
    ports: list[list[Interval]]

    @property
    def name(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def intervals(self) -> list[Interval]:
        return [one for port in self.ports for one in port]


def port_map(identity: str, found: PortMap, axis: TimeAxis) -> Map:
    """Draw one port map; *identity* is unique on the page."""
    width = found.high - found.low + 1
    title = f"{found.node}: local ports {found.low}-{found.high} towards {found.remote}"
    if width <= MOST_PORTS:
        rows = [_Row(port, port, [_seen(found, port, axis)]) for port in range(found.low, found.high + 1)]
        return _drawn(identity, title, found, axis, rows)
    if width <= KNOWN_WIDTH:
        rows = _bands(found, axis, width)
        each = rows[0].last - rows[0].first + 1
        note = f"Each band is {each} ports; its filling is the share of them that are busy."
        return _drawn(identity, title, found, axis, rows, note)
    used = [_seen(found, port, axis) for port in sorted(found.ports)]
    row = _Row(found.low, found.high, [one for one in used if one])
    note = f"{len(row.ports):,} of {width:,} ports were used; the height is how many were busy at once."
    return _drawn(identity, title, found, axis, [row], note)


def waiting(found: PortMap) -> list[tuple[float, int]]:
    """How many of the ports were in TIME_WAIT, as a step function: exact, because each began with its timer."""
    row = _Row(found.low, found.high, [_lasting(one, found) for one in found.ports.values()])
    return [(-math.inf, 0), *_busy(row, (TIME_WAIT,))]


def _lasting(intervals: Iterable[Interval], found: PortMap) -> list[Interval]:
    """The intervals of one port; what was there at the last look goes on beyond it."""
    return [replace(one, to_ms=math.inf) if one.to_ms >= found.ended_ms else one for one in intervals]


def _seen(found: PortMap, port: int, axis: TimeAxis) -> list[Interval]:
    """The intervals of one port that touch the axis."""
    every = _lasting(found.ports.get(port, ()), found)
    return [one for one in every if one.to_ms >= axis.began_ms and one.from_ms <= axis.ended_ms]


def _bands(found: PortMap, axis: TimeAxis, width: int) -> list[_Row]:
    each = -(-width // BANDS)
    rows = []
    for first in range(found.low, found.high + 1, each):
        last = min(found.high, first + each - 1)
        ports = [_seen(found, port, axis) for port in range(first, last + 1)]
        rows.append(_Row(first, last, ports))
    return rows


def _drawn(identity: str, title: str, found: PortMap, axis: TimeAxis, rows: Sequence[_Row], note: str = "") -> Map:
    is_single = not note
    height_of_row = _row_height(len(rows)) if is_single else BAND_HEIGHT if len(rows) > 1 else ALL_HEIGHT
    height = height_of_row * len(rows)
    kinds = _kinds(rows, found if is_single else None)
    root = svg.picture(identity, title, _told(rows, axis, note), TOP + height + BOTTOM)
    plot = svg.element(root, "g", transform=f"translate({number(LEFT)} {number(TOP)})", class_="plot")
    for index, row in enumerate(rows):
        group = svg.element(plot, "g", transform=f"translate(0 {number(index * height_of_row)})")
        if is_single:
            _draw_port(group, row, axis, height_of_row, row.first in found.unusable)
        else:
            full = max(1, _most_at_once(row)) if len(rows) == 1 else len(row.ports)
            _draw_band(group, row, axis, height_of_row, full, row.name if len(rows) > 1 else f"{full:,}")
    axis.draw_scale(plot, height, is_guided=False)
    axis.draw_marks(plot, height)
    columns = ["port" if is_single else "ports", "connections", "of these on a port in TIME_WAIT", "at the end"]
    table = [_numbers(row, axis, found.unusable if is_single else frozenset()) for row in rows]
    return Map(title, svg.finished(root), kinds, columns, table, note)


def _row_height(count: int) -> float:
    return 18.0 if count <= 16 else 14.0 if count <= 32 else 12.0


def _kind(one: Interval) -> str:
    return one.state if one.state in (ESTABLISHED, TIME_WAIT) else "closing"


def _kinds(rows: Sequence[_Row], found: PortMap | None) -> list[str]:
    """What the drawing shows; flags and unusable ports only where each port has a row (*found*)."""
    shown = {_kind(one) for row in rows for one in row.intervals}
    if found is not None and any(one.reused for row in rows for one in row.intervals):
        shown.add("reused")
    if found is not None and found.unusable & set(range(found.low, found.high + 1)):
        shown.add("unusable")
    return [one for one in KINDS if one in shown]


def _told(rows: Sequence[_Row], axis: TimeAxis, note: str) -> str:
    """The drawing in words."""
    used = sum(bool(port) for row in rows for port in row.ports)
    reused = sum(one.reused for row in rows for one in row.intervals)
    waiting = sum(_state_at(port, axis.ended_ms) == TIME_WAIT for row in rows for port in row.ports)
    told = f"{used:,} ports were used, {reused:,} times out of TIME_WAIT; at the end {waiting:,} are in TIME_WAIT."
    return f"{note} {told} {axis.words}".strip()


def _state_at(port: Sequence[Interval], at: float) -> str:
    """The state of a port at a time; ``free`` where it has none."""
    return next((one.state for one in reversed(port) if one.from_ms <= at <= one.to_ms), "free")


def _connections(port: Sequence[Interval]) -> int:
    """How many connections a port had: one begins where the port was free or is taken over, or after a TIME_WAIT."""
    count = 0
    before: Interval | None = None
    for one in port:
        follows = before is not None and before.to_ms >= one.from_ms and before.state != TIME_WAIT
        count += one.reused or not follows
        before = one
    return count


def _numbers(row: _Row, axis: TimeAxis, unusable: frozenset[int]) -> list[str]:
    states: dict[str, int] = {}
    for port in row.ports:
        state = _state_at(port, axis.ended_ms)
        states[state] = states.get(state, 0) + 1
    rest = row.last - row.first + 1 - len(row.ports)
    if rest:
        states["free"] = states.get("free", 0) + rest
    words = ", ".join(state if row.first == row.last else f"{count:,} {state}" for state, count in states.items())
    if row.first == row.last and row.first in unusable:
        words = "never taken" if words == "free" else f"{words}, never taken by connect()"
    connections = sum(map(_connections, row.ports))
    return [row.name, f"{connections:,}", f"{sum(one.reused for one in row.intervals):,}", words]


def _draw_port(group: Element, row: _Row, axis: TimeAxis, height: float, is_unusable: bool) -> None:
    """One row: hatched TIME_WAIT, solid connections over it, a flag where a port was taken out of TIME_WAIT."""
    svg.element(group, "text", row.name, x=-6, y=height / 2 + 4, class_="port")
    svg.element(group, "rect", x=0, y=1, width=PLOT, height=height - 2, class_="unusable" if is_unusable else "free")
    inset = {TIME_WAIT: 3.0, "closing": 4.0, ESTABLISHED: 1.5}
    for kind, above in inset.items():
        bars = [_bar(one, axis) for one in row.intervals if _kind(one) == kind]
        path = "".join(
            f"M{number(x)} {number(above)}h{number(width)}v{number(height - 2 * above)}h{number(-width)}z"
            for x, width in _merged(bars)
        )
        if path:
            svg.element(group, "path", d=path, class_=kind)
    flags = sorted({round(axis.x(one.from_ms)) for one in row.intervals if one.reused})
    if flags:
        path = "".join(f"M{x} 0v{number(height)}m0 {number(-height)}l5 3l-5 3z" for x in flags)
        svg.element(group, "path", d=path, class_="reused")


def _bar(one: Interval, axis: TimeAxis) -> tuple[float, float]:
    left, right = axis.x(one.from_ms), axis.x(one.to_ms)
    return min(left, PLOT - NARROWEST), max(NARROWEST, right - left)


def _merged(bars: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bars so near to each other that no gap would be seen, as one: at most some hundred in a row."""
    found: list[tuple[float, float]] = []
    for left, width in sorted(bars):
        if found and left - sum(found[-1]) < NARROWEST:
            begin = found[-1][0]
            found[-1] = begin, max(found[-1][1], left + width - begin)
        else:
            found.append((left, width))
    return found


def _busy(row: _Row, kinds: Sequence[str]) -> list[tuple[float, int]]:
    """How many of the row's ports were in one of some states, as a step function."""
    edges: dict[float, int] = {}
    for one in row.intervals:
        if _kind(one) in kinds:
            edges[one.from_ms] = edges.get(one.from_ms, 0) + 1
            edges[one.to_ms] = edges.get(one.to_ms, 0) - 1
    count, points = 0, []
    for at in sorted(edges):
        count += edges[at]
        points.append((at, count))
    return points


def _most_at_once(row: _Row) -> int:
    return max((count for _, count in _busy(row, (TIME_WAIT, ESTABLISHED, "closing"))), default=0)


def _draw_band(group: Element, row: _Row, axis: TimeAxis, height: float, full: int, name: str) -> None:
    """One band: a filling as high as the part of *full* that is busy, the open ones solid at its foot."""
    svg.element(group, "rect", x=0, y=1, width=PLOT, height=height - 2, class_="free")
    svg.element(group, "text", name, x=-6, y=height / 2 + 4 if height < ALL_HEIGHT else 9, class_="port")
    foot = height - 1
    if height >= ALL_HEIGHT:
        svg.element(group, "text", "0", x=-6, y=foot, class_="port")
    for kinds, style in (((TIME_WAIT, ESTABLISHED, "closing"), TIME_WAIT), ((ESTABLISHED, "closing"), ESTABLISHED)):
        points = stepfunction.within([(axis.began_ms, 0), *_busy(row, kinds)], axis.began_ms, axis.ended_ms)
        if any(count for _, count in points):
            line = stepfunction.corners(stepfunction.thinned(points), axis.ended_ms)
            path = " ".join(f"{number(axis.x(at))} {number(foot - (height - 2) * count / full)}" for at, count in line)
            end = f"{number(axis.x(axis.ended_ms))} {number(foot)}"
            svg.element(group, "path", d=f"M0 {number(foot)}L{path} {end}z", class_=style)
