"""Bare connections on the real kernel: who closes first, which ports, what fails and how it is told."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import in_sandbox
from test_capture import deafen
from test_kernel import LEFT, RIGHT, RIGHT6, build_pair, connect, listen

from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.process import spawn
from netns_tw.kernel.sockdiag import Kind, SockDiag
from netns_tw.programs import bare
from netns_tw.serving import built_in

pytestmark = pytest.mark.netns

RANGE = "net.ipv4.ip_local_port_range"


def made(plan: bare.Plan, address: str = RIGHT) -> list[bare.Batch]:
    """Make connections from node left to node right."""
    batches: list[bare.Batch] = []
    with listen(address) as listener, netns.enter("left"):
        bare.run(replace(plan, listener=os.dup(listener.fileno())), batches.append)
    return batches


@pytest.mark.parametrize("address", [RIGHT, RIGHT6])
@pytest.mark.parametrize(("closes", "waits", "other"), [("server", "right", "left"), ("client", "left", "right")])
def test_who_closes_first_has_all_and_the_other_none(address: str, closes: str, waits: str, other: str) -> None:
    """Exactly as many TIME_WAITs as connections, whoever it is, and each counted as entered; no reset anywhere."""

    def inside() -> tuple[object, ...]:
        build_pair()
        counters = {name: Counters(name) for name in ("left", "right")}
        before = {name: one.read() for name, one in counters.items()}
        batches = made(bare.Plan(-1, 2000, closes, range(2000, 4000)), address)
        grown = {
            (name, key): one.read()[key] - before[name][key]
            for name, one in counters.items()
            for key in ("TcpExtTW", "TcpOutRsts")
        }
        found = [counters[name].time_wait() for name in (waits, other)]
        return found, grown, [one.index for one in batches[:3]], sum(one.ok for one in batches), len(batches)

    found, grown, indexes, ok, count = in_sandbox(inside)
    assert (found, indexes, ok, count) == ([2000, 0], [0, 20, 40], 2000, 100)
    assert grown == {
        (waits, "TcpExtTW"): 2000,
        (other, "TcpExtTW"): 0,
        ("left", "TcpOutRsts"): 0,
        ("right", "TcpOutRsts"): 0,
    }


def test_what_fails_is_told_by_call_and_errno_and_the_rest_goes_on() -> None:
    """Four ports are four connections that the client closes first; an asked port that is held fails in bind()."""

    def inside() -> tuple[object, ...]:
        build_pair()
        sysctl.write("left", RANGE, "1024 1027")
        sysctl.write("left", "net.ipv4.tcp_tw_reuse", "0")
        chosen = made(bare.Plan(-1, 10, "client"))
        asked = made(bare.Plan(-1, 3, "client", range(3000, 3002)))
        return [(one.ok, one.failed) for one in chosen], [(one.ok, one.failed, one.connect_us[2] > 0) for one in asked]

    chosen, asked = in_sandbox(inside)
    assert chosen == [(1, [])] * 4 + [(0, [("connect", "EADDRNOTAVAIL", 1)])] * 6
    assert asked == [(1, [], True), (1, [], True), (0, [("bind", "EADDRINUSE", 1)], False)]


def test_a_socket_s_own_range_is_searched_to_its_last_port() -> None:
    """IP_LOCAL_PORT_RANGE lifts the even-width rule: three ports are three, where the sysctl's three are two."""

    def inside() -> list[int]:
        build_pair()
        sysctl.write("left", "net.ipv4.tcp_tw_reuse", "0")
        own = sum(one.ok for one in made(bare.Plan(-1, 5, "client", port_range=(40000, 40002))))
        sysctl.write("left", RANGE, "1024 1026")
        return [own, sum(one.ok for one in made(bare.Plan(-1, 5, "client")))]

    assert in_sandbox(inside) == [3, 2]


def test_all_of_it_is_on_one_processor() -> None:
    """What one processor sends arrives in order; from two, a late ACK can end in a RST that removes a TIME_WAIT."""

    def inside() -> list[int]:
        build_pair()
        before = len(os.sched_getaffinity(0))
        made(bare.Plan(-1, 1))
        return [before, len(os.sched_getaffinity(0))]

    before, after = in_sandbox(inside)
    assert before >= after == 1


def test_a_connection_that_is_never_made_ends_the_program() -> None:
    """A listener whose socket filter drops each SYN: after the timeout one line on standard error, exit status 1."""

    def inside() -> tuple[int | None, str, bytes]:
        build_pair()
        listener = listen(RIGHT)
        deafen(listener)
        argv = built_in("bare", "--listener", str(listener.fileno()), "--timeout-ms", "300")
        child = spawn("left", argv, Path("/run/log"), stdout=subprocess.PIPE, inherited=(listener.fileno(),))
        said, _ = child.communicate(timeout=30)
        return child.returncode, Path("/run/log").read_text(), said

    assert in_sandbox(inside) == (1, "bare: no connection was made for 300 ms\n", b"")


def test_refused_connections_are_progress_too() -> None:
    """A full range refuses each connect() after a search; a step of such takes its time, and is not called stalled."""

    def inside() -> list[int]:
        build_pair()
        sysctl.write("left", "net.ipv4.tcp_tw_reuse", "0")
        sysctl.write("left", RANGE, "20000 27999")
        batches = made(bare.Plan(-1, 10_000, "client", timeout_ms=400))
        return [sum(one.ok for one in batches), sum(count for one in batches for *_, count in one.failed)]

    assert in_sandbox(inside) == [8000, 2000]


def test_a_connection_that_breaks_is_told_by_its_call_and_leaves_nothing_open() -> None:
    """A stranger's connection that was reset while it stood in the queue is the one that is accepted."""

    def inside() -> tuple[object, ...]:
        build_pair()
        with listen(RIGHT) as listener:
            reset(connect(RIGHT))
            before = len(os.listdir("/proc/self/fd"))
            batches: list[bare.Batch] = []
            with netns.enter("left"):
                bare.run(bare.Plan(os.dup(listener.fileno()), 1, "client"), batches.append)
            return [(one.ok, one.failed) for one in batches], len(os.listdir("/proc/self/fd")) - before

    assert in_sandbox(inside) == ([(0, [("recv", "ECONNRESET", 1)])], 0)


def reset(one: socket.socket) -> None:
    """End a connection with RST."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def test_the_program_prints_a_line_a_batch() -> None:
    """As a step of an experiment starts it: in the client's namespace, the listening socket inherited."""

    def inside() -> list[dict[str, object]]:
        build_pair()
        with listen(RIGHT) as listener:
            fd = listener.fileno()
            argv = built_in("bare", "--listener", str(fd), "-n", "250", "--source-ports", "2000-2249")
            child = spawn("left", argv, Path("/run/log"), stdout=subprocess.PIPE, inherited=(fd,))
            said, _ = child.communicate(timeout=30)
            kinds = SockDiag("right").tally()
        assert child.returncode == 0, Path("/run/log").read_text()
        assert kinds == {Kind("listening", 80, "0.0.0.0", 0): 1, Kind("time-wait", 80, LEFT, 0): 250}
        return [json.loads(line) for line in said.splitlines()]

    lines = in_sandbox(inside)
    assert [(one["index"], one["count"], one["ok"], one["failed"]) for one in lines] == [
        (3 * number, min(3, 250 - 3 * number), min(3, 250 - 3 * number), []) for number in range(84)
    ]


@pytest.mark.parametrize("words", [["--source-ports", "5-1"], ["--port-range", "x"], ["--closes", "nobody"], []])
def test_wrong_words_are_refused(words: list[str]) -> None:
    """Exit status 2 and the option's name."""
    need = ["--listener", "3"] if words else []
    done = subprocess.run(built_in("bare", *need, *words), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert (words[0] if words else "--listener") in done.stderr
