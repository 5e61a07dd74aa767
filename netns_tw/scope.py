"""What the names and subjects of an experiment's file count in a record: of one step, or of all. Pure.

A subject is counted (responses, sockets, a counter's growth, log lines, the time that connect() took), an expression is
worked out over what is known by name (requests, ok, usable_ports, an errno, a measure of the file's own).
"""

from __future__ import annotations

import re
import statistics
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field

from netns_tw.model import expression
from netns_tw.model.experiment import (
    COMPARISONS,
    ConnectTime,
    Counter,
    Expectation,
    Experiment,
    Log,
    Responses,
    Sockets,
    Subject,
)
from netns_tw.model.lines import BEFORE, Batch, Response, Snapshot
from netns_tw.model.record import Record
from netns_tw.model.topology import Topology

MAX_EVIDENCE_LINES = 2


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


class Scope:
    """One step of a record, or all of it: what its names and subjects count."""

    def __init__(self, record: Record, experiment: Experiment, topology: Topology, step: str | None) -> None:
        names = [one.name for one in experiment.steps]
        self._record, self._experiment, self._topology = record, experiment, topology
        self.first = names.index(step) if step is not None else 0
        self.last = self.first if step is not None else len(names) - 1
        number = self.first if step is not None else None
        self.responses = sorted(record.responses_of(number), key=lambda one: (one.step, one.index))
        self.batches = sorted(record.batches_of(number), key=lambda one: (one.step, one.index))

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
            if subject.after_first_failure and self.batches:
                raise ValueError("after_first_failure: bare connections are counted in batches, not one by one")
            found = sum(_matches(one, subject) for one in self._eligible(subject))
            return found + sum(_of_batch(one, subject) for one in self.batches)
        if isinstance(subject, Sockets):
            return self._sockets(subject)
        if isinstance(subject, ConnectTime):
            return self._connect_us(subject)
        if isinstance(subject, Counter):
            before = self._snapshot(self.first - 1, subject.node).counters.get(subject.name, 0)
            return self._snapshot(self.last, subject.node).counters.get(subject.name, 0) - before
        if isinstance(subject, Log):
            return len(self._lines(subject))
        return expression.evaluate(subject.expression, self._all_values(expression.names(subject.expression)))

    def _sockets(self, subject: Sockets) -> int:
        """Count the sockets of a snapshot; of a crowded node those of each kind that *subject* can tell apart."""
        seen = self._snapshot(self.last, subject.node)
        found = sum(_is(row, subject) for row in seen.sockets)
        for state, local_port, remote, remote_port, count in seen.kinds:
            if state == subject.state and (
                (subject.local_port and not local_port) or (_has_port(subject.remote) and not remote_port)
            ):
                raise ValueError(
                    f"{subject.node} has more sockets than are listed, counted by state and peer: no port can be told"
                )
            found += count * _is((state, "", local_port, remote, remote_port, 0), subject)
        return found

    def _connect_us(self, subject: ConnectTime) -> int:
        """The median of connect() in a part of the scope's bare connections."""
        total = sum(one.count for one in self.batches)
        low, high = total * subject.first, total * subject.last
        found, at = [], 0
        for one in self.batches:
            if low <= (at + one.count / 2) * 100 <= high and one.ok:
                found.append(one.connect_us[0])
            at += one.count
        if not found:
            raise ValueError(f"connect_us: no connection was made from {subject.first} to {subject.last} per cent")
        return round(statistics.median(found))

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
        for batch in self.batches:
            values["requests"] += batch.count
            values["ok"] += batch.ok
            values["failed"] += batch.count - batch.ok
            for _, name, count in batch.failed:
                values[name] += count
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


def _of_batch(one: Batch, wanted: Responses) -> int:
    """How many connections of a batch are what is wanted; they have no status."""
    if wanted.status is not None:
        return 0
    ok = one.ok if wanted.ok in (None, True) and wanted.errno is wanted.call is None else 0
    return ok + sum(
        count
        for call, name, count in one.failed
        if wanted.ok is not True and wanted.errno in (None, name) and wanted.call in (None, call)
    )


def _has_port(remote: str | None) -> bool:
    return remote is not None and (remote.startswith("[") or remote.count(":") == 1)


def _is(row: Sequence[str | int], wanted: Sockets) -> bool:
    state, _, local_port, remote, remote_port, _ = row
    whole = f"[{remote}]:{remote_port}" if ":" in str(remote) else f"{remote}:{remote_port}"
    return (
        state == wanted.state
        and (wanted.remote is None or wanted.remote in (remote, whole))
        and (wanted.local_port is None or wanted.local_port == local_port)
    )
