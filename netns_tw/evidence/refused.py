"""Requests that were refused for want of a port, and which sockets held the ports at that moment.

A port is wanting where connect() or bind() said so to the client (EADDRNOTAVAIL, EADDRINUSE), or where an LB answered
502 or 503 for a connection that it could not open while every port that it can use towards an upstream was held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, replace

from netns_tw.evidence.portmap import PortMap
from netns_tw.model.experiment import Experiment, Step
from netns_tw.model.lines import Response
from netns_tw.model.record import Record
from netns_tw.model.topology import Topology, destination

ERRNOS = ("EADDRNOTAVAIL", "EADDRINUSE")
STATUSES = (502, 503)
SLACK_MS = 15.0
"""A TIME_WAIT that begins this long after the request may be what refused it: a timer is read in jiffies."""
ANSWER_MS = 100.0
"""An LB answers within this time after its last connect() failed; what held ports long before is no reason."""


@dataclass(frozen=True)
class Refused:
    """Requests in a row that met the same ports held by the same kinds of sockets."""

    step: int
    first: int
    """Index of the first request."""
    last: int
    count: int
    outcome: str
    """``502``, or the errno's name."""
    from_ms: float
    to_ms: float
    node: str
    """Whose ports were held."""
    remote: str
    held: dict[int, str]
    """The held ports and the states of what held them; of a port that the client asked for, that one alone."""
    asked: int | None = None
    """The local port that the client asked for; None where the kernel was to choose."""

    @property
    def words(self) -> str:
        """The holders in words, ``2 in time-wait``."""
        tally = Tally(self.held.values())
        return ", ".join(f"{count} in {state}" for state, count in sorted(tally.items(), key=lambda one: -one[1]))


def refusals(record: Record, experiment: Experiment, topology: Topology, maps: Sequence[PortMap]) -> list[Refused]:
    """Every request refused for want of a port, in order, put together where nothing differs."""
    holders = [_Holders(one) for one in maps]
    targets = [_Target.of(step, topology) for step in experiment.steps]
    found: list[Refused] = []
    for one in sorted(record.responses, key=lambda response: (response.step, response.at_ms)):
        refused = _refused(one, targets[one.step], holders) if 0 <= one.step < len(targets) else None
        if refused is None:
            continue
        last = found[-1] if found else None
        if last and _is_like(last, refused):
            found[-1] = replace(last, last=refused.last, count=last.count + 1, to_ms=max(last.to_ms, refused.to_ms))
        else:
            found.append(refused)
    return found


def _is_like(one: Refused, other: Refused) -> bool:
    return (one.step, one.outcome, one.node, one.remote, one.held, one.asked) == (
        other.step, other.outcome, other.node, other.remote, other.held, other.asked,
    )  # fmt: skip


@dataclass(frozen=True)
class _Target:
    """Who requests in a step, of which remote, and whose that is."""

    node: str
    remote: str
    owner: str

    @classmethod
    def of(cls, step: Step, topology: Topology) -> _Target:
        to = destination(step.url)
        return cls(step.node, str(to), topology.owner_of(to.address) or "")


def _refused(one: Response, target: _Target, maps: list[_Holders]) -> Refused | None:
    to = one.at_ms + one.took_ms
    span = max(one.at_ms, to - ANSWER_MS) - SLACK_MS, to + SLACK_MS
    node, remote, held, asked = target.node, target.remote, dict[int, str](), None
    if one.errno in ERRNOS:
        mine = sorted((each for each in maps if each.node == node), key=lambda each: each.remote != remote)
        if one.local_port:
            asked, (remote, held) = one.local_port, _in_the_way(mine, one.local_port, span, remote)
        elif mine and mine[0].remote == remote:
            held = mine[0].at(*span)
    elif one.status in STATUSES:
        node = target.owner
        found = ((each, each.at(*span)) for each in maps if each.node == node)
        wanting = next(((each, held) for each, held in found if held and each.usable_least <= len(held)), None)
        if wanting is None:
            return None
        remote, held = wanting[0].remote, wanting[1]
    else:
        return None
    return Refused(one.step, one.index, one.index, 1, one.outcome, one.at_ms, to, node, remote, held, asked)


def _in_the_way(maps: list[_Holders], port: int, span: tuple[float, float], remote: str) -> tuple[str, dict[int, str]]:
    """What held a given port, and towards which remote; bind() minds a socket on it whatever its remote is."""
    for one in maps:
        if state := one.state(port, *span):
            return one.remote, {port: state}
    return remote, {}


class _Holders:
    """A port map, asked for what held its range's ports; the answer is kept as long as it stays the same."""

    def __init__(self, ports: PortMap) -> None:
        self.node, self.remote, self.usable_least = ports.node, ports.remote, ports.usable_least
        self._every = ports.ports
        self._ports = {port: found for port, found in ports.ports.items() if found and ports.is_usable(port)}
        self._begins = {port: [one.from_ms for one in found] for port, found in self._ports.items()}
        self._last: tuple[float, float, dict[int, str]] = (0.0, 0.0, {})

    def at(self, from_ms: float, to_ms: float) -> dict[int, str]:
        """The last state of each port that was held at any time between the two."""
        since, until, held = self._last
        if since <= from_ms and to_ms < until:
            return held
        held, since, until = {}, float("-inf"), float("inf")
        for port, found in self._ports.items():
            place = bisect_right(self._begins[port], to_ms) - 1
            if place + 1 < len(found):
                until = min(until, found[place + 1].from_ms)
            if place >= 0 and found[place].to_ms > from_ms:
                held[port] = found[place].state
                since = max(since, found[place].from_ms)
                until = min(until, found[place].to_ms)
            elif place >= 0:
                since = max(since, found[place].to_ms)
        self._last = (since, until, held)
        return held

    def state(self, port: int, from_ms: float, to_ms: float) -> str:
        """The last state of one port, in the range or not, between the two; empty if it was free."""
        found = [one.state for one in self._every.get(port, ()) if one.from_ms <= to_ms and one.to_ms > from_ms]
        return found[-1] if found else ""
