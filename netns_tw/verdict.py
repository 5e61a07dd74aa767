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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netns_tw.errors import (
    EXIT_BROKEN,
    EXIT_ENVIRONMENT,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_USAGE,
)
from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import BEFORE, LISTENING
from netns_tw.model.record import Record
from netns_tw.model.topology import Topology
from netns_tw.scope import Finding, Scope

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
        used = +seen.states
        del used[LISTENING]
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


def outcome_words(outcomes: Mapping[str, int]) -> str:
    """Outcomes as the source would have counted them: ``11 x 404, 9 x EADDRNOTAVAIL``."""
    return ", ".join(f"{count} x {word}" for word, count in sorted(outcomes.items()))
