"""Captures of a real link: complete from the first SYN to the last FIN, read alike by us and by tshark.

One process holds both ends of every connection, so the order of the closes is what the test says, never a race. The
kernel's own witnesses are asked beside the capture: TcpOutSegs for the number of packets, TIME_WAIT for who closed
first.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections import Counter as Tallied
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import in_sandbox
from test_kernel import LEFT, LEFT6, RIGHT, RIGHT6, build_pair, closed_by_client, connect, listen

from netns_tw.errors import EnvironmentLacks, InstrumentBroken
from netns_tw.kernel import libc, netns
from netns_tw.kernel.capture import Capture, Count
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.packets import BLOCK_OCTETS, BLOCKS
from netns_tw.kernel.reference import ReferenceRtnl
from netns_tw.kernel.sockdiag import SockDiag
from netns_tw.measure.observer import THE_KERNELS, Observer
from netns_tw.model import closers, pcapng
from netns_tw.model.closers import Connection, Endpoint, Tally, connections, tally
from netns_tw.model.pcapng import Packet, Reader
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

T = TypeVar("T")
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
BPF_RET, BPF_LDX_IMM, BPF_DIV_X = 0x06, 0x01, 0x3C
BURN_S = 60
SENT = b"sent before the stop"


def begin(path: Path, node: str = "left") -> Capture:
    """Capture ``eth0`` of *node* into a new file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    capture = Capture(node, "eth0", "left:eth0 -- right:eth0", fd, pcapng)
    os.close(fd)
    return capture


def captured(path: Path, traffic: Callable[[], T], node: str = "left") -> tuple[Count, T]:
    """Build the pair in a sandbox and capture *traffic* at *node* until it is settled; what it returned."""

    def inside() -> tuple[Count, T]:
        build_pair()
        with begin(path, node) as capture:
            answer = traffic()
            wait_until_the_kernels_are_done()
            return capture.stop(), answer

    return in_sandbox(inside)


def wait_until_the_kernels_are_done() -> None:
    eyes = [Observer("left"), Observer("right")]
    wait_until(lambda: all(one.is_settled(THE_KERNELS) for one in eyes), "no FIN on its way", 20)


@contextmanager
def burning() -> Iterator[None]:
    """Both cores busy: twice as many loops as cores, each bounded."""
    pids = []
    try:
        for _ in range(2 * (os.cpu_count() or 1)):
            pid = os.fork()
            if pid == 0:
                end = time.monotonic() + BURN_S
                while time.monotonic() < end:
                    pass
                os._exit(0)
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def packets_of(path: Path) -> list[Packet]:
    """The packets of a whole, complete capture."""
    with open(path, "rb") as stream:
        reader = Reader(stream)
        packets = list(reader)
    assert reader.why_incomplete() == ""
    return packets


def segments_of(packets: list[Packet]) -> list[tuple[int, closers._Segment]]:
    """The TCP segments, by the number of their frame as Wireshark counts, from 1."""
    found = ((number, closers._segment(one.data)) for number, one in enumerate(packets, 1))
    return [(number, one) for number, one in found if one is not None]


def tool(*argv: str) -> str:
    """What tshark or capinfos prints; neither may complain of the file. Its absence fails where tests are required."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed: sudo apt-get install tshark")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark(path: Path, wanted: str, *fields: str) -> list[list[str]]:
    """The *fields* of each frame that the display filter *wanted* lets through."""
    asked = [word for field in fields for word in ("-e", field)]
    return [
        line.split("\t")
        for line in tool("tshark", "-n", "-r", str(path), "-Y", wanted, "-T", "fields", *asked).splitlines()
    ]


def address_of(octets: bytes) -> str:
    return closers._endpoint(octets).address


def check_against_tshark(path: Path) -> tuple[Connection, ...]:
    """tshark and capinfos read as many packets, the same FINs in the same order, and the same first closers."""
    packets = packets_of(path)
    assert tool("capinfos", "-M", "-r", "-c", "-T", str(path)).split("\t")[1].strip() == str(len(packets))
    ip, ip6 = "ip.src", "ipv6.src"
    numbers = ("tcp.seq_raw", "tcp.ack_raw")
    theirs = tshark(path, "tcp.flags.fin==1", "frame.number", "tcp.stream", ip, ip6, "tcp.srcport", *numbers)
    ours = [
        (number, *closers._endpoint(one.source), one.sequence, one.acknowledged)
        for number, one in segments_of(packets)
        if one.flags & closers.FIN
    ]
    assert [(int(f), a + b, int(p), int(s), int(k)) for f, _, a, b, p, s, k in theirs] == ours
    found = connections(packets)
    opened = tshark(path, "tcp.flags.syn==1 && tcp.flags.ack==0", "tcp.stream", ip, ip6, "tcp.srcport")
    streams = {stream: Endpoint(a + b, int(port)) for stream, a, b, port in opened}
    assert list(streams.values()) == [one.opener for one in found]
    first: dict[str, Endpoint] = {}
    for _, stream, a, b, port, *_ in theirs:
        first.setdefault(stream, Endpoint(a + b, int(port)))
    for stream, one in zip(streams, found, strict=True):
        allowed = {"opener": [one.opener], "acceptor": [one.acceptor], "simultaneous": [one.opener, one.acceptor]}
        assert first.get(stream) in (allowed[one.first_fin] if one.first_fin else [None]), (stream, one)
    return found


def closed_by_server(listener: socket.socket, address: str) -> None:
    client = connect(address)
    server, _ = listener.accept()
    server.close()
    assert client.recv(1) == b""
    client.close()


def reset(listener: socket.socket, address: str, by_client: bool) -> None:
    """SO_LINGER with 0 s: close() sends an RST."""
    client = connect(address)
    server, _ = listener.accept()
    one, other = (client, server) if by_client else (server, client)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    other.close()


def deafen(one: socket.socket) -> None:
    """A socket filter that lets nothing through: TCP of this socket sees no segment any more (tcp_filter)."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0), 8)
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code)))


def closed_by_both(listener: socket.socket, address: str, times: int) -> list[socket.socket]:
    """Simultaneous closes, by no race: each side sends its FIN while it is deaf to the other one's.

    Both FINs are on the wire then, and neither acknowledges the other. The kernels send them again until they are
    heard, so each passes by CLOSING.
    """
    pairs = [(connect(address), listener.accept()[0]) for _ in range(times)]
    both = [one for pair in pairs for one in pair]
    for act in (deafen, lambda one: one.shutdown(socket.SHUT_WR), hear):
        for one in both:
            act(one)
    return both


def hear(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def time_waits() -> dict[str, int]:
    return {name: Tallied(one.state for one in SockDiag(name).dump())["time-wait"] for name in ("left", "right")}


@pytest.mark.parametrize(("ours", "theirs"), [(LEFT, RIGHT), (LEFT6, RIGHT6)])
@pytest.mark.parametrize("node", ["left", "right"])
def test_who_closed_first_is_read_from_the_capture(ours: str, theirs: str, node: str, tmp_path: Path) -> None:
    """Each way to close, in known numbers, seen from either end; TIME_WAIT, by the kernel's count, is where it says."""

    held: list[object] = []  # a socket that nobody holds is closed

    def traffic() -> dict[str, int]:
        listener = listen(theirs)
        for _ in range(20):
            closed_by_client(listener, theirs)
            closed_by_server(listener, theirs)
        for number in range(12):
            reset(listener, theirs, by_client=number < 5)
        held.append(closed_by_both(listener, theirs, 6))
        still_open = [(connect(theirs), listener.accept()[0]) for _ in range(7)]
        held.append(still_open)
        for client, server in still_open[:3]:
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
        server.send(b"data on the other half")
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                connect(theirs, 81)
        wait_until_the_kernels_are_done()
        return time_waits()

    path = tmp_path / "link.pcapng"
    count, waiting = captured(path, traffic, node)
    assert count.dropped == 0
    found = check_against_tshark(path)
    assert tally(found) == {
        (ours, Endpoint(theirs, 80)): Tally(opener=23, acceptor=20, simultaneous=6, reset=12, open=4),
        (ours, Endpoint(theirs, 81)): Tally(unopened=2),
    }
    assert waiting == {"left": 20 + 6, "right": 20 + 6}
    assert Tallied(one.reset_by for one in found if one.end == "reset") == {"opener": 5, "acceptor": 7}
    assert sum(one.is_closed for one in found) == 20 + 20 + 6


def test_a_simultaneous_close_is_told_from_one_in_order(tmp_path: Path) -> None:
    """Its FINs are sent again by the kernels, with newer acknowledgments: only the first copies decide."""
    held: list[object] = []

    def traffic() -> dict[str, int]:
        held.extend(closed_by_both(listen(RIGHT), RIGHT, 3))
        wait_until_the_kernels_are_done()
        return time_waits()

    path = tmp_path / "link.pcapng"
    _, waiting = captured(path, traffic)
    assert waiting == {"left": 3, "right": 3}
    assert [one.end for one in check_against_tshark(path)] == ["simultaneous"] * 3
    fins = [one for _, one in segments_of(packets_of(path)) if one.flags & closers.FIN]
    assert len(fins) > 6


def test_one_4_tuple_used_again_is_as_many_connections(tmp_path: Path) -> None:
    """One client port, 50 times: a SYN finds the server's TIME_WAIT and takes its place, each time anew."""

    def traffic() -> None:
        listener = listen(RIGHT)
        for _ in range(50):
            with netns.enter("left"):
                client = socket.create_connection((RIGHT, 80), timeout=5, source_address=(LEFT, 4321))
            server, _ = listener.accept()
            server.close()
            assert client.recv(1) == b""
            client.close()
            wait_until_the_kernels_are_done()

    path = tmp_path / "link.pcapng"
    captured(path, traffic)
    found = check_against_tshark(path)
    assert [(one.opener, one.end, one.is_closed) for one in found] == [(Endpoint(LEFT, 4321), "acceptor", True)] * 50


@pytest.mark.parametrize("is_burning", [True])
def test_a_capture_is_complete(is_burning: bool, tmp_path: Path) -> None:
    """2,000 connections: as many TCP packets as both kernels sent, every SYN, every FIN, none dropped."""

    def traffic() -> int:
        listener = listen(RIGHT)
        for _ in range(1000):
            closed_by_client(listener, RIGHT)
            closed_by_server(listener, RIGHT)
        wait_until_the_kernels_are_done()
        return sum(Counters(name).read()["TcpOutSegs"] for name in ("left", "right"))

    def in_company() -> int:
        with burning():
            return traffic()

    path = tmp_path / "link.pcapng"
    count, sent = captured(path, in_company if is_burning else traffic)
    packets = packets_of(path)
    assert count == (len(packets), 0)
    assert len(segments_of(packets)) == sent
    found = connections(packets)
    assert Tallied(one.end for one in found) == {"opener": 1000, "acceptor": 1000}
    assert all(one.is_established and one.is_closed for one in found)
    check_against_tshark(path)


def test_a_reader_that_does_not_run_loses_nothing(tmp_path: Path) -> None:
    """Complete from the constructor on: the capture's process is stopped at once, and runs only at the end."""

    def inside() -> Count:
        build_pair()
        with begin(tmp_path / "link.pcapng") as capture:
            os.kill(capture._pid, signal.SIGSTOP)
            listener = listen(RIGHT)
            for _ in range(1000):
                closed_by_client(listener, RIGHT)
            os.kill(capture._pid, signal.SIGCONT)
            return capture.stop()

    assert in_sandbox(inside).dropped == 0
    found = connections(packets_of(tmp_path / "link.pcapng"))
    assert Tallied(one.end for one in found) == {"opener": 1000}


def deliver_elsewhere(node: str) -> None:
    """Receive packet steering (RPS): what *node* receives waits on the backlog of another CPU than ours."""
    ours, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {ours})
    where = "/run/sysfs"
    os.makedirs(where)
    with netns.enter(node):
        libc.mount("sysfs", where, "sysfs")
    Path(where, "class/net/eth0/queues/rx-0/rps_cpus").write_text(f"{1 << others[0]:x}" if others else "0")


def slow_taps(node: str) -> list[socket.socket]:
    """Packet sockets that refuse every packet, after 500 divisions each: a delivery takes a while."""
    program = struct.pack("HBBI", BPF_LDX_IMM, 0, 0, 1) + struct.pack("HBBI", BPF_DIV_X, 0, 0, 0) * 500
    program += struct.pack("HBBI", BPF_RET, 0, 0, 0)
    code = ctypes.create_string_buffer(program, len(program))
    made = []
    with netns.enter(node):
        for _ in range(24):
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 502, ctypes.addressof(code)))
            one.bind(("eth0", 3))
            made.append(one)
    return made


def sender_and_sink() -> tuple[socket.socket, socket.socket]:
    """A UDP socket on the right that sends to one on the left; both neighbours are known."""
    with netns.enter("left"):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netns.enter("right"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind((LEFT, 5000))
    sender.connect((LEFT, 5000))
    sender.send(b"hello")
    assert sink.recv(9) == b"hello"
    return sender, sink


@pytest.mark.parametrize("is_burning", [True])
def test_what_was_sent_before_the_stop_is_in_the_file(is_burning: bool, tmp_path: Path) -> None:
    """Sent, and stopped at once, while most of it still waits on another CPU's backlog for a slow delivery."""

    def rounds() -> list[int]:
        build_pair()
        deliver_elsewhere("left")
        sender, sink = sender_and_sink()
        taps = slow_taps("left")
        missed = []
        for number in range(5):
            with begin(tmp_path / f"{number}.pcapng") as capture:
                for _ in range(400):
                    sender.send(SENT)
                capture.stop()
            missed.append(400 - sum(SENT in one.data for one in packets_of(tmp_path / f"{number}.pcapng")))
        for one in (sink, *taps):
            one.close()
        return missed

    def inside() -> list[int]:
        if not is_burning:
            return rounds()
        with burning():
            return rounds()

    assert in_sandbox(inside) == [0] * 5


def test_the_end_waits_for_what_the_kernel_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that the kernel keeps to fill it further is waited for: here for half a second."""
    monkeypatch.setattr("netns_tw.kernel.packets.RETIRE_MS", 500)

    def inside() -> Count:
        build_pair()
        sender, _ = sender_and_sink()
        with begin(tmp_path / "link.pcapng") as capture:
            sender.send(SENT)
            return capture.stop()

    count = in_sandbox(inside)
    assert [SENT in one.data for one in packets_of(tmp_path / "link.pcapng")].count(True) == 1
    assert count.written >= 1


def test_traffic_that_goes_on_does_not_keep_a_capture_from_its_end(tmp_path: Path) -> None:
    """Of a flood the file ends where the kernel shut the ring, and its statistics count just what is in it."""

    def inside() -> list[Count]:
        build_pair()
        sender, _ = sender_and_sink()
        flood = os.fork()
        if flood == 0:
            end = time.monotonic() + BURN_S
            while time.monotonic() < end:
                sender.send(SENT)
            os._exit(0)
        counts = []
        for number in range(5):
            path = tmp_path / f"{number}.pcapng"
            with begin(path) as capture:
                wait_until(lambda path=path: path.stat().st_size > 1 << 16, "it was written to", 20)  # type: ignore[misc]
                counts.append(capture.stop())
        os.kill(flood, signal.SIGKILL)
        os.waitpid(flood, 0)
        return counts

    for number, count in enumerate(in_sandbox(inside)):
        with open(tmp_path / f"{number}.pcapng", "rb") as stream:
            reader = Reader(stream)
            assert sum(1 for _ in reader) == count.written
        assert reader.statistics == [pcapng.Statistics(0, sum(count), count.dropped)]


def transfer(octets: int) -> None:
    """One connection that carries so many octets to the right, read as they come."""
    listener = listen(RIGHT, 8000)
    client = connect(RIGHT, 8000)
    server, _ = listener.accept()
    data = bytes(1 << 16)
    server.setblocking(False)
    client.setblocking(False)
    sent = received = 0
    while received < octets:
        with suppress(BlockingIOError):
            sent += client.send(data[: octets - sent])
        with suppress(BlockingIOError):
            received += len(server.recv(1 << 20))
    client.close()
    server.close()
    listener.close()


def test_packets_are_taken_whole(tmp_path: Path) -> None:
    """Also those that segmentation is left to the interface for, far longer than its MTU: no octet is missing."""
    octets = 3_000_001
    captured(tmp_path / "link.pcapng", lambda: transfer(octets))
    packets = packets_of(tmp_path / "link.pcapng")
    assert all(len(one.data) == one.length for one in packets)
    assert max(one.length for one in packets) > 20_000
    sent = [one for _, one in segments_of(packets) if one.payload]
    seen_to = 0
    for one in sent:  # some may be sent twice, whole or in part
        at = (one.sequence - sent[0].sequence) % (1 << 32)
        assert at <= seen_to
        seen_to = max(seen_to, at + one.payload)
    assert seen_to == octets
    check_against_tshark(tmp_path / "link.pcapng")


def test_times_and_directions(tmp_path: Path) -> None:
    """CLOCK_REALTIME in ns, never backwards; outgoing is what the captured interface itself sent."""

    def traffic() -> tuple[int, int]:
        began = time.time_ns()
        closed_by_client(listen(RIGHT), RIGHT)
        wait_until_the_kernels_are_done()
        return began, time.time_ns()

    path = tmp_path / "link.pcapng"
    _, (began, ended) = captured(path, traffic)
    packets = packets_of(path)
    times = [packets[number - 1].at_ns for number, _ in segments_of(packets)]
    assert began < times[0] and times == sorted(times) and times[-1] < ended
    assert len({one % 1000 for one in times}) > 1
    for number, one in segments_of(packets):
        assert packets[number - 1].is_outgoing == (address_of(one.source) == LEFT)
    theirs = tshark(path, "tcp", "frame.time_epoch", "frame.packet_flags_direction", "frame.interface_name")
    assert [int(second.replace(".", "")) for second, *_ in theirs] == times
    sent = [packets[number - 1].is_outgoing for number, _ in segments_of(packets)]
    assert [int(direction, 16) == pcapng.OUTBOUND for _, direction, _ in theirs] == sent
    assert {name for *_, name in theirs} == {"left:eth0"}
    assert "left:eth0 -- right:eth0" in tool("capinfos", str(path))


def test_what_the_ring_has_no_room_for_is_counted(tmp_path: Path) -> None:
    """A reader that never runs and more packets than the ring holds: the loss is in the count and in the file."""
    path = tmp_path / "link.pcapng"

    def inside() -> Count:
        build_pair()
        with begin(path) as capture:
            os.kill(capture._pid, signal.SIGSTOP)
            transfer(3 * BLOCKS * BLOCK_OCTETS)
            os.kill(capture._pid, signal.SIGCONT)
            return capture.stop()

    count = in_sandbox(inside)
    with open(path, "rb") as stream:
        reader = Reader(stream)
        packets = list(reader)
    assert count.dropped > 0 and count.written == len(packets)
    assert reader.statistics == [pcapng.Statistics(0, sum(count), count.dropped)]
    assert reader.why_incomplete() == f"{count.dropped} packets were dropped"
    assert all(len(one.data) == one.length for one in packets)


def test_a_capture_that_is_killed_is_readable_to_its_last_whole_block(tmp_path: Path) -> None:
    """SIGKILL in the middle of a transfer, 10 times: we and tshark read the same packets, and know that no end came."""

    def killed(path: Path) -> str:
        with begin(path) as capture:
            sender = os.fork()
            if sender == 0:
                transfer(1 << 28)
                os._exit(0)
            wait_until(lambda: path.stat().st_size > 1 << 20, "it was written to", 20)
            os.kill(capture._pid, signal.SIGKILL)
            os.kill(sender, signal.SIGKILL)
            os.waitpid(sender, 0)
            try:
                return str(capture.stop())
            except InstrumentBroken as error:
                return str(error)

    def inside() -> list[str]:
        build_pair()
        return [killed(tmp_path / f"{number}.pcapng") for number in range(5)]

    told = in_sandbox(inside)
    assert told == ["capture of left:eth0: its process ended too early"] * 5
    for number in range(5):
        with open(tmp_path / f"{number}.pcapng", "rb") as stream:
            reader = Reader(stream)
            packets = list(reader)
        assert packets and reader.why_incomplete()
        argv = ["tshark", "-n", "-r", str(tmp_path / f"{number}.pcapng"), "-T", "fields", "-e", "frame.number"]
        if shutil.which(argv[0]) is None:
            pytest.skip("tshark is not installed")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert len(done.stdout.splitlines()) == len(packets)


def test_a_capture_is_a_valid_file_from_the_beginning(tmp_path: Path) -> None:
    """Before any packet it says what it is of; closed without ``stop`` it leaves no process and a file without end."""

    def inside() -> list[str]:
        build_pair()
        capture = begin(tmp_path / "link.pcapng")
        with open(tmp_path / "link.pcapng", "rb") as stream:
            reader = Reader(stream)
            list(reader)
        capture.close()
        capture.close()
        assert reader.interfaces[0].name == "left:eth0"
        return [reader.why_incomplete(), *(name for name in os.listdir("/proc") if name.isdigit() and name != "1")]

    assert in_sandbox(inside) == ["the capture was never ended: its statistics are missing"]
    assert tool("capinfos", "-M", "-c", str(tmp_path / "link.pcapng")).split()[-1] == "0"


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except EnvironmentLacks as error:
        return str(error)
    return ""


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    """No such interface, no such node, a full disk at the beginning and one that fills up later."""

    def inside() -> list[str]:
        build_pair()
        full = os.open("/dev/full", os.O_WRONLY)
        os.mkdir("/run/small")
        libc.mount("tmpfs", "/run/small", "tmpfs", 0, "size=64k")
        fills_up = begin(Path("/run/small/link.pcapng"))
        transfer(1_000_000)
        answers = [
            error_of(lambda: Capture("left", "eth7", "", full, pcapng)),
            error_of(lambda: Capture("nobody", "eth0", "", full, pcapng)),
            error_of(lambda: Capture("left", "eth0", "", full, pcapng)),
            error_of(fills_up.stop),
        ]
        assert [name for name in os.listdir("/proc") if name.isdigit() and name != "1"] == []
        return answers

    assert in_sandbox(inside) == [
        "capture of left:eth7: No such device",
        "capture of nobody:eth0: No such file or directory",
        "capture of left:eth0: No space left on device",
        "capture of left:eth0: No space left on device",
    ]


def test_an_interface_that_goes_down_and_comes_back_is_captured_on(tmp_path: Path) -> None:
    """Also one that is gone at the end: what it had seen is in the file, and the file has its end."""

    def inside() -> Count:
        build_pair()
        with begin(tmp_path / "link.pcapng") as capture, closing(ReferenceRtnl("left")) as left:
            listener = listen(RIGHT)
            closed_by_client(listener, RIGHT)
            ip = left._ip
            index = ip.link_lookup(ifname="eth0")[0]
            for state in ("down", "up"):
                ip.link("set", index=index, state=state)
            left.wait_until_up(index, "eth0")
            closed_by_server(listener, RIGHT)
            wait_until_the_kernels_are_done()
            ip.link("del", index=index)
            return capture.stop()

    assert in_sandbox(inside).dropped == 0
    assert [one.end for one in connections(packets_of(tmp_path / "link.pcapng"))] == ["opener", "acceptor"]


def test_an_ordinary_user_captures_as_completely(tmp_path: Path) -> None:
    """In a user namespace of its own, without rights over net.core.rmem_max: a bulk transfer, none dropped."""

    def inside() -> Count:
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS | libc.CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 0 1")
        Path("/proc/self/gid_map").write_text("0 0 1")
        with socket.socket() as one, pytest.raises(PermissionError):
            one.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE is for root of the machine
        build_pair()
        with begin(tmp_path / "link.pcapng") as capture:
            listener = listen(RIGHT)
            for _ in range(500):
                closed_by_client(listener, RIGHT)
            transfer(2_000_000)
            wait_until_the_kernels_are_done()
            return capture.stop()

    assert in_sandbox(inside).dropped == 0
    assert Tallied(one.end for one in check_against_tshark(tmp_path / "link.pcapng")) == {"opener": 501}


def test_the_capture_dies_with_its_parent(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG: SIGKILL of the process that began it ends it too, and closes the other end of a pipe it has."""

    def inside() -> bytes:
        build_pair()
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            capture = Capture("left", "eth0", "", write, pcapng)
            wait_until(lambda: os.getsid(capture._pid) == capture._pid, "it is tied to its parent", 5)
            os.kill(capture._pid, signal.SIGSTOP)  # so that it does not end by itself
            os.write(write, b"begun")
            signal.pause()
        os.close(write)
        while not (data := os.read(read, 1 << 16)).endswith(b"begun"):
            assert data
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        while data := os.read(read, 1 << 16):  # ends when nobody holds the pipe any more
            pass
        return data

    assert in_sandbox(inside) == b""
