"""HTTP/1.0 and 1.1 on top of h11, without a socket in sight.

RFC 9112 leaves one thing open that this project is about: who closes the connection first. Sections 9.3 and 9.6 only
say that either side may, once the message is complete. How a client learns that a response is complete decides it:

* by Content-Length: both sides know at the same moment, and whoever calls close(2) first wins;
* by the close itself (section 6.3, rule 8): the server must be first.

h11 keeps the grammar and the state machine. What is added here are the refusals of RFC 9110 section 15.5 and 15.6 with
their status codes, limits on head and body that hold however the bytes are cut, the empty lines that section 2.2 lets a
client send before a request, and HTTP/1.0 requests, which h11 reads but does not write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus

import h11

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
"""Of a request. nginx's client_max_body_size is the same, so both refuse the same requests."""

BODILESS = (204, 304)
"""Statuses whose responses have no body, RFC 9110 section 6.4.1."""
BODY_EXPECTED = ("POST", "PUT", "PATCH")
"""Methods that say Content-Length: 0 for an empty body, RFC 9110 section 8.6."""

Headers = Sequence[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that is answered with an error and a close; *status* says which."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"{status} {reason(status).decode()}")


class ClosedEarly(Exception):
    """The peer closed the connection before its response was complete."""


@dataclass(frozen=True)
class Request:
    """A complete request: head and body read."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    body: bytes

    @property
    def hop_by_hop(self) -> frozenset[bytes]:
        """The header names that this connection's peer keeps to this connection, RFC 9110 section 7.6.1."""
        return frozenset(_tokens(self.headers, b"connection"))

    @cached_property
    def wants_close(self) -> bool:
        """Whether the connection must end with this exchange, RFC 9112 section 9.3."""
        return self.version == b"1.0" or b"close" in _tokens(self.headers, b"connection")


class ServerSide:
    """The server's side of one connection: bytes in, requests out, responses to bytes."""

    def __init__(self) -> None:
        self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._answers_head = False

    @property
    def is_idle(self) -> bool:
        """Whether no byte of a request has come since the last response."""
        return self._conn.our_state is h11.IDLE and not self._conn.trailing_data[0]

    @property
    def has_unread(self) -> bool:
        """Whether the peer has sent more than the request that was answered."""
        return bool(self._conn.trailing_data[0])

    @property
    def may_go_on(self) -> bool:
        """Whether this exchange is over and the connection may carry another."""
        return self._conn.our_state is h11.DONE and self._conn.their_state is h11.DONE

    @property
    def is_new(self) -> bool:
        """Whether all is as on a new connection: h11 keeps nothing of past exchanges but what it has not read yet."""
        return self._conn.our_state is h11.IDLE and self._conn.trailing_data == (b"", False)

    def receive(self, data: bytes) -> None:
        """Take what was read from the peer (empty: its FIN)."""
        if data and self.is_idle and not (data := data.lstrip(b"\r\n")):
            return
        self._conn.receive_data(data)

    def continue_bytes(self) -> bytes:
        """The ``100 Continue`` that the peer waits for before it sends its body, or nothing."""
        if self._head is None or not self._conn.they_are_waiting_for_100_continue:
            return b""
        return self._conn.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def next_request(self) -> Request | None:
        """Return the next complete request, or None: more data is needed.

        Raises:
            Refused: the peer sent something that is no acceptable request.
            ClosedEarly: the peer closed; there is nothing to answer.
        """
        while True:
            try:
                event = self._conn.next_event()
            except h11.RemoteProtocolError as error:
                if self._conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    raise Refused(error.error_status_hint) from error
                raise ClosedEarly(str(error)) from error
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return None
            if isinstance(event, h11.Request):
                self._head = _checked(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY_BYTES:
                    raise Refused(413)
            elif isinstance(event, h11.EndOfMessage):
                return self._complete()
            elif isinstance(event, h11.ConnectionClosed):
                raise ClosedEarly("closed by the peer")

    def _complete(self) -> Request:
        head, body, self._head, self._body = self._head, bytes(self._body), None, bytearray()
        assert head is not None
        self._answers_head = head.method == b"HEAD"
        return Request(head.method, head.target, head.http_version, tuple(head.headers), body)

    def response(self, status: int, headers: Headers, body: bytes | None) -> bytes:
        """Render a response; nothing but the head is sent where HTTP says so.

        Content-Length is added. *body* None stands for one that HEAD leaves out and of which nothing is known.
        """
        has_body = status not in BODILESS and body is not None
        length = [(b"Content-Length", b"%d" % len(body))] if body is not None and has_body else []
        head = h11.Response(status_code=status, reason=reason(status), headers=[*headers, *length])
        parts = [self._conn.send(head)]
        if has_body and body and not self._answers_head:
            parts.append(self._conn.send(h11.Data(data=body)))
        parts.append(self._conn.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    def next_cycle(self) -> bool:
        """Make ready for the next request on this connection; False when the connection must be closed."""
        if not self.may_go_on:
            return False
        self._conn.start_next_cycle()
        rest, closed = self._conn.trailing_data
        if rest[:1] in (b"\r", b"\n"):
            self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
            self.receive(rest)
            if closed:
                self.receive(b"")
        return True


def close_delimited(status: int, headers: Headers, body: bytes) -> bytes:
    """Render a response that ends with the connection, RFC 9112 section 6.3 rule 8.

    h11 would send chunks to an HTTP/1.1 peer, and then the peer knows the end before the close.
    """
    lines = [b"HTTP/1.1 %d %s" % (status, reason(status)), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join([*lines, b"Connection: close", b"", body])


def refusal(status: int) -> bytes:
    """Render an error response that ends the connection."""
    body = b"%d %s\n" % (status, reason(status))
    head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, reason(status), len(body)) + body


def reason(status: int) -> bytes:
    """The reason phrase of *status*, RFC 9110 section 15; empty for an unknown one."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def _checked(head: h11.Request) -> h11.Request:
    """Refuse what h11 lets pass.

    A CONNECT would turn the connection into a tunnel, which nothing here is. A request with both lengths is how
    requests are smuggled, RFC 9112 section 6.1. A body that is announced as too long is not asked for.
    """
    names = {name for name, _ in head.headers}
    length = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
    if not head.http_version.startswith(b"1."):
        raise Refused(505)
    if len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers) > MAX_HEAD_BYTES:
        raise Refused(431)
    if head.method == b"CONNECT":
        raise Refused(501)
    if {b"content-length", b"transfer-encoding"} <= names:
        raise Refused(400)
    if length > MAX_BODY_BYTES:
        raise Refused(413)
    return head


def _tokens(headers: Headers, name: bytes) -> Iterator[bytes]:
    """The comma-separated words of every header *name*, in lower case."""
    for key, value in headers:
        if key == name:
            yield from (token.strip().lower() for token in value.split(b","))


class ClientSide:
    """The client's side of one connection: a request to bytes, bytes to a status and a body."""

    def __init__(self) -> None:
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._body: list[bytes] = []
        self._status: int | None = None
        self._headers: Headers = []
        self._ended_by_close = False
        self._version = "1.1"
        self.has_begun = False
        """Whether a byte of the response has come."""

    def request(
        self, method: str, target: str, host: str, version: str, headers: Headers = (), body: bytes = b""
    ) -> bytes:
        """Render a request. An HTTP/1.0 one says ``Connection: close`` unless *headers* say something else."""
        self._version = version
        fields = [(b"Host", host.encode("ascii")), *headers]
        if version == "1.0" and not any(name.lower() == b"connection" for name, _ in headers):
            fields.append((b"Connection", b"close"))
        if body or method in BODY_EXPECTED:
            fields.append((b"Content-Length", b"%d" % len(body)))
        parts = [self._conn.send(h11.Request(method=method, target=target, headers=fields))]
        if body:
            parts.append(self._conn.send(h11.Data(data=body)))
        parts.append(self._conn.send(h11.EndOfMessage()))
        raw = b"".join(part for part in parts if part)
        return raw if version == "1.1" else raw.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)

    def receive(self, data: bytes) -> tuple[int, Headers, bytes] | None:
        """Take what was read (empty: the peer's FIN); return (status, headers, body) once the response is complete.

        Raises:
            ClosedEarly: the peer closed in the middle, or before a first byte.
            h11.RemoteProtocolError: what came is not HTTP.
        """
        self._ended_by_close = self._ended_by_close or not data
        self.has_begun = self.has_begun or bool(data)
        self._conn.receive_data(data)
        while True:
            try:
                event = self._conn.next_event()
            except h11.RemoteProtocolError as error:
                if not data:
                    raise ClosedEarly("closed before the response was complete") from error
                raise
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return None
            if isinstance(event, h11.Response):
                self._status, self._headers = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert self._status is not None
                return self._status, self._headers, b"".join(self._body)
            elif isinstance(event, h11.ConnectionClosed):
                raise ClosedEarly("closed before the response")

    @property
    def may_go_on(self) -> bool:
        """Whether this exchange is over and the connection may carry another.

        It can carry none after bytes that belong to no response. A server keeps an HTTP/1.0 request's connection only
        where it says so (RFC 9112 section 9.3); h11 knows of no such request, and would go by the server's version.
        """
        if self._version == "1.0" and b"keep-alive" not in _tokens(self._headers, b"connection"):
            return False
        if self._ended_by_close or self._conn.trailing_data[0]:
            return False
        return self._conn.our_state is h11.DONE and self._conn.their_state is h11.DONE

    def next_cycle(self) -> bool:
        """Make ready for the next request on this connection; False when it can carry no other."""
        if not self.may_go_on:
            return False
        self._conn.start_next_cycle()
        self._body, self._status, self.has_begun = [], None, False
        return True
