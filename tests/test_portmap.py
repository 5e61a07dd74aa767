"""Each port over time, and what held the ports when a request was refused: from looks, timers and responses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from conftest import in_sandbox
from evidence_records import (
    CLIENT,
    CLIENT6,
    DIRECT,
    LB,
    RANGE,
    SERVER,
    SERVER6,
    Look,
    accepted,
    listening,
    port_of,
    replayed,
    responses,
    row,
    rows,
    shipped,
    shown,
    shown_by_ss,
    tcp,
    topology,
    write,
)

from netns_tw.evidence.case import Case
from netns_tw.evidence.portmap import PortMap
from netns_tw.evidence.refused import Refused
from netns_tw.model.experiment import Step
from netns_tw.model.lines import Dump, Response, Row
from netns_tw.model.topology import HttpProxy, HttpServer, Listen, Node, Programs, Topology

TO, TO_BACKEND, LB_UP = f"{SERVER}:80", "198.18.2.2:80", "198.18.2.1"
URL, LB_URL = f"http://{SERVER}/", "http://198.18.1.1/"
PORT = 1024


def looked(
    *looks: list[Row], lines: Sequence[Response | Dump] = (), steps: Sequence[Step] = (), recycled: int = 0
) -> Case:
    """The client's sockets at 0 s, 1 s, 2 s, ...; and how much TWRecycled grew by the end."""
    found = [{"client": Look(sockets)} for sockets in looks]
    found[-1] = {"client": Look(looks[-1], tcp(TWRecycled=recycled))}
    return write(DIRECT, found, lines, steps)


def is_taken_over(expected: list[tuple[float, float, str]]) -> bool:
    return any("!" in state for *_, state in expected)


def of_port(case: Case, port: int = PORT) -> list[tuple[float, float, str]]:
    (found,) = case.port_maps
    return shown(found.ports[port])


def waiting(left_ms: int, port: int = PORT) -> list[Row]:
    return rows("time-wait", [port], TO, left_ms=left_ms)


OPEN = rows("established", [PORT], TO)
FREE: list[Row] = []

LOOKS: dict[str, tuple[list[list[Row]], list[tuple[float, float, str]]]] = {
    "a TIME_WAIT began when its timer was set to 60 s": (
        [FREE, waiting(59_400), waiting(58_400)],
        [(400.0, 2000.0, "time-wait")],
    ),
    "timers are read in jiffies": (
        [FREE, waiting(59_400), waiting(58_408), waiting(57_397)],
        [(400.0, 3000.0, "time-wait")],
    ),
    "a timer that ends later is another TIME_WAIT": (
        [FREE, waiting(59_400), waiting(59_500)],
        [(400.0, 1500.0, "time-wait"), (1500.0, 2000.0, "time-wait!")],
    ),
    "it ended with its timer": (
        [waiting(300), FREE, FREE],
        [(-59_700.0, 300.0, "time-wait")],
    ),
    "it was gone before its timer ended": (
        [waiting(59_000), waiting(58_000), FREE, FREE],
        [(-1000.0, 2000.0, "time-wait")],
    ),
    "a connection lasts as long as it is seen, and until the first look without it": (
        [FREE, OPEN, OPEN, FREE, FREE],
        [(1000.0, 3000.0, "established")],
    ),
    "what is not there at a look between is another one": (
        [OPEN, FREE, OPEN, FREE],
        [(0.0, 1000.0, "established"), (2000.0, 3000.0, "established")],
    ),
    "a connection ended where its TIME_WAIT began": (
        [OPEN, waiting(59_700)],
        [(0.0, 700.0, "established"), (700.0, 1000.0, "time-wait")],
    ),
    "a TIME_WAIT ended where it was taken over": (
        [waiting(59_000), OPEN],
        [(-1000.0, 1000.0, "time-wait"), (1000.0, 1000.0, "established!")],
    ),
}


@pytest.mark.parametrize("case", LOOKS)
def test_intervals_of_a_port(case: str) -> None:
    """What looks and timers tell of one port; a ``!`` is a port that was taken over."""
    looks, expected = LOOKS[case]
    assert of_port(looked(*looks, recycled=is_taken_over(expected))) == expected


def test_dumps_are_looks_too() -> None:
    """Between two snapshots; and the next look after a dump that shows a socket is where it had gone by."""
    dumps = [Dump(100.0, "client", OPEN), Dump(300.0, "client", FREE), Dump(500.0, "server", OPEN)]
    assert of_port(looked(FREE, FREE, lines=dumps)) == [(100.0, 300.0, "established")]


REQUESTS: dict[str, tuple[list[list[Row]], Sequence[Response | Dump], bool, list[tuple[float, float, str]]]] = {
    "free at every look": (
        [FREE, FREE],
        responses(0, ["200", "404"], [PORT, PORT], every_ms=100),
        False,
        [(10.0, 11.0, "established"), (110.0, 111.0, "established")],
    ),
    "a TIME_WAIT begins where the request ends, its timer is read in jiffies": (
        [FREE, waiting(59_019)],
        responses(0, ["200"], [PORT]),
        False,
        [(10.0, 11.0, "established"), (11.0, 1000.0, "time-wait")],
    ),
    "but not with one that ended long before": (
        [FREE, waiting(59_030)],
        responses(0, ["200"], [PORT]),
        False,
        [(10.0, 11.0, "established"), (30.0, 1000.0, "time-wait")],
    ),
    "a look during a request knows less than the request": (
        [FREE, FREE],
        [*responses(0, ["200", "200"], [PORT, PORT], every_ms=100), Dump(10.5, "client", OPEN)],
        False,
        [(10.0, 11.0, "established"), (110.0, 111.0, "established")],
    ),
    "a kept connection lasts longer than its requests": (
        [FREE, FREE],
        [
            *responses(0, ["200", "200"], [PORT, PORT], every_ms=100),
            Dump(10.5, "client", OPEN),
            Dump(300.0, "client", FREE),
        ],
        True,
        [(10.5, 300.0, "established")],
    ),
    "a request that was reset had its port": (
        [FREE, FREE],
        responses(0, ["ECONNRESET recv"], [PORT]),
        False,
        [(10.0, 11.0, "established")],
    ),
    "one whose port was refused had none": (
        [FREE, FREE],
        responses(0, ["EADDRINUSE bind", "ECONNREFUSED connect"], [PORT, PORT]),
        False,
        [],
    ),
    "taken over out of TIME_WAIT, seen by its request alone": (
        [waiting(59_000), FREE],
        responses(0, ["200"], [PORT]),
        False,
        [(-1000.0, 10.0, "time-wait"), (10.0, 11.0, "established!")],
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_fill_gaps(case: str) -> None:
    """The client's own responses name their port; the next look is often long after."""
    looks, lines, keep_alive, expected = REQUESTS[case]
    steps = [Step("one", URL, keep_alive=keep_alive)]
    assert of_port(looked(*looks, lines=lines, steps=steps, recycled=is_taken_over(expected))) == expected


def test_no_port_is_taken_over_where_the_kernel_counted_none() -> None:
    """A late clock makes a timer seem to end later; TWRecycled says that it is the same one. One that ended is not."""
    assert of_port(looked(FREE, waiting(59_400), waiting(58_700))) == [(400.0, 2000.0, "time-wait")]
    assert of_port(looked(FREE, waiting(59_400), waiting(58_440), recycled=1)) == [(400.0, 2000.0, "time-wait")]
    assert of_port(looked(waiting(59_000), OPEN))[1] == (1000.0, 1000.0, "established")
    an_hour = looked(waiting(59_000), *[FREE] * 60, OPEN, recycled=1)
    assert of_port(an_hour)[1] == (61_000.0, 61_000.0, "established")
    assert of_port(looked(waiting(300), waiting(59_400))) == [
        (-59_700.0, 300.0, "time-wait"),
        (400.0, 1000.0, "time-wait"),
    ]


@pytest.mark.parametrize(("left_ms", "from_ms"), [(59_019, 11.0), (58_900, 11.0), (58_100, 11.0), (59_050, 50.0)])
def test_a_time_wait_is_no_older_than_the_request_before_it(left_ms: int, from_ms: float) -> None:
    """However early the look's clock is: what is seen after a request began after it."""
    case = looked(FREE, waiting(left_ms), lines=responses(0, ["200"], [PORT]))
    assert of_port(case) == [(10.0, 11.0, "established"), (from_ms, 1000.0, "time-wait")]


def test_what_holds_at_the_last_look_goes_on() -> None:
    """busy() at the last look, and after it, is what was seen there."""
    kept = rows("established", [1030], TO)
    (found,) = looked(FREE, [*waiting(59_400), *kept], lines=responses(0, ["200"], [1026])).port_maps
    states = {at: {port: one.state for port, one in found.busy(at).items()} for at in (0.0, 10.5, 500.0, 1000.0, 9e9)}
    assert states == {
        0.0: {},
        10.5: {1026: "established"},
        500.0: {1024: "time-wait"},
        1000.0: {1024: "time-wait", 1030: "established"},
        9e9: {1024: "time-wait", 1030: "established"},
    }


def test_whose_ports_are_shown() -> None:
    """Of a node that opened, by remote; accepted connections and those to oneself are nobody's."""
    six = rows("time-wait", [1025], f"[{SERVER6}]:80", CLIENT6)
    other = rows("established", [1026], f"{SERVER}:8080")
    own = rows("time-wait", [1030], f"{CLIENT}:90")
    served = accepted(rows("time-wait", [40_000], f"{CLIENT}:80", SERVER))
    sockets = [listening(80), *waiting(59_000), *six, *other, *own, *served]
    theirs = accepted([*waiting(59_000), *six])
    case = write(DIRECT, [{}, {"client": Look(sockets), "server": Look([listening(80), *theirs])}])
    used = {(one.node, one.remote): [port for port, held in one.ports.items() if held] for one in case.port_maps}
    assert used == {
        ("client", "198.18.0.1:80"): [1024],
        ("client", "198.18.0.1:8080"): [1026],
        ("client", "[2001:db8::1]:80"): [1025],
    }


def test_a_port_with_two_source_addresses_is_drawn_once() -> None:
    """Its intervals never overlap: what is counted by time would count it twice."""
    two = [*waiting(59_000), row("established", "198.18.0.9:1024", TO)]
    assert of_port(looked(FREE, two)) == [(0.0, 1000.0, "time-wait")]


def ports_of(ports: str, sockets: list[Row], **sysctls: str) -> PortMap:
    lab = topology(f"client {CLIENT} - server {SERVER}", client={RANGE: ports, **sysctls})
    (found,) = write(lab, [{"client": Look(sockets)}]).port_maps
    return found


RESERVED = {"net.ipv4.ip_local_reserved_ports": "1026,1030-1031"}
RANGES: list[tuple[str, list[Row], dict[str, str], tuple[int, int, int, set[int]]]] = [
    ("1024 1034", [], {}, (11, 10, 11, set())),
    ("1024 1035", [], {}, (12, 12, 12, set())),
    ("1024 1026", [], {}, (2, 2, 3, {1026})),
    ("1024 1024", [], {}, (1, 1, 1, set())),
    ("1024 1035", [], RESERVED, (9, 9, 12, {1026, 1030, 1031})),
    ("1024 1035", [listening(1028), listening(80)], {}, (11, 11, 12, {1028})),
    ("1024 1026", [listening(1024)], {}, (1, 1, 3, {1024, 1026})),
    ("1024 1034", [listening(1024), listening(1034)], {}, (9, 9, 11, {1024, 1034})),
    ("1024\t5119", [], {}, (4096, 4096, 4096, set())),
    ("1024 5120", [], {}, (4097, 4096, 1, set())),
    ("32768 60999", [], {}, (28232, 28232, 1, set())),
]


@pytest.mark.parametrize(("ports", "sockets", "sysctls", "expected"), RANGES)
def test_ranges(
    ports: str, sockets: list[Row], sysctls: dict[str, str], expected: tuple[int, int, int, set[int]]
) -> None:
    """How many ports connect() finds at most and at least, how many are listed, and which it never takes."""
    used = rows("time-wait", [1025 if sockets else int(ports.split()[0])], TO)
    found = ports_of(ports, [*sockets, *used], **sysctls)
    assert (found.usable, found.usable_least, len(found.ports), set(found.unusable)) == expected
    usable = {port for port in range(1, 65536) if found.is_usable(port)}
    assert usable == set(range(found.low, found.high + 1)) - found.unusable


def test_a_record_without_looks_has_no_ports() -> None:
    case = looked(FREE, FREE)
    assert case.port_maps == []
    case.record.snapshots.clear()
    assert Case(case.record, case.experiment, DIRECT).port_maps == []


# --- who held the ports


def told(one: Refused) -> str:
    held = ",".join(f"{port} {state}" for port, state in sorted(one.held.items()))
    asked = f" asked {one.asked}" if one.asked else ""
    return f"{one.step}.{one.first}-{one.last} x{one.count} {one.outcome}{asked} {one.node} to {one.remote}: {held}"


def refused(case: Case) -> list[str]:
    return [told(one) for one in case.refusals]


NO_PORT = "EADDRNOTAVAIL connect"


def test_a_clients_errno_is_a_refusal() -> None:
    """With what held its ports towards the URL; other errnos and statuses are none."""
    outcomes = [
        "200",
        "EADDRNOTAVAIL connect",
        "EADDRNOTAVAIL connect",
        "ECONNREFUSED connect",
        "ETIMEDOUT recv",
        "502",
    ]
    case = looked(waiting(59_000), waiting(58_000), lines=responses(0, outcomes, [1026], every_ms=3))
    assert refused(case) == ["0.1-2 x2 EADDRNOTAVAIL client to 198.18.0.1:80: 1024 time-wait,1026 established"]


def test_a_refusal_towards_another_remote() -> None:
    """Ports held towards one remote are free towards another one; nothing is known of what held these."""
    steps = [Step("other", f"http://[{SERVER6}]:81/")]
    case = looked(waiting(59_000), waiting(58_000), lines=responses(0, [NO_PORT]), steps=steps)
    assert refused(case) == ["0.0-0 x1 EADDRNOTAVAIL client to [2001:db8::1]:81: "]


def test_holders_change() -> None:
    """Refusals in a row with the same holders are one; a step, an outcome or a holder that changes begins another."""
    kept = rows("established", [1026], TO)
    lines = [
        *responses(0, [NO_PORT] * 4, from_ms=100, every_ms=200),
        *responses(0, ["EADDRINUSE connect"], from_ms=900),
        *responses(1, [NO_PORT]),
    ]
    case = looked(waiting(59_000), [*waiting(58_000), *kept], [*waiting(57_000), *kept], lines=[
        *lines, Dump(400.0, "client", [*waiting(58_600), *kept]),
    ])  # fmt: skip
    assert refused(case) == [
        "0.0-1 x2 EADDRNOTAVAIL client to 198.18.0.1:80: 1024 time-wait",
        "0.2-3 x2 EADDRNOTAVAIL client to 198.18.0.1:80: 1024 time-wait,1026 established",
        "0.0-0 x1 EADDRINUSE client to 198.18.0.1:80: 1024 time-wait,1026 established",
        "1.0-0 x1 EADDRNOTAVAIL client to 198.18.0.1:80: 1024 time-wait,1026 established",
    ]


def test_a_port_that_was_asked_for() -> None:
    """bind() of a given port minds a socket on it, whatever its remote; the range's other ports do not matter."""
    other = rows("time-wait", [1024, 2000], f"{SERVER}:443")
    outcomes = ["EADDRINUSE bind", "EADDRINUSE bind", "EADDRNOTAVAIL connect"]
    lines = responses(0, outcomes, [1024, 2000, 1030])
    case = looked([*waiting(59_000), *other], [*waiting(58_000), *other], lines=lines)
    assert refused(case) == [
        "0.0-0 x1 EADDRINUSE asked 1024 client to 198.18.0.1:80: 1024 time-wait",
        "0.1-1 x1 EADDRINUSE asked 2000 client to 198.18.0.1:443: 2000 time-wait",
        "0.2-2 x1 EADDRNOTAVAIL asked 1030 client to 198.18.0.1:80: ",
    ]


def lb_case(*looks: list[Row], lines: Sequence[Response | Dump], lab: Topology = LB) -> Case:
    """The LB's sockets at 0 s, 1 s, ...; the client requests of it."""
    steps = [Step(f"step {number}", LB_URL) for number in range(len(looks) - 1)]
    return write(lab, [{"lb": Look([listening(80), *sockets])} for sockets in looks], lines, steps)


def upstream(*held: str) -> list[Row]:
    """The LB's sockets towards its upstream, ``1024 59000`` or ``1025 established``."""
    found = []
    for one in held:
        port, state = one.split()
        left = int(state) if state.isdecimal() else 0
        found += rows("time-wait" if left else state, [int(port)], TO_BACKEND, LB_UP, left)
    return found


@pytest.mark.parametrize("status", ["502", "503"])
def test_an_lb_without_ports(status: str) -> None:
    """Both usable ports of three are held: its 502 or 503 is a refusal; 200 and 504 are none."""
    both = upstream("1024 59000", "1025 59010"), upstream("1024 58000", "1025 58010")
    case = lb_case(*both, lines=responses(0, ["200", status, status, "504"]))
    assert refused(case) == [f"0.1-2 x2 {status} lb to 198.18.2.2:80: 1024 time-wait,1025 time-wait"]


FREE_PORTS: dict[str, tuple[list[list[Row]], Sequence[Response | Dump]]] = {
    "one port is free": ([upstream("1024 59000"), upstream("1024 58000")], responses(0, ["502"])),
    "the ports were taken later": ([[], upstream("1024 59500", "1025 59500")], responses(0, ["502"], from_ms=400)),
    "the ports were free again": ([upstream("1024 300", "1025 300"), []], responses(0, ["502"], from_ms=400)),
    "held at different times of a long request": (
        [upstream("1024 300"), upstream("1025 59500")],
        [Response(0, 0, 100.0, 900.0, 502, None, None, None), Dump(310.0, "lb", [])],
    ),
    "held towards the clients": (
        [accepted(rows("time-wait", [1024, 1025], "198.18.1.1:80", "198.18.1.2", 59_000))] * 2,
        responses(0, ["502"]),
    ),
    "nothing is known of its ports": ([[], []], responses(0, ["502"])),
    "the port that connect() never takes does not count": (
        [upstream("1024 59000", "1026 59000"), upstream("1024 58000", "1026 58000")],
        responses(0, ["502"]),
    ),
}


@pytest.mark.parametrize("case", FREE_PORTS)
def test_a_502_while_ports_are_free_has_another_reason(case: str) -> None:
    looks, lines = FREE_PORTS[case]
    assert refused(lb_case(*looks, lines=lines)) == []


def test_where_no_port_is_usable_nothing_held_it() -> None:
    """All of the range is reserved: there is no port to be held, and a 502 has no holder."""
    sysctls = {RANGE: "1024 1025", "net.ipv4.ip_local_reserved_ports": "1024-1025"}
    lab = topology("client 198.18.1.2 - lb 198.18.1.1", "lb 198.18.2.1 - backend 198.18.2.2", lb=sysctls)
    case = lb_case(upstream("1024 500"), [], lines=responses(0, ["502"], from_ms=800), lab=lab)
    assert (case.refusals, case.port_maps[0].usable) == ([], 0)


def test_a_jiffy_is_granted() -> None:
    """A TIME_WAIT whose timer says that it began some ms after the request may be what refused it."""
    case = lb_case([], upstream("1024 59500", "1025 59509"), lines=responses(0, ["502"], from_ms=500))
    assert refused(case) == ["0.0-0 x1 502 lb to 198.18.2.2:80: 1024 time-wait,1025 time-wait"]


def test_an_odd_range_is_exhausted_with_one_port_free() -> None:
    """connect() of the LB may miss one of eleven ports."""
    lab = topology("client 198.18.1.2 - lb 198.18.1.1", "lb 198.18.2.1 - backend 198.18.2.2", lb={RANGE: "1024 1034"})
    for count, expected in ((9, 0), (10, 1), (11, 1)):
        held = upstream(*(f"{port} 59000" for port in range(1024, 1024 + count)))
        assert len(lb_case(held, held, lines=responses(0, ["502"]), lab=lab).refusals) == expected


@pytest.mark.netns
def test_busy_ports_are_those_of_ss() -> None:
    """An LB that keeps a connection, and has closed others: at the end its map and ss(8) know the same ports."""
    proxy = HttpProxy(Listen("198.18.1.1", 80), Listen("198.18.2.2", 80), 64, 3)
    nodes = {
        "lb": Node("lb", {RANGE: "1024 1035"}, Programs(proxy)),
        "backend": Node("backend", {}, Programs(HttpServer(Listen("198.18.2.2", 80)))),
        "client": Node("client", {RANGE: "2000 2063"}),
    }
    lab, experiment = shipped("lb3ports", steps=(Step("some", LB_URL, requests=20),), nodes=nodes)

    def inside() -> tuple[dict[str, dict[int, str]], dict[str, dict[int, str]]]:
        record, seen = replayed(lab, experiment, last=lambda: {node: shown_by_ss(node) for node in ("client", "lb")})
        case = Case(record, experiment, lab.with_nodes(nodes))
        assert isinstance(seen, dict)
        by_ss = {
            node: {port_of(mine): state for state, mine, there in found if port_of(there) == 80}
            for node, found in seen.items()
        }
        busy = {one.node: {port: held.state for port, held in one.busy(one.ended_ms).items()} for one in case.port_maps}
        return busy, by_ss

    busy, by_ss = in_sandbox(inside)
    assert busy == by_ss
    assert sorted(by_ss["lb"].values()) == ["established"] + ["time-wait"] * 6
    assert list(by_ss["client"].values()) == ["time-wait"] * 20
