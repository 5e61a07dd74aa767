"""The capture file format pcapng: the four kinds of block that we write, and a reader for them.

Source: draft-ietf-opsawg-pcapng, by section. A file is a row of blocks (3.1): type, total length, body, total length
again, all multiples of 4 octets. A section header (4.1) says the byte order, an interface description (4.2) names
where the packets that follow were seen, an enhanced packet (4.3) is one packet with its time, and interface statistics
(4.6) come last: how many packets there were, and how many got lost. So a file tells by itself whether it is whole:
one without statistics was never ended, and one that breaks off inside a block is *cut*.

We write little-endian on every machine. A module of functions and not a class: kernel/capture.py takes it as its form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

SECTION, INTERFACE, PACKET, STATISTICS = 0x0A0D0D0A, 1, 6, 5
BYTE_ORDER_MAGIC = 0x1A2B3C4D
ETHERNET = 1
"""LINKTYPE_ETHERNET."""
NANOSECONDS = 9
"""if_tsresol: one tick is 10^-9 s."""
DEFAULT_RESOLUTION = 6
UNKNOWN_LENGTH = 0xFFFF_FFFF_FFFF_FFFF
LONGEST_BLOCK = 1 << 24
"""The reader's limit: far above any packet, far below what a hostile length would have it allocate."""
INBOUND, OUTBOUND = 1, 2

_HARDWARE, _SYSTEM, _APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_FLAGS = 2
_STARTED, _ENDED, _RECEIVED, _DROPPED = 2, 3, 4, 5

_WORD = struct.Struct("<I")
_HEAD = struct.Struct("<II")
_OPTION = struct.Struct("<HH")
_SECTION = struct.Struct("<IHHQ")
_INTERFACE = struct.Struct("<HHI")
_PACKET = struct.Struct("<IIIII")
_PACKET_HEAD = struct.Struct("<IIIIIII")
_PACKET_TAIL = struct.Struct("<HHIII")
_STATISTICS = struct.Struct("<III")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))


def header(name: str, description: str, hardware: str, system: str, application: str = "netns_tw") -> bytes:
    """The start of a file with one Ethernet interface: section header and interface description, 4.1 and 4.2.

    Raises:
        ValueError: a text is longer than 65,535 octets.
    """
    about = _options([(_HARDWARE, hardware), (_SYSTEM, system), (_APPLICATION, application)])
    section = _block(SECTION, _SECTION.pack(BYTE_ORDER_MAGIC, 1, 0, UNKNOWN_LENGTH) + about)
    about = _options([(_IF_NAME, name), (_IF_DESCRIPTION, description), (_IF_TSRESOL, bytes([NANOSECONDS]))])
    return section + _block(INTERFACE, _INTERFACE.pack(ETHERNET, 0, 0) + about)


def packet(at_ns: int, data: bytes | memoryview, length: int, is_outgoing: bool) -> bytes:
    """One packet, 4.3: *data* is what was captured of its *length* octets, *at_ns* ns after 1970 began."""
    size = len(data)
    padding = _PADDING[size & 3]
    total = _PACKET_HEAD.size + size + len(padding) + _PACKET_TAIL.size
    head = _PACKET_HEAD.pack(PACKET, total, 0, at_ns >> 32, at_ns & 0xFFFF_FFFF, size, length)
    tail = _PACKET_TAIL.pack(_FLAGS, 4, OUTBOUND if is_outgoing else INBOUND, 0, total)
    return b"".join((head, data, padding, tail))


def statistics(began_ns: int, ended_ns: int, received: int, dropped: int) -> bytes:
    """The end of a capture, 4.6: of the *received* packets, *dropped* are not in the file."""
    high, low = ended_ns >> 32, ended_ns & 0xFFFF_FFFF
    about = _options(
        [
            (_STARTED, struct.pack("<II", began_ns >> 32, began_ns & 0xFFFF_FFFF)),
            (_ENDED, struct.pack("<II", high, low)),
            (_RECEIVED, struct.pack("<Q", received)),
            (_DROPPED, struct.pack("<Q", dropped)),
        ]
    )
    return _block(STATISTICS, _STATISTICS.pack(0, high, low) + about)


def _block(kind: int, body: bytes) -> bytes:
    total = _HEAD.size + len(body) + _WORD.size
    return _HEAD.pack(kind, total) + body + _WORD.pack(total)


def _options(options: list[tuple[int, str | bytes]]) -> bytes:
    """Options, 3.5: code, length, value padded to 4 octets; the code 0 ends them."""
    parts = []
    for code, given in options:
        value = given.encode() if isinstance(given, str) else given
        if len(value) > 0xFFFF:
            raise ValueError(f"an option of {len(value)} octets; 65535 is the most")
        parts += [_OPTION.pack(code, len(value)), value, _PADDING[len(value) & 3]]
    return b"".join([*parts, _OPTION.pack(0, 0)])


@dataclass(frozen=True)
class Interface:
    """Where packets were seen, and the length of a tick: 1 / *ticks_per_s* s."""

    name: str
    description: str
    link_type: int
    ticks_per_s: int


@dataclass(frozen=True)
class Statistics:
    """Of all packets that an interface *received* during the capture, *dropped* are not in the file."""

    interface: int
    received: int
    dropped: int


class Packet(NamedTuple):
    """One captured packet: *data* of its *length* octets; whether the interface sent it (None: the file is silent)."""

    interface: int
    at_ns: int
    data: bytes
    length: int
    is_outgoing: bool | None


class Reader:
    """The packets of a file, by iteration, once. What is known of the file grows meanwhile.

    Blocks of other kinds are passed over, as 3.1 wants. Big-endian files, which we never write, are refused.

    Raises:
        ValueError: at the start, this is no such file; during the iteration, a block is malformed: which octet, and
            what is wrong. A file that breaks off is no error: the iteration ends with the last whole block and ``cut``
            says where.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._first = 0
        self.interfaces: list[Interface] = []
        self.statistics: list[Statistics] = []
        self.cut = ""
        block = self._next_block()
        if block is None:
            raise ValueError(self.cut or "an empty file is no capture")
        if block[0] != SECTION:
            raise ValueError("not a pcapng capture: it does not start with a section header")

    def why_incomplete(self) -> str:
        """After the iteration: why packets may be missing, in words; empty where none is."""
        if self.cut:
            return self.cut
        if len({one.interface for one in self.statistics}) < max(1, len(self.interfaces)):
            return "the capture was never ended: its statistics are missing"
        lost = sum(one.dropped for one in self.statistics)
        return f"{lost} packets were dropped" if lost else ""

    def __iter__(self) -> Iterator[Packet]:
        while (block := self._next_block()) is not None:
            kind, body = block
            if kind == PACKET:
                yield self._packet(body)
            elif kind == INTERFACE:
                self.interfaces.append(self._interface(body))
            elif kind == STATISTICS:
                self.statistics.append(self._statistics(body))

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"malformed capture: the block before octet {self._offset}: {what}")

    def _next_block(self) -> tuple[int, bytes] | None:
        """The type and the body of the next block; None at the end of the file, ``cut`` says of which kind."""
        at = self._offset
        head = self._stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return self._break_off(at if head else None)
        kind, total = _HEAD.unpack(head)
        known = b""
        if kind == SECTION:  # its length can be read only when the byte order is known
            known = self._stream.read(_WORD.size)
            if len(known) < _WORD.size:
                return self._break_off(at)
            self._check_byte_order(known, at)
        if total & 3 or not _HEAD.size + len(known) + _WORD.size <= total <= LONGEST_BLOCK:
            raise ValueError(f"malformed capture: octet {at}: a block cannot have {total} octets")
        wanted = total - _HEAD.size - len(known)
        rest = self._stream.read(wanted)
        if len(rest) < wanted:
            return self._break_off(at)
        self._offset = at + total
        if _WORD.unpack_from(rest, wanted - _WORD.size)[0] != total:
            raise self._wrong("its two lengths differ")
        body = known + rest[: -_WORD.size]
        if kind == SECTION:
            self._start_section(body)
        return kind, body

    def _break_off(self, at: int | None) -> tuple[int, bytes] | None:
        """The file ends: inside the block at octet *at*, or after the last one (None)."""
        if at is not None:
            self.cut = f"the capture is cut short inside the block at octet {at}"
        return None

    def _check_byte_order(self, magic: bytes, at: int) -> None:
        if magic == _WORD.pack(BYTE_ORDER_MAGIC)[::-1]:
            raise ValueError(f"octet {at}: a big-endian section, which is read by tshark but not here")
        if magic != _WORD.pack(BYTE_ORDER_MAGIC):
            raise ValueError(f"not a pcapng capture: octet {at}: no byte-order magic")

    def _start_section(self, body: bytes) -> None:
        """Check the version; interfaces are numbered anew in each section, 4.2."""
        if len(body) < _SECTION.size:
            raise self._wrong("a section header too short")
        _, major, minor, _ = _SECTION.unpack_from(body)
        if major != 1:
            raise self._wrong(f"version {major}.{minor}; 1.0 is read here")
        self._first = len(self.interfaces)

    def _options(self, body: bytes, at: int) -> dict[int, bytes]:
        """The options from *at* on, by code; of a code that comes twice, the first."""
        found: dict[int, bytes] = {}
        while at < len(body):
            if len(body) - at < _OPTION.size:
                raise self._wrong("an option without a length")
            code, size = _OPTION.unpack_from(body, at)
            if code == 0:
                break
            at += _OPTION.size
            if size > len(body) - at:
                raise self._wrong("an option longer than its block")
            found.setdefault(code, body[at : at + size])
            at += (size + 3) & ~3
        return found

    def _interface(self, body: bytes) -> Interface:
        if len(body) < _INTERFACE.size:
            raise self._wrong("an interface description too short")
        link_type, _, _ = _INTERFACE.unpack_from(body)
        options = self._options(body, _INTERFACE.size)
        (power,) = options.get(_IF_TSRESOL, b"")[:1] or (DEFAULT_RESOLUTION,)
        name, description = (options.get(code, b"").decode(errors="replace") for code in (_IF_NAME, _IF_DESCRIPTION))
        return Interface(name, description, link_type, 2 ** (power & 0x7F) if power & 0x80 else 10**power)

    def _known(self, number: int) -> int:
        """The index in ``interfaces`` of the section's interface *number*."""
        if number >= len(self.interfaces) - self._first:
            raise self._wrong(f"interface {number} was not described")
        return self._first + number

    def _packet(self, body: bytes) -> Packet:
        if len(body) < _PACKET.size:
            raise self._wrong("a packet block too short")
        number, high, low, size, length = _PACKET.unpack_from(body)
        if size > len(body) - _PACKET.size:
            raise self._wrong("a packet longer than its block")
        interface = self._known(number)
        flags = self._options(body, _PACKET.size + ((size + 3) & ~3)).get(_FLAGS, b"")
        direction = flags[0] & 3 if len(flags) == _WORD.size else 0
        at_ns = (high << 32 | low) * 10**NANOSECONDS // self.interfaces[interface].ticks_per_s
        data = body[_PACKET.size : _PACKET.size + size]
        return Packet(interface, at_ns, data, length, {INBOUND: False, OUTBOUND: True}.get(direction))

    def _statistics(self, body: bytes) -> Statistics:
        if len(body) < _STATISTICS.size:
            raise self._wrong("statistics too short")
        interface = self._known(_WORD.unpack_from(body)[0])
        options = self._options(body, _STATISTICS.size)
        received, dropped = (int.from_bytes(options.get(code, b""), "little") for code in (_RECEIVED, _DROPPED))
        return Statistics(interface, received, dropped)
