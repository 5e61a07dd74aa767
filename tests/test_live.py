"""The live view's state and its picture: pure, from lines of a record to lines of text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from evidence_records import DIRECT, LB, accepted, listening, row, rows, topology

from netns_tw.evidence.live import LiveLab
from netns_tw.evidence.live_node import NEAREST, REMOTES
from netns_tw.model.experiment import Step
from netns_tw.model.lines import Built, Dump, End, Line, Ran, Response, Row, Sample, Snapshot, StepEnd, Trouble
from netns_tw.model.topology import Topology
from netns_tw.report.live_frame import Head, frame
from netns_tw.report.live_lines import Changes, node_line
from netns_tw.report.live_subject import Subject, plain

SERVER = "198.18.0.1:80"
WAITING = [row("time-wait", f"198.18.0.2:{port}", SERVER, left) for port, left in ((1030, 48_000), (1024, 12_400))]
SIZES = [(20, 5), (40, 10), (80, 24), (120, 40), (250, 80)]


def lab(*lines: Line, of: Topology = DIRECT, steps: Sequence[Step] = ()) -> LiveLab:
    """A lab that has told *lines*."""
    found = LiveLab(of, steps)
    for line in lines:
        found.add(line)
    return found


def response(
    index: int, outcome: str = "200", step: int = 0, took_ms: float = 1.0, port: int | None = 1024
) -> Response:
    """The result of one request; of a failure, of its connect()."""
    status = int(outcome) if outcome.isdecimal() else None
    call = None if status else "connect"
    return Response(step, index, index * 10.0, took_ms, status, None if status else outcome, call, port)


def text(found: LiveLab, now_ms: float = 0.0, columns: int = 80, lines: int = 24, claim: str = "") -> list[str]:
    """The picture without its styles, blank lines left out."""
    picture = frame(found, Head("title", claim=claim), now_ms, columns, lines)
    return [words for line in picture if (words := "".join(each for each, _ in line).rstrip())]


def held(found: LiveLab, now_ms: float) -> str:
    return next(line.strip() for line in text(found, now_ms) if "held:" in line)


@pytest.mark.parametrize(
    ("sockets", "bar", "words"),
    [
        (WAITING, "[T.....T....]", "8 or 9 of 11 ports free, next in 12s"),
        (rows("time-wait", range(1024, 1034), SERVER), "[TTTTTTTTTT.]", "0 or 1 of 11 ports free, next in 60s"),
        (rows("time-wait", range(1024, 1035), SERVER), "[TTTTTTTTTTT]", "NO FREE PORT of 11, next in 60s"),
        (rows("established", [1025], SERVER), "[.E.........]", "9 or 10 of 11 ports free"),
        (rows("fin-wait-2", [1034], SERVER), "[..........o]", "9 or 10 of 11 ports free"),
        (rows("time-wait", [1024, 5000], SERVER), "[T..........]", "9 or 10 of 11 ports free, next in 60s"),
    ],
)
def test_a_narrow_range_is_shown_port_by_port(sockets: list[Row], bar: str, words: str) -> None:
    """A letter for each port in order; a port outside of the range costs nothing of the budget."""
    found = text(lab(Dump(0.0, "client", sockets)))
    assert f"  to {SERVER}  {bar} {words}" in found


@pytest.mark.parametrize(
    ("sysctls", "count", "bar", "words"),
    [
        ({}, 0, None, None),
        ({}, 1, "[T...............]", "28,231 of 28,232 ports free, next in 60s"),
        ({}, 14_116, "[TTTTTTTT........]", "14,116 of 28,232 ports free, next in 60s"),
        ({}, 28_231, "[TTTTTTTTTTTTTTT.]", "1 of 28,232 ports free, next in 60s"),
        ({}, 28_232, "[TTTTTTTTTTTTTTTT]", "NO FREE PORT of 28,232, next in 60s"),
        ({"net.ipv4.ip_local_port_range": "40000 40000"}, 1, "[.]", "1 of 1 ports free, next in 60s"),
        ({"net.ipv4.ip_local_port_range": "32768 32771"}, 2, "[TT..]", "2 of 4 ports free, next in 60s"),
        ({"net.ipv4.ip_local_port_range": "32768 32770"}, 2, "[TTx]", "NO FREE PORT of 2, next in 60s"),
        (
            {"net.ipv4.ip_local_port_range": "32768 32771", "net.ipv4.ip_local_reserved_ports": "32770"},
            1,
            "[T.x.]",
            "2 of 3 ports free, next in 60s",
        ),
    ],
)
def test_the_bar_follows_the_effective_sysctls(
    sysctls: dict[str, str], count: int, bar: str | None, words: str | None
) -> None:
    """A wide range is shown by its shares: some is never drawn as none, and not quite all never as all."""
    of = topology("client 198.18.10.20 - server 198.18.10.10")
    sockets = rows("time-wait", range(32768, 32768 + count), "198.18.10.10:80", "198.18.10.20")
    found = text(lab(Built(0.0, {"client": sysctls}, {}), Dump(0.0, "client", sockets), of=of), columns=82)
    shown = [line for line in found if "  to " in line]
    assert shown == ([f"  to 198.18.10.10:80  {bar} {words}"] if bar else [])


@pytest.mark.parametrize(
    ("now_ms", "words"),
    [
        (1000.0, "held: 1024 12s   1030 48s"),
        (6000.0, "held: 1024 7s    1030 43s"),
        (13_500.0, "held: 1024 0s    1030 36s"),
        (90_000.0, "held: 1024 0s    1030 0s"),
    ],
)
def test_seconds_go_on_between_two_looks(now_ms: float, words: str) -> None:
    """The next to be free comes first; what is over still holds its port until a look no longer shows it."""
    assert held(lab(Dump(1000.0, "client", WAITING)), now_ms) == words


def test_a_port_is_free_when_a_look_no_longer_shows_it() -> None:
    found = lab(Dump(1000.0, "client", WAITING), Dump(14_000.0, "client", WAITING[:1]))
    assert held(found, 14_000.0) == "held: 1030 48s"
    found.add(Dump(15_000.0, "client", []))
    assert "client      no connection" in text(found)


def test_what_was_accepted_holds_no_port() -> None:
    """A server's own TIME_WAITs are told by the address they came from; a listener in the range is never free."""
    servers = accepted(rows("time-wait", range(1024, 1028), SERVER))
    built = Built(0.0, {}, {"server": Ran("nginx", "nginx", SERVER)})
    assert "  from 198.18.0.2 on port 80  TIME_WAIT 4, the first ends in 60s" in text(
        lab(built, Dump(0.0, "server", servers))
    )
    mine = [*rows("established", [1024], SERVER), listening(1026)]
    found = text(lab(Snapshot(0, 0.0, "client", mine, {}, 0, [])))
    assert f"  to {SERVER}  [E.x........] 8 or 9 of 10 ports free" in found
    assert "client      ESTABLISHED 1   listens on 1026" in found


@pytest.mark.parametrize(
    ("client", "server", "words"),
    [
        ({"tcp_tw_reuse": "1"}, {}, ", 1 reusable now"),
        ({"tcp_tw_reuse": "1", "tcp_tw_reuse_delay": "49000"}, {}, ", 0 reusable now"),
        ({"tcp_tw_reuse": "0"}, {}, ", next in 12s"),
        ({"tcp_tw_reuse": "2"}, {}, ", next in 12s"),
        ({"tcp_tw_reuse": "1", "tcp_timestamps": "0"}, {}, ", next in 12s"),
        ({"tcp_tw_reuse": "1"}, {"tcp_timestamps": "0"}, ", next in 12s"),
    ],
)
def test_reuse_needs_its_delay_and_timestamps(client: dict[str, str], server: dict[str, str], words: str) -> None:
    """With tcp_tw_reuse = 1 it matters how many TIME_WAITs are old enough, not when they end."""
    sysctls = {
        node: {f"net.ipv4.{name}": value for name, value in those.items()}
        for node, those in (("client", client), ("server", server))
    }
    young = row("time-wait", "198.18.0.2:1026", SERVER, 59_900)
    found = text(lab(Built(0.0, sysctls, {}), Dump(0.0, "client", [WAITING[1], young])))
    assert next(line for line in found if "  to " in line).endswith(f"ports free{words}")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([Sample(200.0, "client", 9, 0, {})], "client      TIME_WAIT 2"),
        ([Sample(500.0, "client", 2, 0, {"TcpExtTW": 5})], "client      TIME_WAIT 2"),
        ([Sample(500.0, "client", 9, 0, {})], "client      TIME_WAIT 9   ports: 2.0 s ago"),
        ([Sample(500.0, "client", 9, 0, {}), Dump(600.0, "client", WAITING)], "client      TIME_WAIT 2"),
    ],
)
def test_gauges_tell_of_sockets_that_no_look_has_shown(lines: list[Line], words: str) -> None:
    """Looks are seldom where sockets are many; then the count is the gauge's, and the ports are said to be older."""
    assert words in text(lab(Dump(0.0, "client", WAITING), *lines), now_ms=2000.0)


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (["200"], ["#0           200, 1.0 ms, port 1024"]),
        (["200", "200"], ["#0-#1        200 x 2, 1.0 ms, last port 1024"]),
        (["200"] * 5 + ["502"] * 995, ["#0-#4        200 x 5, 1.0 ms, last port 1024",
                                        "#5-#999      502 x 995, 1.0 ms, last port 1024"]),
        (["EADDRNOTAVAIL"] * 2 + ["200"], ["#0-#1        EADDRNOTAVAIL from connect() x 2, 1.0 ms, last port 1024",
                                           "#2           200, 1.0 ms, port 1024"]),
    ],
)  # fmt: skip
def test_equal_results_in_a_row_are_one_line(outcomes: list[str], words: list[str]) -> None:
    found = text(lab(*(response(index, one) for index, one in enumerate(outcomes))))
    at = next(number for number, line in enumerate(found) if line.startswith("requests"))
    assert [line.strip() for line in found[at + 1 : -2]] == words


def test_steps_and_requests_are_counted() -> None:
    """The head says where the experiment is."""
    steps = (Step("first", "http://198.18.0.1/", requests=10), Step("again", "http://198.18.0.1/", requests=4))
    found = lab(Built(0.0, {}, {}), steps=steps)
    assert "step 1 of 2: first  [..........] 0/14 requests" in text(found)
    for index in range(10):
        found.add(response(index, "200" if index < 7 else "502"))
    assert "step 1 of 2: first  [##########] 10/14 requests, 3 failed" in text(found)
    found.add(StepEnd(0, "first", 0.0, 100.0))
    assert "step 2 of 2: again  [..........] 10/14 requests, 3 failed" in text(found)
    found.add(response(0, "200", step=1, took_ms=3.5))
    assert "step 2 of 2: again  [##........] 11/14 requests, 3 failed" in text(found)
    assert "  step 2 #0           200, 3.5 ms, port 1024" in text(found)
    found.add(End(200.0))
    assert text(found)[0].endswith("over   0 s")
    found.add(Trouble(4, "the client ended early"))
    assert "stopped: the client ended early" in text(found)


def counters(found: LiveLab, now_ms: float) -> list[tuple[str, int, int]]:
    found.mark(now_ms)
    return found.nodes["client"].moved(now_ms)


def test_counters_are_told_by_their_growth() -> None:
    """What the first look shows was there before; what is new later grew from 0; the last second is told apart."""
    found = lab(Snapshot(-1, 0.0, "client", [], {"TcpActiveOpens": 100}, 0, []))
    assert counters(found, 0.0) == []
    found.add(Sample(500.0, "client", 3, 0, {"TcpActiveOpens": 103, "TcpExtTW": 2}))
    assert counters(found, 500.0) == [("TcpActiveOpens", 3, 3), ("TcpExtTW", 2, 2)]
    found.add(Sample(1400.0, "client", 3, 0, {"TcpActiveOpens": 103, "TcpExtTW": 7}))
    assert counters(found, 1450.0) == [("TcpExtTW", 5, 7), ("TcpActiveOpens", 0, 3)]
    assert counters(found, 2500.0) == [("TcpExtTW", 0, 7), ("TcpActiveOpens", 0, 3)]


def test_half_a_million_sockets_leave_little_behind() -> None:
    """Of a dump only counts are kept, and the few ports that are next to be free."""
    sockets: list[Row] = [
        ("time-wait", "198.18.0.2", port, "198.18.0.1", 1 + number, 40_000 + port % 20_000)
        for number in range(50)
        for port in range(50_000, 60_000)
    ]
    found = lab(Dump(0.0, "client", sockets), Dump(10.0, "nobody", sockets[:5]))
    client = found.nodes["client"]
    assert client.states == {"time-wait": 500_000}
    assert (len(client.opened), client.left_out) == (REMOTES, 50 - REMOTES)
    assert all(len(one.nearest) <= NEAREST and len(one.ends) <= 201 and not one.cells for one in client.opened)
    shown = text(found)
    assert "client      TIME_WAIT 500,000" in shown
    assert any(line.endswith(" remotes more") for line in shown)
    assert any("more, the last 60s" in line for line in shown)


def full_lab() -> LiveLab:
    """A lab of three nodes where much has happened."""
    steps = (Step("first \x1b[2J", "http://198.18.1.1/", requests=1000),)
    found = lab(Built(0.0, {}, {}), of=LB, steps=steps)
    for port in range(100):
        found.add(response(port, "200" if port % 3 else "502"))
    for node in LB.nodes:
        sockets = [
            row("time-wait", f"198.18.1.2:{port}", f"198.18.{port % 40}.1:80", 5000) for port in range(999, 1999)
        ]
        grown = {f"TcpExt{letter}": 5 for letter in "ABCDEFGH"}
        found.add(Snapshot(-1, 0.0, node, [], {}, 0, []))
        found.add(Snapshot(0, 1.0, node, sockets, grown, 0, ["evil \x1b]0;title\x07 \u202e line\nof two"] * 9))
    return found


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_the_picture_fits_the_window(columns: int, lines: int) -> None:
    """As many lines as the window has, keys last; what had no room is counted."""
    picture = frame(full_lab(), Head("title", claim="claim " * 30), 2000.0, columns, lines)
    assert len(picture) == lines
    words = ["".join(each for each, _ in line) for line in picture]
    assert words[-1].endswith("q: leave")
    assert any(" more" in line for line in words)


def test_a_small_window_still_shows_requests() -> None:
    """Nodes are cut before the results that everybody waits for."""
    shown = text(full_lab(), columns=80, lines=14)
    assert any(line.startswith("requests") for line in shown)
    assert any("lines more: make the window higher" in line for line in shown)


def test_what_a_newcomer_sees_at_80_by_24() -> None:
    """The whole picture of a lab whose LB has run out of ports."""
    sockets = rows("time-wait", (1024, 1025), "198.18.2.2:80", "198.18.2.1", 53_000)
    steps = (Step("first", "http://198.18.1.1/", requests=1000), Step("again", "http://198.18.1.1/", requests=1000))
    found = lab(
        Built(0.0, {}, {"lb": Ran("nginx", "nginx", "198.18.1.1:80")}),
        Snapshot(-1, 5.0, "lb", [], {}, 0, []),
        Dump(1000.0, "lb", sockets),
        Sample(1000.0, "lb", 2, 0, {"TcpActiveOpens": 2}),
        *(response(index, "200" if index < 2 else "502", port=33000 + index) for index in range(32)),
        Snapshot(0, 1100.0, "lb", sockets, {"TcpActiveOpens": 2}, 2, ["connect() failed (99: Cannot assign ...)"]),
        of=LB,
        steps=steps,
    )
    assert text(found, 3000.0, claim="An LB that closes first runs out of ports") == [
        "title                                                                        3 s",
        "An LB that closes first runs out of ports",
        "step 1 of 2: first  [..........] 32/2,000 requests, 30 failed",
        "-" * 80,
        "client      no connection",
        "lb          TIME_WAIT 2   listens on 80",
        "  to 198.18.2.2:80  [TTx] NO FREE PORT of 2, next in 51s",
        "    held: 1024 51s   1025 51s",
        "backend     no connection",
        "requests    this step: 200 x 2, 502 x 30",
        "  step 1 #0-#1        200 x 2, 1.0 ms, last port 33001",
        "  step 1 #2-#31       502 x 30, 1.0 ms, last port 33031",
        "counters                          last second   in all",
        "  lb       TcpActiveOpens                  +2       +2  connections opened",
        "log lb: connect() failed (99: Cannot assign ...)",
        "-" * 80,
        "T TIME_WAIT  E ESTABLISHED  o other  . free  x unusable   q: leave",
    ]


def test_a_node_in_one_plain_line() -> None:
    """Words and key=value pairs, for grep."""
    sockets = [
        *rows("time-wait", range(1024, 1030), SERVER, left_ms=30_000),
        *rows("established", [1030], "198.18.0.9:9"),
    ]
    found = lab(Dump(2000.0, "client", sockets))
    assert node_line(found, "client", 12_000.0) == (
        "t=12.0s node=client established=1 time-wait=6 to=198.18.0.1:80 free=4|5/10|11"
        " left=1024:20s,1025:20s,1026:20s,1027:20s,+2 to=198.18.0.9:9 free=9|10/10|11"
    )
    assert node_line(found, "server", 500.0) == "t=0.5s node=server time-wait=0"


def test_changes_are_told_once_and_with_their_count() -> None:
    """A result that is new is told at once, and its count when the next one comes; a flood of changes is cut."""
    found = lab()
    changes = Changes(found)
    found.add(response(0))
    assert list(changes.lines(0.0)) == ["t=0.0s step=1 index=0 result=200 count=1 ms=1.0 last-port=1024 ..."]
    found.add(response(1))
    assert list(changes.lines(0.0)) == []
    found.add(response(2, "EADDRNOTAVAIL", port=None))
    assert list(changes.lines(1000.0)) == [
        "t=1.0s step=1 index=0-1 result=200 count=2 ms=1.0-1.0 last-port=1024",
        "t=1.0s step=1 index=2 result=EADDRNOTAVAIL call=connect count=1 ms=1.0 ...",
    ]
    found.add(response(3, "EADDRNOTAVAIL", port=None))
    assert list(changes.lines(2000.0, is_last=True)) == [
        "t=2.0s step=1 index=2-3 result=EADDRNOTAVAIL call=connect count=2 ms=1.0-1.0"
    ]
    assert list(changes.lines(2000.0, is_last=True)) == []
    for index in range(4, 204):
        found.add(response(index, "502" if index % 2 else "200"))
    told = list(changes.lines(3000.0))
    assert told[0] == "t=3.0s results: 190 changes are not shown"
    assert len(told) == 11


def test_a_records_zero_is_the_earliest_that_any_line_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that was late moves no clock; when the record is over its time stands still."""
    found = Subject(LiveLab(DIRECT), Head(""))
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    assert found.now_ms() == 0.0
    found.add(Dump(2000.0, "client", []))
    assert found.now_ms() == 2000.0
    now = 105.0
    found.add(Dump(3000.0, "client", []))
    assert found.now_ms() == 7000.0
    found.add(Dump(7500.0, "client", []))
    assert found.now_ms() == 7500.0
    found.add(End(7600.0))
    now = 200.0
    assert found.now_ms() == 7600.0


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines", "two lines"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202eabc", "\\u202eabc"),
        ("\r\a\x9b", "\\r\\x07\\x9b"),
    ],
)
def test_no_text_is_obeyed(words: str, shown: str) -> None:
    assert plain(words) == shown
