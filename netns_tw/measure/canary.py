"""The instruments tested: a known TIME_WAIT is made in a node, and both must see it come and go.

Theory. Observer.read() shows that two instruments agree; two that are blind agree as well. So before the first request
and after the last one a TIME_WAIT is made in each node, one for each IP version of its loopback interface, and no
instrument is believed that does not show it: a canary.

Made without a race: over lo, port B connects to port A; the accepted side sends the first FIN (shutdown(2), so it is
never an orphan), B answers only when that FIN is there, so A -> B stands in TIME_WAIT (RFC 9293, 3.6), for sure once
both ends have reached CLOSE (tcp_time_wait does all its book-keeping before tcp_done, net/ipv4/tcp_minisocks.c).

Gone again without waiting: B connects to A once more. A SYN with a newer sequence number ends the *accepting* side's
TIME_WAIT at once (RFC 9293, 3.10.7.4; tcp_timewait_state_process returns TCP_TW_SYN, tcp_v4_rcv deschedules it), with
and without timestamps, and whatever tcp_tw_reuse, tcp_tw_reuse_delay and tcp_rfc1337 say: these rule connect(2) over
one's *own* TIME_WAIT, and a RST to one. B then resets this second connection (SO_LINGER 0), which leaves nothing.
SOCK_DESTROY would do it too, but is a build option of the kernel (INET_DIAG_DESTROY).

It sways nothing that it guards:
* tcp_max_tw_buckets is lifted meanwhile and put back, so that it finds room and takes nobody else's;
* both ports are given, and outside ip_local_port_range where that leaves any: connect(2) then searches no port and
  moves no search offset (__inet_hash_connect returns before it), and the buckets of both ports are freed;
* sequence numbers and timestamp offsets are hashes of the 4-tuple, no state; lo's tcp_metrics entry is for lo only;
* the counters that it moves are in the baseline, when it comes before the first snapshot.

What others in the node do meanwhile (an idle connection closed, a TIME_WAIT at its end) moves the same sums. So what
only the canary can cause must hold at once: its 4-tuple, and that counters grew. Exact sums may be disturbed; they
must hold in one of many tries; sockstat's, which fall too, over spans so short that no dump is in them.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from errno import EADDRINUSE
from itertools import chain
from pathlib import Path

from netns_tw.errors import InstrumentBroken, NetnsTwError
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.sockdiag import LISTENING, TcpSocket
from netns_tw.measure.observer import Observer
from netns_tw.wait import DeadlineMissed, wait_until

LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
PORT_RANGE = "net.ipv4.ip_local_port_range"
LIMIT = "net.ipv4.tcp_max_tw_buckets"
NO_LIMIT = str(2**31 - 1)
LEAST_PORT, MOST_PORT = 1024, 65535
TCP_CLOSE = 7
"""include/net/tcp_states.h; the first byte of struct tcp_info is the state."""
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
RECEIVE_BYTES = 1 << 16
"""A buffer of its own: with a tiny net.ipv4.tcp_rmem not even a FIN would be taken in."""
LONGEST_MS = 61_000
"""TCP_TIMEWAIT_LEN and a tick."""
SOCKET_DEADLINE_S = 5.0
QUIET_DEADLINE_S = 3.0
GROWTH_MADE = {"TcpExtTW": 1, "TcpActiveOpens": 1, "TcpPassiveOpens": 1}
GROWTH_GONE = {"TcpExtTW": 0, "TcpActiveOpens": 1, "TcpPassiveOpens": 1}
"""By how much one canary makes counters grow when it is made, and when it is ended."""


def check(observer: Observer, avoid: Collection[int] = ()) -> list[TcpSocket]:
    """Make a known TIME_WAIT in the observer's node and demand that both instruments see it, and then see it gone.

    Return it, one for each IP version, as sock_diag showed it. Afterwards the node's sockets and sysctls are what they
    were; only counters have grown. It takes some milliseconds.

    *avoid* are ports that the experiment names itself; like those of ip_local_port_range they are left alone as long
    as there are others.

    Raises:
        InstrumentBroken: an instrument did not show it, or it could not be made; with the node and what each showed.
    """
    name = observer.netns_name
    where = f"node {name}"
    with _in_words(f"{where}: the instruments cannot be tested"), ExitStack() as undo:
        _lift_limit(name, undo)
        low, high = map(int, (sysctl.read(name, PORT_RANGE) or f"1 {MOST_PORT}").split())
        addresses = [LOOPBACK, LOOPBACK6] if _has_loopback6(name) else [LOOPBACK]
        missed: list[str] = []

        def shown() -> list[TcpSocket]:
            listening = {one.local_port for one in observer.sockets.dump(LISTENING)}
            seen = _make_and_end(observer, addresses, _ports(low, high, frozenset(avoid), listening))
            if blind := seen.blind():
                raise InstrumentBroken(f"{where}: {blind}\n{seen}")
            if disturbed := seen.disturbed():
                missed.append(f"{where}: {disturbed}, in {len(missed) + 1} tries\n{seen}")
            return [] if disturbed else [row for one in seen.canaries for row in one.rows_in(seen.rows)]

        try:
            return wait_until(shown, "exact counts", QUIET_DEADLINE_S, pause_s=0.005)
        except DeadlineMissed as error:
            raise InstrumentBroken(missed[-1]) from error


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Whatever goes wrong in the block is told as a broken instrument."""
    try:
        yield
    except InstrumentBroken:
        raise
    except (OSError, NetnsTwError) as error:
        raise InstrumentBroken(f"{what}: {error}") from error


def _lift_limit(netns_name: str, undo: ExitStack) -> None:
    """Make room for one more TIME_WAIT, until *undo* is closed."""
    limit = sysctl.read(netns_name, LIMIT)
    if limit is not None:
        undo.callback(sysctl.write, netns_name, LIMIT, limit)
        sysctl.write(netns_name, LIMIT, NO_LIMIT)


def _has_loopback6(netns_name: str) -> bool:
    """Whether the node has ::1 (net.ipv6.conf.lo.disable_ipv6, or a kernel without IPv6)."""
    with netns.enter(netns_name):
        path = Path("/proc/thread-self/net/if_inet6")
        return path.is_file() and f"{1:032x} " in path.read_text(encoding="utf-8")


def _ports(low: int, high: int, avoid: Collection[int], listening: Collection[int]) -> Iterator[int]:
    """Ports by preference: outside low-high, then inside it, then those to *avoid*; never one that is listened on.

    A port that others connect from will do, where it must: they have other addresses, so other 4-tuples.
    """
    below = range(min(low - 1, MOST_PORT), LEAST_PORT - 1, -1)
    above = range(MOST_PORT, max(high, LEAST_PORT - 1), -1)
    inside = range(min(high, MOST_PORT), max(low, LEAST_PORT) - 1, -1)
    free = (port for port in chain(above, below, inside) if port not in avoid)
    avoided = (port for port in range(MOST_PORT, LEAST_PORT - 1, -1) if port in avoid)
    return (port for port in chain(free, avoided) if port not in listening)


class _Canary:
    """A 4-tuple on lo, ``address:near -> address:far``, put into TIME_WAIT and taken out again.

    Its sockets are made inside the node and stay there; nothing that could block is done inside.
    """

    def __init__(self, netns_name: str, address: str, ports: Iterator[int]) -> None:
        self.node = netns_name
        self.address = address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with ExitStack() as stack:
            with netns.enter(netns_name):
                if not os.path.samefile(netns.THREAD_NETNS, f"{netns.RUN_NETNS}/{netns_name}"):
                    raise InstrumentBroken(f"node {netns_name}: entering its namespace led into another one")
                self._listener, self._first, self._second = (
                    stack.enter_context(socket.socket(family, socket.SOCK_STREAM)) for _ in range(3)
                )
            for one in (self._listener, self._first, self._second):
                one.settimeout(SOCKET_DEADLINE_S)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self.near = _bind(self._listener, address, ports)
            self.far = _bind(self._first, address, ports)
            self._listener.listen(1)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def __str__(self) -> str:
        return f"{self.address} port {self.near} -> {self.far}"

    def make(self) -> None:
        """Return when the 4-tuple stands in TIME_WAIT and nothing else of its connection is left."""
        with _in_words(f"node {self.node}: no TIME_WAIT can be made on {self}"):
            self._first.connect((self.address, self.near))
            accepted = self._accept()
            accepted.shutdown(socket.SHUT_WR)
            self._first.recv(1)  # the FIN is here: closing now is no simultaneous close, which would make two of them
            self._first.shutdown(socket.SHUT_WR)
            _wait_until_closed(accepted, self._first)
            self._first.close()

    def end(self) -> None:
        """Return when the 4-tuple is free again."""
        with _in_words(f"node {self.node}: the TIME_WAIT cannot be ended on {self}"):
            self._second.bind((self.address, self.far))
            self._second.connect((self.address, self.near))
            accepted = self._accept()
            self._second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            self._second.close()
            _wait_until_closed(accepted)

    def rows_in(self, sockets: list[TcpSocket]) -> list[TcpSocket]:
        """The rows of *sockets* that are this 4-tuple."""
        own = (self.address, self.near, self.address, self.far)
        return [one for one in sockets if one[1:5] == own]

    def _accept(self) -> socket.socket:
        accepted = self._stack.enter_context(self._listener.accept()[0])
        accepted.settimeout(SOCKET_DEADLINE_S)
        return accepted


def _bind(one: socket.socket, address: str, ports: Iterator[int]) -> int:
    """Bind to the first of *ports* that is free; return it."""
    for port in ports:
        try:
            one.bind((address, port))
            return port
        except OSError as error:
            if error.errno != EADDRINUSE:
                raise
    raise InstrumentBroken(f"no port is free on {address}")


def _wait_until_closed(*ends: socket.socket) -> None:
    def are_closed() -> bool:
        return all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE for one in ends)

    wait_until(are_closed, "both ends are closed", SOCKET_DEADLINE_S)


@dataclass(frozen=True)
class _Seen:
    """What the instruments showed around the making and the end of the canaries."""

    canaries: list[_Canary]
    rows: list[TcpSocket]
    rows_after: list[TcpSocket]
    counters: tuple[dict[str, int], dict[str, int], dict[str, int]]
    """Before, while there, after the end."""
    time_wait: tuple[int, int, int, int]
    """sockstat's tw before and after the making, before and after the end."""

    def blind(self) -> str:
        """What was not seen although nothing else in the node can have hidden it."""
        for one in self.canaries:
            found = one.rows_in(self.rows)
            good = [row for row in found if row.state == "time-wait" and 0 < row.expires_ms <= LONGEST_MS]
            if len(found) != 1 or not good:
                return f"sock_diag does not show a TIME_WAIT that is there ({one})"
            if one.rows_in(self.rows_after):
                return f"sock_diag shows a TIME_WAIT that is gone ({one})"
        slow = [name for name, grown, due in self._growths() if grown is None or grown < due]
        return f"the counters miss a TIME_WAIT that came and went: {', '.join(slow)}" if slow else ""

    def disturbed(self) -> str:
        """What is not exact; others in the node may have caused it, but not each time."""
        many = len(self.canaries)
        before, made, last, gone = self.time_wait
        if (made - before, gone - last) != (many, -many):
            return "sockstat does not count a TIME_WAIT that came and went"
        fast = [name for name, grown, due in self._growths() if grown != due]
        return f"the counters show more than a TIME_WAIT that came and went: {', '.join(fast)}" if fast else ""

    def _growths(self) -> Iterator[tuple[str, int | None, int]]:
        """Counter, by how much it grew (None: there is none of that name), and by how much it must."""
        before, made, gone = self.counters
        for one, two, due in ((before, made, GROWTH_MADE), (made, gone, GROWTH_GONE)):
            for name, times in due.items():
                grown = two[name] - one[name] if name in one and name in two else None
                yield name, grown, times * len(self.canaries)

    def __str__(self) -> str:
        rows = [tuple(row) for one in self.canaries for row in one.rows_in(self.rows)]
        after = [tuple(row) for one in self.canaries for row in one.rows_in(self.rows_after)]
        counted = "; ".join(
            f"{name} {' -> '.join(str(one.get(name)) for one in self.counters)}" for name in GROWTH_MADE
        )
        return "\n".join(
            [
                f"  made and ended: {len(self.canaries)} ({', '.join(map(str, self.canaries))})",
                f"  sock_diag: {rows or 'not there'}, then {after or 'not there'}",
                f"  sockstat's tw: {' -> '.join(map(str, self.time_wait[:2]))},"
                f" then {' -> '.join(map(str, self.time_wait[2:]))}",
                f"  counters: {counted}",
            ]
        )


def _make_and_end(observer: Observer, addresses: list[str], ports: Iterator[int]) -> _Seen:
    """One try: make all canaries, look, end them, look again."""
    with ExitStack() as stack:
        canaries = [stack.enter_context(closing(_Canary(observer.netns_name, address, ports))) for address in addresses]
        counters, time_wait = observer.counters.read, observer.counters.time_wait
        before, tw_before = counters(), time_wait()
        for one in canaries:
            one.make()
        tw_made, made = time_wait(), counters()
        rows = observer.rows_at([one.near for one in canaries])
        tw_last = time_wait()
        for one in canaries:
            one.end()
        tw_gone, gone = time_wait(), counters()
        rows_after = observer.rows_at([one.near for one in canaries])
    return _Seen(canaries, rows, rows_after, (before, made, gone), (tw_before, tw_made, tw_last, tw_gone))
