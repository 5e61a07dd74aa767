"""The record of one run: all that a verdict, an explanation and a report need, as JSON Lines, one struct a line.

What happened (requests, sockets, counters, logs) and what it means (verdict, report) are apart: a record can be judged
and drawn later, elsewhere, without root. It carries the lab's files as they were read. Times are ms since the record's
zero, one clock (CLOCK_MONOTONIC) for all nodes.

A record may come from anywhere: every value is checked for its kind and its bounds while it is parsed, and strings are
only ever data.
"""

from __future__ import annotations

from collections import Counter as Tally
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

FORMAT = 1
LISTENING = "listening"
OPENED = "opened"
"""The outcome of a bare connection that did not fail."""
BEFORE = -1
"""The step number of the snapshots before the first step."""

Ms = Annotated[float, Meta(ge=-1e6, le=1e9)]
"""Milliseconds since the record's zero; up to eleven days."""
Us = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A counter's; TcpMaxConn is -1."""
Port = Annotated[int, Meta(ge=0, le=65535)]
StepNumber = Annotated[int, Meta(ge=BEFORE, le=10_000)]
Status = Annotated[int, Meta(ge=0, le=999)]
Row = tuple[str, str, Port, str, Port, Annotated[int, Meta(ge=0, le=2**32)]]
"""A socket: state, local address, local port, remote address, remote port, ms until its timer ends (0: no timer)."""

KindRow = tuple[str, Port, str, Port, Count]
"""Sockets of one kind: state, local port, remote address, remote port, how many; a port of 0 stands for all."""
Failure = tuple[str, str, Count]
"""Which call failed, the errno's name, how often."""

Close = tuple[str, Port, str, Port, Ms, str]
"""A captured connection: opener's address and port, acceptor's address and port, ms of its SYN, how it ended:
``opener``, ``acceptor`` or ``simultaneous`` for who sent the first FIN, ``reset``, ``open`` or ``unopened``."""


class _Line(Struct, frozen=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """One line; its kind is the name of its struct."""


class Header(_Line, frozen=True):
    """What is to run, on what, with what; written before anything is built."""

    lab: str
    claim_id: str
    kernel: str
    versions: dict[str, str]
    """nginx, curl, h11, python, netns_tw; those that are installed."""
    files: dict[str, str]
    """The lab's files as they were read, by path inside its folder."""
    client: str | None = None
    """``--client``, if given."""
    servers: str | None = None
    """``--server``, if given."""
    began: str = ""
    """The record's zero by the wall clock, ISO 8601 with zone."""
    cores: Count = 0
    attempt: Count = 1
    """2 when a first run beside others was inconclusive and this is its repetition, alone."""
    inside: str = ""
    """The lab that was up and that it is replayed in; empty: a lab of its own."""
    format: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT


class Ran(Struct, frozen=True, forbid_unknown_fields=True):
    """A node's program as it was run."""

    kind: str
    """``nginx``, ``http-server`` or ``http-proxy``."""
    words: str
    listen: str
    close: str = ""
    """The close style of an http-server."""
    max_requests: Count = 0
    """Of an http-server: requests on one connection before it closes; 0: no limit."""
    keepalive: Count | None = None
    keepalive_requests: Count = 0
    """Of an LB: connections to its upstream that it keeps (None: not known), and requests on each."""


class Built(_Line, frozen=True):
    """The lab is up and its programs listen."""

    at_ms: Ms
    sysctls: dict[str, dict[str, str]]
    """Effective, as read back, by node."""
    programs: dict[str, Ran]
    notes: list[str] = []
    """What differs from the file, such as the embedded programs where nginx is missing."""
    differs: list[str] = []
    """Of a lab that was up: in what it is not the lab that the claim is about."""


class Response(_Line, frozen=True):
    """What happened to one request of step number *step*."""

    step: StepNumber
    index: Count
    at_ms: Ms
    took_ms: Ms
    status: Status | None
    errno: str | None
    call: str | None
    local_port: Port | None
    message: str | None = None

    @property
    def ok(self) -> bool:
        """Whether this counts as a success: an HTTP response came, and it is no 5xx of an LB.

        In the source "ok" is any response of the server itself, its 404 too; a 502 is the LB's own word for a failure.
        """
        return self.status is not None and self.status < 500

    @property
    def outcome(self) -> str:
        """In one word: the status, or the errno's name."""
        return str(self.errno) if self.status is None else str(self.status)


class Snapshot(_Line, frozen=True):
    """A node's sockets and counters after step number *step* (-1: before the first)."""

    step: StepNumber
    at_ms: Ms
    node: str
    sockets: list[Row]
    counters: dict[str, Number]
    """Only those that are not 0."""
    time_wait: Count
    """sockstat's tw."""
    log: list[str]
    """The lines that the node's program logged since the last snapshot."""
    kinds: list[KindRow] = []
    """Of a node with more sockets than are listed: how many there are of each kind; ``sockets`` is empty then."""

    @property
    def states(self) -> Tally[str]:
        """How many sockets there are in each state."""
        found = Tally(row[0] for row in self.sockets)
        for state, _, _, _, count in self.kinds:
            found[state] += count
        return found

    @property
    def listening(self) -> frozenset[int]:
        """The ports that are listened on."""
        return frozenset(row[2] for row in self.sockets if row[0] == LISTENING) | frozenset(
            kind[1] for kind in self.kinds if kind[0] == LISTENING
        )


class Sample(_Line, frozen=True):
    """A node's gauges and counters between snapshots; written when one of them differs from the sample before."""

    at_ms: Ms
    node: str
    time_wait: Count
    """sockstat's tw."""
    established: Count
    """TcpCurrEstab: ESTABLISHED and CLOSE_WAIT."""
    counters: dict[str, Number]
    """Of the sampled counters, those that are not 0."""


class Dump(_Line, frozen=True):
    """A node's sockets between snapshots, those that listen left out; written when the set of them has changed."""

    at_ms: Ms
    node: str
    sockets: list[Row]


class Canary(_Line, frozen=True):
    """The instrument test: a known TIME_WAIT of *node* was seen by every instrument, and was gone again."""

    at_ms: Ms
    node: str
    when: Literal["before", "after"]
    """Before the first request, after the last snapshot."""
    socket: Row


class Batch(_Line, frozen=True):
    """Bare connections *index* to *index* + *count* - 1 of step number *step*."""

    step: StepNumber
    index: Count
    count: Count
    ok: Count
    """Those that were opened and closed."""
    failed: list[Failure]
    at_ms: Ms
    took_ms: Ms
    connect_us: tuple[Us, Us, Us]
    """What connect() took, of those that succeeded: median, 99th percentile, longest."""


class Cost(_Line, frozen=True):
    """What the sockets of a node cost after step number *step* (-1: before the first)."""

    step: StepNumber
    at_ms: Ms
    node: str
    time_wait: Count
    slab_kb: Count
    """Kernel memory in slabs, of the whole machine, KiB."""
    count_us: Us
    """One count of TIME_WAIT, the median of many."""
    tally_ms: Ms
    """All sockets counted by kind, once."""


class StepEnd(_Line, frozen=True):
    """Step number *step* is over."""

    step: StepNumber
    name: str
    began_ms: Ms
    ended_ms: Ms
    settled: bool = True
    """Whether no socket was on its way any more when the snapshots were taken."""


class Captured(_Line, frozen=True):
    """What a packet capture of one link says: who sent the first FIN of each connection, in the order of their SYNs."""

    link: str
    """Its endpoints, ``lb:eth1 -- backend:eth0``."""
    closes: list[Close]
    packets: Count
    dropped: Count


class Trouble(_Line, frozen=True):
    """The run stopped: why, and the exit code that says whose move is next."""

    exit_code: Annotated[int, Meta(ge=0, le=255)]
    message: str
    skip: bool = False
    """Something this kernel or machine lacks: the experiment is skipped, no other is disturbed."""


class End(_Line, frozen=True):
    """The run is complete."""

    at_ms: Ms
    sampling_ms: Ms = 0.0
    """CPU time that the samples and dumps took."""
    samples: Count = 0
    longest_gap_ms: Ms = 0.0
    """The longest time between two samples."""


Line = Header | Built | Response | Batch | Snapshot | Sample | Dump | Canary | Cost | StepEnd | Captured | Trouble | End
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def to_json(line: Line) -> bytes:
    """Render one line of a record, its kind first, without the newline. Text that is no Unicode is shown escaped."""
    try:
        return _ENCODER.encode(line)
    except UnicodeEncodeError:  # a lone surrogate, of a path that is not UTF-8
        return _ENCODER.encode(_encodable(msgspec.to_builtins(line)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    return [_encodable(one) for one in value] if isinstance(value, list | tuple) else value


def from_json(text: bytes | str) -> Line:
    """Parse one line of a record.

    Raises:
        ValueError: it is none; the text says what is wrong with it.
    """
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error) or "not a line of a record") from error
