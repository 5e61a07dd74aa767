"""Experiment on a running lab -> the lines of its record. Runs as PID 1 of a sandbox, after lab.py has built it.

A step is a client process in its node's namespace; its outcomes are read from a pipe as they come, and between them
the sampler has its turns. After each step the lab settles: what is on its way (FIN_WAIT1, LAST_ACK, ...) has a moment
to arrive. Then every node is read.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from netns_tw.errors import InstrumentBroken, Skip, UsageError, near_match
from netns_tw.kernel import netns, process
from netns_tw.kernel.sockdiag import TcpSocket
from netns_tw.lab import RunningLab, kernel_release
from netns_tw.measure import canary, cost
from netns_tw.measure.observer import Look, wait_until_settled
from netns_tw.measure.sampler import Sampler
from netns_tw.model.experiment import Counter, Experiment, Step
from netns_tw.model.lines import (
    BEFORE,
    Batch,
    Canary,
    Cost,
    Dump,
    End,
    KindRow,
    Line,
    Response,
    Row,
    Sample,
    Snapshot,
    StepEnd,
)
from netns_tw.model.topology import Listen, destination
from netns_tw.node import RunningNode
from netns_tw.programs import bare
from netns_tw.rules import BARE, RUN
from netns_tw.serving import built_in

Emit = Callable[[Line], None]
READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Choices:
    """What the command line decides over the file."""

    client: str | None = None
    curl: str = "curl"


def now_ms() -> float:
    """Ms of CLOCK_MONOTONIC, the clock of all processes and namespaces of this machine."""
    return time.monotonic() * 1000


class Replay:
    """One experiment on one lab; *zero_ms* of CLOCK_MONOTONIC is its record's zero."""

    def __init__(self, lab: RunningLab, experiment: Experiment, choices: Choices, emit: Emit, zero_ms: float) -> None:
        self._lab, self._experiment, self._choices = lab, experiment, choices
        self._emit, self._zero_ms = emit, zero_ms
        observers = {name: node.observer for name, node in lab.nodes.items()}
        self._sampler = Sampler(observers, self._on_gauges, self._on_sockets)
        self._listeners: dict[Listen, socket.socket] = {}
        """What listens for the steps that make bare connections."""

    def run(self) -> None:
        """Carry out every step and emit what happened.

        Raises:
            Skip: this kernel has no counter of a name that the experiment counts.
            InstrumentBroken: the client ended early, or the instruments disagree.
        """
        self._check_counters()
        with ExitStack() as undo:
            self._listen(undo)
            self._test_instruments("before")
            self._look(BEFORE)
            self._steps()
            self._test_instruments("after")

    def _listen(self, undo: ExitStack) -> None:
        """Listen where bare connections will lead, until all is over: what they leave is known by that port.

        Raises:
            UsageError: a program of the node listens there.
            Skip: this kernel has no IP_LOCAL_PORT_RANGE, and a step needs it.
        """
        for step in self._experiment.steps:
            to = destination(step.url)
            if step.port_range and not bare.has_port_range():
                raise Skip(f"step {step.name!r}: IP_LOCAL_PORT_RANGE is new in Linux 6.3; this is {kernel_release()}")
            if step.client == BARE and to not in self._listeners:
                node = self._lab.topology.owner_of(to.address)
                assert node is not None
                family = socket.AF_INET6 if ":" in to.address else socket.AF_INET
                try:
                    with netns.enter(node):
                        one = socket.create_server((to.address, to.port), family=family)
                except OSError as error:
                    raise UsageError(f"step {step.name!r}: cannot listen on {to} of node {node}: {error}") from error
                self._listeners[to] = undo.enter_context(one)

    def _steps(self) -> None:
        self._costs(BEFORE)
        for number, step in enumerate(self._experiment.steps):
            began = self._now_ms()
            self._requests(step, number)
            ended = self._now_ms()
            settled = wait_until_settled([node.observer for node in self._lab.nodes.values()])
            self._look(number)
            self._costs(number)
            self._emit(StepEnd(number, step.name, began, ended, settled))

    def _costs(self, number: int) -> None:
        """Measure what the sockets cost, where an experiment makes bare connections: that is what it is about."""
        for name, node in self._lab.nodes.items() if self._listeners else ():
            found = cost.measure(node.observer)
            self._emit(Cost(number, self._now_ms(), name, *found))

    def end(self) -> End:
        """The record's last line."""
        one = self._sampler
        return End(self._now_ms(), round(one.cpu_ms, 3), one.count, round(one.longest_gap_ms, 3))

    def _test_instruments(self, when: Literal["before", "after"]) -> None:
        """Let every node's instruments see a TIME_WAIT that is surely there, on ports that no step uses."""
        avoid = {port for step in self._experiment.steps for port in step.source_ports}
        for name, node in self._lab.nodes.items():
            for row in canary.check(node.observer, avoid):
                self._emit(Canary(self._now_ms(), name, when, row))

    def _check_counters(self) -> None:
        """A counter that this kernel does not have would count 0 for ever, and a misspelt one too."""
        experiment = self._experiment
        subjects = [*experiment.measures.values(), *(one.subject for one in experiment.expectations)]
        for subject in subjects:
            if isinstance(subject, Counter):
                known = self._lab.nodes[subject.node].observer.counters.read()
                if subject.name not in known:
                    near = near_match(subject.name, known)
                    raise Skip(f"counter {subject.name}: not among those of {kernel_release()}{near}")

    def _now_ms(self) -> float:
        return self._since_zero(now_ms())

    def _since_zero(self, at_ms: float) -> float:
        return round(at_ms - self._zero_ms, 3)

    def _look(self, step: int) -> None:
        for node in self._lab.nodes.values():
            self._emit(self._snapshot(node, step))

    def _snapshot(self, node: RunningNode, step: int) -> Snapshot:
        seen = node.observer.read()
        counters = {name: number for name, number in node.observer.counters.read().items() if number}
        at_ms = self._since_zero(node.observer.read_at_ms)
        lines = node.new_log_lines()
        return Snapshot(step, at_ms, node.name, rows(seen.sockets), counters, seen.time_wait, lines, kinds(seen))

    def _on_gauges(
        self, node: str, at_ms: float, time_wait: int, established: int, counters: Mapping[str, int]
    ) -> None:
        moved = {name: number for name, number in counters.items() if number}
        self._emit(Sample(self._since_zero(at_ms), node, time_wait, established, moved))

    def _on_sockets(self, node: str, at_ms: float, sockets: list[TcpSocket]) -> None:
        self._emit(Dump(self._since_zero(at_ms), node, rows(sockets)))

    def _requests(self, step: Step, number: int) -> None:
        """Run the step's client in its node and emit a response for each of its lines."""
        log = f"{RUN}/{step.node}/client-{number}.log"
        listener = self._listeners[destination(step.url)].fileno() if step.client == BARE else -1
        argv, inherited = client_argv(step, self._choices, listener), (listener,) if listener >= 0 else ()
        child = process.spawn(step.node, argv, log, stdout=subprocess.PIPE, inherited=inherited)
        try:
            assert child.stdout is not None
            count = 0
            with child.stdout:
                for line in self._lines(child.stdout.fileno()):
                    found = json.loads(line)
                    found |= {"at_ms": self._since_zero(found["at_ms"]), "took_ms": round(found["took_ms"], 3)}
                    self._emit(Batch(step=number, **found) if listener >= 0 else Response(step=number, **found))
                    count += found.get("count", 1)
            child.wait()
        finally:
            process.end(child)
        if child.returncode or count != step.requests:
            raise InstrumentBroken(
                f"step {step.name!r}: the client ended with status {child.returncode} after {count} of"
                f" {step.requests} requests\n{process.tail(log)}"
            )

    def _lines(self, fd: int) -> Iterator[bytes]:
        """Yield the whole lines of a pipe as they come, and sample meanwhile."""
        rest = b""
        while True:
            is_there, _, _ = select.select([fd], [], [], self._sampler.wait_s())
            self._sampler.sample()
            if not is_there:
                continue
            data = os.read(fd, READ_BYTES)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from whole


def rows(sockets: list[TcpSocket]) -> list[Row]:
    """Sockets as a record has them."""
    return [tuple(one) for one in sockets]  # type: ignore[misc]


def kinds(look: Look) -> list[KindRow]:
    """What a crowded node has, as a record has it."""
    return [(*kind, count) for kind, count in look.kinds.items()]


def _bare_argv(step: Step, listener: int) -> list[str]:
    argv = built_in(BARE, "--listener", str(listener), "--requests", str(step.requests), "--closes", step.closes)
    ports = (step.source_ports[0], step.source_ports[-1]) if step.source_ports else None
    for option, found in (("--source-ports", ports), ("--port-range", step.port_range)):
        if found:
            argv += [option, f"{found[0]}-{found[1]}"]
    return [*argv, "--timeout-ms", str(step.timeout_ms)]


def client_argv(step: Step, choices: Choices, listener: int = -1) -> list[str]:
    """The argv of a step's client; of one that makes bare connections with the socket that listens for them."""
    if step.client == BARE:
        return _bare_argv(step, listener)
    argv = built_in(choices.client or step.client, step.url, "--requests", str(step.requests))
    argv += ["--interval-ms", repr(step.interval_ms), "--http", step.http, "--timeout-ms", str(step.timeout_ms)]
    if step.concurrency > 1:
        argv += ["--concurrency", str(step.concurrency)]
    if step.keep_alive:
        argv.append("--keep-alive")
    if step.source_ports:
        argv += ["--source-ports", *map(str, step.source_ports)]
    return [*argv, "--curl", choices.curl]
