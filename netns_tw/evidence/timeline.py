"""A record as curves: what there was at each moment, on every node, with one zero for all.

Each curve is a step function: a value holds until the next point. TIME_WAIT towards a peer and free ports change where
sockets were looked at (a dump, a snapshot) or where a TIME_WAIT is known to have begun; gauges and counters where they
were sampled; responses where they came.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from netns_tw.evidence.case import Case
from netns_tw.evidence.portmap import WIDEST, PortMap
from netns_tw.evidence.traffic import TIME_WAIT
from netns_tw.model.lines import Row, Sample, Snapshot
from netns_tw.model.record import Record
from netns_tw.model.topology import Listen

Points = list[tuple[float, int]]
"""(ms since the record's zero, value); the value holds until the next point."""
COUNTERS = ("TW", "TWRecycled", "TCPTimeWaitOverflow", "ActiveOpens", "PassiveOpens", "RetransSegs")


@dataclass(frozen=True)
class NodeTimeline:
    """One node's curves."""

    node: str
    time_wait: dict[str, Points]
    """By peer: ``198.18.2.2:80`` where the node opened, ``from 198.18.1.2`` where it accepted."""
    total: Points
    """sockstat's tw."""
    established: Points
    """Connections of the node that have not been closed (TcpCurrEstab)."""
    free_ports: dict[str, Points]
    """By remote, of the ports that connect() can find there; empty where the range is wider than 4096."""
    counters: dict[str, Points]
    """Growth since the first look, by nstat's name without its prefix; only those that moved."""


@dataclass(frozen=True)
class Timeline:
    """All curves of a record, and the moments to mark on them."""

    began_ms: float
    ended_ms: float
    steps: list[tuple[str, float, float]]
    """Name, begin, end."""
    nodes: list[NodeTimeline]
    responses: dict[str, Points]
    """Responses so far, by outcome: a status, or an errno's name."""
    exhausted_ms: float | None
    """When the first request was refused for want of a port."""


def timeline(case: Case) -> Timeline:
    """Draw the curves of a record, as far as it goes."""
    record = case.record
    times = [one.at_ms for one in record.snapshots.values()] + [one.at_ms for one in record.dumps]
    times += [one.at_ms for one in record.samples] + [one.at_ms for one in record.responses]
    began = min(times, default=0.0)
    ended = max([*times, *(round(one.at_ms + one.took_ms, 3) for one in record.responses)], default=0.0)
    steps = [(one.name, one.began_ms, one.ended_ms) for _, one in sorted(record.steps.items())]
    nodes = [_node(record, name, [one for one in case.port_maps if one.node == name]) for name in case.topology.nodes]
    exhausted = min((one.from_ms for one in case.refusals), default=None)
    return Timeline(began, ended, steps, nodes, _responses(record), exhausted)


def _node(record: Record, node: str, maps: list[PortMap]) -> NodeTimeline:
    snapshots = sorted((one for (_, name), one in record.snapshots.items() if name == node), key=lambda one: one.at_ms)
    samples = sorted((one for one in record.samples if one.node == node), key=lambda one: one.at_ms)
    both: list[Sample | Snapshot] = [*snapshots, *samples]
    gauges = sorted(both, key=lambda one: one.at_ms)
    return NodeTimeline(
        node,
        _time_wait(record, node, snapshots),
        thinned((one.at_ms, one.time_wait) for one in gauges),
        thinned((one.at_ms, _established(one)) for one in gauges),
        {one.remote: _free(one) for one in maps if one.high - one.low < WIDEST},
        _counters(gauges),
    )


def _established(one: Sample | Snapshot) -> int:
    return one.established if isinstance(one, Sample) else one.counters.get("TcpCurrEstab", 0)


def _time_wait(record: Record, node: str, snapshots: list[Snapshot]) -> dict[str, Points]:
    listening = frozenset().union(*(one.listening for one in snapshots))
    counts = [(one.at_ms, _waiting(one.sockets, listening) + _kinds_waiting(one)) for one in snapshots]
    counts += [(one.at_ms, _waiting(one.sockets, listening)) for one in record.dumps if one.node == node]
    counts.sort(key=lambda look: look[0])
    peers = {peer for _, tally in counts for peer in tally}
    return {name: thinned((at, tally[peer]) for at, tally in counts) for name, peer in sorted(map(_named, peers))}


_Peer = tuple[str, int]
"""A remote; of those whose connections were accepted the address alone, with port 0."""


def _waiting(rows: list[Row], listening: Collection[int]) -> Tally[_Peer]:
    return Tally((row[3], 0 if row[2] in listening else row[4]) for row in rows if row[0] == TIME_WAIT)


def _kinds_waiting(one: Snapshot) -> Tally[_Peer]:
    found: Tally[_Peer] = Tally()
    for state, _, remote, remote_port, count in one.kinds:
        if state == TIME_WAIT:
            found[remote, remote_port] += count
    return found


def _named(peer: _Peer) -> tuple[str, _Peer]:
    return (str(Listen(*peer)) if peer[1] else f"from {peer[0]}"), peer


def _free(ports: PortMap) -> Points:
    """Usable ports less those in use, at every moment where one begins or ends."""
    changes: Tally[float] = Tally()
    for port, intervals in ports.ports.items():
        for one in intervals if ports.is_usable(port) else ():
            changes[one.from_ms] -= 1
            if one.to_ms < ports.ended_ms:  # else it is still held at the last look
                changes[one.to_ms] += 1
    changes[0.0] += 0
    free, points = ports.usable, []
    for at in sorted(changes):
        free += changes[at]
        points.append((at, max(free, 0)))
    return thinned(points)


def _counters(gauges: list[Sample | Snapshot]) -> dict[str, Points]:
    base = gauges[0].counters if gauges else {}
    found = {}
    for short in COUNTERS:
        name = f"Tcp{short}" if short in ("ActiveOpens", "PassiveOpens", "RetransSegs") else f"TcpExt{short}"
        points = thinned((one.at_ms, one.counters.get(name, 0) - base.get(name, 0)) for one in gauges)
        if any(value for _, value in points):
            found[short] = points
    return found


def _responses(record: Record) -> dict[str, Points]:
    points: dict[str, Points] = {}
    for one in sorted(record.responses, key=lambda response: response.at_ms + response.took_ms):
        curve = points.setdefault(one.outcome, [])
        curve.append((round(one.at_ms + one.took_ms, 3), curve[-1][1] + 1 if curve else 1))
    return dict(sorted(points.items()))


def thinned(points: Iterable[tuple[float, int]]) -> Points:
    """The same step function without the points that change nothing."""
    found: Points = []
    for at, value in points:
        if not found or found[-1][1] != value:
            found.append((at, value))
    return found
