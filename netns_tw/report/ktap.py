"""Runs as KTAP 1, the kernel's Test Anything Protocol (Documentation/dev-tools/ktap.rst): for whoever collects tests.

A claim is a test, its expectations are its subtests. What is no pass is ``not ok``; the directive tells why:

    fail            the subtests say which expectations do not hold
    skip            SKIP, and what is missing; "ok", since nothing is wrong
    inconclusive    TIMEOUT: it took longer than its file allows
    broken, error   ERROR

Whatever comes from a record stands on one line behind a word of ours, escaped. A '#' on a result line would begin a
directive, so there it is escaped too; on a line of diagnostics only the first one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netns_tw.evidence.explain import explain
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run
from netns_tw.scope import Finding
from netns_tw.verdict import outcome_words

INDENT = "  "
VERSION = "KTAP version 1"
DIRECTIVES = {"skip": "SKIP", "inconclusive": "TIMEOUT", "broken": "ERROR", "error": "ERROR"}
MAX_DIAGNOSTIC = 1000


def document(runs: Sequence[Run]) -> str:
    """All *runs* as one KTAP document, its last line with a newline."""
    lines = [VERSION, f"1..{len(runs)}"]
    for number, one in enumerate(runs, 1):
        lines += _run(number, one)
    return "".join(f"{line}\n" for line in lines)


def _words(text: str) -> str:
    """*text* on one line, blanks folded, nothing in it that a terminal obeys."""
    return escaped(" ".join(text.split()))


def _plain(text: str) -> str:
    """*text* for a result line."""
    return _words(text).replace("#", "\\x23")


def _note(label: str, text: str) -> str:
    """A line of diagnostics; with its *label* it never reads ``# Subtest: ...``, which KUnit takes for a header."""
    words = _words(text)
    return f"# {label}: {words if len(words) <= MAX_DIAGNOSTIC else words[: MAX_DIAGNOSTIC - 3] + '...'}"


def _run(number: int, one: Run) -> Iterator[str]:
    judgement = one.judgement
    yield _note("claim", one.experiment.claim)
    if judgement.findings:
        yield f"{INDENT}{VERSION}"
        yield f"{INDENT}1..{len(judgement.findings)}"
        for place, finding in enumerate(judgement.findings, 1):
            yield from (f"{INDENT}{line}" for line in _finding(place, finding))
    yield from _notes(one)
    result = "ok" if judgement.verdict in ("pass", "skip") else "not ok"
    line = f"{result} {number} {_plain(one.experiment.path)}"
    directive = DIRECTIVES.get(judgement.verdict)
    yield f"{line} # {directive} {_plain(f'{judgement.verdict}: {judgement.reason}')}" if directive else line


def _finding(place: int, finding: Finding) -> Iterator[str]:
    for line in finding.evidence:
        yield _note("log", line)
    step = f" ({finding.expectation.step})" if finding.expectation.step else ""
    line = f"{'ok' if finding.holds else 'not ok'} {place} {_plain(finding.expectation.name + step)}"
    yield f"{line} # {_plain(f'actual {finding.actual}, expected {finding.expected}')}"


def _notes(one: Run) -> Iterator[str]:
    """What happened in each step, why, and on what it ran."""
    for number, step in enumerate(one.experiment.steps):
        if seen := outcome_words(one.record.outcomes(number)):
            yield _note("step", f"{step.name}: {seen}")
    if built := one.record.built:
        for each in explain(one.case):
            yield _note("explained", f"{each.text} ({each.proof})")
        yield from (_note("note", note) for note in built.notes)
    if header := one.record.header:
        yield _note("on", ", ".join([header.kernel, *(f"{name} {text}" for name, text in header.versions.items())]))
    if one.path:
        yield _note("record", str(one.path))
