"""The built-in HTTP server: it closes the way it is told to (closing.py).

One process, one thread, one loop over epoll: nothing a single peer does (half a request, a body that never comes, a
reset) holds up another one, and every state has a deadline.

A request costs little more than its system calls. What was read and answered before is answered from memory (memo.py).
Accepted sockets stay blocking and each call says MSG_DONTWAIT, which saves a call per connection; TCP_NODELAY is the
listener's, whose options a new connection has from the start (tcp_create_openreq_child). close(2) takes a socket off
the epoll set.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from netns_tw.programs import http11, memo
from netns_tw.programs.closing import RESET_LINGER, Behaviour, Then, after_response

BACKLOG = 4096
READ_BYTES = 16 * 1024
DRAIN_BYTES = 1024 * 1024
SWEEP_S = 0.25
COMPLAINT_S = 1.0
CONTENT_TYPE = ((b"Content-Type", b"text/plain"),)
CLOSING = (*CONTENT_TYPE, (b"Connection", b"close"))


class Connection:
    """One accepted connection, driven by the loop: readable, writable, overdue."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        self.http = server.new_http()
        self.served = 0
        self.out: bytes | memoryview = b""
        self.then: Then | None = Then.KEEP
        """What follows once ``out`` is sent; None: it has been done, the peer's FIN is awaited."""
        self.drained = 0
        """Bytes read, and thrown away, since."""
        self.stuck = False
        """Whether the peer has stopped taking the response."""
        self.began = False
        """Whether a request has begun and is not answered yet."""
        self.deadline = time.monotonic() + server.behaviour.idle_timeout_ms / 1000

    def readable(self) -> None:
        """Take what has come and go as far as it allows."""
        data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        if self.then is None:
            self.drained += len(data)
            if not data or self.drained > DRAIN_BYTES:
                self.server.forget(self)
            return
        self.http.receive(data)
        if not self.began and not self.http.is_idle:
            self._begin()
        self._go_on()

    def _begin(self) -> None:
        self.began = True
        self._allow(self.server.behaviour.request_timeout_ms)

    def _go_on(self) -> None:
        """Answer every complete request that was read, one at a time."""
        try:
            while self.then is Then.KEEP and not self.out:
                request = self.http.next_request()
                if request is None:
                    self._send(self.http.continue_bytes(), Then.KEEP)
                    return
                self._answer(request)
                if self.then is Then.KEEP and not self.out:
                    self._next_cycle()
        except http11.Refused as refused:
            self._send(http11.refusal(refused.status), Then.DRAIN)
        except http11.ClosedEarly:
            self.server.forget(self)

    def _next_cycle(self) -> None:
        if not self.http.next_cycle():
            return
        self.began = False
        self._allow(self.server.behaviour.idle_timeout_ms)
        if not self.http.is_idle:
            self._begin()

    def _answer(self, request: http11.Request) -> None:
        self.served += 1
        how = self.server.behaviour
        then = after_response(how, request, self.served)
        if then is Then.CLOSE and self.http.has_unread:
            then = Then.DRAIN  # a close over unread bytes would be an RST that takes the response with it, RFC 9112 9.6
        if how.close == "server-first" and request.method != b"HEAD" and how.status not in http11.BODILESS:
            self._send(self.server.close_delimited, then)
            return
        headers = CONTENT_TYPE if then is Then.KEEP else CLOSING
        self._send(self.http.response(how.status, headers, how.body), then)

    def _send(self, data: bytes, then: Then) -> None:
        self.then = then
        self.out = data
        self.writable()

    def writable(self) -> None:
        """Send what is left of the response, then do what follows it."""
        if self.out:
            with suppress(BlockingIOError):
                sent = self.sock.send(self.out, socket.MSG_DONTWAIT)
                self.out = memoryview(self.out)[sent:] if sent < len(self.out) else b""
        if self.out:
            self._allow(self.server.behaviour.request_timeout_ms)
        if bool(self.out) is not self.stuck:
            self.stuck = bool(self.out)
            self.server.watch(self, writing=self.stuck)
        if not self.out and self.then is not Then.KEEP:
            self._end()

    def flushed(self) -> None:
        """The peer took the rest of a response: go on with the next request."""
        if not self.out and self.then is Then.KEEP:
            self._next_cycle()
            self._go_on()

    def _end(self) -> None:
        if self.then is Then.RESET:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_LINGER)
        if self.then in (Then.RESET, Then.CLOSE):
            self.server.forget(self)
            return
        if self.then is Then.DRAIN:
            self.sock.shutdown(socket.SHUT_WR)
        self.then = None
        self._allow(self.server.behaviour.fin_timeout_ms)

    def overdue(self) -> None:
        """The deadline passed: 408 for half a request, a plain close for all else."""
        if self.then is Then.KEEP and self.began and not self.out:
            self._send(http11.refusal(408), Then.DRAIN)
        else:
            self.server.forget(self)

    def _allow(self, ms: int) -> None:
        self.deadline = time.monotonic() + ms / 1000


class Server:
    """The loop: a listener and its connections."""

    def __init__(self, listener: socket.socket, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._listener = listener
        self.memo = memo.ServerMemo()
        self.new_http = http11.ServerSide if behaviour.strict_h11 else partial(memo.ServerSide, self.memo)
        self.close_delimited = http11.close_delimited(behaviour.status, CONTENT_TYPE, behaviour.body)
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        """By file descriptor."""
        self._accepting = False
        self._quiet_until = 0.0
        self._sweep_at = 0.0
        self._accept_again()

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Serve until *is_over* (asked at least four times a second).

        Who sees the socket listen sees a server that is complete.

        Raises:
            OSError: another socket listens there (EADDRINUSE).
        """
        self._listener.listen(BACKLOG)
        listener = self._listener.fileno()
        while not is_over():
            for fd, events in self._epoll.poll(SWEEP_S):  # each at most once, and only its own handler closes it
                if fd == listener:
                    self._accept()
                else:
                    self._drive(self._connections[fd], events)
            self._sweep()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._accept_no_more(error)
            return  # any other: the peer gave up between its SYN and our accept
        fd = sock.fileno()
        self._connections[fd] = Connection(sock, self)
        self._epoll.register(fd, select.EPOLLIN)

    def _accept_no_more(self, error: OSError) -> None:
        """Leave the peers in the backlog until a connection closes, or the next sweep: the want may not be ours."""
        self._epoll.unregister(self._listener)
        self._accepting = False
        now = time.monotonic()
        if now >= self._quiet_until:
            print(f"accept() failed ({error.errno}: {error.strerror}); trying again", file=sys.stderr, flush=True)
            self._quiet_until = now + COMPLAINT_S

    def _accept_again(self) -> None:
        if not self._accepting:
            self._epoll.register(self._listener, select.EPOLLIN)
            self._accepting = True

    def _drive(self, connection: Connection, events: int) -> None:
        try:
            if connection.stuck:
                connection.writable()
                connection.flushed()
            else:
                connection.readable()
        except BlockingIOError:
            return
        except OSError:  # reset by the peer
            self.forget(connection)

    def _sweep(self) -> None:
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_S
        self._accept_again()
        for connection in [one for one in self._connections.values() if one.deadline < now]:
            try:
                connection.overdue()
            except OSError:
                self.forget(connection)

    def watch(self, connection: Connection, writing: bool) -> None:
        """Wait for room to write or for data, never for both: a peer that does not read is not read from."""
        self._epoll.modify(connection.sock, select.EPOLLOUT if writing else select.EPOLLIN)

    def forget(self, connection: Connection) -> None:
        """Close a connection and drop it; harmless when that was done."""
        if self._connections.pop(connection.sock.fileno(), None) is not None:
            connection.sock.close()  # and epoll(7) lets go of it
            self._accept_again()


def bind(address: str, port: int) -> socket.socket:
    """Return a socket at *address*:*port* that does not listen yet; ``::`` takes IPv4 too.

    Raises:
        OSError: the address is not ours or the port is taken (EADDRINUSE).
    """
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        found.setblocking(False)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for each connection from its first byte
        if found.family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        found.bind((address, port))
    except BaseException:
        found.close()
        raise
    return found


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens on *address*:*port*; else as ``bind``.

    Raises:
        OSError: the address is not ours or the port is taken (EADDRINUSE).
    """
    listener = bind(address, port)
    listener.listen(BACKLOG)
    return listener
