"""The instrument test: a known TIME_WAIT is seen and gone, sways nothing, and a blind instrument is found out."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import in_sandbox

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.link import FIRST_INDEX, LOOPBACK_INDEX, Rtnl
from netns_tw.kernel.sockdiag import SockDiag, TcpSocket
from netns_tw.measure import canary
from netns_tw.measure.observer import Observer
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

IN_LEFT = ("ip", "netns", "exec", "left")
LEFT, RIGHT = "198.18.0.1", "198.18.0.2"
RANGE = "net.ipv4.ip_local_port_range"
DELAY = "net.ipv4.tcp_tw_reuse_delay"
STILL = (
    "TcpExtTWRecycled",
    "TcpExtTWKilled",
    "TcpExtTCPTimeWaitOverflow",
    "TcpExtPAWSActive",
    "TcpExtPAWSEstab",
    "TcpRetransSegs",
    "TcpAttemptFails",
)
"""Counters that no canary moves."""


def build(**sysctls: str) -> Observer:
    """Two nodes with one link, ``left`` and ``right``; *sysctls* of net.ipv4 are the left one's, which is observed."""
    netns.add("left")
    netns.add("right")
    with Rtnl("left") as left, Rtnl("right") as right:
        there = left.add_veth("eth0", FIRST_INDEX, right, "eth0")
        for name, value in sysctls.items():
            sysctl.write("left", f"net.ipv4.{name}", value)
        for one, index, address in ((left, FIRST_INDEX, LEFT), (right, there, RIGHT)):
            one.set_up(LOOPBACK_INDEX, "lo")
            one.set_up(index, "eth0")
            one.add_address(index, f"{address}/24", "eth0")
        left.wait_until_up(FIRST_INDEX, "eth0")
        right.wait_until_up(there, "eth0")
    return Observer("left")


def listen() -> socket.socket:
    with netns.enter("right"):
        return socket.create_server((RIGHT, 80), backlog=1000)


def request(listener: socket.socket) -> str:
    """One connection from left that the client closes first; the errno's name where there is none."""
    with netns.enter("left"):
        client = socket.socket()
    with client:
        client.settimeout(5)
        try:
            client.connect((RIGHT, 80))
        except OSError as error:
            return os.strerror(error.errno or 0)
        server, _ = listener.accept()
        client.close()
        assert server.recv(1) == b""
        server.close()
    return "ok"


def sysctls_of(name: str) -> dict[str, str]:
    found = {}
    with netns.enter(name):
        for path in sorted(Path("/proc/sys/net/ipv4").rglob("*")):
            try:
                found[str(path)] = path.read_text()
            except OSError:
                continue
    return found


def state_of(eyes: Observer) -> tuple[list[tuple[object, ...]], int, dict[str, str], dict[str, int]]:
    """All that a canary must leave alone: sockets but for their timers, sockstat's tw, sysctls, some counters."""
    sockets, time_wait, _ = eyes.read()
    counters = eyes.counters.read()
    still = {name: counters[name] for name in STILL if name in counters}
    return sorted(one[:5] for one in sockets), time_wait, sysctls_of(eyes.netns_name), still


COMBINATIONS = [
    dict(
        zip(
            ("tcp_max_tw_buckets", "tcp_timestamps", "tcp_rfc1337", "tcp_tw_reuse", "tcp_tw_reuse_delay"),
            one,
            strict=True,
        )
    )
    for one in itertools.product(("0", "1", "131072"), "012", "01", "012", ("1", "60000"))
]


def test_seen_and_gone_whatever_the_sysctls_say() -> None:
    """Sockets, sysctls and the counters that matter are untouched; TW grows by one for IPv4 and one for IPv6."""

    def inside() -> list[object]:
        eyes = build()
        keys = [key for key in COMBINATIONS[0] if sysctl.read("left", f"net.ipv4.{key}") is not None]
        wrong: list[object] = []
        for one in COMBINATIONS:
            for key in keys:
                sysctl.write("left", f"net.ipv4.{key}", one[key])
            before, began = state_of(eyes), eyes.counters.read()["TcpExtTW"]
            canary.check(eyes)
            after, ended = state_of(eyes), eyes.counters.read()["TcpExtTW"]
            if before != after or ended - began != 2 or after[:2] != ([], 0):
                wrong.append((one, before[:2], after[:2], ended - began))
        return wrong

    assert in_sandbox(inside) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.tcp_max_tw_buckets", "-1"),
        ("net.ipv4.tcp_syncookies", "0"),
        ("net.ipv4.tcp_syncookies", "2"),
        ("net.ipv4.tcp_max_syn_backlog", "0"),
        ("net.core.somaxconn", "0"),
        ("net.ipv4.tcp_fin_timeout", "1"),
        ("net.ipv4.tcp_rmem", "1 1 1"),
        ("net.ipv4.tcp_wmem", "1 1 1"),
        ("net.ipv4.ip_local_reserved_ports", "1024-65535"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.tcp_no_metrics_save", "1"),
        ("net.ipv4.conf.all.rp_filter", "1"),
    ],
)
def test_seen_and_gone_where_others_would_starve(name: str, value: str) -> None:
    def inside() -> tuple[list[TcpSocket], int, bool]:
        eyes = build()
        sysctl.write("left", name, value)
        before = sysctls_of("left")
        canary.check(eyes)
        return *eyes.read()[:2], before == sysctls_of("left")

    assert in_sandbox(inside) == ([], 0, True)


def test_a_small_table_of_its_own_is_room_enough() -> None:
    """A namespace born with tcp_child_ehash_entries = 1 has one hash bucket and tcp_max_tw_buckets = 0."""

    def inside() -> tuple[str | None, str | None] | None:
        path = sysctl.path_of("net.ipv4.tcp_child_ehash_entries")
        if not os.path.exists(path):
            return None
        Path(path).write_text("1")
        eyes = build()
        before = sysctl.read("left", canary.LIMIT)
        canary.check(eyes)
        return before, sysctl.read("left", canary.LIMIT)

    assert in_sandbox(inside) in (None, ("0", "0"))


def test_a_loopback_that_takes_its_time_makes_no_race() -> None:
    """lo's packets are handed to another CPU (RPS), so they arrive after the system call that sent them has returned.

    Then every step has to wait for the one before it; on one CPU they never overtake each other.
    """

    def inside() -> tuple[list[TcpSocket], int, int]:
        eyes = build()
        ours, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {ours})
        mask = f"{sum(1 << one for one in others):x}"
        handing = f"echo {mask} > /sys/class/net/lo/queues/rx-0/rps_cpus"
        subprocess.run([*IN_LEFT, "sh", "-c", handing], check=True)
        for _ in range(100):
            canary.check(eyes)
        return *eyes.read()[:2], eyes.counters.read()["TcpExtTW"]

    assert in_sandbox(inside) == ([], 0, 200)  # no try but the first: nobody else disturbs this node


@pytest.mark.parametrize("has_it", [True, False])
def test_ipv6_is_tested_where_there_is_some(has_it: bool) -> None:
    """Without ::1 one TIME_WAIT is made, with it two."""

    def inside() -> int:
        eyes = build()
        sysctl.write("left", "net.ipv6.conf.all.disable_ipv6", "0" if has_it else "1")
        canary.check(eyes)
        return eyes.counters.read()["TcpExtTW"]

    assert in_sandbox(inside) == (2 if has_it else 1)


RANGES = (
    "1 65535",
    "1024 65535",
    "1024 65534",
    "1025 65535",
    "1024 1026",
    "1024 1035",
    "60000 65535",
    "1 1",
    "65535 65535",
)


def test_any_port_range_will_do() -> None:
    """Also one that leaves no port, and one whose ports the experiment names itself."""

    def inside() -> list[object]:
        eyes = build(ip_unprivileged_port_start="0")  # a range may not begin below it
        for one in RANGES:
            sysctl.write("left", RANGE, one)
            for avoid in ((), range(1024, 65536), range(60000, 65536)):
                canary.check(eyes, avoid)
        return [*eyes.read()[0], sysctl.read("left", RANGE)]

    assert in_sandbox(inside) == [RANGES[-1]]


@pytest.mark.parametrize(
    ("low", "high", "avoid", "listening", "first"),
    [
        (32768, 60999, (), (), [65535, 65534, 65533, 65532]),
        (32768, 65535, (), (), [32767, 32766, 32765, 32764]),
        (32768, 65534, (), (), [65535, 32767, 32766, 32765]),
        (1024, 65534, (), (), [65535, 65534, 65533, 65532]),
        (1, 65535, (), (), [65535, 65534, 65533, 65532]),
        (1, 65535, {65534}, {65535}, [65533, 65532, 65531, 65530]),
        (1024, 1035, {65535, 65533}, {65534}, [65532, 65531, 65530, 65529]),
        (1026, 65535, {1024}, (), [1025, 65535, 65534, 65533]),
        (1024, 65535, range(1026, 65536), (), [1025, 1024, 65535, 65534]),
        (1, 1, (), (), [65535, 65534, 65533, 65532]),
        (65535, 65535, (), (), [65534, 65533, 65532, 65531]),
    ],
)
def test_ports_are_others_than_the_experiments(
    low: int, high: int, avoid: frozenset[int], listening: frozenset[int], first: list[int]
) -> None:
    """Outside the range and not named by the experiment, as long as there are any; never one that is listened on."""
    found = list(canary._ports(low, high, avoid, listening))
    assert found[:4] == first
    assert sorted(found) == [port for port in range(1024, 65536) if port not in listening]


def test_a_port_that_is_taken_is_passed_over() -> None:
    """Programs listen on the ports that would be first, one of them unseen by the reader: others are used."""

    def inside() -> list[TcpSocket]:
        eyes = build()
        with netns.enter("left"):
            taken = [socket.create_server(("", 65535)), socket.create_server(("127.0.0.1", 65533))]

        class Forgetful(SockDiag):
            def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
                return [one for one in super().dump(states, local_port) if one.local_port != 65533]

        eyes.sockets = Forgetful("left")
        canary.check(eyes)
        rest = eyes.sockets.dump()
        for one in taken:
            one.close()
        return rest

    assert [(one.state, one.local_port) for one in in_sandbox(inside)] == [("listening", 65535)]


@pytest.mark.parametrize("avoid", [(), [*range(1024), *range(1036, 65536)]], ids=["outside", "inside the range"])
def test_an_experiment_between_two_canaries_counts_exactly(avoid: list[int]) -> None:
    """Twelve ports: twelve connections, the 13th fails, twelve TIME_WAIT, the same ones after the second canary.

    The second time all ports of the range are in TIME_WAIT; even then any of them is free on another address.
    """

    def inside() -> tuple[list[str], int, list[int], bool]:
        eyes = build(ip_local_port_range="1024 1035", tcp_tw_reuse="0")
        listener = listen()
        canary.check(eyes, avoid)
        before = eyes.counters.read()["TcpExtTW"]
        answers = [request(listener) for _ in range(13)]
        grown = eyes.counters.read()["TcpExtTW"] - before
        found = state_of(eyes)
        canary.check(eyes, avoid)
        return answers, grown, sorted(one.local_port for one in eyes.read()[0]), found == state_of(eyes)

    answers, grown, ports, is_same = in_sandbox(inside)
    assert answers == ["ok"] * 12 + ["Cannot assign requested address"]
    assert (grown, ports, is_same) == (12, [*range(1024, 1036)], True)


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_never_one_of_the_five(limit: int) -> None:
    """With tcp_max_tw_buckets = 5 and 20 closings, five TIME_WAIT are the experiment's and 15 overflow."""

    def inside() -> tuple[int, int, bool, str | None]:
        eyes = build(tcp_max_tw_buckets=str(limit))
        listener = listen()
        canary.check(eyes)
        before = eyes.counters.read()["TcpExtTCPTimeWaitOverflow"]
        assert [request(listener) for _ in range(20)] == ["ok"] * 20
        overflow = eyes.counters.read()["TcpExtTCPTimeWaitOverflow"] - before
        found = state_of(eyes)
        canary.check(eyes)
        return found[1], overflow, found == state_of(eyes), sysctl.read("left", canary.LIMIT)

    assert in_sandbox(inside) == (limit, 20 - limit, True, str(limit))


@contextmanager
def child(work: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Run *work* in a process of its own beside the block, which gets a function that tells whether it is through."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    ended: list[int] = []

    def is_through() -> bool:
        if not ended:
            gone, status = os.waitpid(pid, os.WNOHANG)
            ended.extend([os.waitstatus_to_exitcode(status)] if gone else [])
        return bool(ended)

    try:
        yield is_through
        wait_until(is_through, "the child ends", 30)
    finally:
        if not ended:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert ended == [0]


def test_connections_that_close_meanwhile_are_no_fault() -> None:
    """As a program closes its idle connections, TIME_WAIT and counters grow between the canary's own looks."""

    def inside() -> int:
        eyes = build()
        listener = listen()
        with netns.enter("left"):
            clients = [socket.create_connection((RIGHT, 80)) for _ in range(300)]
        servers = [listener.accept()[0] for _ in clients]

        def close_all() -> None:
            for client, server in zip(clients, servers, strict=True):
                client.shutdown(socket.SHUT_WR)
                server.recv(1)
                server.shutdown(socket.SHUT_WR)

        with child(close_all) as is_through:
            canary.check(eyes)
            while not is_through():
                canary.check(eyes)
        return eyes.read()[1]

    assert in_sandbox(inside) == 300


def test_what_ends_meanwhile_is_no_fault() -> None:
    """TIME_WAITs that expire between two looks make sockstat's tw fall; orphans in FIN_WAIT2 do so after a second."""

    def inside() -> int:
        eyes = build(tcp_fin_timeout="1")
        listener = listen()
        held = []
        for _ in range(200):
            with netns.enter("left"):
                client = socket.create_connection((RIGHT, 80))
            held.append(listener.accept()[0])
            client.close()
        canary.check(eyes)
        while eyes.counters.time_wait():
            canary.check(eyes)
        return eyes.counters.read()["TcpExtTWKilled"]  # orphans in FIN_WAIT2 that became small

    assert in_sandbox(inside) > 0


# --- the blind -----------------------------------------------------------------------------------------------------


class Dark(SockDiag):
    """Shows no TIME_WAIT."""

    def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
        return [one for one in super().dump(states, local_port) if one.state != "time-wait"]


class Old(SockDiag):
    """Shows no IPv6."""

    def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
        return [one for one in super().dump(states, local_port) if ":" not in one.local]


class Haunted(SockDiag):
    """Shows what was there before, too."""

    def __init__(self, netns_name: str) -> None:
        super().__init__(netns_name)
        self._ghosts: list[TcpSocket] = []

    def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
        self._ghosts = list(dict.fromkeys([*self._ghosts, *super().dump(states, local_port)]))
        return self._ghosts


class Double(SockDiag):
    """Shows each socket twice."""

    def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
        return super().dump(states, local_port) * 2


class Timeless(SockDiag):
    """Shows no timers."""

    def dump(self, states: int = 0xFFF, local_port: int = 0) -> list[TcpSocket]:
        return [one._replace(expires_ms=0) for one in super().dump(states, local_port)]


class Zero(Counters):
    """sockstat's tw is 0, always."""

    def time_wait(self) -> int:
        return 0


class Stuck(Counters):
    """sockstat's tw is what it was at the first look."""

    first: int | None = None

    def time_wait(self) -> int:
        if self.first is None:
            self.first = super().time_wait()
        return self.first


class Stale(Counters):
    """The counters are those of the first look."""

    first: dict[str, int] | None = None

    def read(self) -> dict[str, int]:
        self.first = self.first or super().read()
        return self.first


class Nameless(Counters):
    """The counters lack one."""

    def read(self) -> dict[str, int]:
        return {name: number for name, number in super().read().items() if name != "TcpExtTW"}


class Eager(Counters):
    """Counts each TIME_WAIT twice."""

    def read(self) -> dict[str, int]:
        return {name: number * (1 + (name == "TcpExtTW")) for name, number in super().read().items()}


NO_ROW = "sock_diag does not show a TIME_WAIT that is there"
NO_TW = "sockstat does not count a TIME_WAIT that came and went"
NO_COUNT = "the counters miss a TIME_WAIT that came and went: TcpExtTW"
BLIND: dict[str, tuple[Callable[[str], SockDiag] | None, Callable[[str], Counters] | None, str]] = {
    "sock_diag drops time-wait": (Dark, None, NO_ROW),
    "sockstat is 0": (None, Zero, NO_TW),
    "both, so that they agree": (Dark, Zero, NO_ROW),
    "sockstat is stuck": (None, Stuck, NO_TW),
    "counters are stale": (None, Stale, NO_COUNT),
    "a counter is missing": (None, Nameless, NO_COUNT),
    "a counter runs twice as fast": (
        None,
        Eager,
        "the counters show more than a TIME_WAIT that came and went: TcpExtTW",
    ),
    "sock_diag of another node": (lambda _: SockDiag("right"), None, NO_ROW),
    "counters of another node": (None, lambda _: Counters("right"), NO_COUNT),
    "all of another node": (lambda _: SockDiag("right"), lambda _: Counters("right"), NO_ROW),
    "sock_diag drops IPv6": (Old, None, NO_ROW),
    "sock_diag shows ghosts": (Haunted, None, "sock_diag shows a TIME_WAIT that is gone"),
    "sock_diag shows all twice": (Double, None, NO_ROW),
    "sock_diag shows no timer": (Timeless, None, NO_ROW),
}


@pytest.mark.parametrize("case", BLIND)
def test_a_blind_instrument_is_found_out(case: str) -> None:
    """Each is told with its node, what was made, and what each instrument showed; the sysctl is back all the same."""
    sockets, counters, words = BLIND[case]

    def inside() -> tuple[str, str | None]:
        eyes = build(tcp_max_tw_buckets="5")
        canary.check(eyes)
        if sockets:
            eyes.sockets = sockets("left")
        if counters:
            eyes.counters = counters("left")
        canary.QUIET_DEADLINE_S = 0.3  # of this sandbox only
        with pytest.raises(InstrumentBroken) as caught:
            canary.check(eyes)
        return str(caught.value), sysctl.read("left", canary.LIMIT)

    text, limit = in_sandbox(inside)
    assert text.startswith(f"node left: {words}"), text
    for word in (
        "made and ended: 2 (127.0.0.1 port 65535 -> 65534, ::1 port",
        "sock_diag:",
        "sockstat's tw:",
        "TcpExtTW",
    ):
        assert word in text, text
    assert limit == "5"


def test_agreement_alone_is_not_enough() -> None:
    """Two blind instruments agree, so Observer.read() believes them; the canary does not."""

    def inside() -> tuple[list[TcpSocket], int]:
        eyes = build()
        listener = listen()
        assert request(listener) == "ok"
        eyes.sockets, eyes.counters = Dark("left"), Zero("left")
        with pytest.raises(InstrumentBroken):
            canary.check(eyes)
        return eyes.read()[:2]

    assert in_sandbox(inside) == ([], 0)


def test_a_namespace_that_was_not_entered_is_found_out() -> None:
    """If entering fails silently, canary and reader would both be in the wrong place, and would agree."""

    @contextmanager
    def stay(name: str) -> Iterator[None]:
        yield

    def inside() -> str:
        build().close()
        with Rtnl("right") as right:
            right.set_up(LOOPBACK_INDEX, "lo")
        netns.enter = stay  # this process is the sandbox's own
        with pytest.raises(InstrumentBroken) as caught:
            canary.check(Observer("left"))
        return str(caught.value)

    assert in_sandbox(inside) == "node left: entering its namespace led into another one"


DEAD_ENDS = {
    "lo has no address": (
        (*IN_LEFT, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo"),
        "Cannot assign requested address",
    ),
    "lo is down": ((*IN_LEFT, "ip", "link", "set", "lo", "down"), "timed out"),
    "lo drops all": ((*IN_LEFT, "tc", "qdisc", "add", "dev", "lo", "root", "bfifo", "limit", "1"), "timed out"),
}


@pytest.mark.parametrize("case", DEAD_ENDS)
def test_a_canary_that_cannot_be_made_is_broken_in_time(case: str) -> None:
    """No connection over lo: broken, within the deadline, and the sysctl is back."""
    command, words = DEAD_ENDS[case]

    def inside() -> tuple[str, float, str | None]:
        eyes = build(tcp_max_tw_buckets="5")
        subprocess.run(command, check=True, capture_output=True)
        canary.SOCKET_DEADLINE_S = 0.3  # of this sandbox only
        began = time.monotonic()
        with pytest.raises(InstrumentBroken) as caught:
            canary.check(eyes)
        return str(caught.value), time.monotonic() - began, sysctl.read("left", canary.LIMIT)

    text, took, limit = in_sandbox(inside)
    assert text.startswith("node left: ") and words in text
    assert (took < 5, limit) == (True, "5")
