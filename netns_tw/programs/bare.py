"""Bare connections: opened, closed by the side that was named, without a byte in between. Both ends are this process's.

What HTTP adds to a connection is many times what the kernel does, and two processes that wait for each other cost two
switches. Where a hundred thousand TIME_WAITs are the aim, one process owns both ends: the listening socket was opened
in another node's namespace and is inherited; a socket stays in the namespace that it was made in, and what it accepts
does too. So a connection is eight system calls, and who closes first is no race: the other end waits for the FIN.

    closes server   the accepted end closes, ours reads the FIN, then closes: TIME_WAIT there (RFC 9293, 3.6)
    closes client   ours sends FIN, the accepted end reads it and closes: TIME_WAIT here, which holds our port

The process stays on one processor. veth hands a packet to the processor that sent it, so what one processor sends
arrives in order; from two it may not, and one pair in half a million would end in TIME-WAIT assassination (RFC 1337):
the other end's ACK of the first FIN, sent before the process was moved, arrives after the second FIN, is out of window,
is answered with an ACK to a connection that is gone, and the RST to that removes the TIME_WAIT.

Each connect(2) is timed. What a connection takes is told in batches: how many, which call failed with which errno, and
the median, the 99th percentile and the longest connect() of those that did not fail.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

BATCHES = 100
"""What a step is told in, where it has so many connections."""
IP_LOCAL_PORT_RANGE = 51
"""include/uapi/linux/in.h, since Linux 6.3: this socket's own range, the low port in the lower half (ip(7))."""


@dataclass(frozen=True)
class Plan:
    """What to connect to, how often and how."""

    listener: int
    """The file descriptor of the socket that listens at the other end."""
    connections: int = 1
    closes: str = "server"
    """Who closes first, one of rules.CLOSERS."""
    source_ports: Sequence[int] = ()
    """Bind connection i to the i-th of these, cyclically; empty: connect() chooses."""
    port_range: tuple[int, int] | None = None
    """IP_LOCAL_PORT_RANGE of each socket; None: the sysctl's."""
    timeout_ms: int = 10_000
    """For each connection; it may be noticed up to as much later."""


@dataclass(frozen=True)
class Batch:
    """Connections *index* to *index* + *count* - 1. ``at_ms`` is CLOCK_MONOTONIC."""

    index: int
    count: int
    ok: int
    failed: list[tuple[str, str, int]]
    """Call, errno's name, how often."""
    at_ms: float
    took_ms: float
    connect_us: tuple[float, float, float]
    """Of the connect() calls that succeeded: median, 99th percentile, longest; 0 where there is none."""


class Stalled(Exception):
    """A connection was not over in time."""


def _processor() -> int:
    """The number of the processor that we are on, field 39 of /proc/self/stat (proc_pid_stat(5))."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
        return int(stat.read().rpartition(")")[2].split()[36])


class _Watch:
    """Looks at each alarm whether anything was connected since the last one."""

    def __init__(self, timeout_ms: int) -> None:
        self.took: list[int] = []
        """Of the batch that is being made."""
        self.ended = 0
        """Connections that failed, and those of earlier batches."""
        self._seen = -1
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, timeout_ms / 1000, timeout_ms / 1000)

    def _look(self, signum: int, frame: object) -> None:
        seen = self.ended + len(self.took)
        if seen == self._seen:
            raise Stalled
        self._seen = seen

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def has_port_range() -> bool:
    """Whether this kernel knows IP_LOCAL_PORT_RANGE."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        try:
            one.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, bytes(4))
        except OSError:
            return False
    return True


def run(plan: Plan, emit: Callable[[Batch], None]) -> None:
    """Carry out *plan*; hand each batch to *emit* when it is through.

    Raises:
        Stalled: one took longer than the plan allows.
    """
    size = max(1, -(-plan.connections // BATCHES))
    os.sched_setaffinity(0, {_processor()})
    with socket.socket(fileno=plan.listener) as listener:
        watch = _Watch(plan.timeout_ms)
        try:
            for first in range(0, plan.connections, size):
                emit(_batch(plan, listener, first, min(size, plan.connections - first), watch))
                watch.ended, watch.took = first + size, []
        finally:
            watch.end()


def _batch(plan: Plan, listener: socket.socket, first: int, count: int, watch: _Watch) -> Batch:
    failed: Tally[tuple[str, str]] = Tally()
    took = watch.took
    began = time.monotonic()
    index = first
    while index < first + count:
        # the loop is left by a connection that fails, and entered again at the next one
        index, call, error = _connect(plan, listener, index, first + count, took)
        if error is not None:
            failed[call, errno.errorcode.get(error.errno or 0, str(error))] += 1
            watch.ended += 1
    ended = time.monotonic()
    found = [(call, name, number) for (call, name), number in failed.items()]
    ok = count - failed.total()
    return Batch(first, count, ok, found, began * 1000, (ended - began) * 1000, _percentiles(sorted(took)))


def _connect(
    plan: Plan, listener: socket.socket, index: int, end: int, took: list[int]
) -> tuple[int, str, OSError | None]:
    """Make connections from number *index* on, until one fails; return the next number, and what failed."""
    # socket.socket and accept() are these and more, which costs as much as the system calls
    new, accept, close, clock = socket.SocketType, listener._accept, os.close, time.perf_counter_ns  # type: ignore[attr-defined]
    family, stream, address = listener.family, socket.SOCK_STREAM, listener.getsockname()
    wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
    ports, width, server_first = plan.source_ports, len(plan.source_ports), plan.closes == "server"
    option = None if plan.port_range is None else struct.pack("=HH", *plan.port_range)
    call, sock, accepted = "socket", None, -1
    try:
        for number in range(index, end):
            index = number + 1
            call, sock, accepted = "socket", None, -1
            sock = new(family, stream)
            if option is not None:
                call = "setsockopt"
                sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, option)
            if width:
                call = "bind"
                sock.bind((wildcard, ports[number % width]))
            call = "connect"
            began = clock()
            sock.connect(address)
            took.append(clock() - began)
            call = "accept"
            accepted, _ = accept()
            call = "recv"
            if server_first:
                close(accepted)
                sock.recv(1)
            else:
                sock.shutdown(socket.SHUT_WR)
                os.read(accepted, 1)
                close(accepted)
            sock.close()
    except OSError as error:
        if sock is not None:
            sock.close()
        if accepted >= 0:
            with suppress(OSError):  # it was closed first
                close(accepted)
        return index, call, error
    return index, "", None


def _percentiles(took: Sequence[int]) -> tuple[float, float, float]:
    if not took:
        return 0.0, 0.0, 0.0
    at = (took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)], took[-1])
    median, late, longest = (round(one / 1000, 1) for one in at)
    return median, late, longest
