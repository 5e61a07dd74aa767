"""One run as an explanation looks at it: its flows, its refused requests, its counters, each worked out once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from netns_tw.evidence.closers import Closes, closes
from netns_tw.evidence.portmap import PortMap, port_maps
from netns_tw.evidence.refused import Refused, refusals
from netns_tw.evidence.traffic import growth
from netns_tw.model.budget import DEFAULT_DELAY_MS
from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import BEFORE, Row
from netns_tw.model.ports import Bounds
from netns_tw.model.record import Record
from netns_tw.model.topology import TW_REUSE_DELAY, Topology, destination


@dataclass(frozen=True)
class Explanation:
    """One sentence for a tired engineer, and its proof."""

    rule: str
    """Its name, ``lb-out-of-ports``."""
    text: str
    proof: str
    """The counters, sockets or log lines that say so."""


class Case:
    """A record with its experiment and its lab as the experiment changes it."""

    def __init__(self, record: Record, experiment: Experiment, topology: Topology) -> None:
        self.record, self.experiment, self.topology = record, experiment, topology

    @cached_property
    def port_maps(self) -> list[PortMap]:
        """Every opener's ports over time."""
        return port_maps(self.record, self.experiment, self.topology)

    @cached_property
    def refusals(self) -> list[Refused]:
        """Requests refused for want of a port."""
        return refusals(self.record, self.experiment, self.topology, self.port_maps)

    @cached_property
    def closes(self) -> list[Closes]:
        """How every flow's connections ended, step by step."""
        steps = sorted(self.record.steps)
        return [one for step in steps for one in closes(self.record, self.topology, step)]

    @cached_property
    def flows(self) -> dict[tuple[str, str, str], list[Closes]]:
        """The same by link, opener and acceptor: all steps of one flow."""
        found: dict[tuple[str, str, str], list[Closes]] = {}
        for one in self.closes:
            found.setdefault((one.link, one.opener, one.acceptor), []).append(one)
        return found

    def ok_over(self, opener: str) -> int:
        """Requests that succeeded over connections that *opener* opened: its own, or those it passed on."""
        found = 0
        for number, step in enumerate(self.experiment.steps):
            if opener in (step.node, self.topology.owner_of(destination(step.url).address)):
                found += self.record.ok(number)
        return found

    @cached_property
    def last_step(self) -> int:
        """The last step that is whole; -1 if none is."""
        return max(self.record.steps, default=BEFORE)

    def count(self, node: str, step: int, *states: str) -> int:
        """How many sockets of *node* were in one of some *states* after *step*."""
        snapshot = self.record.snapshots.get((step, node))
        return sum(snapshot.states[one] for one in states) if snapshot else 0

    def grew(self, node: str, *counters: str) -> int:
        """How much the sum of some counters of *node* grew over the whole run; a counter never falls."""
        before, after = self.record.snapshots.get((BEFORE, node)), self.record.snapshots.get((self.last_step, node))
        if before is None or after is None:
            return 0
        return growth(before, after, counters)

    def sysctl(self, node: str, name: str) -> int | None:
        """An effective sysctl of *node* as a number; None where it is unknown."""
        value = self.record.built.sysctls.get(node, {}).get(name, "") if self.record.built else ""
        return int(value) if value.isdecimal() and len(value) < 20 else None

    def delay_ms(self, node: str) -> int:
        """The age from which *node* takes a TIME_WAIT over, ms."""
        delay = self.sysctl(node, TW_REUSE_DELAY)
        return DEFAULT_DELAY_MS if delay is None else delay  # before 6.14 there was no sysctl for it

    def acceptor_of(self, node: str, remote: str) -> str:
        """The node that *remote*, ``ADDRESS:PORT``, belongs to; empty if none does."""
        return self.topology.owner_of(remote.rpartition(":")[0].strip("[]")) or ""

    def rows(self, node: str, step: int, *states: str) -> list[Row]:
        """Sockets of *node* in one of some *states* after *step*."""
        snapshot = self.record.snapshots.get((step, node))
        return [row for row in snapshot.sockets if row[0] in states] if snapshot else []

    def port_map(self, node: str, remote: str) -> PortMap | None:
        """The ports of *node* towards *remote*."""
        return next((one for one in self.port_maps if (one.node, one.remote) == (node, remote)), None)

    def log(self, node: str, text: str) -> int:
        """Lines of *node*'s log that hold *text*."""
        return sum(text in line for (_, name), one in self.record.snapshots.items() if name == node for line in one.log)


def total(found: Iterable[Bounds]) -> Bounds:
    """The sum of some counts that may be bounds."""
    return sum(found, Bounds.exactly(0))


def plural(number: int, noun: str) -> str:
    """``1 port``, ``2 ports``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"
