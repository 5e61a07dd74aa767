"""Who opened connections to whom in a step, and what each node's counters and sockets say of their ends.

A *flow* is all that one node opened to another one: who listens on a socket's local port accepted it, the other end
opened it. Flows are told by sockets that were seen at either end; a connection that left none was opened and accepted
all the same, so what TcpActiveOpens of one neighbour and TcpPassiveOpens of the other say is a flow too, where no seen
one explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from netns_tw.model.lines import BEFORE, LISTENING, Row, Snapshot
from netns_tw.model.record import Record
from netns_tw.model.topology import Link, Topology

TIME_WAIT, ESTABLISHED = "time-wait", "established"
OPEN = frozenset(
    ("established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack", "closing")
)
"""States of a connection that has not ended."""
ABORTS = (
    "TcpExtTCPAbortOnData",
    "TcpExtTCPAbortOnClose",
    "TcpExtTCPAbortOnTimeout",
    "TcpExtTCPAbortOnLinger",
    "TcpExtTCPAbortOnMemory",
)
RECYCLED = "TcpExtTWRecycled"
"""Counts each TIME_WAIT that a connect() of the node took over (__inet_check_established)."""
CLOCK_MS = 100.0
"""What a timer and the record's clock may differ by: a jiffy, and the time from a dump to its time stamp."""


def growth(before: Snapshot, after: Snapshot, counters: Iterable[str]) -> int:
    """How much the sum of some counters grew between two snapshots of a node; a counter never falls."""
    return sum(max(after.counters.get(name, 0) - before.counters.get(name, 0), 0) for name in counters)


@dataclass(frozen=True)
class Flow:
    """The connections that *opener* opened to *acceptor*."""

    links: tuple[Link, ...]
    """The links that lead to the addresses that were asked: one, or all where sockets show several."""
    opener: str
    acceptor: str

    @property
    def name(self) -> str:
        """Its links, as ``lb:eth1 -- backend:eth0``."""
        return ", ".join(one.name for one in self.links)


class StepEvidence:
    """A step's snapshots before and after, node by node.

    Raises:
        KeyError: the record lacks a snapshot of the step.
    """

    def __init__(self, record: Record, topology: Topology, step: int) -> None:
        self.topology = topology
        self.before: dict[str, Snapshot] = {}
        self.after: dict[str, Snapshot] = {}
        for node in topology.nodes:
            self.before[node] = record.snapshots[max(step - 1, BEFORE), node]
            self.after[node] = record.snapshots[step, node]
        self._dumps = record.dumps
        self._owners = {str(ip.ip): (end.node, link) for link in topology.links for end in link for ip in end.addresses}
        both = (self.before, self.after)
        self._listening = {
            node: frozenset().union(*(looks[node].listening for looks in both)) for node in topology.nodes
        }

    def grew(self, node: str, *counters: str) -> int:
        """How much the sum of some counters of *node* grew; a counter never falls."""
        return growth(self.before[node], self.after[node], counters)

    def lasted_ms(self, node: str) -> float:
        """Ms between the two snapshots of *node*."""
        return self.after[node].at_ms - self.before[node].at_ms

    def opener_rows(self, flow: Flow, snapshot: Snapshot) -> list[Row]:
        """The sockets of a flow's connections at its opener."""
        if snapshot.kinds:
            raise KeyError(f"{flow.opener} has more sockets than are listed")
        mine = self._listening[flow.opener]
        there = {address for address, (node, _) in self._owners.items() if node == flow.acceptor}
        return [row for row in snapshot.sockets if row[0] != LISTENING and row[2] not in mine and row[3] in there]

    @cached_property
    def flows(self) -> list[Flow]:
        """Every pair that had connections in this step, in the links' order."""
        pairs = {**self._seen_before, **self._seen_new}
        for opener, acceptor in self._counted_only:
            pairs.setdefault((opener, acceptor), self._joining(opener, acceptor)[:1])
        links = list(self.topology.links)
        found = [Flow(tuple(sorted(pairs[pair], key=links.index)), *pair) for pair in pairs]
        return sorted(found, key=lambda one: (links.index(one.links[0]), one.opener != one.links[0].left.node))

    def is_opening(self, flow: Flow) -> bool:
        """Whether some of the flow's connections were opened in this step, as far as is known."""
        pair = flow.opener, flow.acceptor
        return pair in self._seen_new or pair in self._counted_only

    @cached_property
    def _seen_before(self) -> dict[tuple[str, str], list[Link]]:
        """Pairs that had open connections when the step began, and their links."""
        return self._pairs((node, (row for row in one.sockets if row[0] in OPEN)) for node, one in self.before.items())

    @cached_property
    def _seen_new(self) -> dict[tuple[str, str], list[Link]]:
        """Pairs with sockets of connections that began in this step, and their links."""
        return self._pairs((node, self._new_rows(node)) for node in self.topology.nodes)

    def _new_rows(self, node: str) -> Iterator[Row]:
        """The sockets of connections that began in this step, those between its snapshots included."""
        before, after = self.before[node], self.after[node]
        ends = {row[1:5]: before.at_ms + row[5] if row[0] == TIME_WAIT else None for row in before.sockets}
        for row in after.sockets:
            end = ends.get(row[1:5])
            is_later = end is not None and (row[0] != TIME_WAIT or after.at_ms + row[5] - end > CLOCK_MS)
            if row[0] != LISTENING and (row[1:5] not in ends or is_later):
                yield row
        for dump in self._dumps:
            if dump.node == node and before.at_ms < dump.at_ms < after.at_ms:
                yield from (row for row in dump.sockets if row[0] in OPEN and ends.get(row[1:5], 0.0) is not None)

    def _pairs(self, rows_of: Iterable[tuple[str, Iterable[Row]]]) -> dict[tuple[str, str], list[Link]]:
        found: dict[tuple[str, str], list[Link]] = {}
        for node, rows in rows_of:
            for is_accepted, local, remote in {(row[2] in self._listening[node], row[1], row[3]) for row in rows}:
                peer, link = self._owners.get(remote, (node, None))
                if is_accepted:  # the opener's address may be a router's, who opened nothing
                    link = self._owners[local][1] if local in self._owners and self.opened_by(peer) else None
                if link is None or peer == node:
                    continue
                links = found.setdefault((peer, node) if is_accepted else (node, peer), [])
                nearest = self._nearest(node, peer, link)
                links += [nearest] if nearest not in links else []
        return found

    def _joining(self, one: str, other: str) -> list[Link]:
        return [link for link in self.topology.links if {end.node for end in link} == {one, other}]

    def _nearest(self, one: str, other: str, link: Link) -> Link:
        """The link that two nodes talk over: the one that joins them, else the one with the acceptor's address."""
        joining = self._joining(one, other)
        return link if link in joining or not joining else joining[0]

    def opened_by(self, node: str) -> int:
        """Connections that *node* opened to anyone, at most: those given up in SYN_SENT by the program are in it."""
        return max(self.grew(node, "TcpActiveOpens") - self.grew(node, "TcpAttemptFails"), 0)

    @cached_property
    def _counted_only(self) -> list[tuple[str, str]]:
        """Neighbours of which one opened and the other accepted, where no seen flow of the one or the other says so."""
        openers, acceptors = {pair[0] for pair in self._seen_new}, {pair[1] for pair in self._seen_new}
        found = []
        for link in self.topology.links:
            for one, other in ((link.left.node, link.right.node), (link.right.node, link.left.node)):
                accepts = self._listening[other] and self.grew(other, "TcpPassiveOpens")
                is_unexplained = one not in openers or other not in acceptors
                if one != other and (one, other) not in found and accepts and self.opened_by(one) and is_unexplained:
                    found.append((one, other))
        return found

    def opened(self, flow: Flow) -> int:
        """How many of a flow's connections were opened in this step.

        The acceptor's own count where one node alone opens to it, else the opener's where it opens to one alone: a
        connect() that was given up in SYN_SENT is in TcpActiveOpens, but in no TcpAttemptFails.
        """
        if not self.is_opening(flow):
            return 0
        accepted = self.grew(flow.acceptor, "TcpPassiveOpens")
        if sum(one.acceptor == flow.acceptor for one in self.flows if self.is_opening(one)) == 1:
            return max(min(self.grew(flow.opener, "TcpActiveOpens"), accepted), 0)
        return max(min(self.opened_by(flow.opener), accepted), 0)
