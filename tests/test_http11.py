"""HTTP's grammar as the built-in programs speak it: bytes in, events out; no socket, so every case is a table row."""

from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest

from netns_tw.programs import http11

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([line, *((b"Host: x",) if host else ()), *fields, b"", b""])


def requests(data: bytes, step: int = 1 << 30, closed: bool = False) -> Iterator[http11.Request]:
    """The requests in *data*, fed *step* bytes at a time, each answered before the next one is read."""
    side = http11.ServerSide()
    for start in range(0, len(data), step):
        side.receive(data[start : start + step])
        while (request := side.next_request()) is not None:
            yield request
            side.response(200, [], b"ok")
            if not side.next_cycle():
                return
    if closed:
        side.receive(b"")
        side.next_request()


WHOLE = {
    "get": (GET, b"GET", b"/a?b=c", b"1.1", b""),
    "head": (head(line=b"HEAD / HTTP/1.1"), b"HEAD", b"/", b"1.1", b""),
    "length": (POST, b"POST", b"/", b"1.1", b"hello"),
    "chunks": (CHUNKED, b"POST", b"/", b"1.1", b"hello"),
    "http 1.0 needs no Host": (head(line=b"GET / HTTP/1.0", host=False), b"GET", b"/", b"1.0", b""),
    "a higher minor version is 1.1": (head(line=b"GET / HTTP/1.2"), b"GET", b"/", b"1.2", b""),
    "one length twice": (POST.replace(b": 5", b": 5, 5"), b"POST", b"/", b"1.1", b"hello"),
    "options": (head(line=b"OPTIONS * HTTP/1.1"), b"OPTIONS", b"*", b"1.1", b""),
    "bare line feeds": (GET.replace(b"\r", b""), b"GET", b"/a?b=c", b"1.1", b""),
    "an empty line first": (b"\r\n" + GET, b"GET", b"/a?b=c", b"1.1", b""),
}


@pytest.mark.parametrize("step", [1, 3, 1 << 30])
@pytest.mark.parametrize("name", WHOLE)
def test_a_request_is_the_same_however_its_bytes_are_cut(name: str, step: int) -> None:
    data, *parts = WHOLE[name]
    (got,) = requests(data, step)
    assert [got.method, got.target, got.version, got.body] == parts


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_pipelined_requests_come_one_by_one(step: int) -> None:
    """RFC 9112 section 9.3.2; an empty line after a body belongs to no request (section 2.2)."""
    got = list(requests(GET + POST + b"\r\n" + CHUNKED + b"\r\n\r\n" + GET, step))
    assert [one.method for one in got] == [b"GET", b"POST", b"POST", b"GET"]
    assert [one.body for one in got] == [b"", b"hello", b"hello", b""]


LONG = b"X: " + b"a" * 17 * 1024
REFUSED = {
    "no request line": (b"garbage\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "http 0.9": (b"GET /\r\n\r\n", 400),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http 9.9": (head(line=b"GET / HTTP/9.9"), 505),
    "no Host": (head(host=False), 400),
    "two Hosts": (head(b"Host: y"), 400),
    "a blank before the colon": (head(b"A : b"), 400),
    "a NUL in a value": (head(b"A: \x00"), 400),
    "a blank in the target": (head(line=b"GET /a b HTTP/1.1"), 400),
    "lengths that differ": (head(b"Content-Length: 5", b"Content-Length: 6"), 400),
    "a length that is no number": (head(b"Content-Length: -1"), 400),
    "a length of thirty digits": (head(b"Content-Length: " + b"9" * 30), 400),
    "a length and chunks": (head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    "an unknown coding": (head(b"Transfer-Encoding: gzip"), 501),
    "a tunnel": (head(line=b"CONNECT x:1 HTTP/1.1"), 501),
    "a chunk size that is no number": (CHUNKED.replace(b"2\r\nhe", b"z\r\nhe"), 400),
    "a head of 17 KB": (head(LONG), 431),
    "a head of 17 KB without an end": (head(LONG)[:-4], 431),
    "a target of 17 KB": (head(line=b"GET /" + b"a" * 17 * 1024 + b" HTTP/1.1"), 431),
    "many headers": (head(*[b"A: 0123456789"] * 1200), 431),
    "a length over the limit": (head(b"Content-Length: %d" % (http11.MAX_BODY_BYTES + 1)), 413),
    "chunks over the limit": (
        head(b"Transfer-Encoding: chunked") + (b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n") * 2 + b"0\r\n\r\n",
        413,
    ),
}


@pytest.mark.parametrize("step", [777, 1 << 30])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_with_its_status(name: str, step: int) -> None:
    data, status = REFUSED[name]
    with pytest.raises(http11.Refused) as refused:
        list(requests(data, step))
    assert refused.value.status == status


def test_a_body_at_the_limit_is_taken() -> None:
    data = head(b"Content-Length: %d" % http11.MAX_BODY_BYTES, line=b"POST / HTTP/1.1") + b"x" * http11.MAX_BODY_BYTES
    (got,) = requests(data, 16 * 1024)
    assert len(got.body) == http11.MAX_BODY_BYTES


@pytest.mark.parametrize("cut", range(1, len(POST)))
def test_eof_inside_a_request_is_answered_400(cut: int) -> None:
    """The peer may still read: it has closed one direction only."""
    with pytest.raises(http11.Refused) as refused:
        list(requests(POST[:cut], closed=True))
    assert refused.value.status == 400


@pytest.mark.parametrize("data", [b"", GET, b"\r\n", GET + b"\r\n"])
def test_eof_between_requests_is_the_end(data: bytes) -> None:
    with pytest.raises(http11.ClosedEarly):
        list(requests(data, closed=True))


def test_idle_is_before_the_first_byte_of_a_request() -> None:
    """An empty line begins no request; what follows an answered one does."""
    side = http11.ServerSide()
    states = [side.is_idle]
    for data in (b"\r\n", b"G", GET[1:] + b"G"):
        side.receive(data)
        states.append(side.is_idle)
    assert states == [True, True, False, False]
    assert side.next_request() is not None
    assert side.has_unread
    side.response(200, [], b"")
    assert side.next_cycle()
    assert not side.is_idle


def test_expect_continue_is_answered_once_and_not_for_a_body_over_the_limit() -> None:
    """RFC 9110 section 10.1.1: a final status may come instead of 100."""
    side = http11.ServerSide()
    side.receive(head(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.1"))
    assert side.next_request() is None
    assert side.continue_bytes() == b"HTTP/1.1 100 \r\n\r\n"
    assert side.continue_bytes() == b""
    side.receive(b"hello")
    assert side.next_request() is not None
    side = http11.ServerSide()
    side.receive(head(b"Expect: 100-continue", b"Content-Length: 99999999", line=b"POST / HTTP/1.1"))
    with pytest.raises(http11.Refused, match="413"):
        side.next_request()


def answer(method: bytes, status: int, body: bytes | None = b"hi", version: bytes = b"1.1") -> bytes:
    side = http11.ServerSide()
    side.receive(head(line=method + b" / HTTP/" + version))
    assert side.next_request() is not None
    return side.response(status, [], body)


@pytest.mark.parametrize(
    ("method", "status", "length", "body"),
    [
        (b"GET", 200, b"Content-Length: 2", b"hi"),
        (b"GET", 404, b"Content-Length: 2", b"hi"),
        (b"GET", 599, b"Content-Length: 2", b"hi"),
        (b"HEAD", 200, b"Content-Length: 2", b""),
        (b"GET", 204, None, b""),
        (b"GET", 304, None, b""),
    ],
)
def test_a_response_has_a_body_where_http_says_so(
    method: bytes, status: int, length: bytes | None, body: bytes
) -> None:
    """RFC 9112 section 6.3; the length of a HEAD's answer is that of a GET's."""
    top, _, got = answer(method, status).partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 %d " % status)
    assert got == body
    assert length is None or length in top.split(b"\r\n")
    assert length is not None or b"content-length" not in top.lower()


def test_a_heads_unknown_length_is_not_made_up() -> None:
    assert b"content-length" not in answer(b"HEAD", 200, None).lower()


def test_an_http10_request_ends_its_connection() -> None:
    """h11 keeps no HTTP/1.0 connection, and says so to the peer."""
    assert b"Connection: close" in answer(b"GET", 200, version=b"1.0")
    (got,) = requests(head(b"Connection: keep-alive", line=b"GET / HTTP/1.0") + GET)
    assert got.wants_close


def test_a_close_delimited_response_has_no_length_and_no_chunks() -> None:
    raw = http11.close_delimited(200, [(b"A", b"b")], b"body")
    assert raw == b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nbody"


def respond(*parts: bytes, method: str = "GET", version: str = "1.1") -> tuple[http11.ClientSide, object]:
    """Feed *parts* to a client that has asked; return it and what the last one gave."""
    side = http11.ClientSide()
    side.request(method, "/", "x", version)
    got = None
    for part in parts:
        assert got is None
        got = side.receive(part)
    return side, got and (got[0], got[2])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
COMPLETE = {
    "a length": ([OK], (200, b"hi"), True),
    "byte by byte": ([OK[i : i + 1] for i in range(len(OK))], (200, b"hi"), True),
    "the close": ([b"HTTP/1.1 200 OK\r\n\r\nhi", b" there", b""], (200, b"hi there"), False),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"], (200, b"hi"), True),
    "after 1xx": ([b"HTTP/1.1 103 \r\nLink: a\r\n\r\nHTTP/1.1 100 \r\n\r\n" + OK], (200, b"hi"), True),
    "204": ([b"HTTP/1.1 204 \r\n\r\n"], (204, b""), True),
    "Connection: close": ([OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")], (200, b"hi"), False),
    "bytes of no response": ([OK + b"HTTP/1.1 200 OK\r\n"], (200, b"hi"), False),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_response_is_complete_when_its_framing_says_so(name: str) -> None:
    """And only a connection at a message's clean end carries another request."""
    parts, expected, again = COMPLETE[name]
    side, got = respond(*parts)
    assert got == expected
    assert side.next_cycle() is again


def test_a_heads_response_ends_with_its_head() -> None:
    _, got = respond(OK[:-2], method="HEAD")
    assert got == (200, b"")


@pytest.mark.parametrize("cut", range(len(OK)))
def test_a_close_inside_a_response_is_no_response(cut: int) -> None:
    parts = [OK[:cut]] if cut else []
    with pytest.raises(http11.ClosedEarly):
        respond(*parts, b"")


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"220 smtp ready\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 50])
def test_what_is_no_http_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        respond(data)


def test_the_bytes_of_a_request() -> None:
    """HTTP/1.0 says close; an empty body has a length where one is expected (RFC 9110 section 8.6)."""
    ask = http11.ClientSide().request
    assert ask("GET", "/a", "x:80", "1.1") == b"GET /a HTTP/1.1\r\nHost: x:80\r\n\r\n"
    ask = http11.ClientSide().request
    assert ask("GET", "/", "x", "1.0") == b"GET / HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n"
    ask = http11.ClientSide().request
    assert ask("POST", "/", "x", "1.1") == b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(("says", "again"), [(b"Connection: keep-alive\r\n", True), (b"", False)])
def test_an_http10_connection_is_kept_only_if_the_server_says_so(says: bytes, again: bool) -> None:
    """RFC 9112 section 9.3, whatever version the server's own status line has."""
    side = http11.ClientSide()
    side.request("GET", "/", "x", "1.0", [(b"Connection", b"keep-alive")])
    assert side.receive(b"HTTP/1.1 200 OK\r\n" + says + b"Content-Length: 0\r\n\r\n") is not None
    assert side.next_cycle() is again
