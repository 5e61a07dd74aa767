"""KTAP 1, read again by a strict parser of its own: plans, numbers, nesting, directives, and nothing forged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from test_saved import CLAIM, DIRECT, HEADER, HOSTILE, LINES, SHIPPED, lines_of, run_of

from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.lines import StepEnd, Trouble
from netns_tw.report import ktap
from netns_tw.report.run import Run
from netns_tw.verdict import Judgement

SKIPPED = Trouble(3, "net.ipv4.tcp_tw_recycle: removed in Linux 4.12", skip=True)
RESULT = re.compile(r"(ok|not ok) (\d+) ([^#]*?)(?: # ([^#]*))?")


@dataclass
class Test:
    """A result line, and what stood before it."""

    is_ok: bool
    name: str
    after_hash: str
    notes: list[str] = field(default_factory=list)
    subtests: list[Test] = field(default_factory=list)

    __test__ = False


def parsed(document: str) -> list[Test]:
    """The tests of a document.

    Raises:
        AssertionError: a line is not one of the four sorts that ktap.rst has, or stands in the wrong place.
    """
    assert document.endswith("\n")
    lines = iter(document[:-1].split("\n"))
    found = level(lines, "")
    assert list(lines) == []
    return found


def level(lines: Iterator[str], indent: str) -> list[Test]:
    """One level of tests, after its version line if it is a nested one."""
    if not indent:
        assert next(lines) == "KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", next(lines))
    assert plan
    found: list[Test] = []
    notes: list[str] = []
    subtests: list[Test] = []
    while len(found) < int(plan[1]):
        line = next(lines)
        if line == f"{indent}  KTAP version 1":
            assert not subtests
            subtests = level(lines, indent + "  ")
        elif line.startswith(f"{indent}# "):
            assert not line.startswith(f"{indent}# Subtest:")
            notes.append(line.removeprefix(f"{indent}# "))
        else:
            result = RESULT.fullmatch(line.removeprefix(indent))
            assert result, line
            assert int(result[2]) == len(found) + 1
            found.append(Test(result[1] == "ok", result[3], result[4] or "", notes, subtests))
            notes, subtests = [], []
    return found


def judged(verdict: str, reason: str, exit_code: int) -> Run:
    """The passing run, as if it had been judged in another way."""
    one = run_of(LINES)
    return replace(one, judgement=Judgement(verdict, one.judgement.findings, reason, exit_code))


@pytest.mark.parametrize(("lab", "experiment"), SHIPPED, ids=[one.path for _, one in SHIPPED])
def test_every_shipped_experiment(lab: Lab, experiment: Experiment) -> None:
    """A claim is a test, each of its expectations a subtest; the claim passes if all of them do."""
    one = run_of(list(lines_of(lab, experiment)), lab, experiment)
    (test,) = parsed(ktap.document([one]))
    assert test.name == one.experiment.path
    assert test.is_ok == (one.judgement.verdict == "pass")
    assert test.is_ok <= all(each.is_ok for each in test.subtests)
    assert [each.is_ok for each in test.subtests] == [each.holds for each in one.judgement.findings]
    assert f"claim: {one.experiment.claim}" in test.notes


def test_a_whole_document() -> None:
    """Line by line, as it is printed."""
    shown = ktap.document([run_of(LINES, path=Path("a.jsonl")), run_of([HEADER, SKIPPED])]).split("\n")
    assert shown[:6] == [
        "KTAP version 1",
        "1..2",
        "# claim: With tcp_tw_reuse = 0, eleven ports are eleven connections a minute",
        "  KTAP version 1",
        "  1..6",
        "  ok 1 as many succeed as there are usable ports (back to back)"
        " # actual 11, expected >= usable_ports_min = 10 and <= usable_ports_max = 11",
    ]
    assert shown[11:13] == [
        "# step: back to back: 11 x 404, 9 x EADDRNOTAVAIL",
        "# step: again at once: 20 x EADDRNOTAVAIL",
    ]
    on = "# on: Linux 6.18.5, netns_tw 0.1.0, nginx 1.22.1, h11 0.16.0"
    end = shown.index("ok 1 direct/no-reuse-back-to-back")
    assert shown[end - 2 : end] == [on, "# record: a.jsonl"]
    assert shown[end + 1 :] == [
        "# claim: With tcp_tw_reuse = 0, eleven ports are eleven connections a minute",
        on,
        "ok 2 direct/no-reuse-back-to-back # SKIP skip: net.ipv4.tcp_tw_recycle: removed in Linux 4.12",
        "",
    ]


@pytest.mark.parametrize(
    ("verdict", "is_ok", "after_hash"),
    [
        ("pass", True, ""),
        ("fail", False, ""),
        ("skip", True, "SKIP skip: why"),
        ("inconclusive", False, "TIMEOUT inconclusive: why"),
        ("broken", False, "ERROR broken: why"),
        ("error", False, "ERROR error: why"),
    ],
)
def test_verdicts(verdict: str, is_ok: bool, after_hash: str) -> None:
    """Only a pass, and what cannot run here, is ok; what could not be judged says so by a directive."""
    reason = "why" if after_hash else ""
    (test,) = parsed(ktap.document([judged(verdict, reason, 0)]))
    assert (test.is_ok, test.after_hash) == (is_ok, after_hash)


def test_what_fails_is_said_with_what_was_expected() -> None:
    """The numbers stand on the line of the expectation."""
    (test,) = parsed(ktap.document([run_of(list(lines_of(DIRECT, CLAIM, (11, 20))))]))
    wrong = [each for each in test.subtests if not each.is_ok]
    assert [each.name for each in wrong] == [
        "right afterwards all are refused, but for that port (again at once)",
        "both steps together have no more than the usable ports",
    ]
    assert wrong[1].after_hash == "actual 31, expected <= usable_ports_max = 11"


def test_no_record_forges_a_line() -> None:
    """Newlines, '#', directives, plans, version lines and headers inside of strings stay inside of their line."""
    forged = f"{HOSTILE}\n1..9\nKTAP version 1\n# Subtest: x\nBail out!\nnot ok 1 # TODO\n  ok 2 # SKIP\r\x85ok 3"
    log = [f"Subtest: y {forged} connect() failed (99: no) while connecting to upstream 198.18.2.2:80"]
    lab, base = next(pair for pair in SHIPPED if pair[1].claim_id == "the-log-names-errno-99")
    experiment = replace(
        base,
        claim=forged,
        claim_id=f"{base.claim_id}{forged}",
        steps=tuple(replace(step, name=forged) for step in base.steps),
        expectations=tuple(replace(one, name=forged, step=forged if one.step else None) for one in base.expectations),
    )
    lines = [
        StepEnd(line.step, forged, line.began_ms, line.ended_ms) if isinstance(line, StepEnd) else line
        for line in lines_of(lab, base, log=log)
    ]
    hostile = run_of(lines, lab, experiment, Path(forged))
    troubled = run_of([*LINES[:2], Trouble(4, forged)])
    document = ktap.document([hostile, troubled, run_of(LINES)])
    tests = parsed(document)
    assert all(one == "\n" or one.isprintable() for one in document)
    assert [len(test.subtests) for test in tests] == [len(experiment.expectations), 0, 6]
    assert "\\x23 SKIP ok 1 forged 1..9 KTAP version 1" in tests[0].name
    assert "\\x23 SKIP ok 1 forged 1..9" in tests[1].after_hash
    assert tests[1].after_hash.startswith("ERROR broken: ")
    assert [test.is_ok for test in tests] == [False, False, True]
    noted = [note for each in tests[0].subtests for note in each.notes]
    assert any(note.startswith("log: ") and "# Subtest: x Bail out!" in note for note in noted)


def test_a_long_line_of_a_log_is_shortened() -> None:
    """Diagnostics are for reading."""
    (test,) = parsed(ktap.document([replace(run_of(LINES), experiment=replace(CLAIM, claim="x" * 5000))]))
    assert test.notes[0] == f"claim: {'x' * 997}..."
