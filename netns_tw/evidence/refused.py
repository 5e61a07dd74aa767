"""Requests that were refused for want of a port, and which sockets held the ports at that moment.

A port is wanting where connect() or bind() said so to the client (EADDRNOTAVAIL, EADDRINUSE), or where an LB answered
502 or 503 for a connection that it could not open while every port that it can use towards an upstream was held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from netns_tw.evidence.portmap import PortMap
from netns_tw.model.experiment import Experiment
from netns_tw.model.record import Record, Response
from netns_tw.model.topology import Listen, Topology

ERRNOS = ("EADDRNOTAVAIL", "EADDRINUSE")
STATUSES = (502, 503)
SLACK_MS = 15.0
"""A TIME_WAIT that begins this long after the request may be what refused it: a timer is read in jiffies."""


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
    """The held ports and the states of what held them."""

    @property
    def words(self) -> str:
        """The holders in words, ``2 in time-wait``."""
        tally = Tally(self.held.values())
        return ", ".join(f"{count} in {state}" for state, count in sorted(tally.items(), key=lambda one: -one[1]))


def refusals(record: Record, experiment: Experiment, topology: Topology, maps: Sequence[PortMap]) -> list[Refused]:
    """Every request refused for want of a port, in order, put together where nothing differs."""
    holders = [_Holders(one) for one in maps]
    found: list[Refused] = []
    for one in sorted(record.responses, key=lambda response: (response.step, response.at_ms)):
        refused = _refused(one, experiment, topology, holders)
        if refused is None:
            continue
        last = found[-1] if found else None
        if last and _is_like(last, refused):
            found[-1] = Refused(
                last.step, last.first, refused.last, last.count + 1, last.outcome, last.from_ms, refused.to_ms,
                last.node, last.remote, last.held,
            )  # fmt: skip
        else:
            found.append(refused)
    return found


def _is_like(one: Refused, other: Refused) -> bool:
    return (one.step, one.outcome, one.node, one.remote, one.held) == (
        other.step, other.outcome, other.node, other.remote, other.held,
    )  # fmt: skip


def _refused(one: Response, experiment: Experiment, topology: Topology, maps: list[_Holders]) -> Refused | None:
    if not 0 <= one.step < len(experiment.steps):
        return None
    step = experiment.steps[one.step]
    url = urlsplit(step.url)
    if one.errno in ERRNOS:
        node, wanted = step.node, str(Listen(str(url.hostname), url.port or 80))
        candidates = [each for each in maps if each.node == node and each.remote == wanted]
    elif one.status in STATUSES:
        node = topology.owner_of(str(url.hostname)) or ""
        candidates = [each for each in maps if each.node == node]
    else:
        return None
    for each in candidates:
        held = each.at(one.at_ms - SLACK_MS, one.at_ms + one.took_ms + SLACK_MS)
        if one.errno in ERRNOS or each.usable_least <= len(held):
            to = one.at_ms + one.took_ms
            return Refused(one.step, one.index, one.index, 1, one.outcome, one.at_ms, to, each.node, each.remote, held)
    return None


class _Holders:
    """A port map, asked for what held its range's ports; the answer is kept as long as it stays the same."""

    def __init__(self, ports: PortMap) -> None:
        self.node, self.remote, self.usable_least = ports.node, ports.remote, ports.usable_least
        usable = {port: found for port, found in ports.ports.items() if ports.low <= port <= ports.high}
        self._ports = {port: found for port, found in usable.items() if port not in ports.unusable and found}
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
