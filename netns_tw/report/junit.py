"""Runs as JUnit XML, as CI servers read it: a suite for each lab, a case for each claim.

The format has no owner; this keeps to what Jenkins' junit-10.xsd and the Maven Surefire schema share, and to pytest's
habit of properties inside a case. A claim that fails is a *failure*; what could not be judged (broken, inconclusive, a
wrong file) is an *error* with the verdict as its type; what this machine lacks is *skipped*.

XML 1.0 (section 2.2) has no way to write most control characters, not even as a reference; they are shown escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from netns_tw.evidence.explain import explain
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run
from netns_tw.verdict import outcome_words

ELEMENTS = {
    "fail": "failure",
    "error": "error",
    "broken": "error",
    "inconclusive": "error",
    "skip": "skipped",
}
"""The element that says why a case is no pass, by verdict."""


def document(runs: Sequence[Run]) -> bytes:
    """All *runs* as one XML document, UTF-8."""
    root = Element("testsuites", name="netns_tw")
    suites: dict[object, list[Run]] = {}
    for one in runs:
        suites.setdefault((one.experiment.lab, *_machine(one)), []).append(one)
    _count(root, runs)
    for members in suites.values():
        _suite(root, members)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _machine(one: Run) -> tuple[tuple[str, str], ...]:
    """Kernel and versions, by name; runs of one lab on two machines are two suites."""
    header = one.record.header
    return (("kernel", header.kernel), *header.versions.items()) if header else ()


def _count(element: Element, runs: Sequence[Run]) -> None:
    kinds = [ELEMENTS.get(one.judgement.verdict) for one in runs]
    element.set("tests", str(len(runs)))
    element.set("failures", str(kinds.count("failure")))
    element.set("errors", str(kinds.count("error")))
    element.set("skipped", str(kinds.count("skipped")))
    element.set("time", _seconds(sum(map(_took_ms, runs))))


def _suite(root: Element, members: Sequence[Run]) -> None:
    suite = SubElement(root, "testsuite", name=escaped(members[0].experiment.lab))
    _count(suite, members)
    if began := _began(members):
        suite.set("timestamp", began)
    _properties(suite, dict(_machine(members[0])))
    for one in members:
        _case(suite, one)


def _properties(parent: Element, values: dict[str, str]) -> None:
    inner = SubElement(parent, "properties")
    for name, value in values.items():
        SubElement(inner, "property", name=escaped(name), value=escaped(value))


def _case(suite: Element, one: Run) -> None:
    judgement, experiment = one.judgement, one.experiment
    case = SubElement(
        suite, "testcase", classname=escaped(experiment.lab), name=escaped(experiment.claim_id),
        time=_seconds(_took_ms(one)),
    )  # fmt: skip
    _properties(case, dict(_settings(one)))
    if element := ELEMENTS.get(judgement.verdict):
        reason = judgement.reason or f"{sum(not each.holds for each in judgement.findings)} expectations do not hold"
        message = escaped(reason.split("\n")[0])
        why = SubElement(case, element, type=judgement.verdict, message=message)
        why.text = escaped("\n".join(_explained(one)))
    SubElement(case, "system-out").text = escaped("\n".join(_said(one)))


def _settings(one: Run) -> Iterator[tuple[str, str]]:
    """Each node's program and effective sysctls, and what the command line chose."""
    if header := one.record.header:
        if header.client:
            yield "client", header.client
        if header.servers:
            yield "server", header.servers
        yield "cores", str(header.cores)
    if built := one.record.built:
        for node, ran in built.programs.items():
            yield f"{node} program", ran.words
        for node, sysctls in built.sysctls.items():
            yield from ((f"{node} {name}", value) for name, value in sysctls.items())


def _explained(one: Run) -> Iterator[str]:
    """Why it is no pass: the reason, each expectation that does not hold with its log, and the file's own words."""
    if one.judgement.reason:
        yield one.judgement.reason
    for finding in one.judgement.findings:
        if not finding.holds:
            step = f" ({finding.expectation.step})" if finding.expectation.step else ""
            yield f"{finding.expectation.name}{step}: expected {finding.expected}, actual {finding.actual}"
            yield from (f"  log: {line}" for line in finding.evidence)
    yield f"why: {' '.join(one.experiment.why.split())}"
    if one.experiment.try_next:
        yield f"try: {' '.join(one.experiment.try_next.split())}"


def _said(one: Run) -> Iterator[str]:
    """The claim, what happened in each step, and what explains it."""
    yield one.experiment.claim
    for number, step in enumerate(one.experiment.steps):
        yield f"{step.name}: {outcome_words(one.record.outcomes(number)) or 'nothing'}"
    if built := one.record.built:
        yield from (f"explained: {each.text} ({each.proof})" for each in explain(one.case))
        yield from (f"note: {note}" for note in built.notes)
    if one.path:
        yield f"record: {one.path}"


def _took_ms(one: Run) -> float:
    """Ms from the record's zero to the last thing that is known of the run."""
    record = one.record
    known = [step.ended_ms for step in record.steps.values()]
    known += [response.at_ms + response.took_ms for response in record.responses[-1:]]
    known += [batch.at_ms + batch.took_ms for batch in record.batches[-1:]]
    known += [each.at_ms for each in (record.built, record.end) if each]
    return max(known, default=0.0)


def _seconds(ms: float) -> str:
    return f"{max(ms, 0.0) / 1000:.3f}"


def _began(members: Sequence[Run]) -> str:
    """When the first of them began, ISO 8601 without the zone, as the schema wants it; empty where none says."""
    found = []
    for one in members:
        text = one.record.header.began if one.record.header else ""
        if re.fullmatch(r"[0-9T:.+-]{19,35}", text):
            try:
                found.append(datetime.fromisoformat(text).replace(tzinfo=None))
            except ValueError:
                continue
    return min(found).isoformat(timespec="seconds") if found else ""
