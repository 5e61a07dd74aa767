"""Which curves of a run are drawn, and which of them share a chart.

Sockets in TIME_WAIT, towards or from each peer, and free ports, node by node; before them the responses. Where a node
opened the connections its TIME_WAITs are counted from the port map, whose timers say to the jiffy when each began;
elsewhere as often as the sockets were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from netns_tw.evidence.case import Case
from netns_tw.evidence.cost import connect_curve
from netns_tw.evidence.timeline import NodeTimeline, Timeline
from netns_tw.report import charts, portmap
from netns_tw.report.charts import Chart, Series
from netns_tw.report.timeaxis import PERCENT, FillAxis, TimeAxis

MOST_OUTCOMES = 6
"""Outcomes that have a line of their own in the chart of responses."""
CONNECTS = "connect(), median in microseconds, by how many connections were made before"
COLOURS = ("bad", "good", "time-wait", "other")
FAR_APART = 20
"""Curves whose greatest values differ more than this have a chart each."""


def has_waited(node: NodeTimeline) -> bool:
    """Whether *node* ever had a TIME_WAIT."""
    return any(value for points in (node.total, *node.time_wait.values()) for _, value in points)


def draw(anchor: str, case: Case, curves: Timeline, axis: TimeAxis) -> list[Chart]:
    """Responses, then node by node what was in TIME_WAIT and which ports were free."""
    wanted: list[tuple[str, list[Series]]] = [("Responses so far, by outcome", _outcomes(curves))]
    for node in curves.nodes:
        exact = {one.remote: portmap.waiting(one) for one in case.port_maps if one.node == node.node}
        peers = {peer: exact.get(peer, points) for peer, points in node.time_wait.items()}
        found = [Series(f"TIME_WAIT {_towards(peer)}", points, "time-wait") for peer, points in peers.items()]
        if len(found) != 1:
            found.append(Series("TIME_WAIT in all (sockstat)", node.total, "other"))
        moving = [one for one in found if any(value for _, value in one.points)]
        wanted += [(f"{node.node}: sockets in TIME_WAIT", group) for group in _alike(moving)]
        free = [Series(f"free towards {remote}", points, "free") for remote, points in node.free_ports.items()]
        if free:
            wanted.append((f"{node.node}: free ports", free))
    drawn = (
        charts.chart(f"{anchor}-chart-{index}", title, axis, series) for index, (title, series) in enumerate(wanted)
    )
    found_connects = charts.chart(f"{anchor}-chart-connect", CONNECTS, FillAxis(), _connects(case))
    return [one for one in (found_connects, *drawn) if one is not None]


def _connects(case: Case) -> list[Series]:
    """The median of connect() of every step that made bare connections, batch by batch."""
    found: list[Series] = []
    for number, step in enumerate(case.experiment.steps):
        points = [(at * PERCENT, round(us)) for at, us in connect_curve(case.record, number)]
        if points:
            found.append(Series(step.name, points, COLOURS[len(found) % len(COLOURS)]))
    return found


def _towards(peer: str) -> str:
    return peer if peer.startswith("from ") else f"towards {peer}"


def _alike(series: Sequence[Series]) -> list[list[Series]]:
    """Curves that can share a scale, in one group; each alone where they are too far apart."""
    tops = [max(value for _, value in one.points) for one in series]
    if tops and max(tops) > FAR_APART * min(tops):
        return [[one] for one in series]
    return [list(series)] if series else []


def _outcomes(curves: Timeline) -> list[Series]:
    """Responses by outcome, the most frequent ones; the others together."""
    order = sorted(curves.responses.items(), key=lambda one: -one[1][-1][1] if one[1] else 0)
    found = [Series(word, points, _kind(word)) for word, points in order[:MOST_OUTCOMES]]
    rest = sorted(at for _, points in order[MOST_OUTCOMES:] for at, _ in points)
    if rest:
        count = len(order) - MOST_OUTCOMES
        found.append(Series(f"{count} other outcomes", [(at, index) for index, at in enumerate(rest, 1)]))
    return found


def _kind(word: str) -> str:
    return "good" if word.isdecimal() and int(word) < 500 else "bad"
