"""Outcomes are written in batches, in time, and each once, however the client ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

import pytest
from conftest import in_sandbox
from test_client import OK, URL, listen, once, why
from test_server import SERVER, chain, read_head, server

from netns_tw.kernel import netns
from netns_tw.programs import outcome
from netns_tw.programs.outcome import Lines, Outcome
from netns_tw.serving import built_in
from netns_tw.wait import wait_until

GOOD = Outcome(7, 5038.0, 0.1234567890123, 200, None, None, 40000)
CASES = [
    GOOD,
    Outcome(0, 1e-7, 1e22, 599, None, None, 1),
    Outcome(1, 1.5, 2.5, None, "EADDRNOTAVAIL", "connect", None),
    Outcome(2, 1.5, 2.5, 200, None, None, None),
    Outcome(3, 1.5, 2.5, 200, None, None, 1024, 'said "näh\\"\n'),
    Outcome(4, 1.5, 2.5, 200, "closed-early", "recv", 1024),
]


@pytest.mark.parametrize("one", CASES)
def test_a_line_is_what_json_makes_of_an_outcome(one: Outcome) -> None:
    assert outcome.line(one) == json.dumps(asdict(one)).encode() + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


def got(fd: int) -> list[int]:
    try:
        return [json.loads(one)["index"] for one in os.read(fd, 1 << 20).splitlines()]
    except BlockingIOError:
        return []


def numbered(index: int) -> Outcome:
    return Outcome(index, 1.5, 2.5, 200, None, None, 40000)


def test_lines_are_gathered_for_a_while(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first goes out at once; those after it when 50 ms are over, when many wait, or when flush() says so."""
    read, write = pipe
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = Lines(write)
    seen = []
    for index, at in enumerate((100.0, 100.01, 100.04, 100.06, 100.07)):
        now[0] = at
        lines.add(numbered(index))
        seen.append(got(read))
    assert seen == [[0], [], [], [1, 2, 3], []]
    lines.flush()
    assert got(read) == [4]
    lines.add_now(numbered(5))
    assert got(read) == [5]
    for index in range(outcome.MAX_WAITING):
        lines.add(numbered(index))
    assert got(read) == list(range(outcome.MAX_WAITING))


def test_an_interrupt_loses_nothing_and_repeats_nothing(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the lines are made."""
    read, write = pipe
    lines = Lines(write)
    lines.flush()
    for index in range(5):
        lines.add(numbered(index))
    real, left = outcome.line, [2]

    def interrupted(one: Outcome) -> bytes:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(one)

    monkeypatch.setattr(outcome, "line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lines.flush()
    lines.add_now(numbered(5))
    assert got(read) == list(range(6))


@pytest.mark.netns
def test_what_is_known_is_said_while_the_client_waits_for_an_answer() -> None:
    """Long before that request's own time is over."""

    def main() -> list[int]:
        with chain("client", "server"), listen() as listener, ExitStack() as stack:

            def serve() -> None:
                for number in range(8):
                    sock = stack.enter_context(listener.accept()[0])
                    read_head(sock)
                    if number < 7:
                        sock.sendall(OK)

            thread = threading.Thread(target=serve)
            thread.start()
            with netns.enter("client"):
                argv = built_in("h11", URL, "-n", "8", "--timeout-ms", "60000")
                child = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            assert child.stdout is not None
            found = [json.loads(child.stdout.readline())["status"] for _ in range(7)]
            assert child.poll() is None
            child.kill()
            thread.join()
            return found

    assert in_sandbox(main) == [200] * 7


@pytest.mark.netns
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_client_that_is_ended_has_said_all(number: int, code: int) -> None:
    """The server saw as many connections as there are lines, and at most the one that was cut off."""

    def main() -> tuple[int, int, list[int]]:
        with server() as lab:
            opens = lab.nodes["server"].observer.counters
            before = opens.read()["TcpPassiveOpens"]
            with netns.enter("client"):
                child = subprocess.Popen(built_in("h11", URL, "-n", "1000000"), stdout=subprocess.PIPE)
            with child:
                assert child.stdout is not None
                first = child.stdout.readline()
                wait_until(lambda: opens.read()["TcpPassiveOpens"] > before + 100, "under way", 10, pause_s=0.001)
                child.send_signal(number)
                lines = [first, *child.stdout.read().splitlines()]
            after = opens.read()["TcpPassiveOpens"]
            return child.returncode, after - before, [json.loads(one)["index"] for one in lines]

    ended, opened, found = in_sandbox(main)
    assert ended == code
    assert found == list(range(len(found)))
    assert len(found) <= opened <= len(found) + 1


@pytest.mark.netns
@pytest.mark.parametrize("is_refused", [False, True])
def test_a_connection_may_take_its_time(is_refused: bool) -> None:
    """A SYN that a full backlog drops is sent again after 1 s (TCP_TIMEOUT_INIT); then there is room, or nobody."""

    def main() -> Outcome:
        with chain("client", "server") as lab, ExitStack() as stack:
            with netns.enter("server"):
                listener = stack.enter_context(socket.create_server((SERVER, 80), backlog=0))
            with netns.enter("client"):
                stack.enter_context(socket.create_connection((SERVER, 80), 10))
            counters = lab.nodes["server"].observer.counters
            wait_until(lambda: counters.read()["TcpPassiveOpens"] == 1, "backlog full", 5)

            dropped = counters.read()["TcpExtListenDrops"]

            def make_room() -> None:
                wait_until(lambda: counters.read()["TcpExtListenDrops"] > dropped, "a SYN dropped", 10, pause_s=0.001)
                if is_refused:
                    listener.close()
                    return
                listener.accept()[0].close()
                sock, _ = listener.accept()
                with sock:
                    read_head(sock)
                    sock.sendall(OK)

            thread = threading.Thread(target=make_room)
            thread.start()
            found = once()
            thread.join()
            return found

    found = in_sandbox(main)
    assert why(found) == ((None, "connect", "ECONNREFUSED") if is_refused else (200, None, None))
    assert found.took_ms > 900
