"""One node observed: its sockets, its counters, and the check that both instruments agree.

Two independent sources count TIME_WAIT: the sock_diag dump and sockstat's ``tw``. sockstat also counts orphans in
FIN_WAIT2, which the kernel keeps in the same small form (tcp_time_wait, net/ipv4/tcp_minisocks.c). Where the two
differ and keep differing, nothing that rests on them can be believed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.sockdiag import SockDiag, TcpSocket
from netns_tw.wait import DeadlineMissed, wait_until

THE_KERNELS = frozenset(("syn-sent", "syn-recv", "fin-wait-1", "closing", "last-ack"))
"""States that the kernels end by themselves within milliseconds."""
ON_THEIR_WAY = THE_KERNELS | {"fin-wait-2", "close-wait"}
"""These two end when a program closes; one that does not is a thing to be seen, not a reason to wait for ever."""
SETTLE_DEADLINE_S = 2.0
AGREE_DEADLINE_S = 3.0


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
        return not any(one.state in passing for one in self.sockets.dump())

    def read(self) -> tuple[list[TcpSocket], int]:
        """Return all sockets and sockstat's ``tw``, taken so that they agree.

        Raises:
            InstrumentBroken: they still differ after 3 s.
        """

        def agreeing() -> tuple[list[TcpSocket], int] | None:
            before, self.read_at_ms = self.counters.time_wait(), time.monotonic() * 1000
            found = self.sockets.dump()
            small = sum(one.state == "time-wait" for one in found)
            most = small + sum(one.state == "fin-wait-2" for one in found)
            return (found, before) if small <= before <= most and before == self.counters.time_wait() else None

        try:
            return wait_until(agreeing, "sock_diag and sockstat agree", AGREE_DEADLINE_S)
        except DeadlineMissed as error:
            counted = sum(one.state == "time-wait" for one in self.sockets.dump())
            raise InstrumentBroken(
                f"node {self.netns_name}: sock_diag shows {counted} sockets in TIME_WAIT,"
                f" sockstat {self.counters.time_wait()}; they must agree"
            ) from error


def wait_until_settled(observers: Sequence[Observer]) -> bool:
    """Wait until every node is settled; False when a kernel still had work to do after 2 s (an overloaded machine)."""
    try:
        return wait_until(lambda: all(one.is_settled() for one in observers), "sockets settled", SETTLE_DEADLINE_S)
    except DeadlineMissed:
        return all(one.is_settled(THE_KERNELS) for one in observers)
