"""The built-in HTTP client: counts what happened to every request, and names the call that failed.

A client that closes once the response is complete, and not when the server has closed, is the active closer; its
ephemeral ports then wait in TIME_WAIT. What it finds when none is left is EADDRNOTAVAIL from connect(2)
(__inet_hash_connect), or EADDRINUSE from bind(2) where a source port was asked for. Both the errno and the call are
part of every result, because the remedies differ.

What is measured should be the kernel, so a request is few steps: the socket stays blocking, where Python's own timeouts
would poll(2) before each call; the kernel's (SO_SNDTIMEO, SO_RCVTIMEO, socket(7)) are short enough that a call which
misses one is worth a second look at the clock. And an answer that is known by its bytes is not parsed again (memo.py).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import h11

from netns_tw.programs import http11, memo
from netns_tw.programs.outcome import Outcome
from netns_tw.programs.pace import Flush, Pace, nothing

READ_BYTES = 64 * 1024
PATIENCE_S = 0.05
PATIENCE_SHARE = 0.05
"""How long a call may block, in seconds and as a share of the request's time, before we say what we have got
(outcome.py) and look at what is left of that time. Three calls cannot miss the end of it."""
A = TypeVar("A")
T = TypeVar("T")
Emit = Callable[[Outcome], None]


def _unknown(_: object) -> None:
    pass


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
    strict_h11: bool = False
    """Let h11 read every response, also one whose very bytes it has read before."""


class Failed(Exception):
    """A request got no response: which call failed, and the errno's name."""

    def __init__(self, call: str, name: str) -> None:
        self.call, self.name = call, name
        super().__init__(f"{call}: {name}")


class Channel:
    """One connection to the server, opened when it is needed."""

    def __init__(self, plan: Plan, known: memo.ClientMemo, flush: Flush = nothing) -> None:
        parts = urlsplit(plan.url)
        headers = ((b"Connection", b"keep-alive"),) if plan.keep_alive and plan.http == "1.0" else ()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._asked = ("GET", target, parts.netloc.rpartition("@")[2], plan.http, headers)
        self._address = (parts.hostname or "", parts.port or 80)
        self._family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._keep_alive = plan.keep_alive
        self._timeout_s = plan.timeout_ms / 1000
        self._patience_s = min(PATIENCE_S, PATIENCE_SHARE * self._timeout_s)
        self._patience = struct.pack("@ll", 0, max(1, round(self._patience_s * 1e6)))
        """As a struct timeval; of 0 the kernel makes for ever."""
        self._new_http = http11.ClientSide if plan.strict_h11 else partial(memo.ClientSide, known)
        self._raw = http11.ClientSide().request(*self._asked)
        """Every request's bytes."""
        self._look_up = _unknown if plan.strict_h11 else known.readings.get
        self._http: http11.ClientSide | memo.ClientSide | None = None
        """Of this connection, if it is needed at all: an exchange from memory leaves it as new."""
        self._flush = flush
        self._sock: socket.SocketType | None = None
        self._began = 0.0
        self.local_port: int | None = None
        """The last request's."""

    def request(self, source_port: int | None, began: float) -> int:
        """Make one request, whose time runs from *began*; return its status.

        Raises:
            Failed: some call failed; the connection is closed.
        """
        self._began = began
        try:
            sock = self._sock
            if sock is None:
                sock = self._open(source_port)
            elif sock.gettimeout() is not None:  # a call of the last request was slow
                sock.settimeout(None)
            return self._exchange(sock)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _open(self, source_port: int | None) -> socket.SocketType:
        self.local_port = source_port
        # socket.socket() is this and more, which costs as much as the system call
        self._sock = sock = _call("socket", socket.SocketType, self._family, socket.SOCK_STREAM)
        self._http = None
        if source_port is not None:
            _call("bind", sock.bind, ("::" if self._family == socket.AF_INET6 else "0.0.0.0", source_port))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, self._patience)
        try:
            sock.connect(self._address)
        except OSError as error:
            self._resume("connect", error, sock, _wait_until_connected, sock)
        self.local_port = sock.getsockname()[1]
        return sock

    def _exchange(self, sock: socket.SocketType) -> int:
        raw = self._raw
        try:
            sent = sock.send(raw)
        except OSError as error:
            sent = self._resume("send", error, sock, sock.send, raw)
        while sent < len(raw):
            sent += self._in_time("send", sock, sock.send, raw[sent:])
        try:
            data = sock.recv(READ_BYTES)
        except OSError as error:
            data = self._resume("recv", error, sock, sock.recv, READ_BYTES)
        found = self._look_up((raw, data))
        if found is not None and found.response is not None:
            status, may_go_on = found.response[0], found.may_go_on
        else:
            status, may_go_on = self._read_on(sock, data)
        if not self._keep_alive or not may_go_on:
            self.close()
        return status

    def _read_on(self, sock: socket.SocketType, data: bytes) -> tuple[int, bool]:
        """Read the response that begins with *data*; return its status, and whether the connection is as new."""
        self._http = http = self._http or self._new_http()
        http.request(*self._asked)
        try:
            while (response := http.receive(data)) is None:
                data = self._in_time("recv", sock, sock.recv, READ_BYTES)
        except http11.ClosedEarly as error:
            raise Failed("recv", "closed-early") from error
        except h11.RemoteProtocolError as error:
            raise Failed("recv", "not-http") from error
        return response[0], http.next_cycle()

    def _in_time(self, name: str, sock: socket.SocketType, function: Callable[[A], T], argument: A) -> T:
        """Do a call that may block, for no longer than what is left of the request's time."""
        sock.settimeout(min(self._left(name), self._patience_s))
        try:
            return function(argument)
        except OSError as error:
            return self._resume(name, error, sock, function, argument)

    def _resume(self, name: str, error: OSError, sock: socket.SocketType, function: Callable[[A], T], argument: A) -> T:
        """Go on with a call that failed with *error*, if it was but too slow; say first what there is to say."""
        is_slow = isinstance(error, BlockingIOError) or (isinstance(error, TimeoutError) and error.errno is None)
        if not is_slow:  # ETIMEDOUT is TCP's own
            raise Failed(name, _name(error)) from error
        self._flush()
        sock.settimeout(self._left(name))
        return _call(name, function, argument)

    def _left(self, name: str) -> float:
        left = self._began + self._timeout_s - time.monotonic()
        if left <= 0:
            raise Failed(name, "ETIMEDOUT")
        return left


def _wait_until_connected(sock: socket.SocketType) -> None:
    """Wait for the end of a connect() that had too little time."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    if not poll.poll((sock.gettimeout() or 0) * 1000):
        raise TimeoutError
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _call(name: str, function: Callable[..., T], *arguments: object) -> T:
    try:
        return function(*arguments)
    except OSError as error:
        raise Failed(name, _name(error)) from error


def _name(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "ETIMEDOUT"
    return errno.errorcode.get(error.errno or 0, str(error))


def run(plan: Plan, emit: Emit, flush: Flush = nothing) -> None:
    """Carry out *plan*; hand each outcome to *emit* as it comes. With concurrency 1 no thread is started.

    *flush* is called before anything that may take long.
    """
    pace = Pace(plan.requests, plan.interval_ms, flush)
    known = memo.ClientMemo()
    if plan.concurrency == 1:
        _work(plan, pace, Channel(plan, known, flush), emit)
        flush()
        return
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _work(plan, pace, Channel(plan, known, flush), emit)
            flush()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(plan.concurrency, plan.requests))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _work(plan: Plan, pace: Pace, channel: Channel, emit: Emit) -> None:
    for index in pace:
        emit(attempt(channel, index, plan.source_ports))
    channel.close()


def attempt(channel: Channel, index: int, source_ports: Sequence[int]) -> Outcome:
    """Make request number *index* and put what happened into an outcome."""
    began = time.monotonic()
    source_port = source_ports[index % len(source_ports)] if source_ports else None
    status = failed = call = None
    try:
        status = channel.request(source_port, began)
    except Failed as error:
        failed, call = error.name, error.call
    took_ms = (time.monotonic() - began) * 1000
    return Outcome(index, began * 1000, took_ms, status, failed, call, channel.local_port)
