"""A record's lines survive JSON, whatever they hold."""

from __future__ import annotations

import pytest

from netns_tw.model.lines import (
    Built,
    Canary,
    Captured,
    Dump,
    End,
    Header,
    Line,
    Ran,
    Response,
    Sample,
    Snapshot,
    StepEnd,
    Trouble,
    from_json,
    to_json,
)
from netns_tw.model.record import Record, format_of

HOSTILE = 'a"b\\c\nd\re\x00\x1b[31m\u2028\U0001f600</script>{"kind":"end"}'
LINES: list[Line] = [
    Header("direct", "c", "Linux 6.18", {"h11": "0.16"}, {"topology.toml": "name = 'x'"}, "curl", None, "2026", 2, 2),
    Built(1.0, {"client": {"net.x": "1"}}, {"server": Ran("http-server", "x", "a:80", close="race")}, ["a note"]),
    Response(0, 3, 1.25, 0.5, 404, None, None, 1024),
    Response(1, 0, 2.0, 0.0, None, "EADDRNOTAVAIL", "connect", None, "Cannot assign requested address"),
    Snapshot(-1, 0.125, "lb", [("time-wait", "::1", 1024, "::2", 80, 60000)], {"TcpExtTW": 2**63 - 1}, 1, ["a line"]),
    Sample(1.0, "lb", 2, 1, {"TcpExtTW": 2}),
    Dump(1.0, "lb", [("established", "::1", 1024, "::2", 80, 0)]),
    Canary(0.5, "lb", "before", ("time-wait", "127.0.0.1", 65535, "127.0.0.1", 65534, 60000)),
    StepEnd(0, "first", 1.0, 2.5),
    Captured("a:eth0 -- b:eth0", [("::1", 1024, "::2", 80, 1.0, "both")], 10, 0),
    Trouble(3, "net.ipv4.tcp_tw_recycle: removed in Linux 4.12", skip=True),
    End(9.75),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_round_trip(line: Line) -> None:
    """Every kind of line comes back equal, from one line of text."""
    text = to_json(line)
    assert b"\n" not in text
    assert from_json(text) == line


@pytest.mark.parametrize(
    "line",
    [
        Snapshot(0, 1.0, HOSTILE, [(HOSTILE, HOSTILE, 1, HOSTILE, 2, 3)], {HOSTILE: 1}, 0, [HOSTILE, ""]),
        Response(0, 0, 0.0, 0.0, None, HOSTILE, HOSTILE, None, HOSTILE),
        Trouble(4, HOSTILE),
        StepEnd(0, HOSTILE, 0.0, 0.0),
    ],
    ids=lambda line: type(line).__name__,
)
def test_hostile_strings(line: Line) -> None:
    """Quotes, newlines, escapes and NULs of a log come back as they were; the line stays one."""
    text = to_json(line)
    assert not set(text) & set(range(32))
    assert from_json(text) == line


def test_what_is_no_unicode_is_shown_escaped() -> None:
    """A lone surrogate, of a path that is not UTF-8, cannot be written; it is shown instead."""
    assert from_json(to_json(Trouble(4, "a\ud800\udcffb"))) == Trouble(4, "a\\ud800\\udcffb")
    line = Snapshot(0, 1.0, "\udc80", [], {"\udc80": 1}, 0, ["\udc80"])
    assert from_json(to_json(line)) == Snapshot(0, 1.0, "\\udc80", [], {"\\udc80": 1}, 0, ["\\udc80"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "null",
        "[]",
        '"end"',
        "{}",
        '{"kind":"no-such-kind"}',
        '{"kind":["end"]}',
        '{"kind":"end"}',
        "[" * 100_000,
        '{"kind":"end","at_ms":1,"extra":2}',
        '{"kind":null,"at_ms":1}',
        '{"kind":"end","at_ms":1}x',
        '{"kind":"end","at_ms":1e300}',
        '{"kind":"end","at_ms":NaN}',
        '{"kind":"end","at_ms":"1"}',
        '{"kind":"end","at_ms":-1e12}',
        '{"kind":"end","at_ms":1,"samples":-1}',
        '{"kind":"end","at_ms":1,"samples":' + "9" * 5000 + "}",
        '{"kind":"dump","at_ms":1,"node":"a","sockets":[["time-wait","a",1,"b",65536,0]]}',
        '{"kind":"dump","at_ms":1,"node":"a","sockets":[["time-wait","a",1,"b"]]}',
        '{"kind":"canary","at_ms":1,"node":"a","when":"never","socket":["time-wait","a",1,"b",2,0]}',
        '{"kind":"trouble","exit_code":256,"message":""}',
        b'{"kind":"trouble","exit_code":1,"message":"\xff"}',
    ],
)
def test_what_is_no_line_of_a_record(text: str | bytes) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


@pytest.mark.parametrize(
    ("status", "is_ok"), [(200, True), (404, True), (499, True), (500, False), (502, False), (None, False)]
)
def test_ok(status: int | None, is_ok: bool) -> None:
    """Any response of the server is a success, its 404 too; a 5xx of an LB and no response are none."""
    assert Response(0, 0, 0.0, 0.0, status, None, None, None).ok is is_ok


def test_the_format_is_known_whatever_else_a_newer_header_holds() -> None:
    """A header of format 2 is no line for this version, but says so; nothing else has a format."""
    newer = '{"kind":"header","format":2,"news":{}}'
    with pytest.raises(ValueError, match=r"."):
        from_json(newer)
    assert format_of(newer) == 2
    assert format_of(to_json(LINES[0])) == 1
    for text in (
        "",
        "[]",
        "[" * 100_000,
        '{"format":2}',
        '{"kind":"end","format":2}',
        '{"kind":"header","format":"2"}',
    ):
        assert format_of(text) is None


def test_a_record_sorts_its_lines() -> None:
    """Lines are found again by kind, step and node; only End makes a record complete."""
    record = Record()
    for line in LINES[:-1]:
        record.add(line)
    kinds = {type(line): line for line in LINES}
    assert (record.header, record.built, record.trouble) == (kinds[Header], kinds[Built], kinds[Trouble])
    assert list(record.responses_of(None)) == [one for one in LINES if isinstance(one, Response)]
    assert [one.step for one in record.responses_of(1)] == [1]
    assert record.snapshots == {(-1, "lb"): kinds[Snapshot]}
    assert record.steps == {0: kinds[StepEnd]}
    assert [record.samples, record.dumps, record.canaries, record.captured] == [
        [kinds[Sample]], [kinds[Dump]], [kinds[Canary]], [kinds[Captured]],
    ]  # fmt: skip
    assert not record.is_complete
    record.add(LINES[-1])
    assert record.is_complete
