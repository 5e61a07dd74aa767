"""One node observed: its sockets, its counters, and the check that both instruments agree.

Two independent sources count TIME_WAIT: the sock_diag dump and sockstat's ``tw``. sockstat also counts orphans in
FIN_WAIT2, which the kernel keeps in the same small form (tcp_time_wait, net/ipv4/tcp_minisocks.c). Where the two
differ and keep differing, nothing that rests on them can be believed.
"""

from __future__ import annotations

from collections.abc import Sequence

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.sockdiag import SockDiag, TcpSocket
from netns_tw.wait import DeadlineMissed, wait_until

ON_THEIR_WAY = frozenset(("syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "closing", "last-ack", "close-wait"))
"""States that end by themselves within milliseconds when both programs close."""
SETTLE_DEADLINE_S = 2.0
AGREE_DEADLINE_S = 3.0


class Observer:
    """The two instruments of one namespace, opened inside it and kept."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        self.sockets = SockDiag(netns_name)
        self.counters = Counters(netns_name)

    def close(self) -> None:
        self.sockets.close()
        self.counters.close()

    def is_settled(self) -> bool:
        """Whether no socket is on its way from one lasting state to another."""
        return not any(one.state in ON_THEIR_WAY for one in self.sockets.dump())

    def read(self) -> tuple[list[TcpSocket], int]:
        """Return all sockets and sockstat's ``tw``, taken so that they agree.

        Raises:
            InstrumentBroken: they still differ after 3 s.
        """

        def agreeing() -> tuple[list[TcpSocket], int] | None:
            before = self.counters.time_wait()
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
    """Wait until every node is settled; False when one was not after 2 s (a program does not close)."""
    try:
        return wait_until(lambda: all(one.is_settled() for one in observers), "sockets settled", SETTLE_DEADLINE_S)
    except DeadlineMissed:
        return False
