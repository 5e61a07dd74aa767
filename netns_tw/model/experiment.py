"""An experiment: one claim, the steps that put it to the test, what is expected, and why.

An expectation is a property that holds in every run, never a sample of a race (D6): an identity or a bound between a
*subject* that is counted (responses, sockets, a counter's growth, log lines) and an expression over named quantities.
"""

from __future__ import annotations

from collections.abc import Mapping

from netns_tw.model.frozen import Frozen
from netns_tw.model.topology import Node
from netns_tw.rules import BARE

COMPARISONS = {"equals": "==", "at_least": ">=", "at_most": "<="}


class Step(Frozen):
    """One series of requests from one node. Times in ms."""

    name: str
    url: str
    node: str = "client"
    client: str = "h11"
    requests: int = 1
    interval_ms: float = 0
    http: str = "1.1"
    concurrency: int = 1
    keep_alive: bool = False
    source_ports: tuple[int, ...] = ()
    closes: str = "server"
    """Of bare connections: who closes first."""
    port_range: tuple[int, int] | None = None
    """Of bare connections: IP_LOCAL_PORT_RANGE of each socket."""
    timeout_ms: int = 10_000
    within_ms: int | None = None
    """If the step takes longer, the verdict is inconclusive."""
    reference: str = ""
    """What the source document saw."""

    @property
    def bare(self) -> str:
        """Of a step that makes bare connections: what it does, in words; else empty."""
        if self.client != BARE:
            return ""
        words = f"{self.requests:,} bare connections from {self.node}, closed first by the {self.closes}"
        low, high = self.port_range or (0, 0)
        return words + (f", with IP_LOCAL_PORT_RANGE {low}-{high}" if self.port_range else "")


class Responses(Frozen):
    """Count responses; every filter given must hold."""

    status: int | None = None
    ok: bool | None = None
    errno: str | None = None
    call: str | None = None
    after_first_failure: bool = False


class Sockets(Frozen):
    """Count a node's sockets at the end of the step, by state and 4-tuple."""

    node: str
    state: str
    remote: str | None = None
    """``ADDRESS`` or ``ADDRESS:PORT``."""
    local_port: int | None = None


class Counter(Frozen):
    """How much a node's counter (nstat's name) grew."""

    node: str
    name: str


class Log(Frozen):
    """Count the lines in a node's program log that match a regular expression."""

    node: str
    pattern: str


class ConnectTime(Frozen):
    """Microseconds that connect() of a bare connection took, the median, from one per cent of a step to another."""

    first: int
    last: int


class Value(Frozen):
    """An expression as subject."""

    expression: str


Subject = Responses | Sockets | Counter | Log | ConnectTime | Value


class Expectation(Frozen):
    """A subject and its comparisons, ``{"equals": "usable_ports"}``; of one step, or of the whole experiment."""

    name: str
    subject: Subject
    comparisons: Mapping[str, str]
    step: str | None = None


class Experiment(Frozen):
    """One claim about one lab."""

    lab: str
    claim_id: str
    """The file's name without its ending."""
    claim: str
    source: str
    steps: tuple[Step, ...]
    expectations: tuple[Expectation, ...]
    why: str
    within_ms: int | None = None
    ports_of: str | None = None
    """The node whose port budget ``usable_ports`` means."""
    nodes: Mapping[str, Node] = {}
    measures: Mapping[str, Subject] = {}
    premises: tuple[Expectation, ...] = ()
    """What a race must have brought about for the claim to be put to the test; else the verdict is inconclusive."""
    text: str = ""
    """Its file, as it was read."""
    try_next: str = ""
    """One thing to try next, of the file's key ``try``; empty where it names none."""

    @property
    def path(self) -> str:
        return f"{self.lab}/{self.claim_id}"

    @property
    def least_ms(self) -> float:
        """The time its paces alone take."""
        return sum(step.interval_ms * (step.requests - 1) for step in self.steps)
