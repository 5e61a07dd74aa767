"""HTTP from memory says what h11 says: the same calls on both, with the same bytes cut in the same places.

All streams of a test share one memo, so whatever one of them left there is in the way of the next.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h11
import pytest
from conftest import in_sandbox
from test_server import chain

from netns_tw.kernel import netns
from netns_tw.programs import http11, memo
from netns_tw.programs.client import Channel, Plan, attempt
from netns_tw.programs.closing import Behaviour
from netns_tw.programs.server import Server, listen

Call = tuple[str, tuple[Any, ...]]
SEEN = ("is_idle", "has_unread", "has_begun")
"""What can be asked of a side without changing it."""

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
REQUESTS = [
    GET,
    GET.replace(b"GET", b"HEAD"),
    GET.replace(b"1.1", b"1.0"),
    GET.replace(b"1.1", b"1.2"),
    GET.replace(b"1.1", b"2.0"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    GET.replace(b"Host: x", b"Host: y"),
    GET.replace(b"\r", b""),
    GET.replace(b": x", b":\r\n x"),
    GET + GET,
    GET + GET + GET[:9],
    b"\r\n" + GET,
    GET + b"\r\n",
    b"\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello, and more",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 15_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * 3_000 + b"\r\n",
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
]
RESPONSES = [
    OK,
    OK.replace(b"200 OK", b"404 Not Found"),
    OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    OK.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
    OK.replace(b"OK", b"OK\r\nDate: Mon, 24 Nov 2025 01:00:00 GMT"),
    OK.replace(b"OK", b"OK\r\nDate: Mon, 24 Nov 2025 01:00:01 GMT"),
    OK.replace(b": 2", b": 3"),
    OK.replace(b": 2", b": 2\r\nContent-Length: 2"),
    OK.replace(b": 2", b": 2\r\nContent-Length: 3"),
    OK.replace(b": 2", b":\r\n 2"),
    OK[:-2],
    OK + OK,
    OK + b"x",
    OK + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 103 \r\nLink: a\r\n\r\n" + OK,
    b"HTTP/1.1 101 \r\nUpgrade: h2c\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the close",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nz\r\n\r\n",
    b"HTTP/1.1 204 \r\n\r\n",
    b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"a" * 17_000 + b"\r\n" + OK[17:],
    b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000,
    b"220 smtp ready\r\n\r\n",
    b"\x00" * 50,
]
ASKED = [
    ("GET", "/", "x", "1.1", (), b""),
    ("GET", "/", "x", "1.0", (), b""),
    ("GET", "/", "x", "1.0", ((b"Connection", b"keep-alive"),), b""),
    ("GET", "/", "x", "1.1", ((b"Connection", b"close"),), b""),
    ("GET", "/", "x", "1.1", ((b"Upgrade", b"h2c"),), b""),
    ("HEAD", "/", "x", "1.1", (), b""),
    ("POST", "/", "x", "1.1", (), b"hello"),
    ("CONNECT", "x:1", "x", "1.1", (), b""),
    ("GET", "/ b", "x", "1.1", (), b""),
]
TEXT = ((b"Content-Type", b"text/plain"),)
ANSWERED = [
    (200, TEXT, b"hi"),
    (200, (*TEXT, (b"Connection", b"close")), b"hi"),
    (200, TEXT, b"ho"),
    (404, TEXT, b"hi"),
    (200, TEXT, None),
    (204, (), b"hi"),
    (200, (), b"x" * 20_000),
    (200, ((b"A", b"\n"),), b""),
]


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """*data* whole, or in pieces."""
    places = sorted(rng.randrange(1, len(data)) for _ in range(rng.choice((0, 0, 1, 1, 2, 6)))) if len(data) > 1 else []
    pieces = [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]
    return [one for one in pieces if one]


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """*data*, or one that differs from it a little."""
    if rng.random() < 0.8:
        return data
    at = rng.randrange(len(data))
    return (
        data[:at] + rng.choice((b"", b"\r\n", b" ", b"0", b"\x00", data[at : at + 9])) + data[at + rng.randrange(2) :]
    )


def of_a_server(rng: random.Random) -> Iterator[Call]:
    """What a server does on one connection: it reads, takes the request, answers, goes on; sometimes out of turn."""
    for _ in range(rng.randrange(1, 5)):
        for piece in cut(rng, spoilt(rng, rng.choice(REQUESTS[:8] if rng.random() < 0.6 else REQUESTS))):
            yield "receive", (piece,)
            yield "next_request", ()
            if rng.random() < 0.9:
                yield "continue_bytes", ()
        if rng.random() < 0.2:
            yield rng.choice((("receive", (b"",)), ("next_request", ()), ("next_cycle", ()), ("receive", (GET,))))
        yield "response", rng.choice(ANSWERED[:2] if rng.random() < 0.7 else ANSWERED)
        if rng.random() < 0.1:
            yield rng.choice((("receive", (b"",)), ("response", ANSWERED[0]), ("receive", (GET,))))
        yield "next_cycle", ()
        yield "next_request", ()
    yield "receive", (b"",)
    yield "next_request", ()
    yield "next_request", ()


def of_a_client(rng: random.Random) -> Iterator[Call]:
    """What a client does on one connection: it asks, reads, goes on; sometimes out of turn."""
    for _ in range(rng.randrange(1, 5)):
        if rng.random() < 0.97:
            yield "request", rng.choice(ASKED[:2] if rng.random() < 0.6 else ASKED)
        for piece in cut(rng, spoilt(rng, rng.choice(RESPONSES))):
            yield "receive", (piece,)
        if rng.random() < 0.3:
            yield rng.choice((("receive", (b"",)), ("receive", (OK,)), ("request", ASKED[0])))
        yield "next_cycle", ()
    yield "receive", (b"",)


def told(side: Any, calls: Sequence[Call]) -> Iterator[object]:
    """All that *side* says to *calls*: what it returns or raises, and what can be seen of it after each.

    Nobody answers what he has not read: h11 would then go by the version of the last request that it did read.
    """
    is_asked = False
    for name, arguments in calls:
        if name == "response" and not is_asked:
            continue
        try:
            got = getattr(side, name)(*arguments)
            yield name, got
            is_asked = got is not None if name == "next_request" and not is_asked else is_asked and name != "next_cycle"
        except Exception as error:  # h11 has AttributeErrors too for those who call out of turn
            yield name, type(error), str(error)
        yield [getattr(side, one, None) for one in SEEN]


def server_kind() -> tuple[list[memo.Memo[Any]], Callable[[], Any]]:
    known = memo.ServerMemo()
    return [known.requests, known.answers], lambda: memo.ServerSide(known)


def client_kind() -> tuple[list[memo.Memo[Any]], Callable[[], Any]]:
    known = memo.ClientMemo()
    return [known.requests, known.readings], lambda: memo.ClientSide(known)


KINDS = {
    "server": (of_a_server, http11.ServerSide, server_kind),
    "client": (of_a_client, http11.ClientSide, client_kind),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_from_memory_is_what_h11_says(kind: str, seed: int) -> None:
    """Whole, partial, malformed, pipelined, early closed; each stream some times over, so that memory has its say."""
    generate, real, make = KINDS[kind]
    memos, remembering = make()
    rng = random.Random(f"{kind} {seed}")
    for number in range(200):
        calls = list(generate(rng))
        expected = list(told(real(), calls))
        for _ in range(3):
            assert list(told(remembering(), calls)) == expected, (number, calls)
    assert all(one.hits > 40 for one in memos)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_any_order_are_answered_as_h11_answers_them(kind: str) -> None:
    """Also where nobody would call so: no history is taken for another."""
    generate, real, make = KINDS[kind]
    _, remembering = make()
    rng = random.Random(kind)
    for number in range(250):
        calls = [one for _ in range(3) for one in generate(rng)]
        rng.shuffle(calls)
        calls = calls[: rng.randrange(3, 16)]
        expected = list(told(real(), calls))
        for _ in range(2):
            assert list(told(remembering(), calls)) == expected, (number, calls)


def ask(known: memo.ClientMemo, data: bytes, method: str = "GET", version: str = "1.1") -> tuple[object, bool]:
    side = memo.ClientSide(known)
    side.request(method, "/", "x", version)
    got = side.receive(data)
    return got and (got[0], got[2]), side.next_cycle()


def test_the_same_response_to_another_request_is_read_anew() -> None:
    """HEAD has no body, HTTP/1.0 no second request, and what follows a 100 is not what follows a request."""
    known = memo.ClientMemo()
    for _ in range(3):
        assert ask(known, OK) == ((200, b"hi"), True)
        assert ask(known, OK, version="1.0") == ((200, b"hi"), False)
        assert ask(known, OK, method="HEAD") == ((200, b""), False)
        assert ask(known, OK[:-2], method="HEAD") == ((200, b""), True)
        assert ask(known, OK[:-2]) == (None, False)
        side = memo.ClientSide(known)
        side.request("GET", "/", "x", "1.1")
        assert side.receive(b"HTTP/1.1 100 Continue\r\n\r\n") is None
        assert side.receive(OK) is not None
        assert side.next_cycle()
    assert known.readings.hits == 2 * 7


def test_the_same_request_is_answered_by_what_is_to_be_said_to_it() -> None:
    """A server that closes says so, whatever it said before; and each style's bytes are remembered by themselves."""
    known = memo.ServerMemo()

    def answer(*answered: Any) -> tuple[bytes, bool]:
        side = memo.ServerSide(known)
        side.receive(GET)
        assert side.next_request() is not None
        return side.response(*answered), side.next_cycle()

    for _ in range(3):
        kept, again = answer(200, TEXT, b"hi")
        closed, last = answer(200, (*TEXT, (b"Connection", b"close")), b"hi")
        assert (b"close" in kept, again) == (False, True)
        assert (b"close" in closed, last) == (True, False)
    assert (len(known.requests), known.requests.hits) == (1, 5)
    assert (len(known.answers), known.answers.hits) == (2, 4)


def test_what_is_remembered_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side makes an h11 connection for bytes it has seen; a new Date header is one miss."""
    made: list[object] = []
    real = h11.Connection.__init__

    def make(self: h11.Connection, *arguments: Any, **options: Any) -> None:
        made.append(self)
        real(self, *arguments, **options)

    monkeypatch.setattr(h11.Connection, "__init__", make)
    client, server = memo.ClientMemo(), memo.ServerMemo()
    for second in (b"00", b"01"):
        made.clear()
        for _ in range(50):
            side = memo.ServerSide(server)
            side.receive(GET)
            assert side.next_request() is not None
            raw = side.response(200, ((b"Date", second),), b"hi")
            assert side.next_cycle()
            assert ask(client, raw) == ((200, b"hi"), True)
        assert len(made) == 2


def test_a_memo_keeps_to_its_bounds() -> None:
    """It forgets all when it is full, and keeps nothing that is large."""
    few: memo.Memo[int] = memo.Memo(max_entries=10, max_bytes=1000)
    for number in range(1, 500):
        few.keep(number, number, number % 300)
        assert len(few) <= 10
        assert few.bytes <= 1000
        assert few.get(number) == number
    few.keep("large", 1, memo.MAX_ENTRY_BYTES + 1)
    assert few.get("large") is None


@pytest.mark.parametrize("kind", KINDS)
def test_peers_that_never_say_the_same_twice_fill_no_memory(kind: str) -> None:
    _, _, make = KINDS[kind]
    memos, remembering = make()
    for number in range(600):
        side = remembering()
        if kind == "server":
            side.receive(GET.replace(b"/ ", b"/%d " % number))
            side.next_request()
            side.response(200, TEXT, b"%d" % number + b"x" * 1500)
        else:
            side.request("GET", f"/{number}", "x", "1.1")
            side.receive(OK.replace(b"OK", b"%d" % number))
    for one in memos:
        assert 0 < len(one) <= memo.MAX_ENTRIES
        assert 0 < one.bytes <= memo.MAX_BYTES


@pytest.mark.netns
@pytest.mark.parametrize("is_strict", [False, True])
def test_the_programs_answer_from_memory_unless_they_are_told_not_to(is_strict: bool) -> None:
    """The same outcomes; by memory all but one message of each kind, strictly none."""

    def main() -> tuple[set[tuple[int, bool]], list[tuple[int, int]]]:
        known, over = memo.ClientMemo(), threading.Event()
        with chain("client"), netns.enter("client"), listen("127.0.0.1", 80) as listener:
            served = Server(listener, Behaviour(close="race", strict_h11=is_strict))
            thread = threading.Thread(target=served.run, args=(over.is_set,))
            thread.start()
            channel = Channel(Plan("http://127.0.0.1/", strict_h11=is_strict), known)
            found = [attempt(channel, index, ()) for index in range(30)]
            over.set()
            thread.join()
        memos = (known.readings, served.memo.requests, served.memo.answers)
        return {(one.status or 0, one.errno is None) for one in found}, [(len(one), one.hits) for one in memos]

    outcomes, memos = in_sandbox(main)
    assert outcomes == {(200, True)}
    assert memos == ([(0, 0)] * 3 if is_strict else [(1, 29)] * 3)


def test_a_response_in_many_pieces_is_not_remembered_piece_by_piece() -> None:
    """Nor is a history kept that nobody will look up."""
    known = memo.ClientMemo()
    side = memo.ClientSide(known)
    side.request("GET", "/", "x", "1.1")
    got = [side.receive(OK[i : i + 1]) for i in range(len(OK))]
    assert got[-1] is not None
    assert len(known.readings) == memo.MAX_READS
