"""Who opened connections to whom in a step, and what each node's counters and sockets say of their ends.

Roles follow from the record alone: a node with a listener whose TcpPassiveOpens grew accepted, a node whose
TcpActiveOpens grew opened. Between two nodes of a link that makes a *flow*, from the opener to the acceptor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from netns_tw.model.record import BEFORE, Record, Row, Snapshot
from netns_tw.model.topology import Link, Topology

TIME_WAIT_MS = 60_000
"""TCP_TIMEWAIT_LEN (include/net/tcp.h)."""
OPEN = frozenset(
    ("established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack", "closing")
)
"""States of a connection that has not ended."""
ABORTS = ("TcpExtTCPAbortOnData", "TcpExtTCPAbortOnClose", "TcpExtTCPAbortOnTimeout", "TcpExtTCPAbortOnLinger")


@dataclass(frozen=True)
class Flow:
    """The connections that *opener* opened to *acceptor* over one link."""

    link: Link
    opener: str
    acceptor: str

    @property
    def name(self) -> str:
        """The link, as ``lb:eth1 -- backend:eth0``."""
        return f"{self.link.left} -- {self.link.right}"

    def addresses(self, node: str) -> frozenset[str]:
        """The addresses that *node* has on this link."""
        ends = [end for end in self.link if end.node == node]
        return frozenset(str(one.ip) for end in ends for one in end.addresses)


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

    def grew(self, node: str, *counters: str) -> int:
        """How much the sum of some counters of *node* grew."""
        before, after = self.before[node].counters, self.after[node].counters
        return sum(after.get(name, 0) - before.get(name, 0) for name in counters)

    def rows(
        self, snapshot: Snapshot, addresses: frozenset[str], port: int | None, states: frozenset[str]
    ) -> list[Row]:
        """The sockets towards *addresses*: to *port* there, or (None) to any."""
        return [row for row in snapshot.sockets if row[0] in states and row[3] in addresses and port in (None, row[4])]

    def flows(self) -> list[Flow]:
        """Every pair that opened and accepted in this step, in the links' order."""
        return list(self._flows())

    def _flows(self) -> Iterator[Flow]:
        for link in self.topology.links:
            for opener, acceptor in ((link.left.node, link.right.node), (link.right.node, link.left.node)):
                if self.grew(opener, "TcpActiveOpens") and self._accepts(acceptor) and opener != acceptor:
                    yield Flow(link, opener, acceptor)

    def _accepts(self, node: str) -> bool:
        is_listening = any(row[0] == "listening" for row in self.after[node].sockets)
        return is_listening and bool(self.grew(node, "TcpPassiveOpens"))

    def listens_on(self, node: str) -> frozenset[int]:
        """The ports that *node* listens on."""
        return frozenset(row[2] for row in self.after[node].sockets if row[0] == "listening")

    def lasted_ms(self, node: str) -> float:
        """Ms between the two snapshots of *node*."""
        return self.after[node].at_ms - self.before[node].at_ms
