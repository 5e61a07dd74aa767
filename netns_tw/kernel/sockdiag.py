"""TCP sockets of one namespace, by state and 4-tuple, over NETLINK_SOCK_DIAG (sock_diag(7)).

This is the instrument the project stands on. One netlink socket per namespace is opened inside it and kept: a netlink
socket belongs to the namespace it was made in. Each dump is asked for twice, for AF_INET and AF_INET6. A TIME_WAIT
socket is a small ``inet_timewait_sock`` that the dump walks as well (inet_diag_dump_icsk, net/ipv4/inet_diag.c); its
``idiag_expires`` is what is left of its 60 s. An orphan in FIN_WAIT2 is kept in the same small form, and is reported
by its substate, as FIN_WAIT2.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel import netns
from netns_tw.rules import TCP_STATES

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3

ALL_STATES = 0xFFF
CLOSED, LISTENING = 1 << 7, 1 << 10

_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, ext, pad, states, socket id (any)
# inet_diag_msg: family, state, timer, retrans, ports (big endian), two addresses, then expires after ifindex, cookie
_MSG = struct.Struct(">BBBBHH16s16s")
_EXPIRES = struct.Struct("=I")
_EXPIRES_OFFSET = 52
_BUFFER_BYTES = 1 << 18
_ATTEMPTS = 5


class TcpSocket(NamedTuple):
    """One TCP socket: its state by ss(8)'s name, its 4-tuple, and ms until its timer ends (0: no timer)."""

    state: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    expires_ms: int


class SockDiag:
    """A reader of all TCP sockets of one namespace."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        with netns.enter(netns_name):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def dump(self, states: int = ALL_STATES) -> list[TcpSocket]:
        """Return every TCP socket whose state's bit (1 << number) is in *states*, IPv4 and IPv6.

        Raises:
            InstrumentBroken: the kernel refused the dump, or could not finish one undisturbed.
        """
        return [*self._dump(socket.AF_INET, states), *self._dump(socket.AF_INET6, states)]

    def is_listening(self, port: int, address: str | None = None) -> bool:
        """Whether a socket listens on *port*, at *address* or at the wildcard. Opens no connection."""
        wanted = {"0.0.0.0", "::", address} if address else None
        return any(
            found.local_port == port and (wanted is None or found.local in wanted) for found in self.dump(LISTENING)
        )

    def _dump(self, family: int, states: int) -> list[TcpSocket]:
        for _ in range(_ATTEMPTS):
            self._ask(family, states)
            rows = self._answer()
            if rows is not None:
                return rows
        raise InstrumentBroken(f"sock_diag in {self.netns_name}: interrupted {_ATTEMPTS} times (NLM_F_DUMP_INTR)")

    def _ask(self, family: int, states: int) -> None:
        self._sequence += 1
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, flags, self._sequence, 0)
        self._socket.send(header + body)

    def _answer(self) -> list[TcpSocket] | None:
        """Read one whole answer; None when the table changed under the dump so that rows may be missing."""
        rows: list[TcpSocket] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in self._messages(self._socket.recv_into(self._buffer)):
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return rows if whole else None
                if kind == NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", payload)[0])
                    name = errno.errorcode.get(code, str(code))
                    raise InstrumentBroken(f"sock_diag in {self.netns_name}: {name} ({os.strerror(code)})")
                rows.append(_decode(payload))

    def _messages(self, size: int) -> Iterator[tuple[int, int, int, memoryview]]:
        view = memoryview(self._buffer)
        offset = 0
        while offset < size:
            length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(view, offset)
            yield kind, flags, sequence, view[offset + _NLMSGHDR.size : offset + length]
            offset += (length + 3) & ~3


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
