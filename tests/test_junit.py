"""JUnit XML, parsed again: suites, cases, counts, reasons; nothing in a record breaks the document or forges a case."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from test_saved import BUILT, CLAIM, DIRECT, HEADER, HOSTILE, LABS, LINES, START, lines_of, replace_line, run_of

from netns_tw.model.lines import Line, Trouble
from netns_tw.report import junit
from netns_tw.report.run import Run
from netns_tw.verdict import Judgement

SKIPPED = Trouble(3, "net.ipv4.tcp_tw_recycle: removed in Linux 4.12\nmore of it", skip=True)
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 section 2.2 does not take."""


def parsed(runs: list[Run]) -> Element:
    data = junit.document(runs)
    assert not FORBIDDEN.search(data.decode())
    return ElementTree.fromstring(data)


def properties(parent: Element) -> dict[str, str]:
    return {one.get("name", ""): one.get("value", "") for one in parent.findall("properties/property")}


def test_a_suite_for_each_lab_and_a_case_for_each_claim() -> None:
    """Names, counts and times add up, from the cases to the whole."""
    crowd = LABS["crowd"]
    runs = [run_of(list(lines_of(crowd, one, (11, 11))), crowd, one) for one in crowd.experiments.values()]
    failing = run_of(list(lines_of(DIRECT, CLAIM, (11, 20))))
    runs[1:1] = [run_of(LINES), failing, run_of([HEADER, SKIPPED]), run_of([HEADER, Trouble(4, "blind")])]
    root = parsed(runs)
    assert (root.tag, root.get("name"), root.get("tests")) == ("testsuites", "netns_tw", "7")
    assert [one.get("name") for one in root] == ["crowd", "direct"]
    direct = root[1]
    assert dict(direct.attrib) == {
        "name": "direct", "tests": "4", "failures": "1", "errors": "1", "skipped": "1", "time": "19.998",
        "timestamp": "2026-01-02T03:04:05",
    }  # fmt: skip
    for number in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(number, "")) == sum(int(suite.get(number, "")) for suite in root)
    cases = direct.findall("testcase")
    assert [(one.get("classname"), one.get("name"), one.get("time")) for one in cases[:1]] == [
        ("direct", "no-reuse-back-to-back", "9.999")
    ]
    kinds = [[inner.tag for inner in one if inner.tag not in ("properties", "system-out")] for one in cases]
    assert kinds == [[], ["failure"], ["skipped"], ["error"]]
    assert len(root[0].findall("testcase")) == 3


def test_properties_say_what_it_ran_on() -> None:
    """Kernel and versions of a suite; programs and effective sysctls of a case."""
    suite = parsed([run_of(LINES)])[0]
    assert properties(suite) == {"kernel": "Linux 6.18.5", "netns_tw": "0.1.0", "nginx": "1.22.1", "h11": "0.16.0"}
    found = properties(suite.findall("testcase")[0])
    assert found["cores"] == "2"
    assert found["server program"] == "http-server (keep-alive)"
    assert found["client net.ipv4.ip_local_port_range"] == "1024 1034"
    assert found["server net.ipv4.ip_local_port_range"] == "32768 60999"


def test_two_machines_are_two_suites() -> None:
    """The properties of a suite hold for all of its cases."""
    other: list[Line] = [replace_line(HEADER, kernel="Linux 6.1.0"), *LINES[1:]]
    root = parsed([run_of(LINES), run_of(other), run_of(LINES)])
    assert [(suite.get("name"), suite.get("tests"), properties(suite)["kernel"]) for suite in root] == [
        ("direct", "2", "Linux 6.18.5"),
        ("direct", "1", "Linux 6.1.0"),
    ]


def test_a_failure_is_explained() -> None:
    """What was expected, what was found, the log line, and the file's own why."""
    lab = LABS["lb3ports"]
    experiment = replace(lab.experiments["the-log-names-errno-99"], premises=())
    lines = list(lines_of(lab, experiment, log=["connect() failed (99: ...) while connecting to upstream"]))
    (case,) = parsed([run_of(lines, lab, experiment)])[0].findall("testcase")
    failure = case.find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("fail", "1 expectations do not hold")
    text = failure.text or ""
    assert "expected" in text
    assert "actual" in text
    assert "\nwhy: " in text
    said = case.findtext("system-out") or ""
    assert said.split("\n")[:2] == [experiment.claim, "until it has no port: 11 x 404, 989 x EADDRNOTAVAIL"]


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        ("pass", None),
        ("fail", "failure"),
        ("skip", "skipped"),
        ("broken", "error"),
        ("error", "error"),
        ("inconclusive", "error"),
    ],
)
def test_verdicts(verdict: str, element: str | None) -> None:
    """Each verdict that is no pass has its element, with the reason's first line as message and all of it as text."""
    one = run_of(LINES)
    judgement = Judgement(verdict, one.judgement.findings, "a reason\nin full" if element else "", 0)
    (case,) = parsed([replace(one, judgement=judgement)])[0].findall("testcase")
    found = [(inner.tag, inner.get("type"), inner.get("message")) for inner in case if inner.get("type")]
    assert found == ([(element, verdict, "a reason")] if element else [])
    if element:
        assert "a reason\nin full\n" in (case.findtext(element) or "")


def test_no_record_forges_markup() -> None:
    """Every character that XML forbids, and all that it obeys, arrives as text."""
    every = "".join(map(chr, [*range(32), 0x7F, 0x85, 0x2028, 0x202E, 0xD800, 0xFFFE, 0xFFFF, 0x1F600]))
    forged = f"{every}]]></failure><testcase name='x'/><!--{HOSTILE}"
    experiment = replace(
        CLAIM, claim=forged, claim_id=forged, why=forged, lab=forged,
        expectations=tuple(replace(one, name=forged) for one in CLAIM.expectations),
    )  # fmt: skip
    nodes = {name: {forged: forged, **found} for name, found in BUILT.sysctls.items()}
    header = replace_line(HEADER, kernel=forged.replace("\ud800", ""), versions={"a\0": "b\0"}, began=HOSTILE)
    lines: list[Line] = [header, type(BUILT)(1.0, nodes, {}, [forged]), *LINES[2:-1]]
    root = parsed([run_of([*lines, Trouble(4, forged)], DIRECT, experiment, Path(forged))])
    assert len(list(root.iter("testcase"))) == 1
    assert [one.get("timestamp") for one in root] == [None]
    (case,) = root.iter("testcase")
    assert "\\x00\\x01" in case.get("name", "")
    assert "\\ud800\\ufffe\\uffff\U0001f600]]></failure><testcase name='x'/><!--" in (case.findtext("error") or "")
    assert properties(root[0])["a\\x00"] == "b\\x00"


def test_the_time_of_a_run_that_was_cut_short() -> None:
    """Up to the last thing that is known."""
    times = [parsed([run_of(LINES[:end])]).get("time") for end in (1, 2, len(START) + 7, -1)]
    assert times == ["0.000", "0.001", "1.006", "2.800"]


@pytest.mark.parametrize(
    ("began", "timestamp"),
    [
        ("2026-01-02T03:04:05.678+02:00", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05"),
        ("2026-13-02T03:04:05", None),
        ("", None),
        ("yesterday", None),
        ("9" * 30, None),
    ],
)
def test_when_it_began(began: str, timestamp: str | None) -> None:
    """In the schema's form, if it is a time at all."""
    assert parsed([run_of([replace_line(HEADER, began=began), *LINES[1:]])])[0].get("timestamp") == timestamp
