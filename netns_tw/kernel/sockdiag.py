"""TCP sockets of one namespace, by state and 4-tuple, over NETLINK_SOCK_DIAG (sock_diag(7)).

This is the instrument the project stands on. One netlink socket per namespace is opened inside it and kept: a netlink
socket belongs to the namespace it was made in. A dump is asked for by TCPDIAG_GETSOCK, the older of two requests: its
one walk of the tables shows IPv4 and IPv6 (inet_diag_dump_compat asks for AF_UNSPEC), where SOCK_DIAG_BY_FAMILY would
walk them once for each; and a walk passes every bucket, also those of other namespaces. A TIME_WAIT socket is a small
``inet_timewait_sock`` that the dump walks as well (inet_diag_dump_icsk, net/ipv4/inet_diag.c); its ``idiag_expires``
is what is left of its 60 s. An orphan in FIN_WAIT2 is kept in the same small form, and is reported by its substate, as
FIN_WAIT2.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections import Counter as Tally
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel import netlink, netns
from netns_tw.rules import TCP_STATES

NETLINK_SOCK_DIAG = 4
TCPDIAG_GETSOCK = 18

ALL_STATES = 0xFFF
_LISTEN = 10
CLOSED, LISTENING = 1 << 7, 1 << _LISTEN
BITS = {name: 1 << number for number, name in TCP_STATES.items()}

_REQUEST = struct.Struct("=4x2s46xII")  # inet_diag_req: any family, no ext; local port (big endian), states, dbs
# inet_diag_msg: family, state, timer, retrans, ports (big endian), two addresses, then expires after ifindex, cookie
_MSG = struct.Struct(">BBBBHH16s16s")
_EXPIRES = struct.Struct("=I")
_EXPIRES_OFFSET = 52
_LEAST_BYTES = 88
"""Of a message: its header and inet_diag_msg. Attributes may follow; a TIME_WAIT has at most its mark."""
_EXPIRES_WORD = 17
_HALVES = struct.Struct("=HxxHH")
"""Family and state in one, and both ports, as they came."""
_QUADS, _REMOTE_OFFSET = struct.Struct("=QQ"), 24
"""The remote address in two halves."""
_Key = tuple[int, int, int, int, int]
_MULTI = 0x2
MOST_KINDS = 4096
_BUFFER_BYTES = 1 << 18
_buffer = bytearray(_BUFFER_BYTES)
"""Of all readers: what comes is taken in at once. One for each of a hundred nodes would be 20 ms of clearing pages."""
_ATTEMPTS = 5


A = TypeVar("A", "_Rows", "_Tally")


class TcpSocket(NamedTuple):
    """One TCP socket: its state by ss(8)'s name, its 4-tuple, and ms until its timer ends (0: no timer)."""

    state: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    expires_ms: int


class Kind(NamedTuple):
    """What sockets of one kind have in common; a port of 0 stands for all ports.

    Of those that were accepted, on a port that is listened on, the remote port is left open, of all others the local
    one: that is where the ephemeral port is. Where this makes more than MOST_KINDS kinds, as it does where nobody
    listens any more on the port that they were accepted on, both are left open of all that do not listen.
    """

    state: str
    local_port: int
    remote: str
    remote_port: int


class SockDiag:
    """A reader of all TCP sockets of one namespace."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        with netns.enter(netns_name):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def dump(self, states: int = ALL_STATES, local_port: int = 0) -> list[TcpSocket]:
        """Return every TCP socket whose state's bit (1 << number) is in *states*, IPv4 and IPv6.

        Of *local_port* alone, where one is given: the kernel passes the others over.

        Raises:
            InstrumentBroken: the kernel refused the dump, or could not finish one undisturbed.
        """
        return self._whole(states, local_port, _Rows).rows

    def tally(self, states: int = ALL_STATES) -> dict[Kind, int]:
        """Return how many sockets there are of each kind; a third of what ``dump`` costs.

        Raises:
            InstrumentBroken: as ``dump``.
        """
        listening = {one.local_port for one in self.dump(LISTENING)} if states & ~LISTENING else set()
        ports = frozenset(map(socket.htons, listening))
        counts = self._whole(states, 0, lambda: _Tally(ports)).counts
        if len(counts) > MOST_KINDS:
            every, counts = counts, Tally()
            for key, count in every.items():
                is_listener = _kind(key).state == TCP_STATES[_LISTEN]
                counts[key if is_listener else (key[0], 0, 0, *key[3:])] += count
        found: Tally[Kind] = Tally()
        for key, count in counts.items():  # two families may spell one address
            found[_kind(key)] += count
        return dict(found)

    def is_listening(self, port: int, address: str | None = None) -> bool:
        """Whether a socket listens on *port*, at *address* or at the wildcard. Opens no connection."""
        wanted = {"0.0.0.0", "::", address} if address else None
        return any(
            found.local_port == port and (wanted is None or found.local in wanted) for found in self.dump(LISTENING)
        )

    def _whole(self, states: int, local_port: int, new: Callable[[], A]) -> A:
        """Have one undisturbed answer taken in by what *new* makes.

        Raises:
            InstrumentBroken: the kernel refused the dump, or the table changed under each.
        """
        for _ in range(_ATTEMPTS):
            self._ask(states, local_port)
            answer = new()
            if self._answer(answer):
                return answer
        raise InstrumentBroken(f"sock_diag in {self.netns_name}: interrupted {_ATTEMPTS} times (NLM_F_DUMP_INTR)")

    def _ask(self, states: int, local_port: int) -> None:
        self._sequence += 1
        body = _REQUEST.pack(local_port.to_bytes(2, "big"), states, 0)
        flags = netlink.F_REQUEST | netlink.F_DUMP
        header = netlink.HEADER.pack(netlink.HEADER.size + len(body), TCPDIAG_GETSOCK, flags, self._sequence, 0)
        self._socket.send(header + body)

    def _answer(self, answer: _Rows | _Tally) -> bool:
        """Read one whole answer; False when the table changed under the dump so that rows may be missing."""
        whole = True
        while True:
            data = memoryview(_buffer)[: self._socket.recv_into(_buffer)]
            if (size := self._stride(data)) is not None:
                answer.take_all(data, size)
                continue
            for kind, flags, sequence, payload in netlink.messages(data):
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & netlink.F_DUMP_INTR
                if kind == netlink.DONE:
                    return whole
                if kind == netlink.ERROR:
                    code = -int(struct.unpack_from("=i", payload)[0])
                    name = errno.errorcode.get(code, str(code))
                    raise InstrumentBroken(f"sock_diag in {self.netns_name}: {name} ({os.strerror(code)})")
                answer.take(payload)

    def _stride(self, data: memoryview) -> int | None:
        """The size of each message in *data*, where all are of one size, of this answer and undisturbed; else None."""
        size, _, sequence = data[:12].cast("I")
        if size < _LEAST_BYTES or size % 8 or len(data) % size or sequence != self._sequence:
            return None
        words, count = data.cast("I"), len(data) // size
        sizes, kinds = words[:: size // 4].tolist(), words[1 :: size // 4].tolist()
        is_one = sizes.count(size) == kinds.count(TCPDIAG_GETSOCK | _MULTI << 16) == count
        return size if is_one else None


@lru_cache(maxsize=64)
def _rows_in(size: int) -> struct.Struct:
    """Of a message of *size* bytes: family, state, ports, both addresses."""
    return struct.Struct(f">16xBBxxHH16s16s{size - 56}x")


class _Rows:
    """An answer as a list of sockets."""

    def __init__(self) -> None:
        self.rows: list[TcpSocket] = []

    def take(self, payload: memoryview) -> None:
        self.rows.append(_decode(payload))

    def take_all(self, data: memoryview, size: int) -> None:
        expires = data.cast("I")[_EXPIRES_WORD :: size // 4].tolist()
        for (family, state, local_port, remote_port, local, remote), ms in zip(
            _rows_in(size).iter_unpack(data), expires, strict=True
        ):
            name = TCP_STATES.get(state, str(state))
            local_text, remote_text = _text(family, local), _text(family, remote)
            self.rows.append(TcpSocket(name, local_text, local_port, remote_text, remote_port, ms))


class _Tally:
    """An answer counted by family and state, local port or 0, remote port or 0, remote address; all as they came.

    Most sockets of a node differ in few of these, often in none. So messages of one size are looked at by column, and
    only columns that vary are counted.
    """

    def __init__(self, listening: frozenset[int]) -> None:
        self._listening = listening
        self.counts: Tally[_Key] = Tally()

    def take(self, payload: memoryview) -> None:
        kind, local_port, remote_port = _HALVES.unpack_from(payload)
        is_accepted = local_port in self._listening
        remote = _QUADS.unpack_from(payload, _REMOTE_OFFSET)
        self.counts[kind, *((local_port, 0) if is_accepted else (0, remote_port)), *remote] += 1

    def take_all(self, data: memoryview, size: int) -> None:
        halves, quads, zeros = data.cast("H"), data.cast("Q"), [0] * (len(data) // size)
        kinds, local = halves[8 :: size // 2].tolist(), halves[10 :: size // 2].tolist()
        if self._listening.issuperset(local):
            ports = local, zeros
        elif self._listening.isdisjoint(local):
            ports = zeros, halves[11 :: size // 2].tolist()
        else:
            for offset in range(0, len(data), size):
                self.take(data[offset + netlink.HEADER.size : offset + size])
            return
        columns = (kinds, *ports, quads[5 :: size // 8].tolist(), quads[6 :: size // 8].tolist())
        varying = [place for place, column in enumerate(columns) if column.count(column[0]) != len(column)]
        key = [column[0] for column in columns]
        for values, count in Tally(zip(*(columns[place] for place in varying), strict=True)).items():
            for place, value in zip(varying, values, strict=True):
                key[place] = value
            self.counts[tuple(key)] += count  # type: ignore[index]
        if not varying:
            self.counts[tuple(key)] += len(zeros)  # type: ignore[index]


def _kind(key: _Key) -> Kind:
    kind, local_port, remote_port, *remote = key
    family, state = kind.to_bytes(2, sys.byteorder)
    name = TCP_STATES.get(state, str(state))
    return Kind(name, socket.ntohs(local_port), _text(family, _QUADS.pack(*remote)), socket.ntohs(remote_port))


def _decode(payload: memoryview) -> TcpSocket:
    family, state, _, _, local_port, remote_port, local, remote = _MSG.unpack_from(payload)
    (expires,) = _EXPIRES.unpack_from(payload, _EXPIRES_OFFSET)
    return TcpSocket(
        TCP_STATES.get(state, str(state)), _text(family, local), local_port, _text(family, remote), remote_port, expires
    )


@lru_cache(maxsize=4096)
def _text(family: int, raw: bytes) -> str:
    """An address as text; an IPv4 client of a dual-stack listener (::ffff:a.b.c.d) reads as plain IPv4."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)
