"""A record's lines survive JSON, whatever they hold."""

from __future__ import annotations

import pytest

from netns_tw.model.record import (
    End,
    Header,
    Line,
    Record,
    Response,
    Snapshot,
    StepEnd,
    Trouble,
    from_json,
    to_json,
)

HOSTILE = 'a"b\\c\nd\re\x00\x1b[31m\u2028\U0001f600\ud800</script>{"kind":"end"}'
LINES: list[Line] = [
    Header("direct", "c", "Linux 6.18", {"h11": "0.16"}, {"client": {"net.x": "1"}}, {"server": "nginx"}, ["a note"]),
    Response(0, 3, 1.25, 0.5, 404, None, None, 1024),
    Response(1, 0, 2.0, 0.0, None, "EADDRNOTAVAIL", "connect", None, "Cannot assign requested address"),
    Snapshot(-1, 0.125, "lb", [["time-wait", "::1", 1024, "::2", 80, 60000]], {"TcpExtTW": 2**63}, 1, ["a line"]),
    StepEnd(0, "first", 1.0, 2.5),
    Trouble(3, "net.ipv4.tcp_tw_recycle: removed in Linux 4.12", skip=True),
    End(9.75),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_round_trip(line: Line) -> None:
    """Every kind of line comes back equal, from one line of text."""
    text = to_json(line)
    assert "\n" not in text
    assert from_json(text) == line


@pytest.mark.parametrize(
    "line",
    [
        Snapshot(0, 1.0, HOSTILE, [[HOSTILE, 1]], {HOSTILE: 1}, 0, [HOSTILE, ""]),
        Response(0, 0, 0.0, 0.0, None, HOSTILE, HOSTILE, None, HOSTILE),
        Trouble(4, HOSTILE),
        StepEnd(0, HOSTILE, 0.0, 0.0),
    ],
    ids=lambda line: type(line).__name__,
)
def test_hostile_strings(line: Line) -> None:
    """Quotes, newlines, escapes and lone surrogates of a log come back as they were; the line stays one, in ASCII."""
    text = to_json(line)
    assert text.isascii()
    assert text.isprintable()
    assert from_json(text) == line


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
    ],
)
def test_what_is_no_line_of_a_record(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


@pytest.mark.parametrize(
    ("status", "is_ok"), [(200, True), (404, True), (499, True), (500, False), (502, False), (None, False)]
)
def test_ok(status: int | None, is_ok: bool) -> None:
    """Any response of the server is a success, its 404 too; a 5xx of an LB and no response are none."""
    assert Response(0, 0, 0.0, 0.0, status, None, None, None).ok is is_ok


def test_a_record_sorts_its_lines() -> None:
    """Lines are found again by kind, step and node; only End makes a record complete."""
    record = Record()
    for line in LINES[:-1]:
        record.add(line)
    assert record.header == LINES[0]
    assert list(record.responses_of(None)) == LINES[1:3]
    assert list(record.responses_of(1)) == [LINES[2]]
    assert record.snapshots == {(-1, "lb"): LINES[3]}
    assert record.steps == {0: LINES[4]}
    assert record.trouble == LINES[5]
    assert not record.is_complete
    record.add(LINES[-1])
    assert record.is_complete
