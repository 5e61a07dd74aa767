"""Who closed first, exactly: from the packets of a capture, per connection, the order of the FINs.

Theory, RFC 9293. A FIN takes one sequence number, so an acknowledgment beyond it says that its sender's peer has seen
it. That decides the order, wherever on the link the packets were seen and whatever their times: the FIN that
acknowledges the other one is the second (section 3.6 case 2, its sender goes by CLOSE-WAIT to LAST-ACK); where neither
acknowledges the other, each was sent before its sender had seen the other one (case 3, the state CLOSING), a
*simultaneous* close that leaves a TIME_WAIT on both sides. Only the first copy of each FIN counts: a retransmitted one
carries a newer acknowledgment. Sequence numbers wrap, so all are compared modulo 2^32 (section 3.4).

A 4-tuple is used again and again here. Each SYN without ACK opens a new *connection* (an incarnation of the 4-tuple,
section 3.4.1), unless it repeats the number of the one before: then it is the same SYN, retransmitted. Until the SYN
is answered, what comes belongs to the incarnation before: an old FIN, an ACK out of TIME_WAIT, the RST that answers it
(section 3.5.1, figure 9). Packets of a connection whose SYN is not in the capture are left out.

Ethernet; IPv4, and IPv6 without extension headers.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from netns_tw.model.pcapng import Packet

Side = Literal["opener", "acceptor"]
End = Literal["opener", "acceptor", "simultaneous", "reset", "open", "unopened"]
OTHER: dict[Side, Side] = {"opener": "acceptor", "acceptor": "opener"}

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_ETHERNET_OCTETS, _IPV4_OCTETS, _IPV6_OCTETS = 14, 20, 40
_TCP = 6
_FRAGMENT_OFFSET = 0x1FFF
_TCP_HEAD = struct.Struct(">2s2sIIBB6x")


class Endpoint(NamedTuple):
    """An address and a TCP port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Connection:
    """One incarnation of a 4-tuple, as the capture shows it."""

    opener: Endpoint
    """Who sent the SYN."""
    acceptor: Endpoint
    first_syn_at: int
    """ns since 1970 began."""
    is_established: bool
    """Whether the SYN was answered by a SYN with ACK, and this one acknowledged."""
    first_fin: Literal["opener", "acceptor", "simultaneous"] | None
    """Who sent the first FIN; None: nobody did."""
    is_closed: bool
    """Whether both FINs were sent and acknowledged, with no RST before."""
    reset_by: Side | None
    """Who sent an RST before the connection was closed; one that comes later ends nothing."""

    @property
    def end(self) -> End:
        """What became of it, in one word.

        An RST outweighs a FIN before it: it leaves no TIME_WAIT. *open*: no FIN yet; *unopened*: no handshake.
        """
        if not self.is_established:
            return "unopened"
        return "reset" if self.reset_by else self.first_fin or "open"


@dataclass(frozen=True)
class Tally:
    """How many connections from one address to one endpoint ended how; see ``Connection.end``."""

    opener: int = 0
    acceptor: int = 0
    simultaneous: int = 0
    reset: int = 0
    open: int = 0
    unopened: int = 0


def connections(packets: Iterable[Packet]) -> tuple[Connection, ...]:
    """All connections that were opened in *packets*, which are of one link and in its order; in that of their SYNs.

    Raises:
        ValueError: nothing does here, but reading the *packets* may, see ``pcapng.Reader``.
    """
    found: list[_Seen] = []
    newest: dict[tuple[bytes, bytes], _Seen] = {}
    for packet in packets:
        segment = _segment(packet.data)
        if segment is None:
            continue
        pair = min(segment.source, segment.target), max(segment.source, segment.target)
        seen = newest.get(pair)
        if segment.flags & (SYN | ACK | RST) == SYN:
            if seen is None or not seen.is_opened_by(segment):
                newest[pair] = _Seen(segment, packet.at_ns)
                found.append(newest[pair])
        elif seen is not None:
            seen.add(segment)
    return tuple(one.connection() for one in found)


def tally(found: Iterable[Connection]) -> dict[tuple[str, Endpoint], Tally]:
    """Count how connections ended, by the opener's address and the acceptor's endpoint."""
    counts: dict[tuple[str, Endpoint], Counter[str]] = {}
    for one in found:
        counts.setdefault((one.opener.address, one.acceptor), Counter())[one.end] += 1
    return {key: Tally(**count) for key, count in counts.items()}


class _Segment(NamedTuple):
    """What of a TCP segment matters here; an endpoint is its address's octets, then its port's two."""

    source: bytes
    target: bytes
    sequence: int
    acknowledged: int
    flags: int
    payload: int

    @property
    def fin_at(self) -> int:
        """The sequence number of its FIN, which comes after its data."""
        return (self.sequence + self.payload) & 0xFFFF_FFFF

    def covers(self, number: int) -> bool:
        """Whether it acknowledges sequence *number*: its ACK field is beyond it, modulo 2^32."""
        return bool(self.flags & ACK) and 0 < (self.acknowledged - number) & 0xFFFF_FFFF < 1 << 31


def _segment(frame: bytes) -> _Segment | None:
    """Read an Ethernet frame; None where it holds no whole TCP header."""
    kind, at = frame[12:14], _ETHERNET_OCTETS
    if kind == _IPV4 and len(frame) >= at + _IPV4_OCTETS:
        total = int.from_bytes(frame[at + 2 : at + 4]) or len(frame) - at  # 0: a GSO packet above 64 KiB
        is_tcp = frame[at + 9] == _TCP and not int.from_bytes(frame[at + 6 : at + 8]) & _FRAGMENT_OFFSET
        source, target = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
        tcp_at = at + (frame[at] & 0x0F) * 4
    elif kind == _IPV6 and len(frame) >= at + _IPV6_OCTETS:
        total = _IPV6_OCTETS + int.from_bytes(frame[at + 4 : at + 6])
        is_tcp = frame[at + 6] == _TCP
        source, target = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        tcp_at = at + _IPV6_OCTETS
    else:
        return None
    if not is_tcp or len(frame) < tcp_at + _TCP_HEAD.size:
        return None
    source_port, target_port, sequence, acknowledged, words, flags = _TCP_HEAD.unpack_from(frame, tcp_at)
    payload = max(0, at + total - tcp_at - (words >> 4) * 4)
    return _Segment(source + source_port, target + target_port, sequence, acknowledged, flags, payload)


@dataclass
class _Seen:
    """A connection while its packets are read."""

    syn: _Segment
    syn_at: int
    is_answered: bool = False
    is_established: bool = False
    reset_by: Side | None = None
    fins: dict[Side, _Segment] = field(default_factory=dict)
    newest: dict[Side, _Segment] = field(default_factory=dict)
    """The last segment of each side, so its highest acknowledgment."""

    def is_opened_by(self, syn: _Segment) -> bool:
        """Whether *syn* belongs to this connection.

        It does when it is the same SYN again, or when the other side opens too before it has answered: a simultaneous
        open, RFC 9293 section 3.5, figure 7.
        """
        if syn.source == self.syn.source:
            return syn.sequence == self.syn.sequence
        return not self.is_answered and self.reset_by is None

    @property
    def is_closed(self) -> bool:
        """Whether both FINs were sent and acknowledged."""
        return len(self.fins) == len(OTHER) and all(
            self.newest[OTHER[side]].covers(fin.fin_at) for side, fin in self.fins.items()
        )

    def add(self, segment: _Segment) -> None:
        """Take in a segment of either direction."""
        side: Side = "opener" if segment.source == self.syn.source else "acceptor"
        if self.reset_by is not None or self.is_closed or not (self.is_answered or self._answers(side, segment)):
            return
        if segment.flags & RST:
            self.reset_by = side
            return
        self.is_answered = True
        self.is_established |= side == "opener" and bool(segment.flags & ACK)
        if segment.flags & FIN:
            self.fins.setdefault(side, segment)
        self.newest[side] = segment

    def _answers(self, side: Side, segment: _Segment) -> bool:
        """Whether this is the first answer to the SYN: a SYN with ACK or an RST that acknowledges it.

        A connection in SYN-SENT takes no other, RFC 9293 section 3.10.7.3.
        """
        return side == "acceptor" and bool(segment.flags & (SYN | RST)) and segment.covers(self.syn.sequence)

    def connection(self) -> Connection:
        """What is known of it now."""
        opener, acceptor = _endpoint(self.syn.source), _endpoint(self.syn.target)
        first = self._first_fin()
        return Connection(opener, acceptor, self.syn_at, self.is_established, first, self.is_closed, self.reset_by)

    def _first_fin(self) -> Literal["opener", "acceptor", "simultaneous"] | None:
        if len(self.fins) < len(OTHER):
            return next(iter(self.fins), None)
        opener, acceptor = self.fins["opener"], self.fins["acceptor"]
        if opener.covers(acceptor.fin_at):
            return "acceptor"
        return "opener" if acceptor.covers(opener.fin_at) else "simultaneous"


def _endpoint(octets: bytes) -> Endpoint:
    return Endpoint(str(ipaddress.ip_address(octets[:-2])), int.from_bytes(octets[-2:]))
