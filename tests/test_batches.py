"""Records of bare connections: what they count, which verdict follows, and how every report tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO

import pytest

from netns_tw.evidence.cost import by_parts, connect_curve, costs
from netns_tw.evidence.live import LiveLab
from netns_tw.evidence.prediction import predictions
from netns_tw.model import labs
from netns_tw.model.experiment import ConnectTime, Expectation, Responses, Sockets, Subject
from netns_tw.model.lines import (
    Batch,
    Built,
    Canary,
    Cost,
    End,
    Header,
    KindRow,
    Line,
    Row,
    Snapshot,
    StepEnd,
    from_json,
    to_json,
)
from netns_tw.model.record import Record
from netns_tw.report import html, ktap, text
from netns_tw.report import json as as_json
from netns_tw.report.console import console
from netns_tw.report.run import Run
from netns_tw.scope import Scope
from netns_tw.verdict import judge

SCALE = labs.read_lab(labs.folder_of("scale"))
CLIFF = SCALE.experiments["connect-slows-down-at-half-its-range"]
HUNDRED = SCALE.experiments["a-hundred-thousand-on-one-server"]
SYSCTLS = {"net.ipv4.ip_local_port_range": "32768 40959", "net.ipv4.tcp_tw_reuse": "0"}
CANARY: Row = ("time-wait", "127.0.0.1", 65535, "127.0.0.1", 65534, 60000)
LISTENING: KindRow = ("listening", 80, "0.0.0.0", 0, 1)


def start(claim: str) -> Iterator[Line]:
    files = labs.files_of(SCALE.topology, SCALE.experiments[claim])
    yield Header("scale", claim, "Linux 6.18.5", {"netns_tw": "0.1.0"}, files)
    nodes = SCALE.topology.nodes
    yield Built(1.0, dict.fromkeys(nodes, SYSCTLS), {})
    for name in nodes:
        yield Canary(2.0, name, "before", CANARY)
        yield Canary(9e5, name, "after", CANARY)
        yield Snapshot(-1, 3.0, name, [], {"TcpActiveOpens": 1}, 0, [])
        yield Cost(-1, 4.0, name, 0, 100_000, 3.0, 0.5)


def hundred_thousand(there: int = 100_000) -> Record:
    """Eight steps of 12500, each in ten batches; the server ends with *there* in TIME_WAIT."""
    record = Record()
    for line in start(HUNDRED.claim_id):
        record.add(line)
    for number in range(8):
        made = 12_500 * (number + 1)
        waiting: list[KindRow] = [
            ("time-wait", 80, f"198.18.{one}.2", 0, 12_500 - (100_000 - there) * (one == 8))
            for one in range(1, number + 2)
        ]
        for part in range(10):
            record.add(
                Batch(number, part * 1250, 1250, 1250, [], 1000.0 * number + part, 1.0, (14.0 + part, 30.0, 90.0))
            )
        for name in SCALE.topology.nodes:
            counters = {"TcpActiveOpens": 1 + 12_500 * (name == f"client{number + 1}")}
            if name == "server":
                counters = {"TcpExtTW": made, "TcpPassiveOpens": made}
            kinds = [LISTENING, *waiting] if name == "server" else []
            record.add(
                Snapshot(number, 1000.0 * number + 500, name, [], counters, made * (name == "server"), [], kinds)
            )
            waits = made if name == "server" else 0
            record.add(Cost(number, 1000.0 * number + 600, name, waits, 100_000 + made // 4, 3.5, made / 2000))
        record.add(StepEnd(number, f"client {number + 1}", 1000.0 * number, 1000.0 * number + 400))
    record.add(End(9e5))
    return record


def run_of(record: Record) -> Run:
    return Run(HUNDRED, SCALE.topology, record, judge(record, HUNDRED, SCALE.topology), None)


def test_kinds_and_batches_are_counted_as_sockets_and_responses() -> None:
    """All hold; with one TIME_WAIT less two expectations fail, and say which number was seen."""
    assert judge(hundred_thousand(), HUNDRED, SCALE.topology).verdict == "pass"
    found = judge(hundred_thousand(99_999), HUNDRED, SCALE.topology)
    assert found.verdict == "fail"
    assert [(one.actual, one.expected) for one in found.findings if not one.holds] == [
        (99_999, "== 100000"),
        (12_499, "== 12500"),
    ]


@pytest.mark.parametrize(
    ("subject", "count"),
    [
        (Responses(), 100_000),
        (Responses(ok=True), 100_000),
        (Responses(ok=False), 0),
        (Responses(status=200), 0),
        (Responses(errno="EADDRNOTAVAIL"), 0),
        (Sockets("server", "time-wait"), 100_000),
        (Sockets("server", "time-wait", "198.18.3.2"), 12_500),
        (Sockets("server", "time-wait", "198.18.9.2"), 0),
        (Sockets("server", "time-wait", None, 80), 100_000),
        (Sockets("server", "established", "198.18.3.2:4711"), 0),
        (Sockets("client1", "time-wait"), 0),
        (ConnectTime(0, 100), 18),
        (ConnectTime(0, 2), 14),
    ],
)
def test_what_each_subject_counts(subject: Subject, count: int) -> None:
    assert Scope(hundred_thousand(), HUNDRED, SCALE.topology, None).count(subject) == count


def test_connect_us_is_of_one_part_of_a_step() -> None:
    """The median of the batches whose middle lies in it; where there is none, no number at all."""
    scope = Scope(hundred_thousand(), HUNDRED, SCALE.topology, "client 2")
    assert [scope.count(ConnectTime(*part)) for part in ((0, 50), (50, 100), (90, 100))] == [16, 21, 23]
    with pytest.raises(ValueError, match="no connection was made from 0 to 4 per cent"):
        scope.count(ConnectTime(0, 4))
    with pytest.raises(ValueError, match="counted in batches"):
        scope.count(Responses(ok=False, after_first_failure=True))


def test_failed_connections_are_counted_by_call_and_errno() -> None:
    record = Record()
    for line in start(HUNDRED.claim_id):
        record.add(line)
    record.add(
        Batch(0, 0, 10, 4, [("bind", "EADDRINUSE", 1), ("connect", "EADDRNOTAVAIL", 5)], 0.0, 1.0, (1.0, 1.0, 1.0))
    )
    scope = Scope(record, HUNDRED, SCALE.topology, "client 1")
    wanted = [
        Responses(ok=False),
        Responses(errno="EADDRNOTAVAIL"),
        Responses(call="bind"),
        Responses(ok=True, call="bind"),
    ]
    assert [scope.count(one) for one in wanted] == [6, 5, 1, 0]
    assert scope.find(Expectation("", Responses(ok=False), {"equals": "EADDRNOTAVAIL + EADDRINUSE"})).holds
    assert dict(record.outcomes(0)) == {"opened": 4, "EADDRINUSE": 1, "EADDRNOTAVAIL": 5}


@pytest.mark.parametrize("subject", [("198.18.3.2:4711", None), (None, 4711)])
def test_a_port_that_is_not_told_is_an_error_not_a_zero(subject: tuple[str | None, int | None]) -> None:
    """Of an accepted connection the remote port is not kept, of an opened one the local port."""
    record = hundred_thousand()
    snapshot = record.snapshots[7, "server"]
    snapshot.kinds.append(("time-wait", 0, "198.18.9.9", 80, 70_000))
    with pytest.raises(ValueError, match="server has more sockets than are listed"):
        Scope(record, HUNDRED, SCALE.topology, None).count(Sockets("server", "time-wait", *subject))


def test_what_it_cost_is_told() -> None:
    """Bytes of slab for each socket where enough grew, the curve by tenths; missing parts are missing."""
    record = hundred_thousand()
    found = costs(record, HUNDRED)
    assert [one.slab_bytes for one in found] == [None] * 3 + [256] * 5
    assert (found[7].node, found[7].time_wait, found[7].tally_ms) == ("server", 100_000, 50.0)
    assert by_parts(connect_curve(record, 0)) == [14.0 + part for part in range(10)]
    assert by_parts([(0.0, 5.0), (5.0, 7.0), (95.0, 9.0)]) == [7.0, *[None] * 8, 9.0]
    assert costs(Record(), HUNDRED) == [] and connect_curve(Record(), 0) == []


def test_the_eight_flows_are_exact_and_told_in_one_sentence() -> None:
    """Server's counters and clients' counters: who closed first is known of every client, without one row."""
    run = run_of(hundred_thousand())
    assert [(one.opener, str(one.by_acceptor), str(one.by_opener)) for one in run.case.closes] == [
        (f"client{number}", "12500", "0") for number in range(1, 9)
    ]
    out = StringIO()
    console(out).print(text.run(run))
    shown = " ".join(out.getvalue().split())
    assert "server closed all 100000 connections from 8 nodes first, and they none" in shown
    assert "client 8 14 15 16 17 18 19 20 21 22 23 100000 256 3.5 us 50 ms" in shown
    assert "a new SYN" not in shown


def test_every_report_tells_it() -> None:
    """JSON has the curve and the cost, KTAP what was opened, HTML a chart by per cent of the connections."""
    run = run_of(hundred_thousand())
    (one,) = json.loads(as_json.runs([run], 0))["experiments"]
    step = one["steps"][7]
    assert (step["seen"], step["requests"], step["ok"]) == ("12500 x opened", 12_500, 12_500)
    assert step["connect_us"][1] == {"percent": 10.0, "median": 15.0}
    assert step["cost"]["slab_bytes"] == 256
    assert "# step: client 8: 12500 x opened" in ktap.document([run])
    page = html.page([run])
    assert "connect(), median in microseconds" in page and "Per cent of the connections" in page
    assert "12,500 bare connections from client8, closed first by the server" in page


def test_a_step_of_other_requests_has_no_such_keys() -> None:
    assert "connect_us" not in json.loads(as_json.runs([run_of(Record())], 0))["experiments"][0]["steps"][0]


def test_live_shows_a_batch_at_once_and_a_crowded_node_by_kind() -> None:
    lab = LiveLab(SCALE.topology, HUNDRED.steps)
    for line in start(HUNDRED.claim_id):
        lab.add(line)
    lab.add(Batch(0, 0, 100, 98, [("connect", "EADDRNOTAVAIL", 2)], 5.0, 10.0, (1.0, 1.0, 1.0)))
    lab.add(hundred_thousand().snapshots[7, "server"])
    assert (lab.requests.count, lab.requests.failed) == (100, 2)
    assert [(row.outcome, row.count, row.first, row.last) for row in lab.requests.rows] == [
        ("opened", 98, 0, 99),
        ("EADDRNOTAVAIL", 2, 0, 99),
    ]
    server = lab.nodes["server"]
    assert server.states == {"time-wait": 100_000}
    assert (len(server.accepted), server.accepted[0].count, list(server.opened)) == (8, 12_500, [])


@pytest.mark.parametrize(
    "line",
    [
        Batch(0, 5, 10, 7, [("bind", "EADDRINUSE", 3)], 1.5, 2.5, (1.0, 2.0, 3.0)),
        Cost(-1, 1.0, "server", 500_000, 280_548, 3.04, 392.8),
        Snapshot(0, 1.0, "server", [], {}, 7, [], [LISTENING, ("time-wait", 80, "198.18.1.2", 0, 7)]),
    ],
)
def test_its_lines_survive_json(line: Line) -> None:
    assert from_json(to_json(line)) == line


def test_a_record_of_before_is_still_read() -> None:
    """A snapshot without kinds, as it was written until now."""
    old = b'{"kind":"snapshot","step":0,"at_ms":1.0,"node":"a","sockets":[],"counters":{},"time_wait":0,"log":[]}'
    assert from_json(old) == Snapshot(0, 1.0, "a", [], {}, 0, [])


def test_what_is_predicted_is_what_closes_says() -> None:
    """Closed first by the server every connection finds a port; by the client, with reuse, as the budget has it."""
    run = run_of(hundred_thousand())
    assert [one.words if one else None for one in predictions(run.case)] == ["all 12500"] * 8


def test_the_cliff_is_judged_by_ratio() -> None:
    """Five times the median of before, where the file says so; the same numbers in every step fail it."""
    record = Record()
    for line in start(CLIFF.claim_id):
        record.add(line)
    for number, step in enumerate(CLIFF.steps):
        for part in range(100):
            us = 500.0 if number == 0 and part >= 50 else 15.0
            record.add(Batch(number, part * 80, 80, 80, [], 1000.0 * number, 1.0, (us, us, us)))
        for name in SCALE.topology.nodes:
            rows: list[Row] = [("time-wait", "198.18.1.2", 32768, "198.18.1.1", 80, 1)] * (8000 * (name == "client1"))
            counters = {"TcpExtTWRecycled": 4000} if name == "client2" and number else {}
            record.add(Snapshot(number, 1000.0 * number + 500, name, rows, counters, len(rows), []))
        record.add(StepEnd(number, step.name, 0.0, 1.0))
    record.add(End(9e5))
    topology = SCALE.topology.with_nodes(CLIFF.nodes)
    assert judge(record, CLIFF, topology).verdict == "pass"
    flat = [
        Batch(one.step, one.index, one.count, one.ok, [], one.at_ms, 1.0, (15.0, 15.0, 15.0)) for one in record.batches
    ]
    record.batches[:] = flat
    found = judge(record, CLIFF, topology)
    assert [one.expectation.name for one in found.findings if not one.holds] == [
        "beyond half of the range connect() takes at least five times as long"
    ]
