"""One node of a lab as it is now: its sockets by remote, the ports they hold and for how long, its counters. Pure.

A TIME_WAIT row says how many ms its timer has left, so it is remembered by the moment it ends: between two looks at a
node's sockets the seconds count down by themselves. A port is free again only when a look no longer shows it: the
kernel's timer wheel fires up to 2.05 s late (model/budget.py), until then a TIME_WAIT with nothing left still holds it.

A node's sockets are of two kinds. Those whose local port it listens on were accepted: their TIME_WAIT costs memory, no
port. All others it opened, and each holds a local port towards one remote address and port: the port budget's scarce
thing. Towards another remote the same port is free.

What is kept is bounded, however many sockets there are: of each remote all counts, a histogram of the moments its
TIME_WAITs end, and only the ports that are next to be free.
"""

from __future__ import annotations

import heapq
from collections import Counter as Tally
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from netns_tw.evidence.traffic import ESTABLISHED, TIME_WAIT
from netns_tw.model.budget import TIME_WAIT_MS
from netns_tw.model.lines import LISTENING, Row, Sample, Snapshot
from netns_tw.model.ports import Bounds, never_found, usable_ports
from netns_tw.model.topology import PORT_RANGE, RESERVED_PORTS, Listen, Node

REMOTES = 32
"""Kept of each kind and node, those with most sockets."""
NEAREST = 128
"""TIME_WAITs kept with their port, of each remote."""
NARROW = 64
"""Up to this width every port of the range is kept with its state."""
GRAIN_MS = 100.0
"""Of the histogram of ends; 652 buckets are the longest life."""
MARKS = 8
"""Of the counters."""
LATELY_MS = 900.0
"""What moved lately is told against the newest mark that is so old; the last second, where marks come each second."""
STALE_MS = 300.0
"""By how much gauges that tell something else must be newer than the last look; looks come every 100 ms at best."""
FIN_WAIT2, CLOSE_WAIT = "fin-wait-2", "close-wait"


@dataclass(frozen=True)
class PortRange:
    """A node's ephemeral ports, as connect() finds them."""

    low: int
    high: int
    never: frozenset[int]
    """Those that no connect() gets: reserved, listened on, the third of three (model/ports.py)."""
    usable: Bounds

    @property
    def is_narrow(self) -> bool:
        """Whether each of its ports can be shown."""
        return self.high - self.low < NARROW

    def is_usable(self, port: int) -> bool:
        """Whether connect() may ever choose *port*."""
        return self.low <= port <= self.high and port not in self.never

    def free(self, one: Opened) -> Bounds:
        """How many ports connect() still finds towards a remote, TIME_WAITs that it may reuse not counted."""
        return (self.usable - Bounds.exactly(one.held)).not_below(0)


@dataclass(frozen=True)
class Opened:
    """The sockets that a node opened from one address to one remote, at the last look."""

    local: str
    remote: Listen
    states: Mapping[str, int]
    nearest: Sequence[tuple[float, int]]
    """Of its TIME_WAITs the first to end: when, and the local port; in order."""
    last_ends_ms: float
    """When the last of its TIME_WAITs ends; 0 without any."""
    ends: Mapping[int, int]
    """Its TIME_WAITs by the moment they end, in units of GRAIN_MS."""
    cells: Mapping[int, str]
    """State by port, of a range that is NARROW; else empty."""
    held: int
    """Ports of the node's budget that these sockets hold."""

    @property
    def count(self) -> int:
        return sum(self.states.values())

    def older_than(self, age_ms: float, now_ms: float) -> int:
        """How many of its TIME_WAITs began at least *age_ms* ago."""
        limit = (now_ms + TIME_WAIT_MS - age_ms) // GRAIN_MS
        return sum(count for end, count in self.ends.items() if end <= limit)


@dataclass(frozen=True)
class Accepted:
    """The sockets that a node accepted on one port from one address, at the last look."""

    port: int
    remote: str
    states: Mapping[str, int]
    first_ends_ms: float
    last_ends_ms: float
    """When the first and the last of its TIME_WAITs end; 0 without any."""

    @property
    def count(self) -> int:
        return sum(self.states.values())


@dataclass
class LiveNode:
    """One node as it is now."""

    node: Node
    listening: frozenset[int] = frozenset()
    states: Mapping[str, int] = field(default_factory=dict)
    """Sockets by state at the last look; those that listen left out."""
    opened: Sequence[Opened] = ()
    """The tightest first."""
    accepted: Sequence[Accepted] = ()
    left_out: int = 0
    """Remotes beyond those that are kept."""
    looked_ms: float | None = None
    gauges: Sample | None = None
    counters: dict[str, int] = field(default_factory=dict)
    _first: dict[str, int] = field(default_factory=dict)
    _has_snapshot: bool = False
    _marks: deque[tuple[float, dict[str, int]]] = field(default_factory=lambda: deque(maxlen=MARKS))
    _programs: frozenset[int] = frozenset()
    _given: object = None
    _budget: PortRange | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the gauges tell of sockets that no look has shown yet: many sockets make looks rare."""
        one = self.gauges
        if one is None or one.at_ms - (self.looked_ms or 0.0) <= STALE_MS:
            return False
        waiting, orphans = self.states.get(TIME_WAIT, 0), self.states.get(FIN_WAIT2, 0)
        established = self.states.get(ESTABLISHED, 0) + self.states.get(CLOSE_WAIT, 0)
        return not waiting <= one.time_wait <= waiting + orphans or one.established != established

    @property
    def time_wait(self) -> int:
        """Sockets in TIME_WAIT, by the last look, or by a gauge that is much newer (FIN_WAIT2 orphans are in that)."""
        return self.gauges.time_wait if self.gauges and self.is_stale else self.states.get(TIME_WAIT, 0)

    def budget(self) -> PortRange | None:
        """Its ephemeral ports; None where its sysctls hold no range."""
        given = self.node.sysctls.get(PORT_RANGE), self.node.sysctls.get(RESERVED_PORTS), self.listening
        if given != self._given:  # else parsed at every look
            self._given, self._budget = given, _range(self.node, self.listening)
        return self._budget

    def moved(self, now_ms: float) -> list[tuple[str, int, int]]:
        """The counters that grew: name, growth in the last second, growth in all; what moves now comes first."""
        known = [counters for at_ms, counters in self._marks if at_ms <= now_ms - LATELY_MS]
        before = known[-1] if known else self._marks[0][1] if self._marks else self._first
        found = []
        for name, number in self.counters.items():
            first = self._first.get(name, 0)
            if number > first:
                found.append((name, number - before.get(name, first), number - first))
        return sorted(found, key=lambda one: (-one[1], -one[2], one[0]))

    def mark(self, now_ms: float) -> None:
        """Remember the counters as they are now."""
        self._marks.append((now_ms, dict(self.counters)))

    def runs(self, node: Node, ports: Collection[int]) -> None:
        """Take in its effective sysctls, and ports that its programs listen on."""
        self.node = node
        self._programs |= frozenset(ports)
        self.listening |= self._programs

    def sampled(self, line: Sample) -> None:
        """Take in gauges and counters."""
        self._count(line.counters, self.gauges is not None or self._has_snapshot)
        self.gauges = line

    def snapped(self, line: Snapshot) -> None:
        """Take in a look at the end of a step, counters included; it shows what listens too."""
        self.listening = self._programs | line.listening
        self._count(line.counters, self._has_snapshot)
        self._has_snapshot = True
        self.looked(line.at_ms, line.sockets)
        if line.kinds:
            self._tallied(line)

    def _tallied(self, line: Snapshot) -> None:
        """Take in what a crowded node has of each kind: how much, but no port and no timer."""
        self.states = Tally({state: count for state, count in line.states.items() if state != LISTENING})
        groups: dict[tuple[int, str], Tally[str]] = {}
        for state, local_port, remote, _, count in line.kinds:
            if local_port and state != LISTENING:
                groups.setdefault((local_port, remote), Tally())[state] += count
        most = heapq.nlargest(REMOTES, groups.items(), key=lambda one: one[1].total())
        self.accepted = [Accepted(*key, states, 0.0, 0.0) for key, states in most]
        self.left_out = len(groups) - len(self.accepted)

    def _count(self, counters: Mapping[str, int], is_known: bool) -> None:
        """A counter that is not named is 0; so what is new grew from there, unless nothing was known before."""
        for name, number in counters.items():
            self._first.setdefault(name, 0 if is_known else number)
        self.counters.update(counters)

    def looked(self, at_ms: float, rows: Iterable[Row]) -> None:
        """Take in a look at all sockets."""
        self.looked_ms = at_ms
        opened: dict[tuple[str, str, int], list[Row]] = {}
        accepted: dict[tuple[int, str], list[Row]] = {}
        for row in rows:
            if row[2] in self.listening:
                if row[0] != LISTENING:
                    accepted.setdefault((row[2], row[3]), []).append(row)
            else:
                opened.setdefault((row[1], row[3], row[4]), []).append(row)
        every = [*opened.values(), *accepted.values()]
        self.states = Tally(row[0] for group in every for row in group)
        groups = heapq.nlargest(REMOTES, opened.items(), key=lambda one: len(one[1]))
        self.opened = sorted(
            (_opened(at_ms, rows, self.budget()) for _, rows in groups),
            key=lambda one: (-one.held, str(one.remote), one.local),
        )
        most = heapq.nlargest(REMOTES, accepted.items(), key=lambda one: len(one[1]))
        self.accepted = [_accepted(at_ms, rows) for _, rows in most]
        self.left_out = len(every) - len(self.opened) - len(self.accepted)


def _opened(at_ms: float, rows: Sequence[Row], budget: PortRange | None) -> Opened:
    ends = [(at_ms + row[5], row[2]) for row in rows if row[0] == TIME_WAIT]
    ports = {row[2]: row[0] for row in rows}
    cells: dict[int, str] = {}
    if budget and budget.is_narrow:
        cells = {port: state for port, state in ports.items() if budget.low <= port <= budget.high}
    _, local, _, remote, remote_port, _ = rows[0]
    return Opened(
        local,
        Listen(remote, remote_port),
        Tally(row[0] for row in rows),
        heapq.nsmallest(NEAREST, ends),
        max((end for end, _ in ends), default=0.0),
        Tally(int(end // GRAIN_MS) for end, _ in ends),
        cells,
        sum(budget.is_usable(port) for port in ports) if budget else 0,
    )


def _accepted(at_ms: float, rows: Sequence[Row]) -> Accepted:
    ends = [at_ms + row[5] for row in rows if row[0] == TIME_WAIT]
    first, last = min(ends, default=0.0), max(ends, default=0.0)
    return Accepted(rows[0][2], rows[0][3], Tally(row[0] for row in rows), first, last)


def _range(node: Node, listening: frozenset[int]) -> PortRange | None:
    try:
        low, high = node.port_range
        taken = listening | node.reserved_ports
        usable = usable_ports(low, high, taken)
    except ValueError:
        return None
    return PortRange(low, high, never_found(low, high, taken), usable)
