"""Records to draw evidence from: written by hand, look by look, or left by a lab in a sandbox.

A hand-made record says only what its test is about: sockets that are there after a step, and how much counters grew.
Counters do not start at 0, so that nothing can take a counter for its growth.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from msgspec import structs

from netns_tw.evidence.case import Case
from netns_tw.evidence.closers import Closes
from netns_tw.evidence.portmap import Interval
from netns_tw.lab import RunningLab
from netns_tw.model import labs
from netns_tw.model.experiment import Experiment, Step
from netns_tw.model.lines import Built, End, Line, Response, Row, Snapshot, StepEnd
from netns_tw.model.record import Record
from netns_tw.model.topology import Endpoint, Link, Listen, Node, Topology
from netns_tw.programs.choice import choose
from netns_tw.replay import Choices, Replay, now_ms

STEP_MS = 1000.0
"""Between two snapshots; the snapshots before the first step are at 0."""
BASE = 1000
"""What a counter is before it grows."""
ALWAYS = {
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_tw_reuse_delay": "1000",
    "net.ipv4.tcp_timestamps": "1",
    "net.ipv4.tcp_max_tw_buckets": "131072",
}
RANGE = "net.ipv4.ip_local_port_range"
CLIENT, SERVER = "198.18.0.2", "198.18.0.1"
CLIENT6, SERVER6 = "2001:db8::2", "2001:db8::1"


def topology(*links: str, **sysctls: dict[str, str]) -> Topology:
    """A lab whose links are ``node ADDRESS ... - node ADDRESS ...``, all in /24 or /64; sysctls by node."""
    found = []
    taken: dict[str, int] = {}
    for text in links:
        ends = []
        for side in text.split(" - "):
            name, *addresses = side.split()
            taken[name] = taken.get(name, -1) + 1
            ips = tuple(ip_interface(f"{one}/{64 if ':' in one else 24}") for one in addresses)
            ends.append(Endpoint(name, f"eth{taken[name]}", ips))
        found.append(Link(*ends))
    nodes = {name: Node(name, sysctls.get(name, {})) for name in taken}
    return Topology("mine", "", nodes, tuple(found), "/nowhere")


DIRECT = topology(f"client {CLIENT} {CLIENT6} - server {SERVER} {SERVER6}", client={RANGE: "1024 1034"})
LB = topology(
    "client 198.18.1.2 - lb 198.18.1.1", "lb 198.18.2.1 - backend 198.18.2.2", lb={RANGE: "1024 1026"}
)  # fmt: skip
CROWD = topology("client1 198.18.1.2 - server 198.18.1.1", "client2 198.18.2.2 - server 198.18.2.1")


def row(state: str, local: str, remote: str, left_ms: int = 0) -> Row:
    """A socket, its ends as ``ADDRESS:PORT``."""
    one, other = Listen.parse(local), Listen.parse(remote)
    return state, one.address, one.port, other.address, other.port, left_ms


def listening(port: int) -> Row:
    """A socket that listens on all addresses."""
    return "listening", "0.0.0.0", port, "0.0.0.0", 0, 0


def rows(state: str, ports: Iterable[int], remote: str, local: str = CLIENT, left_ms: int = 59_500) -> list[Row]:
    """Sockets of an opener, one for each of its *ports*."""
    left = left_ms if state == "time-wait" else 0
    return [row(state, f"[{local}]:{port}" if ":" in local else f"{local}:{port}", remote, left) for port in ports]


def accepted(sockets: Iterable[Row]) -> list[Row]:
    """The other ends of some sockets."""
    return [(state, there, port, here, mine, left) for state, here, mine, there, port, left in sockets]


@dataclass(frozen=True)
class Look:
    """A node after a step: its sockets, and since the last look what its counters grew by and its program logged."""

    sockets: Sequence[Row] = ()
    grew: Mapping[str, int] = field(default_factory=dict)
    log: Sequence[str] = ()


def tcp(**counters: int) -> dict[str, int]:
    """Counters by their short names: ``tcp(TW=1, ActiveOpens=2)``."""
    of_snmp = ("ActiveOpens", "PassiveOpens", "AttemptFails", "OutRsts", "CurrEstab", "RetransSegs")
    return {f"Tcp{name}" if name in of_snmp else f"TcpExt{name}": number for name, number in counters.items()}


def write(
    lab: Topology,
    looks: Sequence[Mapping[str, Look]],
    lines: Iterable[Line] = (),
    steps: Sequence[Step] = (),
    sysctls: Mapping[str, dict[str, str]] | None = None,
    step_ms: float = STEP_MS,
) -> Case:
    """A case of one look before the first step and one after each; *lines* are added as they are."""
    steps = steps or [Step(f"step {number}", f"http://{SERVER}/") for number in range(len(looks) - 1)]
    experiment = Experiment("mine", "claim", "claim", "source", tuple(steps), (), "why")
    record = Record()
    effective = {name: {**ALWAYS, **node.sysctls, **(sysctls or {}).get(name, {})} for name, node in lab.nodes.items()}
    record.add(Built(0.0, effective, {}))
    counters: dict[str, dict[str, int]] = {name: {} for name in lab.nodes}
    for number, nodes in enumerate(looks, -1):
        at = (number + 1) * step_ms
        if number >= 0:
            record.add(StepEnd(number, steps[number].name, at - step_ms + 1, at - 1))
        for name in lab.nodes:
            one = nodes.get(name, Look())
            for counter, growth in one.grew.items():
                counters[name][counter] = counters[name].get(counter, BASE) + growth
            waiting = sum(each[0] == "time-wait" for each in one.sockets)
            record.add(Snapshot(number, at, name, list(one.sockets), dict(counters[name]), waiting, list(one.log)))
    _add_bases(record)
    for line in lines:
        record.add(line)
    record.add(End(len(looks) * step_ms))
    return Case(record, experiment, lab)


def _add_bases(record: Record) -> None:
    """Let every counter that ever grew stand at BASE before, where it is not named yet."""
    for (number, node), one in list(record.snapshots.items()):
        later = {name for (_, other), each in record.snapshots.items() if other == node for name in each.counters}
        known = dict.fromkeys(later, BASE) | dict(one.counters)
        record.snapshots[number, node] = structs.replace(one, counters=known)


def responses(
    step: int, outcomes: Iterable[str], ports: Iterable[int | None] = (), from_ms: float = 10.0, every_ms: float = 10.0
) -> list[Response]:
    """A step's responses in order: ``200``, ``EADDRNOTAVAIL connect``; each took 1 ms."""
    given = iter(ports)
    found = []
    for index, text in enumerate(outcomes):
        outcome, _, call = text.partition(" ")
        at = step * STEP_MS + from_ms + index * every_ms
        status = int(outcome) if outcome.isdecimal() else None
        errno = None if status else outcome
        found.append(Response(step, index, at, 1.0, status, errno, call or None, next(given, None)))
    return found


def words(one: Closes) -> str:
    """A flow's count in one line: ``client-server 5: 3/2, both 0, reset 0, open 0``."""
    return (
        f"{one.opener}-{one.acceptor} {one.opened}: {one.by_opener}/{one.by_acceptor},"
        f" both {one.simultaneous}, reset {one.reset}, open {one.open}"
    )


def shown(intervals: Iterable[Interval]) -> list[tuple[float, float, str]]:
    """Intervals as from, to and state, with a ``!`` where the port was taken over."""
    return [(one.from_ms, one.to_ms, one.state + "!" * one.reused) for one in intervals]


def shipped(lab: str, **changes: object) -> tuple[Topology, Experiment]:
    """A shipped lab without its experiments, and an experiment that expects nothing; *changes* are its."""
    found = labs.read_lab(labs.folder_of(lab)).topology
    experiment = Experiment(lab, "mine", "claim", "source", (), (), "why")
    return found, replace(experiment, **changes)  # type: ignore[arg-type]


def replayed(
    lab: Topology, experiment: Experiment, servers: str | None = "h11", last: Callable[[], object] | None = None
) -> tuple[Record, object]:
    """Replay in this sandbox; return the record, and what *last* returned while the lab was still up."""
    record = Record()
    zero = now_ms()
    lab = lab.with_nodes(experiment.nodes)
    programs, _ = choose(lab, servers, has_nginx=False)
    with RunningLab(lab, dict(programs)) as running:
        record.add(Built(0.0, {name: node.sysctls for name, node in running.nodes.items()}, {}))
        replay = Replay(running, experiment, Choices(), record.add, zero)
        replay.run()
        record.add(replay.end())
        return record, last() if last else None


SS_NAMES = {"estab": "established", "listen": "listening"}


def shown_by_ss(node: str) -> list[tuple[str, str, str]]:
    """State, local and remote end of every TCP socket of *node*, as ss(8) shows them; in a sandbox."""
    argv = ["ip", "netns", "exec", node, "ss", "-Htan"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = [line.split() for line in done.stdout.splitlines()]
    return [(SS_NAMES.get(one[0].lower(), one[0].lower()), one[3], one[4]) for one in found]


def port_of(end: str) -> int:
    """The port of an end as ss(8) writes it; 0 for any."""
    port = end.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0
