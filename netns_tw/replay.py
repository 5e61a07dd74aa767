"""Experiment on a running lab -> the lines of its record. Runs as PID 1 of a sandbox, after lab.py has built it.

A step is a client process in its node's namespace; its outcomes are read from a pipe as they come. After each step the
lab settles: what is on its way (FIN_WAIT1, LAST_ACK, ...) has a moment to arrive. Then every node is read.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from netns_tw.errors import InstrumentBroken, Skip, near_match
from netns_tw.kernel import process
from netns_tw.lab import RUN, RunningLab, RunningNode, built_in, kernel_release
from netns_tw.measure.observer import wait_until_settled
from netns_tw.model.experiment import Counter, Experiment, Step
from netns_tw.model.record import BEFORE, End, Line, Response, Snapshot, StepEnd

Emit = Callable[[Line], None]


@dataclass(frozen=True)
class Choices:
    """What the command line decides over the file."""

    client: str | None = None
    curl: str = "curl"


def replay(lab: RunningLab, experiment: Experiment, choices: Choices, emit: Emit) -> None:
    """Carry out every step of *experiment* and emit what happened.

    Raises:
        Skip: this kernel has no counter of a name that the experiment counts.
        InstrumentBroken: the client ended early, or the instruments disagree.
    """
    _check_counters(lab, experiment)
    _look(lab, BEFORE, emit)
    for number, step in enumerate(experiment.steps):
        began = _now_ms()
        _requests(step, number, choices, emit)
        ended = _now_ms()
        settled = wait_until_settled([node.observer for node in lab.nodes.values()])
        _look(lab, number, emit)
        emit(StepEnd(number, step.name, began, ended, settled))
    emit(End(_now_ms()))


def _check_counters(lab: RunningLab, experiment: Experiment) -> None:
    """A counter that this kernel does not have would count 0 for ever, and a misspelt one too."""
    subjects = [*experiment.measures.values(), *(one.subject for one in experiment.expectations)]
    for subject in subjects:
        if isinstance(subject, Counter):
            known = lab.nodes[subject.node].observer.counters.read()
            if subject.name not in known:
                near = near_match(subject.name, known)
                raise Skip(f"counter {subject.name}: not among those of {kernel_release()}{near}")


def _now_ms() -> float:
    return time.monotonic() * 1000


def _look(lab: RunningLab, step: int, emit: Emit) -> None:
    for node in lab.nodes.values():
        emit(_snapshot(node, step))


def _snapshot(node: RunningNode, step: int) -> Snapshot:
    sockets, time_wait = node.observer.read()
    counters = {name: number for name, number in node.observer.counters.read().items() if number}
    rows: list[list[str | int]] = [[*one] for one in sockets]
    return Snapshot(step, _now_ms(), node.name, rows, counters, time_wait, node.new_log_lines())


def _requests(step: Step, number: int, choices: Choices, emit: Emit) -> None:
    """Run the step's client in its node and emit a response for each of its lines."""
    log = RUN / step.node / f"client-{number}.log"
    child = process.spawn(step.node, client_argv(step, choices), log, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        count = 0
        with child.stdout:
            for line in child.stdout:
                emit(Response(step=number, **json.loads(line)))
                count += 1
        child.wait()
    finally:
        process.end(child)
    if child.returncode or count != step.requests:
        raise InstrumentBroken(
            f"step {step.name!r}: the client ended with status {child.returncode} after {count} of"
            f" {step.requests} requests\n{process.tail(log)}"
        )


def client_argv(step: Step, choices: Choices) -> list[str]:
    """The argv of a step's client."""
    argv = built_in(choices.client or step.client, step.url, "--requests", str(step.requests))
    argv += ["--interval-ms", repr(step.interval_ms), "--http", step.http, "--timeout-ms", str(step.timeout_ms)]
    if step.concurrency > 1:
        argv += ["--concurrency", str(step.concurrency)]
    if step.keep_alive:
        argv.append("--keep-alive")
    if step.source_ports:
        argv += ["--source-ports", *map(str, step.source_ports)]
    return [*argv, "--curl", choices.curl]
