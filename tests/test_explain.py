"""Explanations from records: each rule speaks where its proof is, and is silent as soon as that is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from conftest import in_sandbox
from evidence_records import (
    CLIENT,
    DIRECT,
    LB,
    RANGE,
    SERVER,
    Look,
    accepted,
    listening,
    replayed,
    responses,
    rows,
    shipped,
    tcp,
    topology,
    write,
)
from msgspec import structs

from netns_tw.evidence.case import Case, plural
from netns_tw.evidence.explain import RULES, explain
from netns_tw.evidence.timeline import timeline
from netns_tw.model.experiment import Step
from netns_tw.model.lines import BEFORE, Dump, Header, Line, Row, Snapshot
from netns_tw.model.record import Record
from netns_tw.model.topology import HttpProxy, HttpServer, Listen, Node, Programs, Topology

HTTP = listening(80)
URL, LB_URL = f"http://{SERVER}/", "http://198.18.1.1/"
TO, TO_BACKEND, LB_UP = f"{SERVER}:80", "198.18.2.2:80", "198.18.2.1"
NO_PORT = "EADDRNOTAVAIL connect"
REUSE, DELAY, TIMESTAMPS = "net.ipv4.tcp_tw_reuse", "net.ipv4.tcp_tw_reuse_delay", "net.ipv4.tcp_timestamps"
ERRNO_99 = "connect() to 198.18.2.2:80 failed (99: Cannot assign requested address) while connecting to upstream"


def waiting(ports: Sequence[int], left_ms: int = 59_100) -> list[Row]:
    return rows("time-wait", ports, TO, left_ms=left_ms)


def direct(
    client: Look,
    server: dict[str, int],
    outcomes: Sequence[str],
    ports: Sequence[int | None] = (),
    lab: Topology = DIRECT,
    theirs: Sequence[Row] = (),
    sysctls: dict[str, dict[str, str]] | None = None,
    url: str = URL,
    source_ports: tuple[int, ...] = (),
) -> Case:
    """One step of a client and a server."""
    step = Step("one", url, source_ports=source_ports)
    looks = [{"server": Look([HTTP])}, {"client": client, "server": Look([HTTP, *theirs], server)}]
    return write(lab, looks, responses(0, outcomes, ports, 950.0, 1.0), [step], sysctls)


def exhausted(
    grew: dict[str, int] | None = None,
    sockets: list[Row] | None = None,
    lab: Topology = DIRECT,
    sysctls: dict[str, dict[str, str]] | None = None,
) -> Case:
    """A client that has used up all its eleven ports, and is refused three times."""
    held = waiting(range(1024, 1035)) if sockets is None else sockets
    look = Look(held, tcp(TW=11, ActiveOpens=11) | (grew or {}))
    return direct(look, tcp(PassiveOpens=11), ["200", NO_PORT, NO_PORT, NO_PORT], lab=lab, sysctls=sysctls)


def with_reuse(
    value: str,
    server: dict[str, str] | None = None,
    grew: dict[str, int] | None = None,
    sockets: list[Row] | None = None,
) -> Case:
    """The same with tcp_tw_reuse on the client, and some sysctls on the server."""
    return exhausted(grew, sockets, sysctls={"client": {REUSE: value}, "server": server or {}})


def behind_lb(
    sockets: list[Row],
    lb: dict[str, int],
    backend: dict[str, int],
    outcomes: Sequence[str],
    log: Sequence[str] = (),
    lines: Sequence[Line] = (),
) -> Case:
    """One step of a client that asks an LB with two usable ports."""
    mine = len(outcomes)
    looks = [
        {"lb": Look([HTTP]), "backend": Look([HTTP])},
        {
            "client": Look([], tcp(TW=mine, ActiveOpens=mine)),
            "lb": Look([HTTP, *sockets], tcp(PassiveOpens=mine) | lb, log),
            "backend": Look([HTTP], backend),
        },
    ]
    return write(LB, looks, [*responses(0, outcomes, (), 950.0, 1.0), *lines], [Step("one", LB_URL)])


UP = rows("time-wait", (1024, 1025), TO_BACKEND, LB_UP, 59_900)
UP_OPEN = rows("established", (1024, 1025), TO_BACKEND, LB_UP)
OPEN_SINCE = Dump(100.0, "lb", UP_OPEN)


# --- what is taken away

Without = Callable[[Record], None]


def change(record: Record, **changes: Callable[[Snapshot, Snapshot], object]) -> None:
    """Change every snapshot, knowing the node's first one."""
    for key, one in list(record.snapshots.items()):
        first = record.snapshots[BEFORE, key[1]]
        record.snapshots[key] = structs.replace(one, **{name: new(one, first) for name, new in changes.items()})


def growth(*names: str) -> Without:
    """Some counters did not grow; none of them, where none is named."""

    def flat(one: Snapshot, first: Snapshot) -> dict[str, int]:
        return {name: first.counters[name] if name in names or not names else now for name, now in one.counters.items()}

    return lambda record: change(record, counters=flat)


def sockets(record: Record) -> None:
    """Nobody looked at sockets but those that listen, and no response names its port."""
    record.dumps.clear()
    record.responses[:] = [structs.replace(one, local_port=None) for one in record.responses]
    change(record, sockets=lambda one, first: [row for row in one.sockets if row[0] == "listening"])


def logs(record: Record) -> None:
    """Programs logged nothing."""
    change(record, log=lambda one, first: [])


def refusals(record: Record) -> None:
    """Every request was answered."""
    record.responses[:] = [structs.replace(one, status=200, errno=None, call=None) for one in record.responses]


def without(case: Case, take_away: Without) -> Case:
    """The same case, but for what is taken away."""
    one = case.record
    record = replace(
        one, responses=list(one.responses), snapshots=dict(one.snapshots), steps=dict(one.steps), dumps=list(one.dumps)
    )  # fmt: skip
    take_away(record)
    return Case(record, case.experiment, case.topology)


ENTRIES = growth("TcpExtTW", "TcpExtTCPTimeWaitOverflow")
RECYCLED = growth("TcpExtTWRecycled")


@dataclass(frozen=True)
class Scene:
    """A record, what is told of it, and what must be there for that."""

    case: Case
    told: str
    """The rule's name."""
    words: Sequence[str]
    needs: Sequence[Without]


SCENES = {
    "every port of the client is in TIME_WAIT": Scene(
        exhausted(),
        "client-out-of-ports",
        [
            "3 requests got EADDRNOTAVAIL from connect(), before any packet left: all 11 usable ports of client"
            " (1024-1034) were held towards 198.18.0.1:80, all in TIME_WAIT, closed first by client",
            "[client closed 11 first, server 0; TW +11 on client; TW +0 on server]",
        ],
        [ENTRIES, sockets, refusals],
    ),
    "both ports of the LB are": Scene(
        behind_lb(UP, tcp(TW=2, ActiveOpens=2), tcp(PassiveOpens=2), ["200", "200", "502", "502"], [ERRNO_99] * 2),
        "lb-out-of-ports",
        [
            "2 requests got 502: both usable ports of lb (1024, 1025; 1026 is lost to the kernel's even-width rule)"
            " were held towards 198.18.2.2:80, all in TIME_WAIT, closed first by lb",
            "[lb closed 2 first, backend 0; TW +2 on lb; TW +0 on backend; 2 lines with errno 99 in its log]",
        ],
        [ENTRIES, sockets, refusals],
    ),
    "holders changed meanwhile": Scene(
        behind_lb(
            [*UP[:1], *UP_OPEN[1:]],
            tcp(TW=1, ActiveOpens=2),
            tcp(PassiveOpens=2),
            ["200", "502", "502"],
            lines=[Dump(500.0, "lb", UP_OPEN), *responses(0, ["502"], (), 850.0)],
        ),
        "lb-out-of-ports",
        ["2 requests got 502", "1 in TIME_WAIT, closed first by lb and 1 established"],
        [ENTRIES, sockets, refusals],
    ),
    "the port that was asked for is": Scene(
        direct(
            Look(waiting([1024, 1025]), tcp(TW=2, ActiveOpens=2)),
            tcp(PassiveOpens=2),
            ["200", "200", "EADDRINUSE bind", "EADDRINUSE bind"],
            [None, None, 1024, 1025],
            source_ports=(1024, 1025),
        ),
        "asked-port-held",
        [
            "2 requests got EADDRINUSE from bind(), before any packet left: the local port that was asked for was held"
            " towards 198.18.0.1:80, in TIME_WAIT, closed first by client",
        ],
        [ENTRIES, sockets, refusals],
    ),
    "connections are kept open on all of them": Scene(
        behind_lb(UP_OPEN, tcp(ActiveOpens=2), tcp(PassiveOpens=2), ["200", "200", "503"], lines=[OPEN_SINCE]),
        "ports-held-by-open-connections",
        [
            "1 request got 503 although no port was in TIME_WAIT: both usable ports of lb (1024, 1025; 1026 is lost",
            "all by open connections [2 in established on lb at 952 ms; 2 still open at the end]",
        ],
        [sockets, refusals],
    ),
    "tcp_tw_reuse without timestamps": Scene(
        with_reuse("1", {TIMESTAMPS: "0"}),
        "reuse-needs-timestamps",
        ["on client tcp_tw_reuse = 1 reused nothing", "tcp_timestamps = 0 on server [TWRecycled +0 on client, 11 in"],
        [sockets, refusals],
    ),
    "tcp_tw_reuse before its delay is over": Scene(
        with_reuse("1"),
        "reuse-too-young",
        ["on client tcp_tw_reuse = 1 reused nothing", "1000 ms, and at the last refused request the oldest was 854 ms"],
        [sockets, refusals],
    ),
    "tcp_tw_reuse at its rate": Scene(
        with_reuse("1", grew=tcp(TW=18, ActiveOpens=18, TWRecycled=7)),
        "reuse-has-a-rate",
        [
            "client took a TIME_WAIT over 7 times, and still ran out of ports",
            "1000 ms",
            "[TWRecycled +7 on client, TW +18]",
        ],
        [RECYCLED],
    ),
    "tcp_tw_reuse is enough": Scene(
        direct(
            Look(waiting([1024]), tcp(TW=5, ActiveOpens=5, TWRecycled=4)),
            tcp(PassiveOpens=5),
            ["200"] * 5,
            sysctls={"client": {REUSE: "1", DELAY: "100"}},
        ),
        "reuse-was-enough",
        ["client took a TIME_WAIT over 4 times and never ran out of ports", "a port back 100 ms after"],
        [RECYCLED],
    ),
    "tcp_tw_reuse = 2": Scene(
        with_reuse("2"),
        "reuse-for-loopback-only",
        ["on client tcp_tw_reuse = 2", "it never applies between client and server [TWRecycled +0 on client"],
        [sockets, refusals],
    ),
    "tcp_tw_reuse on the server": Scene(
        with_reuse("0", {REUSE: "1"}),
        "reuse-on-the-wrong-side",
        ["on server tcp_tw_reuse = 1 does nothing here", "on client, which opens, it is 0 [TWRecycled +0 on client"],
        [sockets, refusals],
    ),
    "an odd range": Scene(
        exhausted(tcp(TW=10, ActiveOpens=10), waiting(range(1025, 1035))),
        "odd-range-hides-a-port",
        ["port 1024 of 1024-1034 stayed free and was not found", "of 11 it may miss one", "[10 of 11 held towards"],
        [sockets, refusals],
    ),
    "the server closes first": Scene(
        direct(Look([], tcp(ActiveOpens=3)), tcp(TW=3, PassiveOpens=3), ["200"] * 3, theirs=accepted(waiting([1024]))),
        "acceptor-closed-first",
        [
            "server closed all 3 connections from client first, and client none",
            "costs client no port",
            "TW +3 on server",
        ],
        [ENTRIES],
    ),
    "a race": Scene(
        behind_lb(UP, tcp(TW=2, ActiveOpens=6), tcp(TW=5, PassiveOpens=6), ["200"] * 6),
        "close-race",
        ["lb did 2 times, backend 5, 1 of them at once from both ends", "[TW +2 on lb, TW +5 on backend]"],
        [ENTRIES],
    ),
    "SYNs replace entries": Scene(
        direct(Look([], tcp(ActiveOpens=9)), tcp(TW=9, PassiveOpens=9), ["200"] * 9, theirs=accepted(waiting([1024]))),
        "syn-replaced-time-wait",
        [
            "of 9 TIME_WAIT entries on server only 1 is left, and none was 60 s old",
            "[TW +9 on server, 1 socket in TIME_WAIT]",
        ],
        [ENTRIES, growth("TcpPassiveOpens")],
    ),
    "tcp_max_tw_buckets": Scene(
        direct(
            Look([], tcp(ActiveOpens=9)),
            tcp(TW=5, TCPTimeWaitOverflow=4, PassiveOpens=9),
            ["200"] * 9,
            sysctls={"server": {"net.ipv4.tcp_max_tw_buckets": "5"}},
        ),
        "buckets-full",
        [
            "4 connections that server closed first got no TIME_WAIT: tcp_max_tw_buckets = 5 was reached",
            "Overflow +4 on",
        ],
        [ENTRIES],
    ),
    "keep-alive": Scene(
        behind_lb(UP_OPEN[:1], tcp(ActiveOpens=1), tcp(PassiveOpens=1), ["200"] * 9),
        "kept-alive",
        [
            "9 requests succeeded while lb opened 1 connection to backend",
            "[ActiveOpens +1 on lb, PassiveOpens +1 on backend]",
        ],
        [growth("TcpActiveOpens"), growth()],
    ),
    "keep-alive with a limit": Scene(
        behind_lb(UP, tcp(TW=2, ActiveOpens=2), tcp(PassiveOpens=2), ["200"] * 8 + ["502"] * 2),
        "keepalive-is-a-budget",
        ["8 requests succeeded while lb opened 2 connections to backend, and closed both connections itself"],
        [growth("TcpActiveOpens"), ENTRIES, refusals, sockets],
    ),
    "resets": Scene(
        direct(Look([], tcp(ActiveOpens=4)), tcp(PassiveOpens=4, TCPAbortOnData=4, OutRsts=4), ["200"] * 4),
        "reset",
        [
            "4 connections between client and server ended by RST",
            "[OutRsts +4 on server; TW +0 on client, TW +0 on server]",
        ],
        [growth("TcpOutRsts"), growth("TcpPassiveOpens")],
    ),
    "an LB that takes its upstreams for dead": Scene(
        behind_lb([], {}, {}, ["502"] * 3, [ERRNO_99, "no live upstreams while connecting", "no live upstreams"]),
        "no-live-upstreams",
        ["lb answered 2 requests without trying", "[2 lines 'no live upstreams' and 1 with errno 99 in the log of lb]"],
        [logs],
    ),
    "a lost SYN": Scene(
        direct(Look([], tcp(ActiveOpens=1, TCPSynRetrans=2)), tcp(PassiveOpens=1), ["200"]),
        "syn-retransmitted",
        ["client had to send 2 SYNs again", "0 requests took 1 s or longer", "[TCPSynRetrans +2 on client]"],
        [growth("TcpExtTCPSynRetrans")],
    ),
    "a full backlog": Scene(
        direct(Look([], tcp(ActiveOpens=1)), tcp(PassiveOpens=1, ListenOverflows=1), ["200"]),
        "listener-full",
        ["server had no room in a listener's queue 1 time", "[ListenOverflows +1 on server]"],
        [growth("TcpExtListenOverflows")],
    ),
    "old timestamps": Scene(
        direct(Look([], tcp(ActiveOpens=1)), tcp(PassiveOpens=1, PAWSTimewait=3), ["200"]),
        "timestamp-went-back",
        ["server rejected 3 packets for a timestamp older", "[PAWSTimewait +3 on server]"],
        [growth("TcpExtPAWSTimewait")],
    ),
    "no listener": Scene(
        direct(
            Look([], tcp(ActiveOpens=2, AttemptFails=2)), {}, ["ECONNREFUSED connect"] * 2, url="http://198.18.0.1:81/"
        ),
        "nobody-listens",
        ["2 requests of step 'one' were refused: nothing listens at http://198.18.0.1:81/ [AttemptFails +2 on client]"],
        [growth("TcpAttemptFails"), refusals],
    ),
}


def told(case: Case) -> dict[str, str]:
    """Explanations by their rules' names, with their proofs."""
    return {one.rule: f"{one.text} [{one.proof}]" for one in explain(case)}


@pytest.mark.parametrize("name", SCENES)
def test_a_rule_speaks(name: str) -> None:
    """It says what happened, in plain words, and ends in its proof."""
    scene = SCENES[name]
    text = told(scene.case)[scene.told]
    assert [words for words in scene.words if words not in text] == [], text


REMOVALS = [(name, index) for name, scene in SCENES.items() for index in range(len(scene.needs))]


@pytest.mark.parametrize(("name", "index"), REMOVALS)
def test_a_rule_is_silent_without_its_proof(name: str, index: int) -> None:
    """The same record without the counter's growth, the sockets, the log's lines or the refusals."""
    scene = SCENES[name]
    assert scene.told not in told(without(scene.case, scene.needs[index]))


def test_every_rule_is_tested() -> None:
    """Each rule speaks in some scene."""
    spoke = {rule for scene in SCENES.values() for rule in RULES if list(rule(scene.case))}
    assert [rule.__name__ for rule in RULES if rule not in spoke] == []


def test_nothing_happened_and_nothing_is_told() -> None:
    assert told(direct(Look(), {}, [])) == {}
    flat = without(SCENES["both ports of the LB are"].case, growth())
    assert set(told(flat)) == {"reuse-for-loopback-only"}  # that is proved by sockets and by a counter at rest
    assert told(without(flat, sockets)) == {}


# --- sentences that would be false

SILENT: dict[str, tuple[Case, str]] = {
    "too young, but old enough": (with_reuse("1", sockets=waiting(range(1024, 1035), 58_500)), "reuse-too-young"),
    "tcp_tw_reuse, but the ports are held by open connections": (
        with_reuse("1", sockets=rows("established", range(1024, 1035), TO), grew=tcp(TW=0)),
        "reuse-too-young",
    ),
    "tcp_tw_reuse = 2, but the ports are held by open connections": (
        with_reuse("2", sockets=rows("established", range(1024, 1035), TO)),
        "reuse-for-loopback-only",
    ),
    "a given source port takes a TIME_WAIT over without tcp_tw_reuse": (
        direct(
            Look(waiting([1024]), tcp(TW=5, ActiveOpens=5, TWRecycled=4)), tcp(PassiveOpens=5), ["200"] * 5,
            sysctls={"client": {REUSE: "1"}}, source_ports=(1024,),
        ),
        "reuse-was-enough",
    ),
    "an odd range, but the free port is reserved": (
        exhausted(
            tcp(TW=10, ActiveOpens=10), waiting([*range(1024, 1030), *range(1031, 1035)]),
            lab=topology(
                f"client {CLIENT} - server {SERVER}",
                client={RANGE: "1024 1034", "net.ipv4.ip_local_reserved_ports": "1030"},
            ),
        ),
        "odd-range-hides-a-port",
    ),
    "an odd range, but a port in its middle is free": (
        exhausted(tcp(TW=10, ActiveOpens=10), waiting([*range(1024, 1030), *range(1031, 1035)])),
        "odd-range-hides-a-port",
    ),
    "an odd range, but two ports are free": (
        exhausted(tcp(TW=9, ActiveOpens=9), waiting([*range(1025, 1030), *range(1031, 1035)])),
        "odd-range-hides-a-port",
    ),
    "the server closed first, but not always": (
        behind_lb(UP, tcp(TW=2, ActiveOpens=6), tcp(TW=4, PassiveOpens=6), ["200"] * 6),
        "acceptor-closed-first",
    ),
    "no race where the client closes all": (
        direct(Look(waiting([1024]), tcp(TW=1, ActiveOpens=1)), tcp(PassiveOpens=1), ["200"]),
        "close-race",
    ),
    "RSTs that ended no connection": (
        direct(Look(waiting([1024]), tcp(TW=1, ActiveOpens=1)), tcp(PassiveOpens=1, OutRsts=3), ["200"]),
        "reset",
    ),
    "upstreams that are down for another reason": (
        behind_lb([], {}, {}, ["502"], ["no live upstreams while connecting to upstream"]),
        "no-live-upstreams",
    ),
    "an even range": (
        exhausted(
            tcp(TW=11), waiting(range(1025, 1036)),
            lab=topology(f"client {CLIENT} - server {SERVER}", client={RANGE: "1024 1035"}),
        ),
        "odd-range-hides-a-port",
    ),
    "entries that a RST ended were not replaced": (
        direct(Look([], tcp(ActiveOpens=3, OutRsts=3)), tcp(TW=3, PassiveOpens=3), ["200"] * 3),
        "syn-replaced-time-wait",
    ),
    "one request per connection is no keep-alive": (
        behind_lb(UP, tcp(TW=2, ActiveOpens=2), tcp(PassiveOpens=2), ["200"] * 3),
        "kept-alive",
    ),
    "the LB's ports were free when it answered 502": (
        behind_lb(UP[:1], tcp(TW=1, ActiveOpens=1), tcp(PassiveOpens=1), ["200", "502"], [ERRNO_99]),
        "lb-out-of-ports",
    ),
    "a client that gave up is not refused": (
        direct(Look([], tcp(ActiveOpens=1)), {}, ["ETIMEDOUT connect"]),
        "nobody-listens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_would_be_false_is_not_told(name: str) -> None:
    case, rule = SILENT[name]
    assert rule not in told(case)


def no_delay(record: Record) -> None:
    """The kernel has no tcp_tw_reuse_delay."""
    assert record.built is not None
    del record.built.sysctls["client"][DELAY]


PHRASES: dict[str, tuple[Case, str, str]] = {
    "not all that were opened have been closed": (
        direct(
            Look(rows("established", [1030], TO), tcp(ActiveOpens=4)), tcp(TW=3, PassiveOpens=4), ["200"] * 4,
        ),
        "acceptor-closed-first",
        "server closed 3 of 4 connections from client first, and client none",
    ),
    "the only connection": (
        direct(Look([], tcp(ActiveOpens=1)), tcp(TW=1, PassiveOpens=1), ["200"]),
        "acceptor-closed-first",
        "server closed the only connection from client first",
    ),
    "some ports were not seen to be held": (
        exhausted(sockets=waiting(range(1024, 1028))),
        "client-out-of-ports",
        "at least 4 of the 11 usable ports of client (1024, 1025, 1026, 1027) were held",
    ),
    "holders that change are those of the first": (
        behind_lb(
            UP, tcp(TW=2, ActiveOpens=3), tcp(PassiveOpens=3), ["502"],
            lines=[Dump(100.0, "lb", [*rows("time-wait", (1024,), TO_BACKEND, LB_UP, 59_990), *UP_OPEN[1:]]),
                   *responses(0, ["502"], (), 300.0)],
        ),
        "lb-out-of-ports",
        "2 requests got 502: at the first of them both usable ports",
    ),
    "a kernel without tcp_tw_reuse_delay": (
        without(
            with_reuse("1"),
            no_delay,
        ),
        "reuse-too-young",
        "1000 ms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PHRASES)
def test_words_are_no_stronger_than_what_is_known(name: str) -> None:
    case, rule, words = PHRASES[name]
    assert words in told(case)[rule]


@pytest.mark.parametrize(
    ("number", "noun", "expected"), [(1, "port", "1 port"), (2, "port", "2 ports"), (0, "loss", "0 losses")]
)
def test_plural(number: int, noun: str, expected: str) -> None:
    assert plural(number, noun) == expected


# --- records that are not whole


def everything(record: Record, case: Case) -> None:
    """All evidence of a record, drawn."""
    one = Case(record, case.experiment, case.topology)
    assert isinstance(explain(one), list)
    timeline(one)
    assert isinstance([one.port_maps, one.refusals, one.closes, one.flows], list)


def cut(case: Case) -> Iterator[Record]:
    """The record cut after each moment, without each of its lines, and without all of one kind."""
    one = case.record
    moments = sorted({each.at_ms for each in (*one.snapshots.values(), *one.responses)})  # type: ignore[attr-defined]
    for moment in moments[:: max(1, len(moments) // 20)]:
        yield Record(
            one.header, one.built,
            [each for each in one.responses if each.at_ms < moment],
            {key: each for key, each in one.snapshots.items() if each.at_ms < moment},
            dumps=[each for each in one.dumps if each.at_ms < moment],
            steps={key: each for key, each in one.steps.items() if each.ended_ms < moment},
        )  # fmt: skip
    for key in one.snapshots:
        yield replace(one, snapshots={other: each for other, each in one.snapshots.items() if other != key})
    yield replace(one, built=None)
    yield replace(one, steps={})
    yield replace(one, snapshots={})
    yield replace(one, responses=[])
    yield Record(Header("mine", "claim", "Linux", {}, {}))
    yield Record()


@pytest.mark.parametrize("name", SCENES)
def test_a_record_that_is_not_whole_raises_nothing(name: str) -> None:
    for record in cut(SCENES[name].case):
        everything(record, SCENES[name].case)


# --- and of labs


@pytest.mark.netns
def test_a_lab_is_explained() -> None:
    """An LB that closes first and has two ports; a server that closes first."""
    proxy = Node("lb", {}, Programs(HttpProxy(Listen("198.18.1.1", 80), Listen("198.18.2.2", 80))))
    backend = Node("backend", {}, Programs(HttpServer(Listen("198.18.2.2", 80), close="client-first")))
    lb, of_lb = shipped("lb3ports", steps=(Step("one", LB_URL, requests=20),), nodes={"lb": proxy, "backend": backend})
    crowd, of_crowd = shipped("crowd", steps=(Step("one", LB_URL, "client1", requests=20),))

    def inside() -> dict[str, str]:
        record, _ = replayed(lb, of_lb)
        return told(Case(record, of_lb, lb.with_nodes(of_lb.nodes)))

    def beside() -> dict[str, str]:
        record, _ = replayed(crowd, of_crowd)
        return told(Case(record, of_crowd, crowd))

    of = in_sandbox(inside)
    assert of["lb-out-of-ports"].startswith("18 requests got 502: both usable ports of lb (1024, 1025; 1026 is lost")
    assert "closed first by lb [lb closed 2 first, backend 0; TW +2 on lb; TW +0 on backend" in of["lb-out-of-ports"]
    assert set(of) == {"lb-out-of-ports"}
    beside_it = in_sandbox(beside)
    assert beside_it["acceptor-closed-first"].startswith("server closed all 20 connections from client1 first")
    assert set(beside_it) == {"acceptor-closed-first", "syn-replaced-time-wait"}
