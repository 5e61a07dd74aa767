"""The record of one run: all that a verdict needs, as JSON Lines, one frozen dataclass a line.

What happened (requests, sockets, counters, logs) and what it means (verdict, report) are apart: a record can be judged
and drawn later, elsewhere, without root. Times are ms of CLOCK_MONOTONIC, one clock in all namespaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

FORMAT = 1
BEFORE = -1
"""The step number of the snapshots before the first step."""


@dataclass(frozen=True)
class Header:
    """What ran, on what, with what."""

    lab: str
    claim_id: str
    kernel: str
    versions: dict[str, str]
    """nginx, curl, h11, python, netns_tw; those that took part."""
    sysctls: dict[str, dict[str, str]]
    """Effective, as read back, by node."""
    programs: dict[str, str]
    """What ran on each node, in words."""
    notes: list[str] = field(default_factory=list)
    """What differs from the file, such as the embedded programs where nginx is missing."""
    format: int = FORMAT


@dataclass(frozen=True)
class Response:
    """What happened to one request of step number *step*."""

    step: int
    index: int
    at_ms: float
    took_ms: float
    status: int | None
    errno: str | None
    call: str | None
    local_port: int | None
    message: str | None = None

    @property
    def ok(self) -> bool:
        """Whether this counts as a success: an HTTP response came, and it is no 5xx of an LB.

        In the source "ok" is any response of the server itself, its 404 too; a 502 is the LB's own word for a failure.
        """
        return self.status is not None and self.status < 500


@dataclass(frozen=True)
class Snapshot:
    """A node's sockets and counters after step number *step* (-1: before the first)."""

    step: int
    at_ms: float
    node: str
    sockets: list[list[str | int]]
    """[state, local address, local port, remote address, remote port, ms until the timer ends]"""
    counters: dict[str, int]
    """Only those that are not 0."""
    time_wait: int
    """sockstat's tw."""
    log: list[str]
    """The lines that the node's program logged since the last snapshot."""


@dataclass(frozen=True)
class StepEnd:
    """Step number *step* is over."""

    step: int
    name: str
    began_ms: float
    ended_ms: float
    settled: bool = True
    """Whether no socket was on its way any more when the snapshots were taken."""


@dataclass(frozen=True)
class Trouble:
    """The run stopped: why, and the exit code that says whose move is next."""

    exit_code: int
    message: str
    skip: bool = False
    """Something this kernel or machine lacks: the experiment is skipped, no other is disturbed."""


@dataclass(frozen=True)
class End:
    """The run is complete."""

    at_ms: float


Line = Header | Response | Snapshot | StepEnd | Trouble | End
_KINDS = {kind.__name__.lower(): kind for kind in (Header, Response, Snapshot, StepEnd, Trouble, End)}


def to_json(line: Line) -> str:
    """Render one line of a record, its kind first, without the newline."""
    return json.dumps({"kind": type(line).__name__.lower(), **asdict(line)}, separators=(",", ":"))


def from_json(text: str) -> Line:
    """Parse one line of a record.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text)
        return _KINDS[found.pop("kind")](**found)
    except (RecursionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError("not a line of a record") from error


@dataclass
class Record:
    """A run's lines, sorted by kind as they come."""

    header: Header | None = None
    responses: list[Response] = field(default_factory=list)
    snapshots: dict[tuple[int, str], Snapshot] = field(default_factory=dict)
    steps: dict[int, StepEnd] = field(default_factory=dict)
    trouble: Trouble | None = None
    is_complete: bool = False

    def add(self, line: Line) -> None:
        """Take in one line."""
        if isinstance(line, Header):
            self.header = line
        elif isinstance(line, Response):
            self.responses.append(line)
        elif isinstance(line, Snapshot):
            self.snapshots[line.step, line.node] = line
        elif isinstance(line, StepEnd):
            self.steps[line.step] = line
        elif isinstance(line, Trouble):
            self.trouble = line
        else:
            self.is_complete = True

    def span_ms(self, first: int, last: int) -> float:
        """Ms from the start of the first request of step *first* to the end of the last request of step *last*."""
        within = [one for one in self.responses if first <= one.step <= last]
        began = min((one.at_ms for one in within), default=0.0)
        return max((one.at_ms + one.took_ms for one in within), default=began) - began

    def responses_of(self, step: int | None) -> Iterable[Response]:
        """The responses of one step, or of all."""
        return (one for one in self.responses if step is None or one.step == step)
