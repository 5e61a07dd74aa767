"""The embedded load balancer: an HTTP reverse proxy with nginx's two ways to talk to its upstream.

Without ``keepalive`` it opens a connection per request, asks by HTTP/1.0 with ``Connection: close``, and closes once
Content-Length is satisfied: where the upstream waits for that, every request leaves the proxy one TIME_WAIT and takes
one local port for 60 s. With ``keepalive = N`` up to N idle connections are kept, each for at most
``keepalive_requests`` requests; at that limit the proxy closes, as ngx_http_upstream_keepalive_module does.

An idle connection may be closed by the upstream at any moment. A FIN that comes while it idles is answered by ours at
once (ngx_http_upstream_keepalive_close_handler). One that crosses the next request cannot be told from a failure, so
that request is sent once more on a new connection if no byte of a response has come and if doing it twice is harmless
(RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).

Out of ports it answers 502 and logs connect()'s errno in nginx's words, so one log pattern serves both.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import h11

from netns_tw.programs import http11

PART_BYTES = 64 * 1024
BACKLOG = 4096
IDLE_TIMEOUT_S = 75.0
"""Of a client's connection between two requests; nginx's keepalive_timeout."""
LINGER_TIMEOUT_S = 5.0
"""For a client to take the end of a response and to close; nginx's lingering_timeout."""
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length host expect".split()
)
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))
COMMON_ERRNOS = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH)
"""connect()'s errnos that nginx logs as [error]; all others, EADDRNOTAVAIL among them, as [crit]."""
CONNECTING, READING = "connecting to upstream", "reading response header from upstream"
TEXT = ((b"Content-Type", b"text/plain"),)

Answer = tuple[int, http11.Headers, bytes]


@dataclass(frozen=True)
class Upstream:
    """Where requests go, and how connections to it are kept."""

    address: str
    port: int
    keepalive: int = 0
    """Idle connections kept; 0: a connection per request over HTTP/1.0."""
    keepalive_requests: int = 1000
    """Requests on one connection before the proxy closes it."""
    timeout_ms: int = 60_000
    """For the whole answer, connect() included."""


class Channel(asyncio.Protocol):
    """One connection to the upstream: one request at a time, idle between two."""

    def __init__(self, leave: Callable[[Channel], None]) -> None:
        self.http = http11.ClientSide()
        self.requests = 0
        self.is_over = False
        """Whether the upstream has closed, or sent what nobody asked for."""
        self._leave = leave
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    async def exchange(self, raw: bytes) -> Answer:
        """Send a request and return its response; raise what ended the connection instead."""
        assert self._transport is not None
        self.requests += 1
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(raw)
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None

    def close(self) -> None:
        self.is_over = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._end()
            return
        try:
            answer = self.http.receive(data)
        except (http11.ClosedEarly, h11.RemoteProtocolError) as error:
            self._answer.set_exception(error)
        else:
            if answer is not None:
                self._answer.set_result(answer)

    def eof_received(self) -> None:
        self.data_received(b"")  # the end of a response, too early an end, or the end of idleness
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or http11.ClosedEarly("closed before the response"))
        self._end()

    def _end(self) -> None:
        self.close()
        self._leave(self)


@dataclass
class Failed(Exception):
    """No answer from the upstream: the status for the client, and nginx's words for the log."""

    status: int
    level: str
    text: str


def _failure(error: Exception, doing: str, host: str) -> Failed:
    """Put *error* into nginx's words; *doing* is nginx's name for the phase it happened in."""
    if isinstance(error, TimeoutError):
        return Failed(504, "error", f"upstream timed out (110: {os.strerror(errno.ETIMEDOUT)}) while {doing}")
    if isinstance(error, OSError):
        code = error.errno or 0
        call = f"connect() to {host}" if doing == CONNECTING else "recv()"
        level = "error" if code in COMMON_ERRNOS else "crit"
        return Failed(502, level, f"{call} failed ({code}: {os.strerror(code)}) while {doing}")
    if isinstance(error, http11.ClosedEarly):
        return Failed(502, "error", f"upstream prematurely closed connection while {doing}")
    return Failed(502, "error", f"upstream sent no valid response ({error}) while {doing}")


class Pool:
    """The connections to the upstream, the idle ones kept for the next request."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.host = (f"[{upstream.address}]" if ":" in upstream.address else upstream.address) + f":{upstream.port}"
        self._idle: list[Channel] = []

    async def ask(self, request: http11.Request) -> Answer:
        """Return the upstream's answer to *request*.

        Raises:
            Failed: there is none.
        """
        doing = READING if self._idle else CONNECTING
        connect = asyncio.get_running_loop().create_connection
        try:
            async with asyncio.timeout(self.upstream.timeout_ms / 1000):
                answer = await self._ask_again(request)
                if answer is None:
                    doing = CONNECTING
                    to = self.upstream
                    _, channel = await connect(lambda: Channel(self._leave), to.address, to.port)
                    doing = READING
                    answer = await self._send(channel, request)
                return answer
        except (OSError, http11.ClosedEarly, h11.RemoteProtocolError) as error:
            raise _failure(error, doing, self.host) from error

    async def _ask_again(self, request: http11.Request) -> Answer | None:
        """Ask on an idle connection; None when there is none, or when it proved to be closed and no harm is done."""
        if not self._idle:
            return None
        channel = self._idle.pop()
        try:
            return await self._send(channel, request)
        except (ConnectionError, http11.ClosedEarly):
            if channel.http.has_begun or request.method not in IDEMPOTENT:
                raise
            return None

    async def _send(self, channel: Channel, request: http11.Request) -> Answer:
        version = "1.1" if self.upstream.keepalive else "1.0"
        dropped = HOP_BY_HOP | request.hop_by_hop
        kept = [(name, value) for name, value in request.headers if name not in dropped]
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        answer = await channel.exchange(channel.http.request(method, target, self.host, version, kept, request.body))
        full = len(self._idle) >= self.upstream.keepalive or channel.requests >= self.upstream.keepalive_requests
        if full or channel.is_over or not channel.http.next_cycle():
            channel.close()
        else:
            self._idle.append(channel)
        return answer

    def _leave(self, channel: Channel) -> None:
        with suppress(ValueError):
            self._idle.remove(channel)


class Proxy:
    """The proxy: clients on one side, one upstream on the other."""

    def __init__(self, upstream: Upstream, request_timeout_ms: int = 10_000) -> None:
        self._pool = Pool(upstream)
        self._request_timeout_s = request_timeout_ms / 1000

    async def serve(self, listener: socket.socket) -> None:
        """Serve on *listener* until cancelled."""
        server = await asyncio.start_server(self._client, sock=listener, backlog=BACKLOG)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = http11.ServerSide()
        try:
            try:
                while await self._one_request(http, reader, writer):
                    pass
                if http.has_unread:
                    await self._linger(reader, writer)
            except http11.Refused as refused:
                await self._write(writer, http11.refusal(refused.status))
                await self._linger(reader, writer)
            writer.close()
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                await writer.wait_closed()
        except http11.ClosedEarly:
            writer.close()
        except OSError:  # the client is gone, or takes nothing any more
            writer.transport.abort()

    async def _one_request(
        self, http: http11.ServerSide, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request = await self._read(http, reader, writer)
        status, headers, body = await self._answer(request)
        dropped = HOP_BY_HOP - {b"content-length"} if request.method == b"HEAD" else HOP_BY_HOP
        kept = [(name, value) for name, value in headers if name not in dropped]
        if request.wants_close:
            kept.append((b"Connection", b"close"))
        await self._write(writer, http.response(status, kept, None if request.method == b"HEAD" else body))
        return not request.wants_close and http.next_cycle()

    async def _read(
        self, http: http11.ServerSide, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> http11.Request:
        """Read one request: its first byte within the idle time, all of it within the request's."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S) as limit:
                began = False
                while (request := http.next_request()) is None:
                    if not began and not http.is_idle:
                        began = True
                        limit.reschedule(loop.time() + self._request_timeout_s)
                    writer.write(http.continue_bytes())
                    http.receive(await reader.read(PART_BYTES))
                return request
        except TimeoutError:
            if http.is_idle:
                raise http11.ClosedEarly("idle for too long") from None
            raise http11.Refused(408) from None

    async def _answer(self, request: http11.Request) -> Answer:
        """The upstream's answer, or our own 502 (504 when it took too long)."""
        try:
            return await self._pool.ask(request)
        except Failed as failed:
            self._log(failed, request)
            return failed.status, TEXT, b"%d %s\n" % (failed.status, http11.reason(failed.status))

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send *data* for as long as the client takes some of it now and then."""
        for start in range(0, len(data), PART_BYTES):
            writer.write(data[start : start + PART_BYTES])
            async with asyncio.timeout(self._request_timeout_s):
                await writer.drain()

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send FIN and read what the client still sends: a close over unread bytes would be an RST, RFC 9112 9.6."""
        writer.write_eof()
        left = http11.MAX_BODY_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while left > 0 and (data := await reader.read(PART_BYTES)):
                    left -= len(data)

    def _log(self, failed: Failed, request: http11.Request) -> None:
        stamp = time.strftime("%Y/%m/%d %H:%M:%S")
        method, target, version = (part.decode("ascii") for part in (request.method, request.target, request.version))
        where = f'request: "{method} {target} HTTP/{version}", upstream: "http://{self._pool.host}{target}"'
        print(f"{stamp} [{failed.level}] {failed.text}, {where}", file=sys.stderr, flush=True)
