"""A record as curves: what holds at each moment, and at the end what ss(8) shows at that same moment."""

from __future__ import annotations

from collections import Counter as Tally

import pytest
from conftest import in_sandbox
from evidence_records import (
    CLIENT,
    CLIENT6,
    DIRECT,
    RANGE,
    SERVER,
    SERVER6,
    Look,
    accepted,
    listening,
    replayed,
    responses,
    rows,
    shipped,
    shown_by_ss,
    tcp,
    topology,
    write,
)

from netns_tw.evidence.case import Case
from netns_tw.evidence.timeline import NodeTimeline, Points, Timeline, thinned, timeline
from netns_tw.model.experiment import Experiment, Step
from netns_tw.model.lines import Dump, Line, Response, Sample
from netns_tw.model.record import Record
from netns_tw.model.topology import HttpProxy, HttpServer, Listen, Node, Programs

TO, TO6 = f"{SERVER}:80", f"[{SERVER6}]:80"
HTTP = listening(80)


def of(node: str, found: Timeline) -> NodeTimeline:
    return next(one for one in found.nodes if one.node == node)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(0.0, 0)], [(0.0, 0)]),
        ([(0.0, 1), (1.0, 1), (2.0, 2), (3.0, 2), (4.0, 1)], [(0.0, 1), (2.0, 2), (4.0, 1)]),
        ([(0.0, 1), (0.0, 2), (0.0, 2)], [(0.0, 1), (0.0, 2)]),
    ],
)
def test_thinned(points: Points, expected: Points) -> None:
    """What changes nothing is left out; the first point stays."""
    assert thinned(points) == expected


def two_steps(*lines: Line) -> Timeline:
    """A client that closes first, over IPv4 and IPv6: two entries in the first step, one more in the second."""
    first = rows("time-wait", (1024, 1026), TO, left_ms=59_500)
    then = [*rows("time-wait", (1024, 1026), TO, left_ms=58_500), *rows("time-wait", (1024,), TO6, CLIENT6, 59_900)]
    kept = rows("established", (1030,), TO)
    looks = [
        {"server": Look([HTTP])},
        {"client": Look(first, tcp(TW=2, ActiveOpens=2)), "server": Look([HTTP], tcp(PassiveOpens=2))},
        {
            "client": Look([*then, *kept], tcp(TW=1, ActiveOpens=2)),
            "server": Look([HTTP, *accepted(kept)], tcp(PassiveOpens=2)),
        },
    ]
    return timeline(write(DIRECT, looks, lines))


def test_time_wait_by_peer() -> None:
    """Towards whom a node opened, address and port; IPv4 and IPv6 apart. A dump between two snapshots is a look too."""
    client = of("client", two_steps(Dump(600.0, "client", rows("time-wait", (1024,), TO))))
    assert client.time_wait == {
        "198.18.0.1:80": [(0.0, 0), (600.0, 1), (1000.0, 2)],
        "[2001:db8::1]:80": [(0.0, 0), (2000.0, 1)],
    }
    assert client.total == [(0.0, 0), (1000.0, 2), (2000.0, 3)]


def test_time_wait_of_an_acceptor() -> None:
    """From whom: all ports of one client are one peer."""
    waiting = accepted(rows("time-wait", (1024, 1026), TO)) + accepted(rows("time-wait", (1024,), TO6, CLIENT6))
    found = of("server", timeline(write(DIRECT, [{"server": Look([HTTP, *waiting])}])))
    assert found.time_wait == {"from 198.18.0.2": [(0.0, 2)], "from 2001:db8::2": [(0.0, 1)]}


def test_gauges_and_counters() -> None:
    """Samples between snapshots; counters as growth since the first look, under their short names."""
    samples = [
        Sample(300.0, "client", 1, 4, {"TcpExtTW": 1001, "TcpActiveOpens": 1001}),
        Sample(400.0, "client", 1, 4, {"TcpExtTW": 1001, "TcpActiveOpens": 1002}),
        Sample(300.0, "server", 0, 7, {}),
    ]
    client = of("client", two_steps(*samples))
    assert client.total == [(0.0, 0), (300.0, 1), (1000.0, 2), (2000.0, 3)]
    assert client.established == [(0.0, 0), (300.0, 4), (1000.0, 0)]
    assert client.counters == {
        "TW": [(0.0, 0), (300.0, 1), (1000.0, 2), (2000.0, 3)],
        "ActiveOpens": [(0.0, 0), (300.0, 1), (400.0, 2), (2000.0, 4)],
    }


def test_established_is_what_the_kernel_counts() -> None:
    looks = [{"client": Look([], tcp(CurrEstab=0))}, {"client": Look([], tcp(CurrEstab=3))}]
    (client, _) = timeline(write(DIRECT, looks)).nodes
    assert client.established == [(0.0, 1000), (1000.0, 1003)]


FREE: dict[str, tuple[list[Look], list[Line], Points]] = {
    "ports are free until used": ([Look()], [*responses(0, ["200"], [None])], []),
    "a TIME_WAIT takes one from where it began": (
        [Look(), Look(rows("time-wait", (1024, 1026), TO, left_ms=59_500))],
        [],
        [(0.0, 11), (500.0, 9)],
    ),
    "a request takes one and gives it back": (
        [Look(), Look()],
        [*responses(0, ["200", "200"], [1024, 1026])],
        [(0.0, 11), (10.0, 10), (11.0, 11), (20.0, 10), (21.0, 11)],
    ),
    "a TIME_WAIT that ends gives it back, one that was there before has it from the start": (
        [Look(rows("time-wait", (1024,), TO, left_ms=300)), Look()],
        [],
        [(-59_700.0, 10), (300.0, 11)],
    ),
    "what is open at the last look is not free": (
        [Look(), Look(rows("established", (1024,), TO))],
        [],
        [(0.0, 11), (1000.0, 10)],
    ),
    "ports that connect() never takes do not count": (
        [Look(), Look([listening(1030), *rows("time-wait", (1024, 2000), TO, left_ms=59_500)])],
        [*responses(0, ["200"], [2001])],
        [(0.0, 10), (500.0, 9)],
    ),
}


@pytest.mark.parametrize("case", FREE)
def test_free_ports(case: str) -> None:
    """Of the ports that connect() can find towards a remote, how many were free."""
    looks, lines, expected = FREE[case]
    client = timeline(write(DIRECT, [{"client": one} for one in looks], lines)).nodes[0]
    assert client.free_ports == ({TO: expected} if expected else {})


def test_of_a_wide_range_free_ports_are_not_counted() -> None:
    lab = topology(f"client {CLIENT} - server {SERVER}", client={RANGE: "1024 5120"})
    case = write(lab, [{"client": Look(rows("time-wait", (1024,), TO))}])
    assert timeline(case).nodes[0].free_ports == {}
    assert len(case.port_maps) == 1


def test_one_zero_for_all() -> None:
    """All curves, steps, responses and the exhaustion are ms of one clock, whichever node they are of."""
    lines = responses(1, ["200", "EADDRNOTAVAIL connect", "200", "EADDRNOTAVAIL connect"], [1026], from_ms=100)
    found = two_steps(*lines)
    assert (found.began_ms, found.ended_ms) == (0.0, 2000.0)
    assert found.steps == [("step 0", 1.0, 999.0), ("step 1", 1001.0, 1999.0)]
    assert found.responses == {"200": [(1101.0, 1), (1121.0, 2)], "EADDRNOTAVAIL": [(1111.0, 1), (1131.0, 2)]}
    assert found.exhausted_ms == 1110.0
    assert two_steps().exhausted_ms is None


def test_responses_count_where_they_came() -> None:
    """By their end, in order, also where a later request was answered earlier."""
    slow = Response(0, 0, 10.0, 50.0, 200, None, None, None)
    assert two_steps(slow, Response(0, 1, 20.0, 5.0, 200, None, None, None)).responses == {
        "200": [(25.0, 1), (60.0, 2)]
    }


def test_a_record_that_is_cut_short_is_drawn_as_far_as_it_goes() -> None:
    """Nothing, one snapshot, or a step without an end: no curve is missing what is there, and nothing is made up."""
    step = Step("one", f"http://{SERVER}/")
    experiment = Experiment("mine", "x", "claim", "source", (step,), (), "why")
    empty = timeline(Case(Record(), experiment, DIRECT))
    assert (empty.began_ms, empty.ended_ms, empty.steps, empty.responses) == (0.0, 0.0, [], {})
    assert [(one.time_wait, one.total, one.counters, one.free_ports) for one in empty.nodes] == [({}, [], {}, {})] * 2
    whole = write(DIRECT, [{"client": Look(rows("time-wait", (1024,), TO))}])
    whole.record.end = whole.record.built = None
    whole.record.responses += responses(0, ["200"], [1026])
    whole.record.add(Sample(500.0, "client", 2, 0, {"TcpExtTW": 1}))
    cut = timeline(Case(whole.record, experiment, DIRECT))
    assert (cut.began_ms, cut.ended_ms, cut.steps) == (0.0, 500.0, [])
    assert of("client", cut).total == [(0.0, 1), (500.0, 2)]
    assert of("client", cut).counters == {"TW": [(0.0, 0), (500.0, 1)]}


# --- ss(8) as an outside observer


def last(points: Points) -> int:
    return points[-1][1]


def by_curves(case: Case) -> dict[str, dict[str, int]]:
    """What the curves say of the end, by node: TIME_WAIT by peer, all of it, established."""
    return {
        one.node: {
            **{peer: last(points) for peer, points in one.time_wait.items()},
            "all": last(one.total),
            "established": last(one.established),
        }
        for one in timeline(case).nodes
    }


def by_ss(sockets: dict[str, list[tuple[str, str, str]]]) -> dict[str, dict[str, int]]:
    """The same from ss -Htan."""
    found = {}
    for node, shown in sockets.items():
        served = {mine.rpartition(":")[2] for state, mine, _ in shown if state == "listening"}
        counts: Tally[str] = Tally({"all": 0, "established": 0})
        for state, mine, there in shown:
            if state == "time-wait":
                is_accepted = mine.rpartition(":")[2] in served
                counts[f"from {there.rpartition(':')[0].strip('[]')}" if is_accepted else there] += 1
                counts["all"] += 1
            counts["established"] += state == "established"
        found[node] = dict(counts)
    return found


LB_URL = "http://198.18.1.1/"
BACKEND = Listen("198.18.2.2", 80)
LABS: dict[str, tuple[str, tuple[Step, ...], tuple[Node, ...]]] = {
    "a client that closes first, over IPv4 and IPv6": (
        "direct",
        (Step("four", f"http://{SERVER}/", requests=8), Step("six", f"http://[{SERVER6}]/", requests=8)),
        (Node("server", {}, Programs(HttpServer(Listen("::", 80)))),),
    ),
    "a server that closes first": ("crowd", (Step("one", LB_URL, "client1", requests=30),), ()),
    "an LB that keeps some and has closed others": (
        "lb3ports",
        (Step("one", LB_URL, requests=10), Step("two", LB_URL, requests=10)),
        (
            Node("lb", {RANGE: "1024 1035"}, Programs(HttpProxy(Listen("198.18.1.1", 80), BACKEND, 64, 3))),
            Node("backend", {}, Programs(HttpServer(BACKEND))),
        ),
    ),
}  # fmt: skip


@pytest.mark.netns
@pytest.mark.parametrize("name", LABS)
def test_the_final_counts_are_those_of_ss(name: str) -> None:
    """TIME_WAIT towards each peer, all of it, and established: on every node what ss(8) shows there at the end."""
    lab, steps, changed = LABS[name]
    nodes = {one.name: one for one in changed}
    plain, experiment = shipped(lab, steps=steps, nodes=nodes)

    def inside() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        names = list(plain.nodes)
        record, seen = replayed(plain, experiment, last=lambda: {node: shown_by_ss(node) for node in names})
        assert isinstance(seen, dict)
        return by_curves(Case(record, experiment, plain.with_nodes(nodes))), by_ss(seen)

    ours, theirs = in_sandbox(inside)
    for node, counts in theirs.items():
        assert {what: count for what, count in ours[node].items() if count or what in counts} == counts, node
    assert sum(one["all"] for one in theirs.values()) > 0
