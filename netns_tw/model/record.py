"""A record in memory: a run's lines (model/lines.py), sorted by kind, and what is asked of them most."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import dataclass, field

from netns_tw.model.lines import (
    OPENED,
    Batch,
    Built,
    Canary,
    Captured,
    Cost,
    Dump,
    End,
    Header,
    Line,
    Response,
    Sample,
    Snapshot,
    StepEnd,
    Trouble,
)


def format_of(text: bytes | str) -> int | None:
    """The format of a record by its first line, whatever else that holds; None if it is no header."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_header = isinstance(found, dict) and found.get("kind") == "header"
    number = found.get("format") if is_header else None
    return number if type(number) is int else None


_SINGLE = {Header: "header", Built: "built", Trouble: "trouble", End: "end"}
_LISTS = {
    Response: "responses",
    Batch: "batches",
    Sample: "samples",
    Dump: "dumps",
    Canary: "canaries",
    Cost: "costs",
    Captured: "captured",
}


@dataclass
class Record:
    """A run's lines, sorted by kind as they come."""

    header: Header | None = None
    built: Built | None = None
    responses: list[Response] = field(default_factory=list)
    snapshots: dict[tuple[int, str], Snapshot] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    dumps: list[Dump] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    steps: dict[int, StepEnd] = field(default_factory=dict)
    captured: list[Captured] = field(default_factory=list)
    trouble: Trouble | None = None
    end: End | None = None
    batches: list[Batch] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.end is not None

    def add(self, line: Line) -> None:
        """Take in one line."""
        kind = type(line)
        if isinstance(line, Snapshot):
            self.snapshots[line.step, line.node] = line
        elif isinstance(line, StepEnd):
            self.steps[line.step] = line
        elif kind in _SINGLE:
            setattr(self, _SINGLE[kind], line)
        else:
            getattr(self, _LISTS[kind]).append(line)

    def span_ms(self, first: int, last: int) -> float:
        """Ms from the start of the first request of step *first* to the end of the last request of step *last*."""
        every: list[Response | Batch] = [*self.responses, *self.batches]
        within = [one for one in every if first <= one.step <= last]
        began = min((one.at_ms for one in within), default=0.0)
        return max((one.at_ms + one.took_ms for one in within), default=began) - began

    def responses_of(self, step: int | None) -> Iterable[Response]:
        """The responses of one step, or of all."""
        return (one for one in self.responses if step is None or one.step == step)

    def batches_of(self, step: int | None) -> Iterable[Batch]:
        """The bare connections of one step, or of all."""
        return (one for one in self.batches if step is None or one.step == step)

    def outcomes(self, step: int | None) -> Tally[str]:
        """What came of the requests and connections of one step, or of all: statuses, errnos, ``opened``."""
        found = Tally(one.outcome for one in self.responses_of(step))
        for batch in self.batches_of(step):
            found[OPENED] += batch.ok
            for _, name, count in batch.failed:
                found[name] += count
        return +found

    def ok(self, step: int | None) -> int:
        """How many requests and connections of one step, or of all, succeeded."""
        return sum(one.ok for one in self.responses_of(step)) + sum(one.ok for one in self.batches_of(step))
