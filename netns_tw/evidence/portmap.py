"""Each ephemeral port over time, put together from sockets that were seen and from what their timers tell.

A TIME_WAIT that was seen once is known from its first moment: its timer was set to 60 s as it began
(inet_twsk_schedule, TCP_TIMEWAIT_LEN) and says what is left, to a jiffy (4 ms at HZ=250, 10 at HZ=100). A timer of the
same 4-tuple that ends later than it did is another TIME_WAIT: the port was used again. A connection between two dumps
is not seen; the TIME_WAIT that it leaves behind is. The client's own responses name their local port, and fill gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from netns_tw.evidence.traffic import OPEN, TIME_WAIT_MS
from netns_tw.model import budget
from netns_tw.model.experiment import Experiment
from netns_tw.model.record import Record, Row
from netns_tw.model.topology import DEFAULT_PORT_RANGE, PORT_RANGE, RESERVED_PORTS, Listen, Topology

WIDEST = 4096
"""Of a range up to this width every port is listed, of a wider one only those that were used."""
JITTER_MS = 100.0
"""Two timers that end within this time are one: readings of a jiffy's clock, a moment after the dump's own."""
JIFFY_MS = 12.0
"""What a timer's reading may be off by."""
TIME_WAIT, ESTABLISHED = "time-wait", "established"


@dataclass(frozen=True)
class Interval:
    """A port's state for a time, ms since the record's zero."""

    from_ms: float
    to_ms: float
    state: str
    """By ss(8)'s name: established, time-wait, ..."""
    reused: bool = False
    """It began while the port's last TIME_WAIT still had time left."""


@dataclass(frozen=True)
class PortMap:
    """One node's ephemeral ports towards one remote."""

    node: str
    remote: str
    low: int
    high: int
    ports: dict[int, list[Interval]]
    unusable: frozenset[int]
    """Reserved, listened on, or lost for certain to the parity rule."""

    def busy(self, at_ms: float) -> dict[int, Interval]:
        """The ports in use at a moment, with what holds them."""
        found = {}
        for port, intervals in self.ports.items():
            for one in intervals:
                if one.from_ms <= at_ms < one.to_ms:
                    found[port] = one
        return found

    @property
    def usable(self) -> int:
        """The ports of the range that connect() can find at all, at most."""
        return self.high - self.low + 1 - len(self.unusable)

    @property
    def usable_least(self) -> int:
        """The ports that connect() finds in any case: an odd range may hide one of them (see model/budget.py)."""
        width = self.high - self.low + 1
        return max(self.usable - 1, 0) if width > 3 and width % 2 else self.usable


def port_maps(record: Record, experiment: Experiment, topology: Topology) -> list[PortMap]:
    """The ports of every node that opened connections, by remote; empty of a record without a look at sockets."""
    found = []
    for node in topology.nodes:
        seen = _seen(record, node)
        listening = {row[2] for _, rows in seen for row in rows if row[0] == "listening"}
        ours = {str(one.ip) for link in topology.links for end in link if end.node == node for one in end.addresses}
        remotes: dict[tuple[str, int], list[tuple[float, Row]]] = {}
        for at, rows in seen:
            for row in rows:
                if row[0] != "listening" and row[2] not in listening and row[3] not in ours:
                    remotes.setdefault((row[3], row[4]), []).append((at, row))
        for step in experiment.steps:  # a port that is free again at every look was used all the same
            if step.node == node and any(one.local_port for one in record.responses):
                url = urlsplit(step.url)
                remotes.setdefault((str(url.hostname), url.port or 80), [])
        ends = max((at for at, _ in seen), default=0.0)
        for (address, port), rows_of in sorted(remotes.items()):
            remote = Listen(address, port)
            requests = _requests(record, experiment, node, remote)
            ports = _ports(rows_of, requests, ends)
            low, high, unusable = _range(topology, node, listening)
            for one in range(low, high + 1) if high - low < WIDEST else ():
                ports.setdefault(one, [])
            found.append(PortMap(node, str(remote), low, high, dict(sorted(ports.items())), unusable))
    return found


def _seen(record: Record, node: str) -> list[tuple[float, list[Row]]]:
    """Every look at a node's sockets, in order of time."""
    looks = [(one.at_ms, one.sockets) for one in record.dumps if one.node == node]
    looks += [(one.at_ms, one.sockets) for (_, name), one in record.snapshots.items() if name == node]
    return sorted(looks, key=lambda look: look[0])


def _range(topology: Topology, node: str, listening: set[int]) -> tuple[int, int, frozenset[int]]:
    sysctls = topology.nodes[node].sysctls
    low, high = (int(word) for word in sysctls.get(PORT_RANGE, DEFAULT_PORT_RANGE).split())
    taken = listening | budget.parse_ports(sysctls.get(RESERVED_PORTS, ""))
    if high - low == 2:  # the third port of three is never found
        taken = taken | {high}
    return low, high, frozenset(port for port in taken if low <= port <= high)


def _requests(record: Record, experiment: Experiment, node: str, remote: Listen) -> dict[int, list[Interval]]:
    """The requests that *node*'s own client sent to *remote*, by local port."""
    steps = set()
    for number, step in enumerate(experiment.steps):
        url = urlsplit(step.url)
        if step.node == node and url.hostname == remote.address and (url.port or 80) == remote.port:
            steps.add(number)
    found: dict[int, list[Interval]] = {}
    for one in sorted(record.responses, key=lambda response: response.at_ms):
        if one.step in steps and one.local_port and one.status is not None:
            found.setdefault(one.local_port, []).append(Interval(one.at_ms, one.at_ms + one.took_ms, ESTABLISHED))
    return found


def _ports(
    rows: Iterable[tuple[float, Row]], requests: Mapping[int, list[Interval]], ends: float
) -> dict[int, list[Interval]]:
    by_port: dict[int, list[tuple[float, Row]]] = {port: [] for port in requests}
    for at, row in rows:
        by_port.setdefault(row[2], []).append((at, row))
    found = {}
    for port, looks in by_port.items():
        asked = requests.get(port, [])
        seen: list[Interval] = []
        for one in _intervals(looks, ends):
            seen.append(_snapped(one, asked, seen[-1].to_ms if seen else 0.0))
        lasting = [one for one in seen if one.state in OPEN]
        seen += [one for one in asked if not any(_overlap(one, each) for each in lasting)]
        found[port] = _marked(sorted(seen, key=lambda one: (one.from_ms, one.to_ms)))
    return found


def _overlap(one: Interval, other: Interval) -> bool:
    return one.from_ms <= other.to_ms and other.from_ms <= one.to_ms


def _intervals(looks: list[tuple[float, Row]], ends: float) -> Iterator[Interval]:
    """One port's states, from its rows in order of time."""
    last: Interval | None = None
    for at, row in looks:
        state = row[0]
        began, to = (at + row[5] - TIME_WAIT_MS, at + row[5]) if state == TIME_WAIT else (at, at)
        if last and last.state == state and (state != TIME_WAIT or abs(last.to_ms - to) <= JITTER_MS):
            last = last if state == TIME_WAIT else replace(last, to_ms=at)
            continue
        if last:  # it lasted until this one began, at most
            limit = began if last.state == TIME_WAIT or state == TIME_WAIT else at
            yield replace(last, to_ms=max(last.from_ms, min(last.to_ms, limit) if last.state == TIME_WAIT else limit))
        last = Interval(began, to, state)
    if last:
        yield replace(last, to_ms=min(last.to_ms, ends))


def _snapped(one: Interval, requests: Sequence[Interval], not_before: float) -> Interval:
    """A TIME_WAIT begins as the request before it ends; the request's clock is finer than the timer's."""
    near = [each.to_ms for each in requests if abs(each.to_ms - one.from_ms) <= JIFFY_MS and each.to_ms >= not_before]
    if one.state != TIME_WAIT or not near:
        return one
    return replace(one, from_ms=min(near, key=lambda end: abs(end - one.from_ms)))


def _marked(intervals: list[Interval]) -> list[Interval]:
    """Say of each interval whether it began on a TIME_WAIT that still had time left."""
    found: list[Interval] = []
    for one in intervals:
        last = found[-1] if found else None
        early = last is not None and one.from_ms - last.from_ms < TIME_WAIT_MS - JITTER_MS
        is_reused = bool(last and last.state == TIME_WAIT and early)
        found.append(Interval(round(one.from_ms, 3), round(one.to_ms, 3), one.state, is_reused))
        if last and last.to_ms > one.from_ms:
            found[-2] = replace(last, to_ms=max(last.from_ms, one.from_ms))
    return found
