"""The capture's format and the order of FINs in it: pure rules, on bytes made by hand. No namespace, no root."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator

import pytest

from netns_tw.model import pcapng
from netns_tw.model.closers import Connection, Endpoint, Tally, connections, tally
from netns_tw.model.pcapng import Interface, Packet, Reader, Statistics

HEADER = pcapng.header("lb:eth1", "lb:eth1 -- backend:eth0", "x86_64", "Linux 6.18.44")
T0 = 1_700_000_000_123_456_789


def read(data: bytes) -> tuple[Reader, list[Packet]]:
    reader = Reader(io.BytesIO(data))
    return reader, list(reader)


def block(kind: int, body: bytes) -> bytes:
    """A block as draft-ietf-opsawg-pcapng section 3.1 draws it, written here once more and not by the module."""
    return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
PLAIN_INTERFACE = block(1, struct.pack("<HHI", 1, 0, 0))


def packet_block(number: int = 0, ticks: int = 7, data: bytes = b"12345", options: bytes = b"") -> bytes:
    head = struct.pack("<IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 100)
    return block(6, head + data + bytes(-len(data) % 4) + options)


@pytest.mark.parametrize("size", range(9))
def test_what_is_written_is_read_again(size: int) -> None:
    """Names, ns, octets, whole length, direction and counts, for every padding."""
    data = bytes(range(size))
    written = [pcapng.packet(T0 + 1, data, size + 5, True), pcapng.packet(T0 + 2, memoryview(data), size, False)]
    reader, packets = read(HEADER + b"".join(written) + pcapng.statistics(T0, T0 + 9, 1 << 33, 3))
    assert packets == [Packet(0, T0 + 1, data, size + 5, True), Packet(0, T0 + 2, data, size, False)]
    assert reader.interfaces == [Interface("lb:eth1", "lb:eth1 -- backend:eth0", 1, 10**9)]
    assert reader.statistics == [Statistics(0, 1 << 33, 3)]
    assert reader.why_incomplete() == "3 packets were dropped"


def test_the_octets_of_a_file_are_those_of_the_draft() -> None:
    """A packet block and the statistics, octet by octet as sections 4.3 and 4.6 draw them."""
    assert pcapng.packet(0x1_00000002, b"abcde", 64, True).hex(" ", 4) == (
        "06000000 34000000 00000000 01000000 02000000 05000000 40000000"
        " 61626364 65000000 02000400 02000000 00000000 34000000"
    )
    assert pcapng.statistics(0x1_00000002, 0x3_00000004, 5, 6).hex(" ", 4) == (
        "05000000 4c000000 00000000 03000000 04000000"
        " 02000800 01000000 02000000 03000800 03000000 04000000"
        " 04000800 05000000 00000000 05000800 06000000 00000000 00000000 4c000000"
    )


def test_what_is_missing_is_said() -> None:
    """A whole capture has nothing to say; one without statistics was never ended."""
    whole = HEADER + pcapng.statistics(T0, T0, 0, 0)
    reader, packets = read(whole)
    assert (packets, reader.why_incomplete(), reader.cut) == ([], "", "")
    assert read(HEADER)[0].why_incomplete() == "the capture was never ended: its statistics are missing"
    assert read(whole[:-1])[0].why_incomplete() == f"the capture is cut short inside the block at octet {len(HEADER)}"


def test_blocks_and_options_of_others_are_passed_over() -> None:
    """Name resolution, a comment, a direction that is not known; time in the resolution that the interface states."""
    comments = option(1, b"hello") + option(2988, b"?")
    coarse = block(1, struct.pack("<HHI", 113, 0, 0) + comments + option(9, b"\x8a") + option(0, b""))
    unknown = packet_block(1, 1024, b"x", comments + option(2, bytes(4)))
    reader, packets = read(SECTION + PLAIN_INTERFACE + coarse + block(4, bytes(8)) + packet_block() + unknown)
    assert packets == [Packet(0, 7000, b"12345", 105, None), Packet(1, 10**9, b"x", 101, None)]
    assert reader.interfaces == [Interface("", "", 1, 10**6), Interface("", "", 113, 1024)]


def test_each_section_numbers_its_interfaces_anew() -> None:
    """As section 4.2 has it; two captures, one after the other in one file, are read."""
    one = HEADER + pcapng.packet(T0, b"one", 3, True) + pcapng.statistics(T0, T0, 1, 0)
    reader, packets = read(one + one)
    assert [each.interface for each in packets] == [0, 1]
    assert reader.statistics == [Statistics(0, 1, 0), Statistics(1, 1, 0)]
    assert reader.why_incomplete() == ""


HOSTILE = {
    "nothing": (b"", "an empty file"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "malformed capture: octet 0"),
    "old pcap": (struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1), "malformed capture: octet 0"),
    "a packet first": (packet_block(), "does not start with a section header"),
    "no byte order": (block(0x0A0D0D0A, bytes(16)), "no byte-order magic"),
    "big-endian": (SECTION[:8] + b"\x1a\x2b\x3c\x4d" + SECTION[12:], "a big-endian section"),
    "version 2": (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "version 2.0"),
    "a section too short": (block(0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D)), "a section header too short"),
    "a section without a body": (struct.pack("<III", 0x0A0D0D0A, 12, 0x1A2B3C4D), "cannot have 12 octets"),
    "length 0": (SECTION + struct.pack("<III", 1, 0, 0), "octet 28: a block cannot have 0 octets"),
    "length 8": (SECTION + struct.pack("<III", 1, 8, 8), "cannot have 8 octets"),
    "an odd length": (SECTION + struct.pack("<II", 1, 21) + bytes(20), "cannot have 21 octets"),
    "a huge length": (SECTION + struct.pack("<II", 1, 0xFFFFFFFC) + bytes(99), "cannot have 4294967292 octets"),
    "two lengths": (SECTION + PLAIN_INTERFACE[:-4] + b"\x10\0\0\0", "its two lengths differ"),
    "a short interface": (SECTION + block(1, bytes(4)), "an interface description too short"),
    "half an option": (SECTION + block(1, bytes(8) + b"\x02\0\0\0" + b"\x02\0"), "cannot have 26 octets"),
    "an option too long": (SECTION + block(1, bytes(8) + b"\x02\0\xff\xff"), "an option longer than its block"),
    "a short packet": (HEADER + block(6, bytes(16)), "a packet block too short"),
    "a packet too long": (HEADER + block(6, bytes(12) + b"\xff\xff\xff\x7f" + bytes(4)), "longer than its block"),
    "no interface": (SECTION + packet_block(), "interface 0 was not described"),
    "an interface beyond": (HEADER + packet_block(1), "interface 1 was not described"),
    "an interface of before": (HEADER + SECTION + packet_block(0), "interface 0 was not described"),
    "short statistics": (HEADER + block(5, bytes(8)), "statistics too short"),
    "statistics of nobody": (HEADER + block(5, struct.pack("<III", 9, 0, 0)), "interface 9 was not described"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_malformed_is_one_value_error_with_its_place(name: str) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words):
        read(data)


def test_a_file_cut_anywhere_is_read_up_to_its_last_whole_block() -> None:
    """At every octet: before the first section is whole it is no capture, later the cut is known to the reader."""
    blocks = [
        HEADER,
        *(pcapng.packet(T0, bytes(size), size, True) for size in (0, 5, 66)),
        pcapng.statistics(0, 1, 3, 0),
    ]
    whole = b"".join(blocks)
    ends = [sum(map(len, blocks[: number + 1])) for number in range(len(blocks))]
    first = struct.unpack_from("<I", HEADER, 4)[0]
    for size in range(len(whole) + 1):
        if size < first:
            with pytest.raises(ValueError, match=r"cut short inside the block at octet 0$|an empty file"):
                read(whole[:size])
            continue
        reader, packets = read(whole[:size])
        assert len(packets) == max(0, min(3, sum(end <= size for end in ends) - 1)), size
        assert bool(reader.cut) == (size not in (first, *ends)), size
        assert bool(reader.why_incomplete()) == (size < len(whole)), size


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """*whole* with some octets changed, removed, doubled or put in, and lengths set to extremes."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) & ~(3 if chance.random() < 0.7 else 0)
        extremes = (0, 1, 4, 8, 11, 12, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF, 1 << 24, chance.getrandbits(32))
        kind = chance.randrange(4)
        if kind == 0:
            data[at : at + 4] = struct.pack("<I", chance.choice(extremes))
        elif kind == 1:
            del data[at : at + chance.randint(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 80)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        data = data or bytearray(b"\0")
    return bytes(data)


def test_no_damage_does_more_than_a_value_error() -> None:
    """10,000 damaged files, their packets given on to the order of FINs: read, or ValueError; nothing else, no hang."""
    chance = random.Random(2018)
    whole = HEADER + b"".join(
        pcapng.packet(one.at_ns, one.data, one.length, False) for one in played("o S 9, a SA 5 10, o A 10 6, o FA 10 6")
    )
    whole += pcapng.statistics(T0, T0, 4, 0)
    outcomes = set()
    for _ in range(10_000):
        reader = None
        try:
            reader = Reader(io.BytesIO(damaged(whole, chance)))
            assert len(connections(reader)) <= 9
            outcomes.add("cut" if reader.cut else "read")
        except ValueError:
            outcomes.add("later" if reader else "at once")
    assert outcomes == {"cut", "read", "later", "at once"}


FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
ENDS = {
    4: {"o": (bytes([198, 18, 0, 1]), 40000), "a": (bytes([198, 18, 0, 2]), 80)},
    6: {
        "o": (bytes.fromhex("20010db8" + "00" * 11 + "01"), 40000),
        "a": (bytes.fromhex("20010db8" + "00" * 11 + "02"), 80),
    },
}


def frame(version: int, side: str, flags: str, sequence: int, acknowledged: int, payload: int) -> bytes:
    """An Ethernet frame with a TCP segment of *side*, o(pener) or a(cceptor)."""
    (source, source_port), (target, target_port) = ENDS[version][side], ENDS[version]["a" if side == "o" else "o"]
    bits = sum(FLAGS[one] for one in flags)
    ports = (source_port, target_port)
    tcp = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledged, 8 << 4, bits, 512, 0, 0) + bytes(12 + payload)
    if version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + source + target
        return bytes(12) + b"\x08\x00" + head + tcp
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(tcp), 6, 64) + source + target + tcp


def played(script: str, version: int = 4, shift: int = 0) -> Iterator[Packet]:
    """Packets of a script: ``side flags sequence [acknowledged [payload]]``, separated by commas, one ns apart.

    All sequence numbers are moved by *shift*, modulo 2^32.
    """
    for number, line in enumerate(script.split(",")):
        side, flags, *numbers = line.split()
        sequence, acknowledged, payload = ([int(one) for one in numbers] + [0, 0])[:3]
        moved = (sequence + shift) % (1 << 32), (acknowledged + shift) % (1 << 32)
        data = frame(version, side, flags, *moved, payload)
        yield Packet(0, T0 + number, data, len(data), None)


OPENED = "o S 100, a SA 500 101, o A 101 501, "
CASES = {
    # what happens, and: end, first FIN, closed, reset by
    "the opener closes": ("o FA 101 501, a A 501 102, a FA 501 102, o A 102 502", "opener", "opener", True, None),
    "the acceptor closes": ("a FA 501 101, o FA 101 502, a A 502 102", "acceptor", "acceptor", True, None),
    "data goes with the FINs": (
        "o PA 101 501 50, a FA 501 151 900, o A 151 1402, o FA 151 1402 7, a A 1402 159",
        "acceptor",
        "acceptor",
        True,
        None,
    ),
    "an acknowledgment up to the FIN and not beyond it has not seen it": (
        "o PA 101 501 50, o FA 151 501, a FA 501 151, o A 152 502, a A 502 152",
        "simultaneous",
        "simultaneous",
        True,
        None,
    ),
    "a FIN joins the data that is sent again before it": (
        "a PA 501 101 400, o FA 101 901, a FA 501 101 500, o A 102 1002, a A 1002 102",
        "simultaneous",
        "simultaneous",
        True,
        None,
    ),
    "both close before either knows": (
        "o FA 101 501, a FA 501 101, o A 102 502, a A 502 102",
        "simultaneous",
        "simultaneous",
        True,
        None,
    ),
    "a repeated FIN, now with a newer acknowledgment, changes nothing": (
        "o FA 101 501, a FA 501 101, o FA 101 502, a FA 501 102, o A 102 502",
        "simultaneous",
        "simultaneous",
        True,
        None,
    ),
    "the second FIN was captured first": (
        "o FA 101 502, a FA 501 101, a A 502 102",
        "acceptor",
        "acceptor",
        True,
        None,
    ),
    "half closed": ("o FA 101 501, a A 501 102, a PA 501 102 10, o A 102 511", "opener", "opener", False, None),
    "the last FIN is not acknowledged": ("a FA 501 101, o FA 101 502", "acceptor", "acceptor", False, None),
    "open": ("o PA 101 501 10, a A 501 111", "open", None, False, None),
    "the opener resets": ("o PA 101 501 10, o RA 111 501", "reset", None, False, "opener"),
    "the acceptor resets": ("o PA 101 501 10, a R 501", "reset", None, False, "acceptor"),
    "a reset after a FIN leaves no TIME_WAIT": ("a FA 501 101, o RA 101 502", "reset", "acceptor", False, "opener"),
    "after a reset nothing counts": ("o RA 101 501, a FA 501 101", "reset", None, False, "opener"),
    "a reset after the close ends nothing": (
        "o FA 101 501, a FA 501 102, o A 102 502, a R 502",
        "opener",
        "opener",
        True,
        None,
    ),
}


def only(script: str, version: int = 4, shift: int = 0) -> Connection:
    (found,) = connections(played(script, version, shift))
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", CASES)
def test_who_closed_first_is_decided_by_what_the_fins_acknowledge(name: str, version: int) -> None:
    script, *wanted = CASES[name]
    found = only(OPENED + script, version)
    assert [found.end, found.first_fin, found.is_closed, found.reset_by] == wanted
    assert found.is_established and found.first_syn_at == T0
    prefix = "198.18.0." if version == 4 else "2001:db8::"
    assert (found.opener, found.acceptor) == (Endpoint(f"{prefix}1", 40000), Endpoint(f"{prefix}2", 80))


@pytest.mark.parametrize("name", CASES)
def test_sequence_numbers_wrap(name: str) -> None:
    """Each case again, its numbers moved so that each of them is the one that passes 2^32: the outcome is the same."""
    script, *wanted = CASES[name]
    for zero in sorted({int(word) for word in (OPENED + script).replace(",", " ").split() if word.isdigit()}):
        found = only(OPENED + script, shift=-zero)
        assert [found.end, found.first_fin, found.is_closed, found.reset_by] == wanted, zero


UNOPENED = {
    "unanswered": ("o S 100, o S 100, o S 100", None),
    "refused": ("o S 100, a RA 0 101", "acceptor"),
    "the opener gave up before the answer came": ("o S 100, a SA 500 101, o R 101", "opener"),
    "the handshake's last step is missing": ("o S 100, a SA 500 101, a SA 500 101", None),
}


@pytest.mark.parametrize("name", UNOPENED)
def test_without_a_handshake_there_is_no_connection_to_close(name: str) -> None:
    script, reset_by = UNOPENED[name]
    found = only(script)
    assert (found.end, found.is_established, found.reset_by) == ("unopened", False, reset_by)


CLOSED = "o FA 101 501, a FA 501 102, o A 102 502, "
INCARNATIONS = {
    "one after the other": (
        OPENED + CLOSED + "o S 9000, a SA 700 9001, o A 9001 701, a FA 701 9001",
        "opener acceptor",
    ),
    "the same SYN again is none": ("o S 100, o S 100, a SA 500 101, o S 100, o A 101 501, a FA 501 101", "acceptor"),
    "the other side opens": (OPENED + CLOSED + "a S 9000, o SA 700 9001, a A 9001 701, a FA 9001 701", "opener opener"),
    "both open at once": ("o S 100, a S 500, a SA 500 101, o SA 100 501, o FA 101 501, a FA 501 102", "opener"),
    "an old FIN after the new SYN": (
        OPENED + "a FA 501 101, o S 9000, a FA 501 101, a SA 700 9001, o A 9001 701, o FA 9001 701",
        "acceptor opener",
    ),
    "TIME_WAIT answers, is reset, the SYN comes again": (
        OPENED + CLOSED + "o S 9000, a A 502 102, o R 102, o S 9000, a SA 700 9001, o A 9001 701, a FA 701 9001",
        "opener acceptor",
    ),
    "an old RST does not refuse": (OPENED + "o S 9000, a RA 501 102, a SA 700 9001, o A 9001 701", "open open"),
    "a new SYN while the old one is unanswered": ("o S 100, o S 9000, a SA 700 9001, o A 9001 701", "unopened open"),
    "packets of before the capture": ("o A 5 5, a FA 5 5, " + OPENED + "o FA 101 501", "opener"),
}


@pytest.mark.parametrize("name", INCARNATIONS)
def test_each_syn_opens_a_new_incarnation_of_the_4_tuple(name: str) -> None:
    script, ends = INCARNATIONS[name]
    assert [one.end for one in connections(played(script))] == ends.split()


def test_what_is_no_tcp_is_left_out() -> None:
    """ARP, UDP, a later fragment, an extension header, frames cut at any octet."""
    good = [one.data for one in played(OPENED + CLOSED.rstrip(", "))]
    six = [one.data for one in played(OPENED + CLOSED.rstrip(", "), 6)]
    others = [bytes(12) + b"\x08\x06" + bytes(28), b"", bytes(14), good[0][:23] + b"\x11" + good[0][24:]]
    others += [good[0][:20] + b"\x00\xb9" + good[0][22:], six[0][:20] + b"\x00" + six[0][21:]]
    others += [one[:size] for one in (good[0], six[0]) for size in range(len(one) - 14)]
    frames = [*others, *good, *six]
    found = connections(Packet(0, T0, one, len(one), None) for one in frames)
    assert [(str(one.opener), one.end) for one in found] == [
        ("198.18.0.1:40000", "opener"),
        ("[2001:db8::1]:40000", "opener"),
    ]


def test_a_tally_counts_by_opener_and_service() -> None:
    scripts = [OPENED + CASES[name][0] for name in CASES] + [script for script, _ in UNOPENED.values()]
    found = [one for number, script in enumerate(scripts) for one in connections(played(script))]
    counts = tally(found)
    key = ("198.18.0.1", Endpoint("198.18.0.2", 80))
    assert counts == {key: Tally(opener=3, acceptor=4, simultaneous=4, reset=4, open=1, unopened=4)}
    assert tally([]) == {}
