"""The sampler: it tells what changed and nothing else, and its price is bounded by its schedule."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import in_sandbox

from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.link import LOOPBACK_INDEX, Rtnl
from netns_tw.kernel.sockdiag import ALL_STATES, SockDiag, TcpSocket
from netns_tw.measure.observer import Observer
from netns_tw.measure.sampler import DUMP_MS, GAUGES_MS, SAME_TIMER_MS, SAMPLED, SHARE, Sampler, has_changed
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

HERE, PORT = "127.0.0.1", 80
ROUND_S = 60.0
"""A deadline for what takes a tenth of a second on an idle machine: a round that cost much puts off the next one."""


@dataclass
class Told:
    """What a sampler has told, and when its rounds were."""

    gauges: list[tuple[str, int, int, dict[str, int]]] = field(default_factory=list)
    sockets: list[tuple[str, list[TcpSocket]]] = field(default_factory=list)
    at_ms: list[float] = field(default_factory=list)

    def on_gauges(self, node: str, at_ms: float, time_wait: int, established: int, counters: Mapping[str, int]) -> None:
        self.gauges.append((node, time_wait, established, dict(counters)))
        self.at_ms.append(at_ms)

    def on_sockets(self, node: str, at_ms: float, found: list[TcpSocket]) -> None:
        self.sockets.append((node, found))
        self.at_ms.append(at_ms)


def add(*names: str) -> dict[str, Observer]:
    """Nodes with nothing but their loopback."""
    for name in names:
        netns.add(name)
        with Rtnl(name) as links:
            links.set_up(LOOPBACK_INDEX, "lo")
    return {name: Observer(name) for name in names}


def listener(node: str) -> socket.socket:
    with netns.enter(node):
        return socket.create_server((HERE, PORT))


def closed_by_opener(eyes: Observer, server: socket.socket) -> None:
    """One connection whose opener closes first; nothing but its TIME_WAIT is there when this returns."""
    with netns.enter(eyes.netns_name):
        one = socket.create_connection((HERE, PORT))
    other, _ = server.accept()
    one.close()
    assert other.recv(1) == b""
    other.close()
    wait_until(eyes.is_settled, "both ends closed", ROUND_S)


def after_next_round(sampler: Sampler, of_dumps: bool = True) -> None:
    """Let the sampler have its turns until a round that begins from now on is over."""
    rounds = sampler._dumps if of_dumps else sampler._gauges
    due = rounds.due_ms

    def is_over() -> bool:
        sampler.sample()
        return rounds.due_ms != due

    wait_until(is_over, "a round", ROUND_S)


def test_only_what_changed_is_told() -> None:
    """The first round tells of every node; then a node that changed nothing is told of no more."""

    def inside() -> list[object]:
        eyes = add("one", "two")
        server = listener("one")
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        answers: list[object] = []
        for is_active in (False, False, True, False):
            if is_active:
                closed_by_opener(eyes["one"], server)
            after_next_round(sampler)
            after_next_round(sampler, of_dumps=False)
            answers.append((
                [(node, waiting, counters["TcpExtTW"]) for node, waiting, _, counters in told.gauges],
                [(node, [one.state for one in found]) for node, found in told.sockets],
            ))  # fmt: skip
            told.gauges.clear()
            told.sockets.clear()
        return answers

    first, second, third, fourth = in_sandbox(inside)
    assert first == ([("one", 0, 0), ("two", 0, 0)], [])  # no socket but one that listens: nothing to tell
    assert second == ([], [])
    assert third == ([("one", 1, 1)], [("one", ["time-wait"])])
    assert fourth == ([], [])


def test_listeners_are_left_out_and_the_sampled_counters_are_all_there() -> None:
    """A dump tells of connections; a sample has every counter of SAMPLED, and what is established."""

    def inside() -> tuple[object, ...]:
        eyes = add("one")
        server = listener("one")
        with netns.enter("one"):
            client = socket.create_connection((HERE, PORT))
        other, _ = server.accept()
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        after_next_round(sampler)
        after_next_round(sampler, of_dumps=False)
        (_, found), (_, _, established, counters) = told.sockets[0], told.gauges[0]
        client.close()
        other.close()
        return sorted(one.state for one in found), established, sorted(counters)

    assert in_sandbox(inside) == (["established", "established"], 2, sorted(SAMPLED))


def test_a_port_that_was_used_again_is_a_change() -> None:
    """The same 4-tuple in the same state, but its 60 s begin anew: the port was used between two dumps."""

    def inside() -> tuple[list[object], list[object]]:
        eyes = add("one")
        sysctl.write("one", "net.ipv4.tcp_tw_reuse", "1")
        sysctl.write("one", "net.ipv4.tcp_tw_reuse_delay", "1")
        sysctl.write("one", "net.ipv4.ip_local_port_range", "1024 1024")
        server = listener("one")
        closed_by_opener(eyes["one"], server)
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        after_next_round(sampler)
        before = list(told.sockets)
        (ends,) = sampler._last_ends["one"].values()
        told_apart = ends + 2 * SAME_TIMER_MS - 60_000
        wait_until(lambda: time.monotonic() * 1000 > told_apart, "a new timer is told apart", ROUND_S)
        closed_by_opener(eyes["one"], server)
        while len(told.sockets) == len(before):
            after_next_round(sampler)
        after = told.sockets[len(before) :]
        recycled = eyes["one"].counters.some(["TcpExtTWRecycled"])
        assert recycled == {"TcpExtTWRecycled": 1}
        return [one[:-1] for _, found in before for one in found], [one[:-1] for _, found in after for one in found]

    before, after = in_sandbox(inside)
    assert before == after == [("time-wait", HERE, 1024, HERE, PORT)]


KEY, OTHER = ("time-wait", HERE, 1024, HERE, PORT), ("time-wait", HERE, 1025, HERE, PORT)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {}, False),
        ({}, {KEY: 60_000.0}, True),
        ({KEY: 60_000.0}, {}, True),
        ({KEY: 60_000.0}, {OTHER: 60_000.0}, True),
        ({KEY: 60_000.0}, {KEY: 60_000.0}, False),
        ({KEY: 60_000.0}, {KEY: 60_000.0 + SAME_TIMER_MS}, False),
        ({KEY: 60_000.0}, {KEY: 60_001.0 + SAME_TIMER_MS}, True),
        ({KEY: 60_000.0}, {KEY: 50_000.0}, False),
        ({KEY: 60_000.0, OTHER: 1.0}, {KEY: 60_000.0, OTHER: 61_000.0}, True),
    ],
)
def test_has_changed(before: dict[Any, float], now: dict[Any, float], expected: bool) -> None:
    """Other sockets, or a timer that surely ends later: one that was read late seems to end earlier."""
    assert has_changed(before, now) is expected


def test_a_timer_that_runs_down_is_no_change() -> None:
    """A TIME_WAIT that stands is told of once."""

    def inside() -> int:
        eyes = add("one")
        server = listener("one")
        closed_by_opener(eyes["one"], server)
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        for _ in range(4):
            after_next_round(sampler)
        return len(told.sockets)

    assert in_sandbox(inside) == 1


class Late(SockDiag):
    """A reader on a machine so busy that the sockets are read long after the clock was."""

    late_s = 3 * SAME_TIMER_MS / 1000

    def dump(self, states: int = ALL_STATES, local_port: int = 0) -> list[TcpSocket]:
        due = time.monotonic() + self.late_s
        wait_until(lambda: time.monotonic() >= due, "the reader has its turn", ROUND_S)
        return super().dump(states, local_port)


def test_a_late_reading_is_no_change() -> None:
    """The timer only seems to end later at the reading after it."""

    def inside() -> int:
        eyes = add("one")
        closed_by_opener(eyes["one"], listener("one"))
        eyes["one"].sockets = late = Late("one")
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        after_next_round(sampler)
        late.late_s = 0.0
        after_next_round(sampler)
        return len(told.sockets)

    assert in_sandbox(inside) == 1


def test_the_price_is_bounded_by_the_schedule() -> None:
    """After a round that took c of CPU time the next one of its kind waits c / SHARE, and its shortest time.

    So all rounds but the last one of each kind together take at most 2 x SHARE of the time that has passed, whatever
    the machine does meanwhile. Gauges and dumps are read from nodes with hundreds of sockets, as fast as is allowed.
    """

    def inside() -> tuple[float, float, float, int]:
        eyes = add("one", "two", "three")
        server = listener("one")
        for _ in range(100):
            closed_by_opener(eyes["one"], server)
        told = Told()
        began = time.monotonic()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        last = {"gauges": 0.0, "dumps": 0.0}
        rounds = {"gauges": sampler._gauges, "dumps": sampler._dumps}
        while time.monotonic() - began < 1.5:
            due, spent = {name: one.due_ms for name, one in rounds.items()}, sampler.cpu_ms
            sampler.sample()
            last |= {name: sampler.cpu_ms - spent for name, one in rounds.items() if one.due_ms != due[name]}
            select.select([], [], [], sampler.wait_s())
        return sampler.cpu_ms, (time.monotonic() - began) * 1000, sum(last.values()), sampler.count

    cpu_ms, wall_ms, last_ms, count = in_sandbox(inside)
    assert 0 < cpu_ms <= 2 * SHARE * wall_ms + last_ms
    assert 0 < count <= wall_ms / GAUGES_MS


def test_a_round_waits_for_what_the_last_one_cost() -> None:
    """Its shortest time where it was cheap, longer where it was not; wait_s() says when the first of them is due."""

    def inside() -> list[tuple[float, float, float]]:
        eyes = add("one")
        told = Told()
        sampler = Sampler(eyes, told.on_gauges, told.on_sockets)
        found = []
        for cost_ms in (0.0, GAUGES_MS * SHARE, 40.0):
            began = time.monotonic() * 1000
            sampler._gauges.took(cost_ms)
            ended = time.monotonic() * 1000
            least = max(GAUGES_MS, cost_ms / SHARE)
            found.append((began + least, sampler._gauges.due_ms, ended + least))
        sampler._dumps.due_ms = sampler._gauges.due_ms + 1
        assert 0 < sampler.wait_s() <= 4.0
        sampler._dumps.due_ms = 0.0
        assert sampler.wait_s() == 0.0
        return found

    for earliest, due, latest in in_sandbox(inside):
        assert earliest <= due <= latest
    assert DUMP_MS > GAUGES_MS


def test_some_counters_are_what_read_says() -> None:
    """Counter by counter and all at once, in a namespace where some have grown; an unknown name is left out."""

    def inside() -> tuple[dict[str, int], dict[str, int], dict[str, int], dict[str, int]]:
        eyes = add("one")
        server = listener("one")
        for _ in range(3):
            closed_by_opener(eyes["one"], server)
        found = Counters("one")
        every = found.read()
        single: dict[str, int] = {}
        for name in every:
            single |= found.some([name])
        return every, found.some(every), single, found.some(["TcpExtTW", "TcpExtNoSuchCounter", "UdpInDatagrams"])

    every, together, single, chosen = in_sandbox(inside)
    assert len(every) > 100 and every["TcpExtTW"] == 3
    assert every == together == single
    assert chosen == {"TcpExtTW": 3}
