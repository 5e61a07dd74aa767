"""Saved records judged: what each subject counts, what each comparison says, and which verdict follows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from netns_tw import verdict
from netns_tw.model.experiment import (
    Counter,
    Expectation,
    Experiment,
    Log,
    Responses,
    Sockets,
    Step,
    Subject,
    Value,
)
from netns_tw.model.lines import Canary, End, Response, Row, Snapshot, StepEnd, Trouble
from netns_tw.model.record import Record
from netns_tw.model.topology import Endpoint, Link, Node, Topology
from netns_tw.verdict import Judgement, judge

NODES = {"client": Node("client", {"net.ipv4.ip_local_port_range": "1024 1034"}), "server": Node("server")}
ENDS = (
    Endpoint("client", "eth0", (ip_interface("198.18.0.2/24"),)),
    Endpoint("server", "eth0", (ip_interface("198.18.0.1/24"),)),
)
LAB = Topology("mine", "", NODES, (Link(*ENDS),), "/nowhere")
URL = "http://198.18.0.1/"
STEPS = (Step("first", URL, requests=3), Step("second", URL, requests=2))
TIME_WAIT: Row = ("time-wait", "198.18.0.2", 1024, "198.18.0.1", 80, 59000)
IPV6: Row = ("time-wait", "2001:db8::2", 1025, "2001:db8::1", 80, 59000)
ESTABLISHED: Row = ("established", "198.18.0.2", 1026, "198.18.0.1", 8080, 0)


def response(step: int, index: int, status: int | None, errno: str | None = None, call: str | None = None) -> Response:
    return Response(step, index, 1000.0 * step + 100 * index, 10.0, status, errno, call, None)


def record() -> Record:
    """Two steps: 200, 404, 502; then EADDRNOTAVAIL and 200, in the wrong order, as parallel workers answer."""
    found = Record()
    for node in ("client", "server"):
        found.add(Canary(0.0, node, "before", IPV6))
        found.add(Canary(1400.0, node, "after", IPV6))
    for one in (
        Snapshot(-1, 0.0, "client", [], {"TcpExtTW": 5}, 0, ["before 99"]),
        Snapshot(-1, 0.0, "server", [], {}, 0, []),
        response(0, 0, 200),
        response(0, 1, 404),
        response(0, 2, 502),
        Snapshot(0, 300.0, "client", [TIME_WAIT], {"TcpExtTW": 7}, 1, ["a (99: x", "b (99: y", "c (99: z", "other"]),
        Snapshot(0, 300.0, "server", [], {}, 0, []),
        StepEnd(0, "first", 0.0, 250.0),
        response(1, 1, 200),
        response(1, 0, None, "EADDRNOTAVAIL", "connect"),
        Snapshot(1, 1300.0, "client", [TIME_WAIT, IPV6, ESTABLISHED], {"TcpExtTW": 8, "New": 4}, 2, ["d (99: w"]),
        Snapshot(1, 1300.0, "server", [], {}, 0, []),
        StepEnd(1, "second", 1000.0, 1200.0),
        End(1400.0),
    ):
        found.add(one)
    return found


def experiment(*expectations: Expectation, **changes: object) -> Experiment:
    found = Experiment("mine", "x", "claim", "source", STEPS, expectations, "why", ports_of="client")
    return replace(found, **changes)  # type: ignore[arg-type]


def expect(subject: Subject, step: str | None = None, **comparisons: str) -> Expectation:
    return Expectation("it", subject, comparisons, step)


def actual(subject: Subject, step: str | None = None, **changes: object) -> int:
    (finding,) = judge(record(), experiment(expect(subject, step, equals="0"), **changes), LAB).findings
    return finding.actual


@pytest.mark.parametrize(
    ("subject", "whole", "first", "second"),
    [
        (Responses(), 5, 3, 2),
        (Responses(status=502), 1, 1, 0),
        (Responses(ok=True), 3, 2, 1),
        (Responses(ok=False), 2, 1, 1),
        (Responses(errno="EADDRNOTAVAIL", call="connect"), 1, 0, 1),
        (Responses(errno="EADDRNOTAVAIL", call="bind"), 0, 0, 0),
        (Responses(after_first_failure=True), 2, 0, 1),
        (Responses(ok=True, after_first_failure=True), 1, 0, 1),
        (Sockets("client", "time-wait"), 2, 1, 2),
        (Sockets("client", "time-wait", remote="198.18.0.1"), 1, 1, 1),
        (Sockets("client", "time-wait", remote="198.18.0.1:80"), 1, 1, 1),
        (Sockets("client", "time-wait", remote="[2001:db8::1]:80"), 1, 0, 1),
        (Sockets("client", "time-wait", remote="198.18.0.1:81"), 0, 0, 0),
        (Sockets("client", "established", local_port=1026), 1, 0, 1),
        (Sockets("server", "time-wait"), 0, 0, 0),
        (Counter("client", "TcpExtTW"), 3, 2, 1),
        (Counter("client", "New"), 4, 0, 4),
        (Counter("client", "NeverSeen"), 0, 0, 0),
        (Log("client", r"\(99: "), 4, 3, 1),
        (Log("client", "^before"), 0, 0, 0),
        (Value("502s + ok"), 4, 3, 1),
        (Value("requests - failed"), 3, 2, 1),
        (Value("EADDRNOTAVAIL * 10"), 10, 0, 10),
        (Value("503s"), 0, 0, 0),
        (Value("usable_ports_max - usable_ports_min"), 1, 1, 1),
        (Value("elapsed_ms"), 1110, 210, 110),
    ],
)
def test_subject(subject: Subject, whole: int, first: int, second: int) -> None:
    """A subject counts in the whole run, or in one step: sockets at its end, counters and logs since its start."""
    assert (actual(subject), actual(subject, "first"), actual(subject, "second")) == (whole, first, second)


def test_a_measure_is_a_name_in_expressions() -> None:
    """A measure counts in the scope of the expectation that uses it."""
    measures = {"waiting": Sockets("client", "time-wait"), "grown": Counter("client", "TcpExtTW")}
    assert actual(Value("waiting * 100 + grown"), measures=measures) == 203
    assert actual(Value("waiting * 100 + grown"), "first", measures=measures) == 102


@pytest.mark.parametrize(
    ("comparisons", "holds", "words"),
    [
        ({"equals": "5"}, True, "== 5"),
        ({"equals": "4"}, False, "== 4"),
        ({"at_least": "5"}, True, ">= 5"),
        ({"at_least": "6"}, False, ">= 6"),
        ({"at_most": "5"}, True, "<= 5"),
        ({"at_most": "4"}, False, "<= 4"),
        ({"at_least": "ok", "at_most": "ok + 2"}, True, ">= ok = 3 and <= ok + 2 = 5"),
        ({"at_least": "ok", "at_most": "ok + 1"}, False, ">= ok = 3 and <= ok + 1 = 4"),
    ],
)
def test_comparison(comparisons: dict[str, str], holds: bool, words: str) -> None:
    """All comparisons must hold; the words show each expression with its value."""
    (finding,) = judge(record(), experiment(expect(Responses(), **comparisons)), LAB).findings
    assert (finding.holds, finding.expected) == (holds, words)


def test_log_lines_are_evidence() -> None:
    """A finding about a log shows at most two of the lines it counted."""
    (finding,) = judge(record(), experiment(expect(Log("client", "99"), equals="4")), LAB).findings
    assert finding.evidence == ["a (99: x", "b (99: y"]


def test_pass_and_fail() -> None:
    """One expectation that does not hold makes the run a fail; the others' findings stay."""
    good, bad = expect(Responses(), equals="5"), expect(Responses(), equals="6")
    assert judge(record(), experiment(good), LAB).verdict == "pass"
    judgement = judge(record(), experiment(good, bad), LAB)
    assert (judgement.verdict, judgement.exit_code) == ("fail", 1)
    assert [one.holds for one in judgement.findings] == [True, False]


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (Trouble(3, "no tw_recycle", skip=True), Judgement("skip", [], "no tw_recycle", 3)),
        (Trouble(4, "blind"), Judgement("broken", [], "blind", 4)),
        (Trouble(2, "nginx.conf:3"), Judgement("error", [], "nginx.conf:3", 2)),
        (Trouble(3, "no memory"), Judgement("error", [], "no memory", 3)),
    ],
)
def test_trouble(trouble: Trouble, expected: Judgement) -> None:
    """A run that stopped is judged by whose move is next, and no expectation is looked at."""
    found = record()
    found.add(trouble)
    assert judge(found, experiment(expect(Responses(), equals="5")), LAB) == expected


def test_a_record_that_is_cut_short_is_broken() -> None:
    found = record()
    found.end = None
    assert judge(found, experiment(), LAB) == Judgement("broken", [], "the record is cut short", 4)


@pytest.mark.parametrize(
    ("premise", "expectation", "verdict", "reason"),
    [
        ("1", "2", "pass", ""),
        ("1", "3", "fail", ""),
        ("2", "2", "inconclusive", "the claim was not put to the test: it: 1, expected >= 2"),
        ("2", "3", "inconclusive", "the claim was not put to the test: it: 1, expected >= 2"),
    ],
)
def test_a_race_that_went_another_way_is_inconclusive(
    premise: str, expectation: str, verdict: str, reason: str
) -> None:
    """A premise that chance did not bring about decides before any expectation; one that holds decides nothing."""
    needs = expect(Responses(status=502), "first", at_least=premise)
    found = judge(record(), experiment(expect(Responses(status=200), equals=expectation), premises=(needs,)), LAB)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert len(found.findings) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_record_without_its_instrument_tests_is_broken(when: str) -> None:
    """No verdict rests on instruments that nobody tested, in any node, before and after."""
    found = record()
    found.canaries = [one for one in found.canaries if (one.node, one.when) != ("server", when)]
    reason = "the record does not show that the instruments of node server were tested, before and after"
    assert judge(found, experiment(), LAB) == Judgement("broken", [], reason, 4)


def test_a_record_without_a_step_or_a_snapshot_is_broken() -> None:
    """Nothing is counted where it was not looked at."""
    found = record()
    del found.snapshots[1, "server"]
    assert judge(found, experiment(), LAB).reason == "the record holds no snapshot of node server after step number 1"
    del found.steps[1]
    judgement = judge(found, experiment(), LAB)
    assert (judgement.verdict, judgement.reason) == ("broken", "the record does not hold step 'second'")


def test_division_by_zero_is_the_files_error() -> None:
    """No verdict rests on an expression without a value."""
    judgement = judge(record(), experiment(expect(Responses(), equals="ok // 503s")), LAB)
    assert (judgement.verdict, judgement.exit_code) == ("error", 2)
    assert judgement.reason == "expectation 'it': division by zero"


@pytest.mark.parametrize(("within_ms", "is_late"), [(1110, False), (1109, True)])
def test_an_experiment_that_takes_too_long_is_inconclusive(within_ms: int, is_late: bool) -> None:
    """Even where every number looks right: they may have come from ports that had expired meanwhile."""
    judgement = judge(record(), experiment(expect(Responses(), equals="5"), within_ms=within_ms), LAB)
    assert judgement.verdict == ("inconclusive" if is_late else "pass")
    assert judgement.exit_code == (5 if is_late else 0)
    assert [one.holds for one in judgement.findings] == [True]
    reason = "all requests took 1110 ms; together they must fit into 1109 ms"
    assert judgement.reason == (reason if is_late else "")


def test_a_step_that_takes_too_long_is_inconclusive() -> None:
    """A step has a limit of its own; it is of its requests alone."""
    steps = (replace(STEPS[0], within_ms=210), replace(STEPS[1], within_ms=109))
    judgement = judge(record(), experiment(steps=steps), LAB)
    assert judgement.reason == "step 'second' took 110 ms; it must fit into 109 ms"
    assert judge(record(), experiment(steps=(steps[0], STEPS[1])), LAB).verdict == "pass"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ("", 0),
        ("pass", 0),
        ("pass skip", 0),
        ("skip skip", 3),
        ("pass inconclusive skip", 5),
        ("inconclusive fail pass", 1),
        ("fail error pass", 2),
        ("error broken fail", 4),
    ],
)
def test_the_gravest_verdict_gives_the_exit_code(verdicts: str, code: int) -> None:
    """broken, error, fail, inconclusive, in this order; a skip counts only where there is nothing else."""
    found = [Judgement(one, [], "", verdict.EXIT_CODES[one]) for one in verdicts.split()]
    assert verdict.exit_code(found) == code


def test_outcome_words() -> None:
    """Responses are counted in the source's words: statuses first, then errnos."""
    assert verdict.outcome_words(record().outcomes(None)) == "2 x 200, 1 x 404, 1 x 502, 1 x EADDRNOTAVAIL"
