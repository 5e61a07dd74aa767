"""HTTP from memory: what h11 once made of some bytes is its answer to the same bytes again.

Theory. h11 has no clock and no chance in it. What it says of a message follows from what it was given since the last
exchange on the connection ended: the request's own bytes, every read since then, where the reads were cut, and whether
the peer's FIN was among them. After a clean end it keeps nothing that a new connection does not have
(``start_next_cycle``; the peer's version, which it does keep, is overwritten by the next message before it is read, as
long as nobody answers a request that has not come). So that history is the key of what is remembered here, and a
remembered answer is h11's own: one that was asked in another way (HEAD, another version, another response, after a
``100 Continue``) has another history.

A lab asks the same thing thousands of times. Parsing costs h11 60 us a message and the system calls of a request 50; a
look-up costs half of one. nginx's Date header changes once a second, which is one miss a second.

All else is h11's: whatever is not remembered wakes a real h11 connection, which is given the history first and then
reads on until the exchange is over. Errors are never remembered, but one: a FIN between two requests.

ClientSide and ServerSide stand for their namesakes in http11.py, call by call. tests/test_memo.py holds them side by
side.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from netns_tw.programs import http11

V = TypeVar("V")

MAX_ENTRIES = 512
MAX_BYTES = 256 * 1024
"""Of messages in one memo. In memory they may be 50 times that: a header of four bytes is a tuple of two objects."""
MAX_ENTRY_BYTES = 16 * 1024
MAX_READS = 4
"""Reads of one response that are remembered. One that comes in more pieces is cut elsewhere each time."""


class Memo(Generic[V]):
    """What was found, by its history. Full, it forgets all: what is asked again is soon there again."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.hits = 0
        """Look-ups that found something; with several threads, about."""
        self.bytes = 0
        """Of the messages that are kept."""
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._kept: dict[Hashable, V] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._kept)

    def get(self, key: Hashable) -> V | None:
        """Return what is kept under *key*, or None."""
        found = self._kept.get(key)
        if found is not None:
            self.hits += 1
        return found

    def keep(self, key: Hashable, value: V, size: int) -> None:
        """Keep *value* of *size* bytes; not if it is large."""
        if size > MAX_ENTRY_BYTES:
            return
        with self._lock:
            if len(self._kept) >= self._max_entries or self.bytes + size > self._max_bytes:
                self._kept.clear()
                self.bytes = 0
            if key not in self._kept:
                self._kept[key] = value
                self.bytes += size


Response = tuple[int, http11.Headers, bytes]
Asked = tuple[str, str, str, str, http11.Headers, bytes]


class Reading(NamedTuple):
    """What a client made of the last of its reads."""

    response: Response | None
    """None: more is needed."""
    may_go_on: bool


@dataclass(frozen=True)
class ClientMemo:
    """What the connections of one client remember together."""

    requests: Memo[bytes] = field(default_factory=Memo)
    """A request's bytes, by what was asked for."""
    readings: Memo[Reading] = field(default_factory=Memo)
    """By the request's bytes and all reads since."""


class ClientSide:
    """http11.ClientSide, from memory where it can be."""

    def __init__(self, memo: ClientMemo) -> None:
        self.has_begun = False
        """Whether a byte of the response has come."""
        self._memo = memo
        self._h11: http11.ClientSide | None = None
        """The real one, once something came that is not remembered."""
        self._asked: Asked | None = None
        self._history: tuple[bytes, ...] | None = ()
        """The request's bytes and all reads since; None: too many, or not in this order."""
        self._may_go_on = False

    def request(
        self, method: str, target: str, host: str, version: str, headers: http11.Headers = (), body: bytes = b""
    ) -> bytes:
        """As http11.ClientSide.request."""
        asked = (method, target, host, version, tuple(headers), body)
        raw = None
        if self._h11 is None and not self._history:
            raw = self._memo.requests.get(asked)
        if raw is None:
            raw = self._real().request(*asked)
            self._memo.requests.keep(asked, raw, 2 * len(raw))
        self._asked, self._history = asked, (raw,) if self._history == () else None
        return raw

    def receive(self, data: bytes) -> Response | None:
        """As http11.ClientSide.receive.

        Raises:
            ClosedEarly: the peer closed in the middle, or before a first byte.
            h11.RemoteProtocolError: what came is not HTTP.
        """
        self.has_begun = self.has_begun or bool(data)
        history = (*self._history, data) if self._history and len(self._history) <= MAX_READS else None
        if self._h11 is None:
            found = self._memo.readings.get(history) if history else None
            if found is not None:
                self._history, self._may_go_on = history, found.may_go_on
                return found.response
        real = self._real()
        self._history = history
        response = real.receive(data)
        if history:
            size = sum(map(len, history)) + (len(response[2]) if response else 0)
            self._memo.readings.keep(history, Reading(response, real.may_go_on), size)
        return response

    def _real(self) -> http11.ClientSide:
        """The real one, told all that has happened."""
        if self._h11 is None:
            self._h11 = http11.ClientSide()
            if self._asked:
                self._h11.request(*self._asked)
                for data in self._history[1:] if self._history else ():
                    self._h11.receive(data)
        return self._h11

    def next_cycle(self) -> bool:
        """As http11.ClientSide.next_cycle."""
        if not (self._may_go_on if self._h11 is None else self._h11.next_cycle()):
            return False
        self._h11, self._asked, self._history, self._may_go_on, self.has_begun = None, None, (), False, False
        return True


class Answer(NamedTuple):
    """A response as the server sent it."""

    raw: bytes
    may_go_on: bool


@dataclass(frozen=True)
class ServerMemo:
    """What the connections of one server remember together."""

    requests: Memo[http11.Request | http11.ClosedEarly] = field(default_factory=Memo)
    """By the one read that each of them came in, alone; a FIN where none came."""
    answers: Memo[Answer] = field(default_factory=Memo)
    """By that read and what it was answered with."""


class ServerSide:
    """http11.ServerSide, from memory where it can be: for a request that comes alone and in one read."""

    def __init__(self, memo: ServerMemo) -> None:
        self._memo = memo
        self._h11: http11.ServerSide | None = None
        """The real one, once something came that is not remembered."""
        self._data: bytes | None = None
        """All that came since the last exchange, if it was one read."""
        self._found: http11.Request | http11.ClosedEarly | None = None
        """What that read was, when it was remembered."""
        self._is_taken = False
        """Whether the request was handed out."""
        self._answered: tuple[int, http11.Headers, bytes | None] | None = None
        self._may_go_on = False

    @property
    def is_idle(self) -> bool:
        """As http11.ServerSide.is_idle."""
        if self._h11 is not None:
            return self._h11.is_idle
        return not (self._is_taken or isinstance(self._found, http11.Request))

    @property
    def has_unread(self) -> bool:
        """As http11.ServerSide.has_unread."""
        if self._h11 is not None:
            return self._h11.has_unread
        return isinstance(self._found, http11.Request) and not self._is_taken

    def receive(self, data: bytes) -> None:
        """As http11.ServerSide.receive."""
        if self._h11 is None and self._found is None:
            self._data, self._found = data, self._memo.requests.get(data)
            if self._found is None:
                self._h11 = http11.ServerSide()
                self._h11.receive(data)
            return
        real = self._real()
        self._data = None
        real.receive(data)

    def continue_bytes(self) -> bytes:
        """As http11.ServerSide.continue_bytes."""
        return b"" if self._h11 is None else self._h11.continue_bytes()

    def next_request(self) -> http11.Request | None:
        """As http11.ServerSide.next_request.

        Raises:
            Refused: the peer sent something that is no acceptable request.
            ClosedEarly: the peer closed; there is nothing to answer.
        """
        if self._h11 is not None:
            return self._read(self._h11)
        is_first, self._is_taken = not self._is_taken, self._found is not None
        if isinstance(self._found, http11.ClosedEarly):
            raise http11.ClosedEarly(*self._found.args)
        return self._found if is_first else None

    def _read(self, real: http11.ServerSide) -> http11.Request | None:
        try:
            request = real.next_request()
        except http11.ClosedEarly as closed:
            if self._data == b"" and not self._is_taken:
                self._memo.requests.keep(b"", http11.ClosedEarly(*closed.args), 0)
            self._is_taken = True
            raise
        if request is not None:
            self._is_taken = True
            if self._data is not None and not real.has_unread:
                self._memo.requests.keep(self._data, request, 2 * len(self._data))
            else:
                self._data = None
        return request

    def response(self, status: int, headers: http11.Headers, body: bytes | None) -> bytes:
        """As http11.ServerSide.response."""
        answered = (status, tuple(headers), body)
        is_first = self._is_taken and self._answered is None
        if self._h11 is None and is_first:
            found = self._memo.answers.get((self._data, *answered))
            if found is not None:
                self._answered, self._may_go_on = answered, found.may_go_on
                return found.raw
        real = self._real()
        raw = real.response(*answered)
        if self._data is not None and is_first:
            size = len(self._data) + 2 * len(raw) + len(body or b"")
            self._memo.answers.keep((self._data, *answered), Answer(raw, real.may_go_on), size)
        self._answered = answered
        return raw

    def _real(self) -> http11.ServerSide:
        """The real one, told all that has happened."""
        if self._h11 is None:
            self._h11 = http11.ServerSide()
            if self._found is not None and self._data is not None:
                self._h11.receive(self._data)
            if self._is_taken:
                with suppress(http11.ClosedEarly):
                    self._h11.next_request()
            if self._answered:
                self._h11.response(*self._answered)
        return self._h11

    def next_cycle(self) -> bool:
        """As http11.ServerSide.next_cycle."""
        if not (self._may_go_on if self._h11 is None else self._h11.next_cycle()):
            return False
        if self._h11 is not None and self._h11.is_new:
            self._h11 = None
        self._data, self._found, self._is_taken, self._answered, self._may_go_on = None, None, False, None, False
        return True
