"""Who closes a connection first, and how: the close styles of the built-in server.

Theory. The side that sends the first FIN, the *active closer*, keeps the connection's 4-tuple in TIME_WAIT for 60 s
(RFC 9293 section 3.6.1; TCP_TIMEWAIT_LEN). Real servers leave to a race which side that is. Ours has close styles:

    server-first   the body ends with the connection, so the peer cannot close before us (HEAD, 204, 304: a race)
    client-first   Content-Length, then we wait for the peer's FIN before we close
    race           Content-Length, then close at once, as nginx does without keep-alive
    reset          Content-Length, then RST (SO_LINGER with 0 s): no TIME_WAIT on either side
    keep-alive     HTTP keep-alive until the peer, ``max_requests`` or the idle time ends it
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from netns_tw.programs import http11

RESET_LINGER = struct.pack("ii", 1, 0)
"""For SO_LINGER: close(2) sends RST."""


@dataclass(frozen=True)
class Behaviour:
    """What the server answers and how it closes. Times in ms."""

    close: str = "keep-alive"
    status: int = 200
    body: bytes = b"hello from netns_tw\n"
    max_requests: int = 0
    """Requests per connection in style keep-alive before the server closes; 0: no limit."""
    idle_timeout_ms: int = 60_000
    """Keep-alive: ms without a request before the server closes."""
    request_timeout_ms: int = 10_000
    """Ms from a request's first byte to its last before 408; and between two parts of a response that it takes."""
    fin_timeout_ms: int = 5_000
    """Ms to wait for the peer's FIN (client-first, and after a refusal) before closing anyway."""
    strict_h11: bool = False
    """Let h11 read and write every message, also one whose very bytes it has read before."""


class Then(enum.Enum):
    """What follows once a response has left."""

    KEEP = "read the next request"
    CLOSE = "close"
    WAIT_FOR_FIN = "close after the peer has"
    DRAIN = "send FIN, read what the peer still sends, close"
    RESET = "send RST"


def after_response(how: Behaviour, request: http11.Request, served: int) -> Then:
    """Decide who closes first after the *served*-th response on a connection."""
    if how.close == "client-first":
        return Then.WAIT_FOR_FIN
    if how.close == "reset":
        return Then.RESET
    if how.close == "keep-alive" and not request.wants_close and served != how.max_requests:
        return Then.KEEP
    return Then.CLOSE
