"""The built-in HTTP client: counts what happened to every request, and names the call that failed.

A client that closes once the response is complete, and not when the server has closed, is the active closer; its
ephemeral ports then wait in TIME_WAIT. What it finds when none is left is EADDRNOTAVAIL from connect(2)
(__inet_hash_connect), or EADDRINUSE from bind(2) where a source port was asked for. Both the errno and the call are
part of every result, because the remedies differ.

Each result is one JSON line on standard output, so whoever reads it knows all that happened before a kill.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import h11

from netns_tw.programs import http11

READ_BYTES = 64 * 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What to request, how often and how. Times in ms."""

    url: str
    requests: int = 1
    interval_ms: float = 0
    """From the start of one request to the start of the next; 0: back to back."""
    http: str = "1.1"
    concurrency: int = 1
    keep_alive: bool = False
    """Reuse each worker's connection; else one connection per request."""
    source_ports: Sequence[int] = ()
    """Bind request i to the i-th of these, cyclically; empty: the kernel chooses."""
    timeout_ms: int = 10_000
    """For each request as a whole."""


@dataclass(frozen=True)
class Outcome:
    """What happened to one request. ``at_ms`` is CLOCK_MONOTONIC, the same clock in every namespace."""

    index: int
    at_ms: float
    took_ms: float
    status: int | None
    errno: str | None
    """The errno's name, or a word for what no errno names (``closed-early``, ``not-http``)."""
    call: str | None
    """The call that failed: socket, bind, connect, send, recv."""
    local_port: int | None
    """The connection's, or the one that was asked for; None where the kernel found none."""
    message: str | None = None


class Failed(Exception):
    """A request got no response: which call failed, and the errno's name."""

    def __init__(self, call: str, name: str) -> None:
        self.call, self.name = call, name
        super().__init__(f"{call}: {name}")


class Channel:
    """One connection to the server, opened when it is needed."""

    def __init__(self, plan: Plan) -> None:
        parts = urlsplit(plan.url)
        self._plan = plan
        self._host = parts.netloc.rpartition("@")[2]
        self._address = (parts.hostname or "", parts.port or 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = ((b"Connection", b"keep-alive"),) if plan.keep_alive and plan.http == "1.0" else ()
        self._sock: socket.socket | None = None
        self._http = http11.ClientSide()
        self._deadline = 0.0
        self.local_port: int | None = None
        """The last request's."""

    def request(self, source_port: int | None) -> int:
        """Make one request; return its status.

        Raises:
            Failed: some call failed; the connection is closed.
        """
        self._deadline = time.monotonic() + self._plan.timeout_ms / 1000
        try:
            sock = self._sock or self._open(source_port)
            return self._exchange(sock)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _open(self, source_port: int | None) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self.local_port = source_port
        self._sock = sock = _call("socket", socket.socket, family, socket.SOCK_STREAM)
        self._http = http11.ClientSide()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source_port is not None:
            _call("bind", sock.bind, ("::" if family == socket.AF_INET6 else "0.0.0.0", source_port))
        self._in_time("connect", sock, sock.connect, self._address)
        self.local_port = sock.getsockname()[1]
        return sock

    def _exchange(self, sock: socket.socket) -> int:
        raw = self._http.request("GET", self._target, self._host, self._plan.http, self._headers)
        self._in_time("send", sock, sock.sendall, raw)
        try:
            response = None
            while response is None:
                response = self._http.receive(self._in_time("recv", sock, sock.recv, READ_BYTES))
        except http11.ClosedEarly as error:
            raise Failed("recv", "closed-early") from error
        except h11.RemoteProtocolError as error:
            raise Failed("recv", "not-http") from error
        if not self._plan.keep_alive or not self._http.next_cycle():
            self.close()
        return response[0]

    def _in_time(self, name: str, sock: socket.socket, function: Callable[..., T], *arguments: object) -> T:
        """Do a call that may block, for no longer than what is left of the request's time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Failed(name, "ETIMEDOUT")
        sock.settimeout(left)
        return _call(name, function, *arguments)


def _call(name: str, function: Callable[..., T], *arguments: object) -> T:
    try:
        return function(*arguments)
    except TimeoutError as error:
        raise Failed(name, "ETIMEDOUT") from error
    except OSError as error:
        raise Failed(name, errno.errorcode.get(error.errno or 0, str(error))) from error


class Pace:
    """Hands out request numbers, each not before its time; shared by all workers.

    Number i comes no sooner than i intervals after number 0. A late one does not delay those after it, but what has
    been missed is not made up for by a burst either.
    """

    def __init__(self, requests: int, interval_ms: float) -> None:
        self._interval_s = interval_ms / 1000
        self._next = iter(range(requests))
        self._lock = threading.Lock()
        self._due = -float("inf")

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                index = next(self._next, None)
                if index is None:
                    return
                now = time.monotonic()
                self._due = max(self._due + self._interval_s, now - self._interval_s if index else now)
                wait = self._due - now
            if wait > 0:
                time.sleep(wait)
            yield index


def run(plan: Plan, emit: Callable[[Outcome], None]) -> None:
    """Carry out *plan*; hand each outcome to *emit* as it comes. With concurrency 1 no thread is started."""
    pace = Pace(plan.requests, plan.interval_ms)
    if plan.concurrency == 1:
        _work(plan, pace, emit)
        return
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _work(plan, pace, emit)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(plan.concurrency, plan.requests))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _work(plan: Plan, pace: Pace, emit: Callable[[Outcome], None]) -> None:
    channel = Channel(plan)
    for index in pace:
        emit(attempt(channel, index, plan.source_ports))
    channel.close()


def attempt(channel: Channel, index: int, source_ports: Sequence[int]) -> Outcome:
    """Make request number *index* and put what happened into an outcome."""
    began = time.monotonic()
    source_port = source_ports[index % len(source_ports)] if source_ports else None
    status = failed = call = None
    try:
        status = channel.request(source_port)
    except Failed as error:
        failed, call = error.name, error.call
    took_ms = (time.monotonic() - began) * 1000
    return Outcome(index, began * 1000, took_ms, status, failed, call, channel.local_port)


def print_outcome(outcome: Outcome) -> None:
    """Write an outcome as one JSON line; one write(2), so lines of several workers do not mix."""
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    sys.stdout.flush()
