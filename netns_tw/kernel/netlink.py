"""Netlink, netlink(7): messages as bytes, and one socket that asks and hears.

A message is a header (length, type, flags, sequence, port), a body that its type defines, and attributes (length,
type, value), each padded to four bytes; an attribute may hold attributes. The kernel answers a request that wants an
ACK with NLMSG_ERROR, whose code is 0 where all is well; with NETLINK_EXT_ACK it says in words what was wrong.

A netlink socket belongs to the namespace that it was opened in, whatever namespace its user is in later.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import TypeVar

HEADER = struct.Struct("=IHHII")
F_REQUEST, F_ACK, F_DUMP, F_EXCL, F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
F_DUMP_INTR, F_CAPPED, F_ACK_TLVS = 0x10, 0x100, 0x200
ERROR, DONE = 2, 3

_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_NESTED = 0x8000
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 11, 12
_ATTR_MSG = 1
"""NLMSGERR_ATTR_MSG, include/uapi/linux/netlink.h."""
_BUFFER_BYTES = 1 << 16
Octets = TypeVar("Octets", bytes, memoryview)


class Refused(OSError):
    """The kernel refused a request; ``strerror`` is its own explanation where it gives one."""


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length & 3)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def find(data: bytes, kind: int) -> bytes:
    """The value of the first attribute of type *kind* in *data*; empty where there is none."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, found = _ATTRIBUTE.unpack_from(data, offset)
        if found & ~_NESTED == kind or length < _ATTRIBUTE.size:
            return data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return b""


def messages(data: Octets) -> Iterator[tuple[int, int, int, Octets]]:
    """Yield type, flags, sequence and body (with the attributes) of each message in *data*."""
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


class Netlink:
    """A netlink socket of one family, opened in the namespace that the caller is in."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        for option in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request and return the bodies of its answers, once the kernel has acknowledged it.

        Raises:
            Refused: the kernel refused it; with its errno.
        """
        self._sequence += 1
        length = HEADER.size + len(body)
        self._socket.send(HEADER.pack(length, kind, F_REQUEST | F_ACK | flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            for kind, flags, sequence, answer in messages(self._socket.recv(_BUFFER_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind != ERROR:
                    answers.append(answer)
                    continue
                if code := -_CODE.unpack_from(answer)[0]:
                    raise Refused(code, _explanation(answer, flags) or os.strerror(code))
                return answers


def _explanation(error: bytes, flags: int) -> str:
    """The kernel's words in an NLMSG_ERROR: behind the code comes the request, its header alone if F_CAPPED."""
    if not flags & F_ACK_TLVS:
        return ""
    request_bytes = HEADER.size if flags & F_CAPPED else int(HEADER.unpack_from(error, _CODE.size)[0])
    words = find(error[_CODE.size + ((request_bytes + 3) & ~3) :], _ATTR_MSG)
    return words.rstrip(b"\0").decode(errors="replace")
