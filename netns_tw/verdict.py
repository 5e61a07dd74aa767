"""Record + Expectations -> Findings and one of five verdicts. Pure: no kernel, no clock, no root.

    pass          every expectation holds
    fail          one does not
    skip          this machine lacks something the experiment needs; the reason names it
    broken        the instruments cannot be believed, or the run did not complete
    inconclusive  a part that must fit inside one TIME_WAIT life, or inside the reuse delay, took longer; or a race
                  went another way than the claim supposes (a premise); or it was replayed in a lab that was up and
                  that is not, or is no longer, the lab that the claim is about
    (error        a file or a program's configuration is wrong: no verdict on the claim at all)

An experiment that took too long is inconclusive even where its numbers look right: they may have come from ports that
had expired meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field

from netns_tw.errors import (
    EXIT_BROKEN,
    EXIT_ENVIRONMENT,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_USAGE,
)
from netns_tw.model import expression
from netns_tw.model.experiment import (
    COMPARISONS,
    Counter,
    Expectation,
    Experiment,
    Log,
    Responses,
    Sockets,
    Subject,
)
from netns_tw.model.record import BEFORE, Record, Response, Snapshot
from netns_tw.model.topology import Topology

MAX_EVIDENCE_LINES = 2
EXIT_CODES = {
    "pass": EXIT_PASS,
    "fail": EXIT_FAIL,
    "error": EXIT_USAGE,
    "skip": EXIT_ENVIRONMENT,
    "broken": EXIT_BROKEN,
    "inconclusive": EXIT_INCONCLUSIVE,
}
GRAVEST_FIRST = ("broken", "error", "fail", "inconclusive")


@dataclass(frozen=True)
class Finding:
    """One expectation held against the record."""

    expectation: Expectation
    holds: bool
    actual: int
    expected: str
    """In words, ``== usable_ports = 2``."""
    evidence: list[str] = field(default_factory=list)
    """Log lines that were counted, at most two."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one run, and what it rests on."""

    verdict: str
    findings: list[Finding]
    reason: str = ""
    """Why there is no pass or fail."""
    exit_code: int = EXIT_PASS


def judge(record: Record, experiment: Experiment, topology: Topology) -> Judgement:
    """Judge a run of *experiment*; *topology* is the lab as the experiment changes it."""
    if record.trouble is not None:
        verdict = "skip" if record.trouble.skip else "broken" if record.trouble.exit_code == EXIT_BROKEN else "error"
        return Judgement(verdict, [], record.trouble.message, record.trouble.exit_code)
    lacking = _lacking(record, experiment, topology)
    if lacking:
        return Judgement("broken", [], lacking, EXIT_BROKEN)
    findings: list[Finding] = []
    for one in (*experiment.premises, *experiment.expectations):
        try:
            findings.append(Scope(record, experiment, topology, one.step).find(one))
        except ValueError as error:  # an expression that divides by what happened to be 0
            return Judgement("error", findings, f"expectation {one.name!r}: {error}", EXIT_USAGE)
    premises, findings = findings[: len(experiment.premises)], findings[len(experiment.premises) :]
    late = _elsewhere(record) or too_late(record, experiment) or _unmet(premises)
    if late:
        return Judgement("inconclusive", findings, late, EXIT_INCONCLUSIVE)
    verdict = "pass" if all(one.holds for one in findings) else "fail"
    return Judgement(verdict, findings, "", EXIT_CODES[verdict])


def _lacking(record: Record, experiment: Experiment, topology: Topology) -> str:
    """Say what a record lacks that a verdict needs; empty when it is whole."""
    if not record.is_complete:
        return "the record is cut short"
    for number, step in enumerate(experiment.steps):
        if number not in record.steps:
            return f"the record does not hold step {step.name!r}"
    for number in range(BEFORE, len(experiment.steps)):
        for node in topology.nodes:
            if (number, node) not in record.snapshots:
                return f"the record holds no snapshot of node {node} after step number {number}"
    for node in topology.nodes:
        tested = {one.when for one in record.canaries if one.node == node}
        if tested != {"before", "after"}:
            return f"the record does not show that the instruments of node {node} were tested, before and after"
    return ""


def _elsewhere(record: Record) -> str:
    """Say why a lab that was up is not one that the claim speaks of; empty where it is, and for a lab of its own."""
    if record.header is None or not record.header.inside:
        return ""
    name = record.header.inside
    if record.built and record.built.differs:
        return f"lab {name} is not as the claim has it: {'; '.join(record.built.differs)}"
    for (step, node), seen in record.snapshots.items():
        used = Tally(row[0] for row in seen.sockets if row[0] != "listening")
        if step == BEFORE and used:
            words = ", ".join(f"{count} {state}" for state, count in used.items())
            return (
                f"lab {name} was not fresh: before the first request {node} had {words}; wait until they are gone, or"
                " bring up another copy"
            )
    return ""


def too_late(record: Record, experiment: Experiment) -> str:
    """Say which part took longer than its file allows; empty when none did."""
    for number, step in enumerate(experiment.steps):
        if not record.steps[number].settled:
            return f"step {step.name!r}: sockets were still on their way to a lasting state after 2 s"
        took = record.span_ms(number, number)
        if step.within_ms is not None and took > step.within_ms:
            return f"step {step.name!r} took {took:.0f} ms; it must fit into {step.within_ms} ms"
    if experiment.within_ms is None:
        return ""
    took = record.span_ms(0, len(experiment.steps) - 1)
    if took <= experiment.within_ms:
        return ""
    return f"all requests took {took:.0f} ms; together they must fit into {experiment.within_ms} ms"


def _unmet(premises: Sequence[Finding]) -> str:
    """Say which premise chance did not bring about; empty when all were."""
    for one in premises:
        if not one.holds:
            return f"the claim was not put to the test: {one.expectation.name}: {one.actual}, expected {one.expected}"
    return ""


def exit_code(judgements: Sequence[Judgement]) -> int:
    """The exit code of several runs: of the gravest verdict; 3 where something lacked and nothing could be judged."""
    for verdict in GRAVEST_FIRST:
        for one in judgements:
            if one.verdict == verdict:
                return one.exit_code
    if judgements and all(one.verdict == "skip" for one in judgements):
        return EXIT_ENVIRONMENT
    return EXIT_PASS


class Scope:
    """One step of a record, or all of it: what its names and subjects count."""

    def __init__(self, record: Record, experiment: Experiment, topology: Topology, step: str | None) -> None:
        names = [one.name for one in experiment.steps]
        self._record, self._experiment, self._topology = record, experiment, topology
        self.first = names.index(step) if step is not None else 0
        self.last = self.first if step is not None else len(names) - 1
        number = self.first if step is not None else None
        self.responses = sorted(record.responses_of(number), key=lambda one: (one.step, one.index))

    def find(self, expectation: Expectation) -> Finding:
        """Hold *expectation* against this scope."""
        actual = self.count(expectation.subject)
        values = self._values(expectation)
        holds = True
        words = []
        for key, text in expectation.comparisons.items():
            limit = expression.evaluate(text, values)
            holds = holds and _compare(key, actual, limit)
            words.append(f"{COMPARISONS[key]} {text}" + ("" if text == str(limit) else f" = {limit}"))
        return Finding(expectation, holds, actual, " and ".join(words), self._evidence(expectation.subject))

    def count(self, subject: Subject) -> int:
        """Count what *subject* names."""
        if isinstance(subject, Responses):
            return sum(_matches(one, subject) for one in self._eligible(subject))
        if isinstance(subject, Sockets):
            return sum(_is(row, subject) for row in self._snapshot(self.last, subject.node).sockets)
        if isinstance(subject, Counter):
            before = self._snapshot(self.first - 1, subject.node).counters.get(subject.name, 0)
            return self._snapshot(self.last, subject.node).counters.get(subject.name, 0) - before
        if isinstance(subject, Log):
            return len(self._lines(subject))
        return expression.evaluate(subject.expression, self._all_values(expression.names(subject.expression)))

    def _snapshot(self, step: int, node: str) -> Snapshot:
        return self._record.snapshots[max(step, BEFORE), node]

    def _lines(self, subject: Log) -> list[str]:
        pattern = re.compile(subject.pattern)
        steps = range(self.first, self.last + 1)
        return [line for step in steps for line in self._snapshot(step, subject.node).log if pattern.search(line)]

    def _evidence(self, subject: Subject) -> list[str]:
        return self._lines(subject)[:MAX_EVIDENCE_LINES] if isinstance(subject, Log) else []

    def _eligible(self, subject: Responses) -> Sequence[Response]:
        if not subject.after_first_failure:
            return self.responses
        first = next((number for number, one in enumerate(self.responses) if not one.ok), len(self.responses))
        return self.responses[first + 1 :]

    def _values(self, expectation: Expectation) -> dict[str, int]:
        used: set[str] = set()
        for text in expectation.comparisons.values():
            used |= expression.names(text)
        return self._all_values(used)

    def _all_values(self, used: set[str]) -> dict[str, int]:
        """The values of the names *used*; only these are computed."""
        values = dict(self._response_values())
        values.update({name: values.get(name, 0) for name in used if name.startswith(expression.STATUS_PREFIX)})
        if self._experiment.ports_of and any(name.startswith("usable_ports") for name in used):
            ports = self._topology.usable_ports(self._experiment.ports_of)
            values.update(usable_ports=ports.most, usable_ports_min=ports.least, usable_ports_max=ports.most)
        values.update({name: self.count(one) for name, one in self._experiment.measures.items() if name in used})
        return {name: values.get(name, 0) for name in used}

    def _response_values(self) -> Tally[str]:
        """requests, ok, failed, elapsed_ms, status_N for every status and one by every errno's name."""
        values: Tally[str] = Tally()
        for one in self.responses:
            values["requests"] += 1
            values["ok" if one.ok else "failed"] += 1
            values[f"{expression.STATUS_PREFIX}{one.status}" if one.status is not None else str(one.errno)] += 1
        values["elapsed_ms"] = round(self._record.span_ms(self.first, self.last))
        return values


def _compare(key: str, actual: int, limit: int) -> bool:
    if key == "equals":
        return actual == limit
    return actual >= limit if key == "at_least" else actual <= limit


def _matches(one: Response, wanted: Responses) -> bool:
    return (
        (wanted.status is None or one.status == wanted.status)
        and (wanted.ok is None or one.ok == wanted.ok)
        and (wanted.errno is None or one.errno == wanted.errno)
        and (wanted.call is None or one.call == wanted.call)
    )


def _is(row: Sequence[str | int], wanted: Sockets) -> bool:
    state, _, local_port, remote, remote_port, _ = row
    whole = f"[{remote}]:{remote_port}" if ":" in str(remote) else f"{remote}:{remote_port}"
    return (
        state == wanted.state
        and (wanted.remote is None or wanted.remote in (remote, whole))
        and (wanted.local_port is None or wanted.local_port == local_port)
    )


def outcome_words(responses: Sequence[Response]) -> str:
    """Responses as the source would have counted them: ``11 x 404, 9 x EADDRNOTAVAIL``."""
    tally = Tally(str(one.status) if one.status is not None else str(one.errno) for one in responses)
    return ", ".join(f"{count} x {word}" for word, count in sorted(tally.items(), key=lambda pair: pair[0]))
