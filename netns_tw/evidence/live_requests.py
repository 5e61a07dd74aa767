"""Request results as they come: how many of each step, and the last of them, equal ones in a row told as one.

``502 x 995`` is what a person can read; 995 lines are not. What is kept is bounded, however many requests there are.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from netns_tw.model.experiment import Step
from netns_tw.model.lines import OPENED, Batch, Response

RUNS = 64
OUTCOMES = 16
"""Distinct ones that are counted by their name, of each step."""
OTHER = "other"


@dataclass
class Same:
    """Responses of one step in a row with the same outcome and, of a failure, the same call."""

    number: int
    """Rows are counted from 0, those that are no longer kept too."""
    step: int
    outcome: str
    call: str | None
    is_ok: bool
    first: int
    last: int
    """Indexes of the first that came and of the last."""
    count: int
    least_ms: float
    most_ms: float
    last_port: int | None
    """The local port of the last."""


class LiveRequests:
    """The results of an experiment's steps; of requests without one too."""

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps = steps
        self.rows: deque[Same] = deque(maxlen=RUNS)
        """The last rows, in the order they came."""
        self.done: dict[int, int] = {}
        """By step."""
        self.tallies: dict[int, Tally[str]] = {}
        """By step: how often each outcome came."""
        self._ended = -1
        self._ok = 0

    @property
    def step(self) -> int:
        """The number of the step that is under way, or of the last."""
        most = max(len(self.steps) - 1, 0)
        return min(max(self._ended + 1, *self.done, 0), most) if self.steps else max(self.done, default=0)

    @property
    def total(self) -> int:
        """Requests of all steps."""
        return sum(one.requests for one in self.steps)

    @property
    def count(self) -> int:
        """Requests that are through."""
        return sum(self.done.values())

    @property
    def failed(self) -> int:
        """Those of them without a good answer."""
        return self.count - self._ok

    def ended(self, step: int) -> None:
        """Say that a step is over."""
        self._ended = max(self._ended, step)

    def add_batch(self, one: Batch) -> None:
        """Take in a batch of bare connections: a row for those that succeeded and one for each failure."""
        found = [(OPENED, None, one.ok), *((name, call, count) for call, name, count in one.failed)]
        for outcome, call, count in found:
            if count:
                self._count(one.step, outcome, count, count if outcome == OPENED else 0)
                number, took = self.rows[-1].number + 1 if self.rows else 0, one.took_ms / one.count
                last = one.index + one.count - 1
                what = (one.step, outcome, call, outcome == OPENED)
                self.rows.append(Same(number, *what, one.index, last, count, took, took, None))

    def _count(self, step: int, outcome: str, count: int, ok: int) -> None:
        self.done[step] = self.done.get(step, 0) + count
        tally = self.tallies.setdefault(step, Tally())
        tally[outcome if outcome in tally or len(tally) < OUTCOMES else OTHER] += count
        self._ok += ok

    def add(self, one: Response) -> None:
        """Take in one result."""
        self._count(one.step, one.outcome, 1, one.ok)
        last = self.rows[-1] if self.rows else None
        call = None if one.ok else one.call
        if last is None or (last.step, last.outcome, last.call) != (one.step, one.outcome, call):
            number, took, port = last.number + 1 if last else 0, one.took_ms, one.local_port
            what = (one.step, one.outcome, call, one.ok)
            self.rows.append(Same(number, *what, one.index, one.index, 1, took, took, port))
            return
        last.last, last.last_port = one.index, one.local_port
        last.count += 1
        last.least_ms, last.most_ms = min(last.least_ms, one.took_ms), max(last.most_ms, one.took_ms)
