"""Each ephemeral port over time, put together from sockets that were seen and from what their timers tell.

A TIME_WAIT that was seen once is known from its first moment: its timer was set to 60 s as it began
(inet_twsk_schedule, TCP_TIMEWAIT_LEN) and says what is left, to a jiffy (4 ms at HZ=250, 10 at HZ=100). A timer of the
same 4-tuple that ends later than it did is another TIME_WAIT: the port was used again (or a late FIN of the peer set
it anew). A connection between two dumps is not seen; the TIME_WAIT that it leaves behind is. The client's own responses
name their local port, and fill gaps. What one look shows and the next one does not was over by then, a TIME_WAIT too:
connect() took it over, or a RST ended it.

On a busy machine a look is stamped long before or after it is taken, and timers seem to end earlier or later. So what
cannot be is not believed: a TIME_WAIT began after the last request on its port before it was seen, and it is taken over
only where ``TcpExtTWRecycled`` counts it.

A port's intervals do not overlap: where a node has several addresses, a port is drawn by the first of them seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from netns_tw.evidence.traffic import (
    CLOCK_MS,
    ESTABLISHED,
    OPEN,
    RECYCLED,
    TIME_WAIT,
)
from netns_tw.model.budget import TIME_WAIT_MS
from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import LISTENING, Row
from netns_tw.model.ports import never_found, usable_ports
from netns_tw.model.record import Record
from netns_tw.model.topology import Listen, Topology, destination

WIDEST = 4096
"""Of a range up to this width every port is listed, of a wider one only those that were used."""
JIFFY_MS = 12.0
"""What a timer's reading may be off by."""
USED_AT = ("send", "recv")
"""Calls of a client that had a connection, so a port, when they failed."""


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

    ended_ms: float = inf
    """The last look; what was seen there goes on."""

    def busy(self, at_ms: float) -> dict[int, Interval]:
        """The ports in use at a moment, with what holds them."""
        found = {}
        for port, intervals in self.ports.items():
            for one in intervals:
                if one.from_ms <= at_ms and (at_ms < one.to_ms or self.ended_ms <= one.to_ms):
                    found[port] = one
        return found

    def is_usable(self, port: int) -> bool:
        """Whether connect() may ever choose *port*."""
        return self.low <= port <= self.high and port not in self.unusable

    @property
    def usable(self) -> int:
        """The ports of the range that connect() can find at all, at most."""
        return usable_ports(self.low, self.high, self.unusable).most

    @property
    def usable_least(self) -> int:
        """The ports that connect() finds in any case: an odd range may hide one of them (see model/ports.py)."""
        return usable_ports(self.low, self.high, self.unusable).least


def port_maps(record: Record, experiment: Experiment, topology: Topology) -> list[PortMap]:
    """The ports of every node that opened connections, by remote; empty of a record without a look at sockets."""
    found = []
    for node in topology.nodes:
        looks = _looks(record, node)
        listening = {row[2] for _, rows in looks for row in rows if row[0] == LISTENING}
        asked = _asked(record, experiment, node)
        rows_of: dict[tuple[str, int], _Seen] = {remote: {} for remote in asked}
        ours = {str(one.ip) for link in topology.links for end in link if end.node == node for one in end.addresses}
        for number, (_, rows) in enumerate(looks):
            for row in rows:
                if row[0] != LISTENING and row[2] not in listening and row[3] not in ours:
                    rows_of.setdefault((row[3], row[4]), {}).setdefault(row[2], {}).setdefault(number, row)
        times, recycles = [at for at, _ in looks], _recycles(record, node)
        for remote, seen in sorted(rows_of.items()):
            ports = _ports(seen, asked.get(remote, {}), times, recycles)
            low, high, unusable = _range(topology, node, listening)
            for one in range(low, high + 1) if high - low < WIDEST else ():
                ports.setdefault(one, [])
            ended = round(max(times, default=0.0), 3)
            found.append(PortMap(node, str(Listen(*remote)), low, high, dict(sorted(ports.items())), unusable, ended))
    return found


_Seen = dict[int, dict[int, Row]]
"""What each port's looks showed: by port, by number of the look."""
_Asked = dict[int, list["_Request"]]


@dataclass(frozen=True)
class _Request:
    """One request of the node's own client, on a port; when it is over the connection is, if it is not kept."""

    from_ms: float
    to_ms: float
    is_kept: bool


def _looks(record: Record, node: str) -> list[tuple[float, list[Row]]]:
    """Every look at a node's sockets, in order of time."""
    looks = [(one.at_ms, one.sockets) for one in record.dumps if one.node == node]
    looks += [(one.at_ms, one.sockets) for (_, name), one in record.snapshots.items() if name == node]
    return sorted(looks, key=lambda look: look[0])


def _recycles(record: Record, node: str) -> bool:
    """Whether *node* ever took a TIME_WAIT over."""
    found = [one.counters.get(RECYCLED, 0) for (_, name), one in record.snapshots.items() if name == node]
    found += [one.counters.get(RECYCLED, 0) for one in record.samples if one.node == node]
    return len(set(found)) > 1


def _range(topology: Topology, node: str, listening: set[int]) -> tuple[int, int, frozenset[int]]:
    low, high = topology.nodes[node].port_range
    return low, high, never_found(low, high, topology.nodes[node].reserved_ports | listening)


def _asked(record: Record, experiment: Experiment, node: str) -> dict[tuple[str, int], _Asked]:
    """The requests of *node*'s own client that had a connection, by remote and local port."""
    found: dict[tuple[str, int], _Asked] = {}
    remotes = {}
    for number, step in enumerate(experiment.steps):
        if step.node == node:
            to = destination(step.url)
            remotes[number] = (to.address, to.port), step.keep_alive
    for one in sorted(record.responses, key=lambda response: response.at_ms):
        if one.step in remotes and one.local_port:
            remote, is_kept = remotes[one.step]
            requests = found.setdefault(remote, {})
            if one.status is not None or one.call in USED_AT:
                request = _Request(one.at_ms, one.at_ms + one.took_ms, is_kept)
                requests.setdefault(one.local_port, []).append(request)
    return found


def _ports(seen: _Seen, asked: _Asked, times: Sequence[float], recycles: bool) -> dict[int, list[Interval]]:
    found = {}
    for port in {**seen, **asked}:
        requests = asked.get(port, [])
        intervals: list[Interval] = []
        for one, seen_ms in _intervals(seen.get(port, {}), times, recycles):
            intervals.append(_snapped(one, seen_ms, requests, intervals[-1].to_ms if intervals else -inf))
        in_order = sorted(_filled(intervals, requests), key=lambda one: (one.from_ms, one.to_ms))
        found[port] = _marked(in_order, recycles)
    return found


def _filled(intervals: list[Interval], requests: Sequence[_Request]) -> Iterator[Interval]:
    """Intervals that were seen, and the client's requests; of two that tell of one connection, the one that knows more.

    A connection that is kept lasts longer than its requests, and looks show how long; of any other a look shows one
    moment, and the request both its ends.
    """
    lasting = [one for one in intervals if one.state in OPEN]
    single = [one for one in requests if not one.is_kept]
    yield from (one for one in intervals if one.state not in OPEN or not any(_overlap(each, one) for each in single))
    for one in requests:
        if not (one.is_kept and any(_overlap(one, each) for each in lasting)):
            yield Interval(one.from_ms, one.to_ms, ESTABLISHED)


def _overlap(one: _Request, other: Interval) -> bool:
    return one.from_ms <= other.to_ms and other.from_ms <= one.to_ms


def _intervals(looks: Mapping[int, Row], times: Sequence[float], recycles: bool) -> Iterator[tuple[Interval, float]]:
    """One port's states and when each was seen first, from the looks that showed it; *times* are those of all looks."""
    last: Interval | None = None
    number, first = -1, 0.0
    for number_now, row in looks.items():
        at, state = times[number_now], row[0]
        began, to = (at + row[5] - TIME_WAIT_MS, at + row[5]) if state == TIME_WAIT else (at, at)
        if last and last.state in OPEN:
            began = max(began, last.to_ms)  # a timer is read in jiffies, and it was seen open then
        if last:
            gone = times[number + 1]  # the first look after it, if that one did not show it
            is_later = to - last.to_ms > CLOCK_MS and (recycles or last.to_ms < at)
            is_same = last.state == state and not (state == TIME_WAIT and is_later)
            if is_same and number_now == number + 1:
                if state != TIME_WAIT:
                    last = replace(last, to_ms=at)
                number = number_now
                continue
            limit = min(gone, began if TIME_WAIT in (last.state, state) else at)
            yield _until(last, limit), first
        last, number, first = Interval(began, to, state), number_now, at
    if last:
        yield _until(last, times[number + 1] if number + 1 < len(times) else times[-1]), first


def _until(one: Interval, limit: float) -> Interval:
    """An interval that lasted until *limit*, or as long as its timer ran."""
    return replace(one, to_ms=max(one.from_ms, min(one.to_ms, limit) if one.state == TIME_WAIT else limit))


def _snapped(one: Interval, seen_ms: float, requests: Sequence[_Request], not_before: float) -> Interval:
    """A TIME_WAIT begins as the request before it ends; the request's clock is finer than the timer's."""
    ends = [each.to_ms for each in requests if each.to_ms >= not_before]
    if one.state != TIME_WAIT or not ends:
        return one
    began = max([one.from_ms, *(end for end in ends if end <= seen_ms)])
    nearest = min(ends, key=lambda end: abs(end - began))
    began = nearest if abs(nearest - began) <= JIFFY_MS else began
    return replace(one, from_ms=began, to_ms=max(began, one.to_ms))


def _marked(intervals: list[Interval], recycles: bool) -> list[Interval]:
    """Say of each interval whether it began on a TIME_WAIT that still had time left."""
    found: list[Interval] = []
    for one in intervals:
        last = found[-1] if found else None
        began = round(one.from_ms, 3)
        early = last is not None and one.from_ms - last.from_ms < TIME_WAIT_MS - CLOCK_MS
        is_reused = bool(recycles and last and last.state == TIME_WAIT and early)
        found.append(Interval(began, max(began, round(one.to_ms, 3)), one.state, is_reused))
        if last and last.to_ms > began:
            found[-2] = replace(last, to_ms=max(last.from_ms, began))
    return found
