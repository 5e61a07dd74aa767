"""Links, sysctls, sockets and counters of the real kernel, each held against an outside observer."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter as Tally
from collections.abc import Callable

import pytest
from conftest import in_sandbox

from netns_tw.errors import InstrumentBroken, Skip, UsageError
from netns_tw.kernel import link, netlink, netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.link import FIRST_INDEX, LOOPBACK_INDEX, Rtnl
from netns_tw.kernel.sockdiag import SockDiag
from netns_tw.measure import observer
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

LEFT, RIGHT = "198.18.0.1", "198.18.0.2"
LEFT6, RIGHT6 = "2001:db8::1", "2001:db8::2"


def build_pair() -> None:
    """Two namespaces, ``left`` and ``right``, with one link; both ends are called eth0."""
    netns.add("left")
    netns.add("right")
    with Rtnl("left") as left, Rtnl("right") as right:
        there = left.add_veth("eth0", FIRST_INDEX, right, "eth0")
        for one, index, addresses in ((left, FIRST_INDEX, (LEFT, LEFT6)), (right, there, (RIGHT, RIGHT6))):
            one.set_up(LOOPBACK_INDEX, "lo")
            one.set_up(index, "eth0")
            one.add_address(index, f"{addresses[0]}/24", "eth0")
            one.add_address(index, f"{addresses[1]}/64", "eth0")
        left.wait_until_up(FIRST_INDEX, "eth0")
        right.wait_until_up(there, "eth0")
        left.wait_until_local([LEFT6])
        right.wait_until_local([RIGHT6])


def listen(address: str, port: int = 80) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.enter("right"):
        return socket.create_server((address, port), family=family, backlog=1000)


def connect(address: str, port: int = 80) -> socket.socket:
    with netns.enter("left"):
        return socket.create_connection((address, port), timeout=5)


def closed_by_client(listener: socket.socket, address: str, port: int = 80) -> None:
    """One connection whose client sends the first FIN, with both ends in this process: no race."""
    client = connect(address, port)
    server, _ = listener.accept()
    client.close()
    assert server.recv(1) == b""
    server.close()


def shown_by_ss(name: str) -> Tally[str]:
    """What ss(8) in the namespace counts, by state."""
    done = subprocess.run(["ip", "netns", "exec", name, "ss", "-Htan"], capture_output=True, text=True, check=True)
    return Tally(line.split()[0].lower() for line in done.stdout.splitlines())


SS_NAMES = {"established": "estab", "listening": "listen"}


def counted(name: str) -> Tally[str]:
    return Tally(SS_NAMES.get(one.state, one.state) for one in SockDiag(name).dump())


def test_the_reader_counts_what_ss_counts() -> None:
    """Sockets in many states, IPv4 and IPv6: sock_diag's reader and ss(8) in the same namespace agree."""

    def inside() -> list[tuple[Tally[str], Tally[str]]]:
        build_pair()
        listeners = [listen(RIGHT), listen(RIGHT6)]
        for listener, address in zip(listeners, (RIGHT, RIGHT6), strict=True):
            for _ in range(20):
                closed_by_client(listener, address)
        open_ends = [connect(RIGHT) for _ in range(7)] + [connect(RIGHT6) for _ in range(3)]
        half_closed = connect(RIGHT)
        half_closed.shutdown(socket.SHUT_WR)
        wait_until(lambda: counted("left")["fin-wait-2"] == 1, "the FIN is acknowledged", 5)
        answer = [(counted(name), shown_by_ss(name)) for name in ("left", "right")]
        for one in [*open_ends, half_closed, *listeners]:
            one.close()
        return answer

    (ours_left, ss_left), (ours_right, ss_right) = in_sandbox(inside)
    assert ours_left == ss_left == {"time-wait": 40, "estab": 10, "fin-wait-2": 1}
    assert ours_right == ss_right == {"listen": 2, "estab": 10, "close-wait": 1}


def test_a_socket_is_known_by_its_4_tuple_and_what_is_left_of_its_60_s() -> None:
    def inside() -> tuple[object, ...]:
        build_pair()
        closed_by_client(listen(RIGHT), RIGHT)
        (found,) = SockDiag("left").dump()
        return found

    state, local, local_port, remote, remote_port, expires_ms = in_sandbox(inside)
    assert (state, local, remote, remote_port) == ("time-wait", LEFT, RIGHT, 80)
    assert isinstance(local_port, int) and 32768 <= local_port <= 60999
    assert isinstance(expires_ms, int) and 50_000 < expires_ms <= 62_000


def test_counters_grow_with_what_happened_in_their_namespace_only() -> None:
    """TW counts entries into TIME_WAIT, and only on the side that closed first."""

    def inside() -> tuple[int, int, int, int]:
        build_pair()
        listener = listen(RIGHT)
        left, right = Counters("left"), Counters("right")
        before = left.read()["TcpExtTW"]
        for _ in range(13):
            closed_by_client(listener, RIGHT)
        return before, left.read()["TcpExtTW"], left.time_wait(), right.read()["TcpExtTW"]

    assert in_sandbox(inside) == (0, 13, 13, 0)


def test_is_listening_opens_no_connection() -> None:
    """Readiness is read from LISTEN sockets; the listener's accept queue stays empty."""

    def inside() -> tuple[bool, bool, bool, int]:
        build_pair()
        diag = SockDiag("right")
        early = diag.is_listening(80)
        listener = listen(RIGHT)
        answer = (early, diag.is_listening(80, RIGHT), diag.is_listening(80, "198.18.0.9"))
        opened = Counters("right").read()["TcpPassiveOpens"]
        listener.close()
        return (*answer, opened)

    assert in_sandbox(inside) == (False, True, False, 0)


def test_a_blinded_reader_is_broken_never_believed() -> None:
    """A dump that misses the TIME_WAIT sockets disagrees with sockstat: InstrumentBroken names both numbers."""

    class Blind(SockDiag):
        def dump(self, states: int = 0xFFF, local_port: int = 0) -> list:  # type: ignore[type-arg]
            return [one for one in super().dump(states, local_port) if one.state != "time-wait"]

    def inside() -> str:
        build_pair()
        closed_by_client(listen(RIGHT), RIGHT)
        eyes = observer.Observer("left")
        assert len(eyes.read()[0]) == 1
        eyes.sockets = Blind("left")
        with pytest.raises(InstrumentBroken) as caught:
            eyes.read()
        return str(caught.value)

    text = in_sandbox(inside)
    assert "sock_diag shows 0" in text and "sockstat 1" in text


@pytest.mark.parametrize("address", [RIGHT, RIGHT6])
def test_the_first_packet_is_never_lost(address: str) -> None:
    """connect() right after the link is built needs no SYN retransmission, 25 fresh pairs in a row."""

    def inside() -> float:
        build_pair()
        listener = listen(address)
        began = time.monotonic()
        connect(address).close()
        listener.close()
        return time.monotonic() - began

    slow = [took for took in (in_sandbox(inside) for _ in range(25)) if took > 0.9]
    assert slow == []  # a lost SYN costs 1.0 s, TCP_TIMEOUT_INIT


def test_entering_comes_back_whatever_happens_inside() -> None:
    def inside() -> bool:
        netns.add("left")
        home = os.stat("/proc/thread-self/ns/net").st_ino
        with pytest.raises(ZeroDivisionError), netns.enter("left"):
            assert os.stat("/proc/thread-self/ns/net").st_ino != home
            raise ZeroDivisionError
        return os.stat("/proc/thread-self/ns/net").st_ino == home

    assert in_sandbox(inside)


def test_a_namespace_name_is_taken_once() -> None:
    def inside() -> None:
        netns.add("left")
        with pytest.raises(FileExistsError):
            netns.add("left")

    in_sandbox(inside)


def error_of(call: Callable[[], object]) -> tuple[str, str]:
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def test_a_sysctl_is_written_and_read_back_in_its_namespace_only() -> None:
    def inside() -> tuple[str, str | None, str | None]:
        netns.add("left")
        netns.add("right")
        name = "net.ipv4.ip_local_port_range"
        return sysctl.write("left", name, "1024  1026"), sysctl.read("left", name), sysctl.read("right", name)

    assert in_sandbox(inside) == ("1024 1026", "1024 1026", "32768 60999")


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [
        ("net.ipv4.tcp_tw_reuse", "7", UsageError, ("node left", "net.ipv4.tcp_tw_reuse", "'7'", "EINVAL")),
        ("net.ipv4.ip_local_port_range", "9 1", UsageError, ("'9 1'", "EINVAL")),
        ("net.core.rmem_max", "99999", UsageError, ("read-only in a namespace",)),
        ("net.ipv4.tcp_tw_recycle", "1", Skip, ("removed in Linux 4.12",)),
        ("net.ipv4.tcp_tw_resue", "1", Skip, ("did you mean 'tcp_tw_reuse'",)),
    ],
)
def test_a_sysctl_that_cannot_be_says_why(name: str, value: str, kind: type, words: tuple[str, ...]) -> None:
    """Node, key, value and errno by name; a sysctl this kernel lacks is a skip with its version or a near match."""

    def inside() -> tuple[str, str]:
        netns.add("left")
        return error_of(lambda: sysctl.write("left", name, value))

    found, text = in_sandbox(inside)
    assert found == kind.__name__
    assert [word for word in words if word not in text] == []


def test_a_kernel_without_veth_is_said_to_lack_it() -> None:
    """The kernel's answer for a kind of link it does not have, EOPNOTSUPP, names what to load."""

    def inside() -> tuple[str, str]:
        netns.add("left")
        with Rtnl("left") as left:

            def ask() -> None:
                with link._in_words("veth left:eth0 - right:eth0"):
                    kind = netlink.nested(link.IFLA_LINKINFO, netlink.text(link.INFO_KIND, "no-such-kind"))
                    left._netlink.ask(link.RTM_NEWLINK, netlink.F_CREATE, bytes(16) + kind)

            return error_of(ask)

    found, text = in_sandbox(inside)
    assert found == "EnvironmentLacks"
    assert "sudo modprobe veth" in text


def test_settled_means_nothing_is_on_its_way() -> None:
    """A half-closed connection is not settled; closed on both sides, it is."""

    def inside() -> tuple[bool, bool]:
        build_pair()
        listener = listen(RIGHT)
        eyes = observer.Observer("left")
        client = connect(RIGHT)
        server, _ = listener.accept()
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: not eyes.is_settled(), "the FIN is out", 5)
        before = eyes.is_settled()
        server.close()
        client.close()
        return before, observer.wait_until_settled([eyes])

    assert in_sandbox(inside) == (False, True)
