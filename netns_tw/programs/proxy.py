"""The embedded load balancer: an HTTP reverse proxy with nginx's two ways to talk to its upstream.

Without ``keepalive`` it opens a connection per request, asks by HTTP/1.0 with ``Connection: close``, and closes once
Content-Length is satisfied: where the upstream waits for that, every request leaves the proxy one TIME_WAIT and takes
one local port for 60 s. With ``keepalive = N`` up to N idle connections are kept, each for at most
``keepalive_requests`` requests; at that limit the proxy closes, as ngx_http_upstream_keepalive_module does.
Out of ports it answers 502 and logs connect()'s errno in nginx's words, so one log pattern serves both.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

import h11

from netns_tw.programs import http11

READ_BYTES = 64 * 1024
BACKLOG = 4096
IDLE_TIMEOUT_S = 75.0
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"host")
)


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


@dataclass
class Channel:
    """One connection to the upstream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: http11.ClientSide = field(default_factory=http11.ClientSide)
    requests: int = 0


class Proxy:
    """The proxy: clients on one side, one upstream on the other."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._idle: list[Channel] = []
        self._host = f"{upstream.address}:{upstream.port}"

    async def serve(self, listener: socket.socket) -> None:
        """Serve on *listener* until cancelled."""
        server = await asyncio.start_server(self._client, sock=listener, backlog=BACKLOG)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = http11.ServerSide()
        try:
            with suppress(http11.ClosedEarly, ConnectionError, TimeoutError):
                while await self._one_request(http, reader, writer):
                    pass
        except http11.Refused as refused:
            with suppress(ConnectionError):
                writer.write(http11.refusal(refused.status))
                await writer.drain()
        finally:
            writer.close()

    async def _one_request(
        self, http: http11.ServerSide, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        while (request := http.next_request()) is None:
            writer.write(http.continue_bytes())
            http.receive(await asyncio.wait_for(reader.read(READ_BYTES), IDLE_TIMEOUT_S))
        status, headers, body = await self._ask(request)
        kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP]
        if request.wants_close:
            kept.append((b"Connection", b"close"))
        writer.write(http.response(status, kept, body))
        await writer.drain()
        return not request.wants_close and http.next_cycle()

    async def _ask(self, request: http11.Request) -> tuple[int, http11.Headers, bytes]:
        """Get the upstream's answer, or our own 502 (504 when it took too long)."""
        text = (b"Content-Type", b"text/plain")
        try:
            return await asyncio.wait_for(self._exchange(request), self.upstream.timeout_ms / 1000)
        except TimeoutError:
            self._log("upstream timed out (110: Connection timed out)", request)
            return 504, [text], b"504 Gateway Timeout\n"
        except OSError as error:
            where = f"connect() to {self._host} failed"
            self._log(f"{where} ({error.errno}: {error.strerror}) while connecting to upstream", request)
        except (http11.ClosedEarly, h11.RemoteProtocolError) as error:
            self._log(f"upstream sent no valid response ({error})", request)
        return 502, [text], b"502 Bad Gateway\n"

    async def _exchange(self, request: http11.Request) -> tuple[int, http11.Headers, bytes]:
        channel = self._idle.pop() if self._idle else await self._connect()
        try:
            response = await self._send(channel, request)
        except BaseException:
            channel.writer.close()
            raise
        self._keep_or_close(channel)
        return response

    async def _connect(self) -> Channel:
        reader, writer = await asyncio.open_connection(self.upstream.address, self.upstream.port)
        return Channel(reader, writer)

    async def _send(self, channel: Channel, request: http11.Request) -> tuple[int, http11.Headers, bytes]:
        channel.requests += 1
        version = "1.1" if self.upstream.keepalive else "1.0"
        kept = [(name, value) for name, value in request.headers if name not in HOP_BY_HOP]
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        channel.writer.write(channel.http.request(method, target, self._host, version, kept, request.body))
        while True:
            response = channel.http.receive(await channel.reader.read(READ_BYTES))
            if response is not None:
                return response

    def _keep_or_close(self, channel: Channel) -> None:
        limit = self.upstream.keepalive_requests
        full = len(self._idle) >= self.upstream.keepalive
        if full or channel.requests >= limit or channel.reader.at_eof() or not channel.http.next_cycle():
            channel.writer.close()
        else:
            self._idle.append(channel)

    def _log(self, text: str, request: http11.Request) -> None:
        stamp = time.strftime("%Y/%m/%d %H:%M:%S")
        line = f'"{request.method.decode("ascii")} {request.target.decode("ascii")} HTTP/{request.version.decode()}"'
        print(f'{stamp} [crit] {text}, request: {line}, upstream: "http://{self._host}"', file=sys.stderr, flush=True)
