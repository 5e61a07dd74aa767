"""Who closed first: counted from hand-made records, against random histories, and in labs whose style says it."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from conftest import in_sandbox
from evidence_records import (
    CLIENT,
    CLIENT6,
    CROWD,
    DIRECT,
    LB,
    SERVER,
    SERVER6,
    STEP_MS,
    Look,
    accepted,
    listening,
    replayed,
    row,
    rows,
    shipped,
    tcp,
    topology,
    words,
    write,
)

from netns_tw.evidence.case import Case
from netns_tw.evidence.closers import Closes, closes
from netns_tw.evidence.counting import ENTRIES
from netns_tw.job import Job, carry_out
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.link import LOOPBACK_INDEX, Rtnl
from netns_tw.measure.observer import Observer
from netns_tw.model.experiment import Step
from netns_tw.model.lines import Captured, Close, Dump, Row
from netns_tw.model.ports import Bounds
from netns_tw.model.record import Record
from netns_tw.model.topology import HttpProxy, HttpServer, Listen, Node, Programs, Topology, destination
from netns_tw.wait import wait_until

HTTP = listening(80)
TO_SERVER, TO_LB, TO_BACKEND = f"{SERVER}:80", "198.18.1.1:80", "198.18.2.2:80"
LB_UP = "198.18.2.1"


def told(lab: Topology, *looks: dict[str, Look], step_ms: float = STEP_MS) -> list[str]:
    """What is said of the last of some steps."""
    case = write(lab, looks, step_ms=step_ms)
    return [words(one) for one in case.closes if one.step == len(looks) - 2]


def direct(mine: list[Row], theirs: list[Row], grew: dict[str, int], their_grew: dict[str, int]) -> dict[str, Look]:
    return {"client": Look(mine, grew), "server": Look([HTTP, *theirs], their_grew)}


def grew(tw: int = 0, opened: int = 0, accepted: int = 0, **others: int) -> dict[str, int]:
    return tcp(TW=tw, ActiveOpens=opened, PassiveOpens=accepted, **others)


def behind_lb(
    client: dict[str, int], lb: dict[str, int], backend: dict[str, int], sockets: list[Row] | None = None
) -> dict[str, Look]:
    return {"client": Look([], client), "lb": Look([HTTP, *(sockets or [])], lb), "backend": Look([HTTP], backend)}


NOTHING: dict[str, Look] = {"server": Look([HTTP]), "lb": Look([HTTP]), "backend": Look([HTTP])}
WAITING = rows("time-wait", (1024, 1026, 1028), TO_SERVER)
KEPT = rows("established", (1024,), TO_SERVER)
HALF = rows("fin-wait-2", (1024,), TO_SERVER)
UP = rows("time-wait", (1024, 1025), TO_BACKEND, LB_UP)
OLD_UP = rows("time-wait", (1024, 1025), TO_BACKEND, LB_UP, 500)
TEN_ACCEPTED = accepted(rows("time-wait", range(40000, 40010), TO_LB, "198.18.1.2"))

DIRECT_CASES: dict[str, tuple[dict[str, Look], str]] = {
    "the opener closes all: its TW counts them": (
        direct(WAITING, [], tcp(TW=3, ActiveOpens=3), tcp(PassiveOpens=3)),
        "client-server 3: 3/0, both 0, reset 0, open 0",
    ),
    "the acceptor closes all": (
        direct([], accepted(WAITING), tcp(ActiveOpens=3), tcp(TW=3, PassiveOpens=3)),
        "client-server 3: 0/3, both 0, reset 0, open 0",
    ),
    "the acceptor's entries were replaced by SYNs: its counter still knows": (
        direct([], accepted(WAITING), tcp(ActiveOpens=20), tcp(TW=20, PassiveOpens=20)),
        "client-server 20: 0/20, both 0, reset 0, open 0",
    ),
    "the opener's were replaced by its own connect()": (
        direct(WAITING, [], tcp(TW=20, TWRecycled=17, ActiveOpens=20), tcp(PassiveOpens=20)),
        "client-server 20: 20/0, both 0, reset 0, open 0",
    ),
    "tcp_max_tw_buckets forbade some entries": (
        direct([], [], tcp(ActiveOpens=20), tcp(TW=5, TCPTimeWaitOverflow=15, PassiveOpens=20)),
        "client-server 20: 0/20, both 0, reset 0, open 0",
    ),
    "a short tcp_fin_timeout counts entries as TWKilled": (
        direct(WAITING, [], tcp(TW=1, TWKilled=2, ActiveOpens=3), tcp(PassiveOpens=3)),
        "client-server 3: 3/0, both 0, reset 0, open 0",
    ),
    "both FINs crossed": (
        direct([], [], tcp(TW=5, ActiveOpens=5), tcp(TW=2, PassiveOpens=5)),
        "client-server 5: 5/2, both 2, reset 0, open 0",
    ),
    "all were reset": (
        direct([], [], tcp(ActiveOpens=4), tcp(TCPAbortOnData=4, OutRsts=4, PassiveOpens=4)),
        "client-server 4: 0/0, both 0, reset 4, open 0",
    ),
    "a reset and a simultaneous close hide each other": (
        direct([], [], tcp(TW=3, ActiveOpens=5), tcp(TW=3, TCPAbortOnData=1, OutRsts=1, PassiveOpens=5)),
        "client-server 5: 3/3, both 1 or 2, reset 0 or 1, open 0",
    ),
    "one is kept open": (
        direct(KEPT, accepted(KEPT), tcp(ActiveOpens=1), tcp(PassiveOpens=1)),
        "client-server 1: 0/0, both 0, reset 0, open 1",
    ),
    "half closed: who sent the FIN is counted, the connection is open": (
        direct(HALF, accepted(rows("close-wait", (1024,), TO_SERVER)), tcp(TW=1, ActiveOpens=1), tcp(PassiveOpens=1)),
        "client-server 1: 1/0, both 0, reset 0, open 1",
    ),
    "a SYN that is not answered yet is none either": (
        direct([*WAITING, *rows("syn-sent", (1030,), TO_SERVER)], [], tcp(TW=3, ActiveOpens=4), tcp(PassiveOpens=3)),
        "client-server 3: 3/0, both 0, reset 0, open 0",
    ),
    "connect() that failed is no connection": (
        direct([], [], tcp(TW=3, ActiveOpens=5, AttemptFails=2), tcp(PassiveOpens=3)),
        "client-server 3: 3/0, both 0, reset 0, open 0",
    ),
    "connect() that was given up is none, and in no AttemptFails": (
        direct(WAITING, [], tcp(TW=3, ActiveOpens=5), tcp(PassiveOpens=3)),
        "client-server 3: 3/0, both 0, reset 0, open 0",
    ),
}


@pytest.mark.parametrize("case", DIRECT_CASES)
def test_two_nodes(case: str) -> None:
    """a + b = ended with FIN + simultaneous; entries are counted even where none is left to be seen."""
    look, expected = DIRECT_CASES[case]
    assert told(DIRECT, NOTHING, look) == [expected]


@pytest.mark.parametrize(
    ("lab", "mine"),
    [
        (DIRECT, rows("time-wait", (1024, 1026), f"[{SERVER6}]:80", CLIENT6)),
        (topology(f"client {CLIENT} - server {SERVER} 198.18.0.9"), rows("time-wait", (1024, 1026), "198.18.0.9:80")),
    ],
    ids=["IPv6", "the second address of a link"],
)
def test_addresses(lab: Topology, mine: list[Row]) -> None:
    """Any address of the link's end is the node's."""
    look = direct(mine, [], tcp(TW=2, ActiveOpens=2), tcp(PassiveOpens=2))
    assert told(lab, NOTHING, look) == ["client-server 2: 2/0, both 0, reset 0, open 0"]


def test_a_connection_counts_in_the_step_in_which_it_ends() -> None:
    """Opened in one step, closed in the next one, where nothing is opened."""
    opened = direct(KEPT, accepted(KEPT), tcp(ActiveOpens=1), tcp(PassiveOpens=1))
    closed = direct(WAITING[:1], [], tcp(TW=1), {})
    assert told(DIRECT, NOTHING, opened, closed) == ["client-server 0: 1/0, both 0, reset 0, open 0"]
    assert told(DIRECT, NOTHING, opened, direct(KEPT, accepted(KEPT), {}, {})) == [
        "client-server 0: 0/0, both 0, reset 0, open 1"
    ]
    assert told(DIRECT, NOTHING, opened, closed, direct(WAITING[:1], [], {}, {})) == []


def test_a_half_closed_connection_counts_once() -> None:
    """Its entry is in the step of the FIN, its end in the next one, and neither step calls it simultaneous or reset."""
    first = direct(HALF, accepted(rows("close-wait", (1024,), TO_SERVER)), grew(1, 1), grew(0, 0, 1))
    second = direct(WAITING, [], tcp(TW=3, ActiveOpens=3), tcp(PassiveOpens=3))
    assert told(DIRECT, NOTHING, first, second) == ["client-server 3: 3/0, both 0, reset 0, open 0"]


LB_CASES: dict[str, tuple[list[dict[str, Look]], list[str]]] = {
    "the client closes towards the LB, the LB and the backend race": (
        [behind_lb(grew(10, 10), grew(2, 6, 10), grew(4, 0, 6), UP)],
        ["client-lb 10: 10/0, both 0, reset 0, open 0", "lb-backend 6: 2/4, both 0, reset 0, open 0"],
    ),
    "the LB closes first on both sides: one counter, told apart by its sockets": (
        [behind_lb(grew(0, 10), grew(12, 2, 10), grew(0, 0, 2), [*UP, *TEN_ACCEPTED])],
        ["client-lb 10: 0/10, both 0, reset 0, open 0", "lb-backend 2: 2/0, both 0, reset 0, open 0"],
    ),
    "the LB took its own over": (
        [behind_lb(grew(10, 10), grew(8, 8, 10, TWRecycled=6), grew(0, 0, 8), UP)],
        ["client-lb 10: 10/0, both 0, reset 0, open 0", "lb-backend 8: 8/0, both 0, reset 0, open 0"],
    ),
    "entries of the step before expired meanwhile": (
        [
            behind_lb(grew(2, 2), grew(2, 2, 2), grew(0, 0, 2), OLD_UP),
            behind_lb(grew(2, 2), grew(2, 2, 2), grew(0, 0, 2), UP),
        ],
        ["client-lb 2: 2/0, both 0, reset 0, open 0", "lb-backend 2: 2/0, both 0, reset 0, open 0"],
    ),
    "an orphan of the step before has its TIME_WAIT in this one, and no entry": (
        [
            behind_lb(grew(1, 1), grew(1, 1, 1), grew(0, 0, 1), rows("fin-wait-2", (1024,), TO_BACKEND, LB_UP)),
            behind_lb(grew(0, 5), grew(5, 0, 5), {}, [*UP[:1], *TEN_ACCEPTED[:5]]),
        ],
        ["client-lb 5: 0/5, both 0, reset 0, open 0"],
    ),
    "an overflow may belong to either side": (
        [behind_lb(grew(3, 10), grew(5, 2, 10, TCPTimeWaitOverflow=5), grew(2, 0, 2))],
        [
            "client-lb 10: 3/8 to 10, both 1 to 3, reset 0, open 0",
            "lb-backend 2: 0 to 2/2, both 0 to 2, reset 0, open 0",
        ],
    ),
    "a RST may have ended an entry of the opener": (
        [behind_lb(grew(3, 5), grew(4, 3, 5), grew(0, 0, 3, OutRsts=2, TCPAbortOnClose=2), UP[:1])],
        [
            "client-lb 5: 3/2 or 3, both 0 or 1, reset 0, open 0",
            "lb-backend 3: 1 or 2/0, both 0, reset 1 or 2, open 0",
        ],
    ),
}


@pytest.mark.parametrize("case", LB_CASES)
def test_an_lb_has_one_counter_for_two_roles(case: str) -> None:
    """What sockets, TWRecycled and the other ends leave open stays a bound."""
    looks, expected = LB_CASES[case]
    assert told(LB, NOTHING, *looks) == expected


def test_a_step_longer_than_a_time_wait_life() -> None:
    """What came and went is seen nowhere; the other ends' counters still give bounds, or the number itself."""
    race = behind_lb(grew(4, 10), grew(12, 3, 10), grew(1, 0, 3))
    assert told(LB, NOTHING, race, step_ms=70_000.0) == [
        "client-lb 10: 4/9 or 10, both 3 or 4, reset 0, open 0",
        "lb-backend 3: 2 or 3/1, both 0 or 1, reset 0, open 0",
    ]
    sure = behind_lb(grew(0, 10), grew(12, 3, 10), grew(1, 0, 3))
    assert told(LB, NOTHING, sure, step_ms=70_000.0) == [
        "client-lb 10: 0/10, both 0, reset 0, open 0",
        "lb-backend 3: 2/1, both 0, reset 0, open 0",
    ]


def test_two_clients_at_once() -> None:
    """One server's sum is shared by what each client's count leaves for it."""
    look = {
        "client1": Look([], tcp(TW=2, ActiveOpens=5)),
        "client2": Look([], tcp(ActiveOpens=6)),
        "server": Look([HTTP], tcp(TW=10, PassiveOpens=11)),
    }
    assert told(CROWD, NOTHING, look) == [
        "client1-server 5: 2/4, both 1, reset 0, open 0",
        "client2-server 6: 0/6, both 0, reset 0, open 0",
    ]


TWO_UP = topology(
    "client 198.18.1.2 - lb 198.18.1.1", "lb 198.18.2.1 - one 198.18.2.2", "lb 198.18.3.1 - two 198.18.3.2"
)  # fmt: skip


def test_several_upstreams() -> None:
    """An LB's connections are told apart by the upstream; its sum is shared between them."""
    sockets = rows("time-wait", (1024, 1025), "198.18.2.2:80", "198.18.2.1")
    sockets += rows("time-wait", (1024,), "198.18.3.2:80", "198.18.3.1")
    look = {
        "client": Look([], tcp(TW=5, ActiveOpens=5)),
        "lb": Look([HTTP, *sockets], tcp(TW=4, TWRecycled=1, ActiveOpens=5, PassiveOpens=5)),
        "one": Look([HTTP], tcp(TW=1, PassiveOpens=3)),
        "two": Look([HTTP], tcp(PassiveOpens=2)),
    }
    assert told(TWO_UP, NOTHING, look) == [
        "client-lb 5: 5/0, both 0, reset 0, open 0",
        "lb-one 3: 2/1, both 0, reset 0, open 0",
        "lb-two 2: 2/0, both 0, reset 0, open 0",
    ]


def test_a_neighbour_that_was_not_asked_has_no_flow() -> None:
    """One client asks one of two servers while the other one serves somebody else."""
    lab = topology(
        "client 198.18.1.2 - one 198.18.1.1", "client 198.18.2.2 - two 198.18.2.1", "other 198.18.3.2 - two 198.18.3.1"
    )
    mine = rows("time-wait", (1024, 1026), "198.18.1.1:80", "198.18.1.2")
    others = rows("time-wait", (1024, 1026, 1028), "198.18.3.1:80", "198.18.3.2")
    look = {
        "client": Look(mine, tcp(TW=2, ActiveOpens=2)),
        "one": Look([HTTP], tcp(PassiveOpens=2)),
        "other": Look(others, tcp(TW=3, ActiveOpens=3)),
        "two": Look([HTTP], tcp(PassiveOpens=3)),
    }
    assert told(lab, {"one": Look([HTTP]), "two": Look([HTTP])}, look) == [
        "client-one 2: 2/0, both 0, reset 0, open 0",
        "other-two 3: 3/0, both 0, reset 0, open 0",
    ]


def test_an_idle_connection_is_none_that_was_opened() -> None:
    """What it had before, and what its two ends open and accept with others meanwhile."""
    lab = topology(
        "client 198.18.1.2 - one 198.18.1.1", "client 198.18.2.2 - two 198.18.2.1", "other 198.18.3.2 - one 198.18.3.1"
    )
    idle = rows("established", (1024,), "198.18.1.1:80", "198.18.1.2")
    mine = rows("time-wait", (1026, 1028), "198.18.2.1:80", "198.18.2.2")
    others = rows("time-wait", (1024,), "198.18.3.1:80", "198.18.3.2")
    before = {"client": Look(idle), "one": Look([HTTP, *accepted(idle)]), "two": Look([HTTP])}
    look = {
        "client": Look([*idle, *mine], grew(2, 2)),
        "one": Look([HTTP, *accepted(idle)], grew(0, 0, 1)),
        "two": Look([HTTP], grew(0, 0, 2)),
        "other": Look(others, grew(1, 1)),
    }
    assert told(lab, before, look) == [
        "client-one 0: 0/0, both 0, reset 0, open 1",
        "client-two 2: 2/0, both 0, reset 0, open 0",
        "other-one 1: 1/0, both 0, reset 0, open 0",
    ]


def test_an_address_behind_the_neighbour_is_reached_over_the_link_to_it() -> None:
    """The server's address on its other side."""
    lab = topology("client 198.18.1.2 - server 198.18.1.1", "server 198.18.2.1 - store 198.18.2.2")
    mine = rows("time-wait", (1024,), "198.18.2.1:80", "198.18.1.2")
    (one,) = write(lab, [NOTHING, direct(mine, [], grew(1, 1), grew(0, 0, 1))]).closes
    assert (one.link, words(one)) == ("client:eth0 -- server:eth0", "client-server 1: 1/0, both 0, reset 0, open 0")


def test_several_links_between_two_nodes() -> None:
    """Each connection counts once, on the link whose address was asked; on both where sockets show both."""
    lab = topology("client 198.18.1.2 - server 198.18.1.1", "client 198.18.2.2 - server 198.18.2.1")
    second = rows("time-wait", (1024, 1026), "198.18.2.1:80", "198.18.2.2")
    look = direct(second, [], tcp(TW=2, ActiveOpens=2), tcp(PassiveOpens=2))
    (one,) = write(lab, [NOTHING, look]).closes
    assert (one.link, words(one)) == ("client:eth1 -- server:eth1", "client-server 2: 2/0, both 0, reset 0, open 0")
    both = [*second, *rows("time-wait", (1024,), "198.18.1.1:80", "198.18.1.2")]
    (one,) = write(lab, [NOTHING, direct(both, [], tcp(TW=3, ActiveOpens=3), tcp(PassiveOpens=3))]).closes
    assert one.link == "client:eth0 -- server:eth0, client:eth1 -- server:eth1"
    assert words(one) == "client-server 3: 3/0, both 0, reset 0, open 0"


def test_nodes_that_no_link_joins() -> None:
    """A router between them has no sockets; the flow is the client's and the server's, on the server's link."""
    lab = topology("client 198.18.1.2 - router 198.18.1.1", "router 198.18.2.1 - server 198.18.2.2")
    mine = rows("time-wait", (1024,), "198.18.2.2:80", "198.18.1.2")
    (one,) = write(lab, [NOTHING, direct(mine, [], tcp(TW=1, ActiveOpens=1), tcp(PassiveOpens=1))]).closes
    assert (one.link, words(one)) == ("router:eth1 -- server:eth0", "client-server 1: 1/0, both 0, reset 0, open 0")
    masqueraded = accepted(rows("time-wait", (1024,), "198.18.2.2:80", "198.18.2.1"))
    found = told(lab, NOTHING, direct(KEPT[:0], masqueraded, tcp(ActiveOpens=1), tcp(TW=1, PassiveOpens=1)))
    assert found == []  # the server's peer is the router, which opened nothing: nobody is named


def test_two_nodes_that_open_to_each_other() -> None:
    """The listener's port says which end of a socket opened it."""
    there = rows("time-wait", (1024, 1026), TO_SERVER)
    back = accepted(rows("time-wait", (2000,), f"{CLIENT}:80", SERVER))
    kept = rows("established", (2002,), f"{CLIENT}:80", SERVER)
    look = {
        "client": Look([HTTP, *there, *back, *accepted(kept)], tcp(TW=3, ActiveOpens=2, PassiveOpens=2)),
        "server": Look([HTTP, *kept], tcp(ActiveOpens=2, PassiveOpens=2)),
    }
    assert told(DIRECT, {"client": Look([HTTP]), "server": Look([HTTP])}, look) == [
        "client-server 2: 2/0, both 0, reset 0, open 0",
        "server-client 2: 0/1, both 0, reset 0, open 1",
    ]


def test_connections_over_loopback_are_nobodys_flow() -> None:
    """A server that proxies to itself counts both ends of these; its clients' part stays within bounds."""
    inner = rows("time-wait", (40000, 40002), "127.0.0.1:8080", "127.0.0.1")
    server = Look([HTTP, listening(8080), *inner], tcp(TW=5, ActiveOpens=4, PassiveOpens=9))
    look = {"client": Look([], tcp(TW=2, ActiveOpens=5)), "server": server}
    assert told(DIRECT, NOTHING, look) == ["client-server 5: 2/3 to 5, both 0 to 2, reset 0, open 0"]


def test_a_link_without_a_trace_is_told_by_counters_alone() -> None:
    """Reset connections leave no sockets; who opened and who accepted is counted all the same. Dumps may show them."""
    lab = topology("client 198.18.1.2 - router 198.18.1.1", "router 198.18.2.1 - server 198.18.2.2")
    look = direct([], [], tcp(ActiveOpens=2), tcp(PassiveOpens=2, TCPAbortOnData=2))
    assert told(lab, NOTHING, look) == []
    seen = Dump(500.0, "client", rows("established", (1024,), "198.18.2.2:80", "198.18.1.2"))
    (one,) = write(lab, [NOTHING, look], [seen]).closes
    assert words(one) == "client-server 2: 0/0, both 0, reset 2, open 0"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://198.18.0.1/", "198.18.0.1:80"),
        ("http://198.18.0.1:8080/x?y", "198.18.0.1:8080"),
        ("http://[2001:DB8:0:0::1]:81/", "[2001:db8::1]:81"),
        ("http://[2001:db8::1]", "[2001:db8::1]:80"),
    ],
)
def test_destination(url: str, expected: str) -> None:
    """A URL's address as the kernel spells it: sockets are compared with it."""
    assert str(destination(url)) == expected


def test_a_record_that_is_not_whole_says_nothing() -> None:
    """No snapshot of a node, no count."""
    case = write(DIRECT, [NOTHING, DIRECT_CASES["the acceptor closes all"][0]])
    assert len(closes(case.record, DIRECT, 0)) == 1
    assert closes(case.record, DIRECT, 1) == []
    del case.record.snapshots[0, "server"]
    assert closes(case.record, DIRECT, 0) == []
    assert closes(Record(), DIRECT, 0) == []


# --- a capture knows exactly

LINK = "client:eth0 -- server:eth0"


def close(port: int, at_ms: float, how: str, opener: str = CLIENT, acceptor: str = SERVER) -> Close:
    return (opener, port, acceptor, 80, at_ms, how)


HOWS = ["opener"] * 3 + ["acceptor"] * 2 + ["simultaneous", "reset", "unopened", "open"]


def captured(*found: Close, dropped: int = 0, link: str = LINK) -> Captured:
    return Captured(link, list(found), 99, dropped)


def of_capture(*captures: Captured) -> list[str]:
    first = direct(KEPT, accepted(KEPT), tcp(TW=4, ActiveOpens=9), tcp(TW=3, PassiveOpens=8))
    case = write(DIRECT, [NOTHING, first, direct([], [], tcp(TW=1), {})], captures)
    return [f"{one.source} {words(one)}" for one in case.closes]


def test_a_capture_counts_exactly() -> None:
    """Each connection by its FINs, in the step in which it ends; simultaneous closes count on both sides."""
    found = [close(2000 + index, 10.0 + index, how) for index, how in enumerate(HOWS)]
    assert of_capture(captured(*found, close(1024, 50.0, "opener"))) == [
        "capture client-server 9: 4/3, both 1, reset 1, open 2",
        "capture client-server 0: 1/0, both 0, reset 0, open 0",
    ]


def test_a_capture_of_reused_ports() -> None:
    """Of one 4-tuple's connections only the last one before a look can be the one that is open there."""
    found = [close(1024, 10.0, "acceptor"), close(1024, 20.0, "opener"), close(1024, 1500.0, "reset")]
    assert of_capture(captured(*found)) == [
        "capture client-server 2: 0/1, both 0, reset 0, open 1",
        "capture client-server 1: 1/0, both 0, reset 1, open 0",
    ]


def test_what_was_opened_after_the_last_look_is_no_steps() -> None:
    """As programs end, connections come and go that no counter in the record has."""
    found = [close(1024, 10.0, "acceptor"), close(3000, 2000.5, "acceptor")]
    assert of_capture(captured(*found))[1] == "capture client-server 0: 0/1, both 0, reset 0, open 0"


def test_other_connections_of_a_captured_link() -> None:
    """Those of another opener or acceptor are other flows."""
    strange = [close(2001, 11.0, "opener", SERVER, CLIENT), close(2002, 12.0, "opener", "198.18.9.9", CLIENT)]
    found = [close(2000, 10.0, "opener"), *strange, close(1024, 20.0, "opener")]
    assert of_capture(captured(*found))[0] == "capture client-server 2: 1/0, both 0, reset 0, open 1"


def test_a_capture_that_dropped_packets_is_not_believed() -> None:
    for unfit in (captured(close(2000, 10.0, "opener"), dropped=1), captured(close(2000, 10.0, "opener"), link="x")):
        assert [one.split()[0] for one in of_capture(unfit)] == ["counters", "counters"]


# --- random histories: the truth always lies within the bounds


@dataclass
class World:
    """Nodes that open, close and forget as kernels do; it knows the truth, and writes looks that do not say it."""

    chance: random.Random
    limit: int
    waiting: dict[str, dict[tuple[object, ...], float]] = field(default_factory=dict)
    """By node: when each 4-tuple's TIME_WAIT began."""
    grew: dict[str, Tally[str]] = field(default_factory=dict)
    open: dict[tuple[str, str], list[tuple[str, int, str, int]]] = field(default_factory=dict)
    truth: dict[tuple[str, str], Tally[str]] = field(default_factory=dict)
    now: float = 0.0

    def count(self, node: str, name: str) -> None:
        self.grew.setdefault(node, Tally())[name] += 1

    def connect(self, opener: str, acceptor: str, here: str, there: str) -> None:
        taken = self.open.setdefault((opener, acceptor), [])
        free = [port for port in range(1024, 1034) if (here, port, there, 80) not in taken]
        tuple4 = (here, self.chance.choice(free), there, 80)
        if self.waiting.setdefault(opener, {}).pop(tuple4, None) is not None:
            self.count(opener, "TcpExtTWRecycled")
        self.waiting.setdefault(acceptor, {}).pop(tuple4, None)  # a new SYN, and no counter
        self.count(opener, "TcpActiveOpens")
        self.count(acceptor, "TcpPassiveOpens")
        taken.append(tuple4)
        self.truth.setdefault((opener, acceptor), Tally())["opened"] += 1

    def close(self, opener: str, acceptor: str) -> None:
        pair = opener, acceptor
        connections = self.open[pair]
        tuple4 = connections.pop(self.chance.randrange(len(connections)))
        how = self.chance.choices(("opener", "acceptor", "both", "reset"), (4, 4, 1, 1))[0]
        self.truth.setdefault(pair, Tally())[how] += 1
        for node, side in ((opener, "opener"), (acceptor, "acceptor")):
            if how in (side, "both"):
                self.enter(node, tuple4)
        if how == "reset":
            sender = self.chance.choice(pair)
            self.count(sender, "TcpExtTCPAbortOnData")
            self.count(sender, "TcpOutRsts")

    def enter(self, node: str, tuple4: tuple[object, ...]) -> None:
        there = self.waiting.setdefault(node, {})
        if sum(began > self.now - 60_000 for began in there.values()) >= self.limit:
            self.count(node, "TcpExtTCPTimeWaitOverflow")
            return
        self.count(node, "TcpExtTW")
        there[tuple4] = self.now

    def look(self, nodes: dict[str, bool]) -> dict[str, Look]:
        """A look at each node; True for one that listens."""
        found = {}
        for node, listens in nodes.items():
            sockets: list[Row] = [HTTP] if listens else []
            for (opener, acceptor), connections in self.open.items():
                mine = [row("established", f"{one[0]}:{one[1]}", f"{one[2]}:80") for one in connections]
                sockets += mine if node == opener else accepted(mine) if node == acceptor else []
            there = self.waiting.get(node, {})
            for (here, port, remote, _), began in list(there.items()):
                left = round(began + 60_000 - self.now)
                if left <= 0:
                    del there[here, port, remote, 80]
                    continue
                one = row("time-wait", f"{here}:{port}", f"{remote}:80", left)
                sockets += [one] if self.is_opener(node, str(here)) else accepted([one])
            found[node] = Look(sockets, dict(self.grew.get(node, {})))
        self.grew.clear()
        return found

    @staticmethod
    def is_opener(node: str, address: str) -> bool:
        ends = [end for link in TWO_UP.links for end in link if end.node == node]
        return any(str(one.ip) == address for end in ends for one in end.addresses)


PATHS = [
    ("client", "lb", "198.18.1.2", "198.18.1.1"),
    ("lb", "one", "198.18.2.1", "198.18.2.2"),
    ("lb", "two", "198.18.3.1", "198.18.3.2"),
]
LISTENS = {"client": False, "lb": True, "one": True, "two": True}


def is_within(number: int, bounds: Bounds) -> bool:
    return bounds.least <= number <= bounds.most


def check(found: list[Closes], truth: dict[tuple[str, str], Tally[str]], still: dict[tuple[str, str], int]) -> None:
    told_of = {(one.opener, one.acceptor): one for one in found}
    for pair, counts in truth.items():
        if not counts and not still[pair]:
            continue
        one = told_of[pair]
        assert (one.opened, one.open) == (counts["opened"], still[pair])
        assert is_within(counts["opener"] + counts["both"], one.by_opener), (pair, counts, one)
        assert is_within(counts["acceptor"] + counts["both"], one.by_acceptor), (pair, counts, one)
        assert is_within(counts["both"], one.simultaneous), (pair, counts, one)
        assert is_within(counts["reset"], one.reset), (pair, counts, one)


@pytest.mark.parametrize("seed", range(60))
def test_the_truth_is_never_outside_the_bounds(seed: int) -> None:
    """A client, an LB and two upstreams with random ports, closers, resets, overflows, pauses and open connections."""
    chance = random.Random(seed)
    world = World(chance, limit=chance.choice((3, 1000, 1000)))
    looks = [world.look(LISTENS)]
    truths = []
    step_ms = chance.choice((1000.0, 35_000.0, 70_000.0))
    for number in range(3):
        for action in range(chance.choice((0, 5, 40))):
            world.now = number * step_ms + action * step_ms / 50
            opener, acceptor, here, there = PATHS[chance.choice((0, 1, 1, 2))]
            pair = opener, acceptor
            if len(world.open.get(pair, [])) < 3:
                world.connect(opener, acceptor, here, there)
            if chance.random() < 0.8:
                world.close(*pair)
        world.now = (number + 1) * step_ms
        truths.append((dict(world.truth), {path[:2]: len(world.open.get(path[:2], [])) for path in PATHS}))
        world.truth = {}
        looks.append(world.look(LISTENS))
    case = write(TWO_UP, looks, step_ms=step_ms)
    for number, (truth, still) in enumerate(truths):
        check([one for one in case.closes if one.step == number], truth, still)


# --- labs whose programs close as they are told


URL = f"http://{SERVER}/"
LB_URL = "http://198.18.1.1/"


def server(close: str, **sysctls: str) -> Node:
    return Node("server", sysctls, Programs(HttpServer(Listen(SERVER, 80), close=close)))


def backend(close: str) -> Node:
    return Node("backend", {}, Programs(HttpServer(Listen("198.18.2.2", 80), close=close)))


def proxy(keepalive: int = 0, keepalive_requests: int = 1000) -> Node:
    program = HttpProxy(Listen("198.18.1.1", 80), Listen("198.18.2.2", 80), keepalive, keepalive_requests)
    return Node("lb", {}, Programs(program))


def replayed_closes(lab: str, steps: Sequence[Step], *nodes: Node) -> list[Closes]:
    """Replay some steps on a shipped lab with other programs, in a sandbox."""
    plain, experiment = shipped(lab, steps=tuple(steps), nodes={one.name: one for one in nodes})

    def inside() -> list[Closes]:
        record, _ = replayed(plain, experiment)
        assert all(one.settled for one in record.steps.values())
        return Case(record, experiment, plain.with_nodes(experiment.nodes)).closes

    return in_sandbox(inside)


def has_identity(one: Closes) -> bool:
    """by opener + by acceptor - simultaneous + reset = ended, for some values within the bounds."""
    ended = one.by_opener + one.by_acceptor - one.simultaneous + one.reset
    return ended.least <= one.opened - one.open <= ended.most


STYLES = {
    "client-first": "client-server 9: 9/0, both 0, reset 0, open 0",
    "server-first": "client-server 9: 0/9, both 0, reset 0, open 0",
    "reset": "client-server 9: 0/0, both 0, reset 9, open 0",
    "keep-alive": "client-server 9: 9/0, both 0, reset 0, open 0",
}


@pytest.mark.netns
@pytest.mark.parametrize("style", STYLES)
def test_a_lab_closes_as_its_style_says(style: str) -> None:
    """The server states who closes first; the counts say so, exactly."""
    (one,) = replayed_closes("direct", [Step("nine", URL, requests=9)], server(style))
    assert words(one) == STYLES[style]
    assert one.is_exact


@pytest.mark.netns
@pytest.mark.parametrize(("fin_timeout", "counter"), [("3", "TcpExtTWKilled"), ("5", "TcpExtTW")])
def test_a_short_fin_timeout_hides_no_close(fin_timeout: str, counter: str) -> None:
    """An orphan in FIN_WAIT2 that has 4 s or less is counted as TWKilled, and its TIME_WAIT later on nowhere."""

    def inside() -> tuple[dict[str, int], list[str]]:
        netns.add("one")
        with Rtnl("one") as links:
            links.set_up(LOOPBACK_INDEX, "lo")
        sysctl.write("one", "net.ipv4.tcp_fin_timeout", fin_timeout)
        eyes = Observer("one")
        before = eyes.counters.read()
        with netns.enter("one"):
            listener = socket.create_server(("127.0.0.1", 80))
            opener = socket.create_connection(("127.0.0.1", 80))
        acceptor, _ = listener.accept()
        opener.close()
        wait_until(lambda: "fin-wait-2" in [each.state for each in eyes.sockets.dump()], "the FIN is acknowledged", 5)
        acceptor.close()
        wait_until(lambda: "time-wait" in [each.state for each in eyes.sockets.dump()], "the peer has closed", 2)
        after = eyes.counters.read()
        return {name: after[name] - before[name] for name in ENTRIES}, [each.state for each in eyes.sockets.dump()]

    grew, states = in_sandbox(inside)
    assert grew == {**dict.fromkeys(ENTRIES, 0), counter: 1}
    assert states == ["listening", "time-wait"]


@pytest.mark.netns
def test_races_add_up() -> None:
    """Who wins differs from run to run; both ends' counters are exact, and account for every connection."""
    (one,) = replayed_closes("direct", [Step("race", URL, requests=200, http="1.0")], server("race"), WIDE)
    assert one.opened == 200 and one.open == 0
    assert one.is_exact
    assert has_identity(one) and one.reset == Bounds.exactly(0)


WIDE = Node("client", {"net.ipv4.ip_local_port_range": "2000 2999"})


@pytest.mark.netns
def test_kept_connections_end_in_the_step_that_ends_them() -> None:
    """An LB that keeps connections for seven requests: the first step opens one, the second one ends it."""
    steps = [Step("five", LB_URL, requests=5), Step("five more", LB_URL, requests=5)]
    found = replayed_closes("lb3ports", steps, proxy(64, 7), backend("keep-alive"))
    assert [words(one) for one in found] == [
        "client-lb 5: 5/0, both 0, reset 0, open 0",
        "lb-backend 1: 0/0, both 0, reset 0, open 1",
        "client-lb 5: 5/0, both 0, reset 0, open 0",
        "lb-backend 1: 1/0, both 0, reset 0, open 1",
    ]


@pytest.mark.netns
def test_a_client_that_keeps_its_connection() -> None:
    """Nine requests, one connection, one close."""
    (one,) = replayed_closes("direct", [Step("kept", URL, requests=9, keep_alive=True)], server("keep-alive"))
    assert words(one) == "client-server 1: 1/0, both 0, reset 0, open 0"


@pytest.mark.netns
def test_an_lb_without_ports() -> None:
    """The LB closes first and has two ports: two connections, whatever the client asks for afterwards."""
    steps = [Step("ten", LB_URL, requests=10), Step("again", LB_URL, requests=10)]
    found = replayed_closes("lb3ports", steps, proxy(), backend("client-first"))
    assert [words(one) for one in found] == [
        "client-lb 10: 10/0, both 0, reset 0, open 0",
        "lb-backend 2: 2/0, both 0, reset 0, open 0",
        "client-lb 10: 10/0, both 0, reset 0, open 0",
    ]


@pytest.mark.netns
def test_an_lb_that_races() -> None:
    """One counter for two roles, and still every connection is accounted for on both links."""
    wide = Node("lb", {"net.ipv4.ip_local_port_range": "2000 2999"}, proxy().programs)
    found = replayed_closes("lb3ports", [Step("race", LB_URL, requests=200)], wide, backend("race"))
    assert [(one.opener, one.acceptor, one.opened, one.open) for one in found] == [
        ("client", "lb", 200, 0),
        ("lb", "backend", 200, 0),
    ]
    assert [one for one in found if not has_identity(one)] == []


@pytest.mark.netns
def test_a_crowd() -> None:
    """Two clients one after the other: the server's sum is told apart by link and step."""
    steps = [
        Step("first", "http://198.18.1.1/", "client1", requests=7),
        Step("second", "http://198.18.2.1/", "client2", requests=9),
    ]
    found = replayed_closes("crowd", steps)
    assert [(one.link, words(one)) for one in found] == [
        ("client1:eth0 -- server:eth0", "client1-server 7: 0/7, both 0, reset 0, open 0"),
        ("client2:eth0 -- server:eth1", "client2-server 9: 0/9, both 0, reset 0, open 0"),
    ]


def captured_lab(lab: str, steps: Sequence[Step], *nodes: Node) -> tuple[list[Closes], list[Closes]]:
    """Replay with a capture of every link; return what the captures say, and what counters and sockets say alone."""
    plain, experiment = shipped(lab, steps=tuple(steps), nodes={one.name: one for one in nodes})
    changed = plain.with_nodes(experiment.nodes)

    def inside() -> tuple[list[Closes], list[Closes]]:
        files = {link.name: os.memfd_create("capture") for link in plain.links}
        record = Record()
        carry_out(Job(changed, experiment, servers="h11"), record.add, files)
        assert record.trouble is None and record.is_complete
        assert [one.dropped for one in record.captured] == [0] * len(files)
        exact = Case(record, experiment, changed).closes
        record.captured.clear()
        return exact, Case(record, experiment, changed).closes

    return in_sandbox(inside)


def contains(bounds: Closes, exact: Closes) -> bool:
    """Whether what counters say leaves room for what packets say."""
    pairs = [
        (bounds.by_opener, exact.by_opener),
        (bounds.by_acceptor, exact.by_acceptor),
        (bounds.simultaneous, exact.simultaneous),
        (bounds.reset, exact.reset),
    ]
    return (bounds.opened, bounds.open) == (exact.opened, exact.open) and all(
        is_within(one.least, room) for room, one in pairs
    )


CAPTURED: dict[str, tuple[str, tuple[Step, ...], tuple[Node, ...]]] = {
    "two races behind an LB": (
        "lb3ports",
        (Step("one", LB_URL, requests=60), Step("two", LB_URL, requests=60)),
        (Node("lb", {"net.ipv4.ip_local_port_range": "2000 2999"}, proxy().programs), backend("race")),
    ),
    "kept over the end of a step, and over the end of the run": (
        "lb3ports",
        (Step("one", LB_URL, requests=10), Step("two", LB_URL, requests=10)),
        (proxy(64, 15), backend("keep-alive")),
    ),
    "reset": ("direct", (Step("one", URL, requests=9),), (server("reset"),)),
    "IPv6, a server that closes first": (
        "direct",
        (Step("one", f"http://[{SERVER6}]/", requests=30),),
        (Node("server", {}, Programs(HttpServer(Listen(SERVER6, 80), close="server-first"))),),
    ),
}


@pytest.mark.netns
@pytest.mark.parametrize("name", CAPTURED)
def test_counters_and_captures_agree(name: str) -> None:
    """Packet by packet, and by counters and sockets alone: two ways to the same numbers."""
    lab, steps, nodes = CAPTURED[name]
    exact, by_counters = captured_lab(lab, steps, *nodes)
    assert {one.source for one in exact} == {"capture"}
    assert [(one.step, one.link) for one in exact] == [(one.step, one.link) for one in by_counters]
    assert [pair for pair in zip(by_counters, exact, strict=True) if not contains(*pair)] == []
