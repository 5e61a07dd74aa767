"""One node observed: its sockets, its counters, and the check that both instruments agree.

Two independent sources count TIME_WAIT: sock_diag and sockstat's ``tw``. sockstat also counts orphans in FIN_WAIT2,
which the kernel keeps in the same small form (tcp_time_wait, net/ipv4/tcp_minisocks.c). Where the two differ and keep
differing, nothing that rests on them can be believed.

Up to MOST_LISTED sockets in TIME_WAIT are listed one by one: all that one address can open to another one, with every
port there is. A node with more, because many open to it, is *crowded*: its sockets are counted by kind
(SockDiag.tally).
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.sockdiag import BITS, Kind, SockDiag, TcpSocket
from netns_tw.wait import DeadlineMissed, wait_until

THE_KERNELS = frozenset(("syn-sent", "syn-recv", "fin-wait-1", "closing", "last-ack"))
"""States that the kernels end by themselves within milliseconds."""
ON_THEIR_WAY = THE_KERNELS | {"fin-wait-2", "close-wait"}
"""These two end when a program closes; one that does not is a thing to be seen, not a reason to wait for ever."""
SETTLE_DEADLINE_S = 2.0
AGREE_DEADLINE_S = 3.0


MOST_LISTED = 1 << 16
TIME_WAIT, FIN_WAIT2 = "time-wait", "fin-wait-2"


class Look(NamedTuple):
    """A node's sockets at one moment."""

    sockets: list[TcpSocket]
    """Each one; of a crowded node none."""
    time_wait: int
    """sockstat's ``tw``."""
    kinds: dict[Kind, int]
    """How many there are of each kind, on a crowded node."""


class Observer:
    """The two instruments of one namespace, opened inside it and kept."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        self.sockets = SockDiag(netns_name)
        self.counters = Counters(netns_name)
        self.read_at_ms = 0.0
        """When the dump that ``read`` returned began, ms of CLOCK_MONOTONIC: what the timers in it count from."""

    def close(self) -> None:
        self.sockets.close()
        self.counters.close()

    def is_settled(self, passing: frozenset[str] = ON_THEIR_WAY) -> bool:
        """Whether no socket is in one of the *passing* states."""
        return not any(one.state in passing for one in self.sockets.dump(sum(BITS[state] for state in passing)))

    def is_crowded(self) -> bool:
        """Whether it has more sockets in TIME_WAIT than are listed."""
        return self.counters.time_wait() > MOST_LISTED

    def rows_at(self, ports: Iterable[int]) -> list[TcpSocket]:
        """All sockets; of a crowded node those of some local *ports* that are listened on, where its tally agrees."""
        if not self.is_crowded():
            return self.sockets.dump()
        kinds = self.sockets.tally()
        found = [row for port in ports for row in self.sockets.dump(local_port=port)]
        return [
            row for row in found if any(Kind(row.state, port, row.remote, 0) in kinds for port in (row.local_port, 0))
        ]

    def read(self) -> Look:
        """Look at all sockets, so that both instruments agree.

        Raises:
            InstrumentBroken: they still differ after 3 s.
        """

        def agreeing() -> Look | None:
            before, self.read_at_ms = self.counters.time_wait(), time.monotonic() * 1000
            is_crowded = before > MOST_LISTED
            rows, kinds = ([], self.sockets.tally()) if is_crowded else (self.sockets.dump(), {})
            found = Look(rows, before, kinds)
            states = _states(found)
            most = states[TIME_WAIT] + states[FIN_WAIT2]
            return found if states[TIME_WAIT] <= before <= most and before == self.counters.time_wait() else None

        try:
            return wait_until(agreeing, "sock_diag and sockstat agree", AGREE_DEADLINE_S)
        except DeadlineMissed as error:
            counted = sum(one.state == TIME_WAIT for one in self.sockets.dump())
            raise InstrumentBroken(
                f"node {self.netns_name}: sock_diag shows {counted} sockets in TIME_WAIT,"
                f" sockstat {self.counters.time_wait()}; they must agree"
            ) from error


def _states(look: Look) -> Tally[str]:
    """How many sockets there are in each state."""
    found = Tally(one.state for one in look.sockets)
    for kind, count in look.kinds.items():
        found[kind.state] += count
    return found


def wait_until_settled(observers: Sequence[Observer]) -> bool:
    """Wait until every node is settled; False when a kernel still had work to do after 2 s (an overloaded machine)."""
    try:
        return wait_until(lambda: all(one.is_settled() for one in observers), "sockets settled", SETTLE_DEADLINE_S)
    except DeadlineMissed:
        return all(one.is_settled(THE_KERNELS) for one in observers)
