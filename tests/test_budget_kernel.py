"""Each law of the port budget against the kernel in front of us, over a grid of ranges, choices and holders.

One process owns both ends of every connection: it makes each socket inside its namespace and closes the client first,
so nothing here races and nothing sleeps. Every case of the grid has ports, listeners and destinations of its own, so
that all of them fit into one sandbox. No number is expected literally: what is seen is held against a Budget.
"""

from __future__ import annotations

import errno
import functools
import itertools
import socket
import struct
import time
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import in_sandbox

from netns_tw.errors import UsageError
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.link import FIRST_INDEX, LOOPBACK_INDEX, Rtnl
from netns_tw.kernel.sockdiag import SockDiag
from netns_tw.model.budget import Bounds, Budget, PortChoice, predict
from netns_tw.wait import DeadlineMissed, wait_until

pytestmark = pytest.mark.netns

IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE = 24, 51
"""include/uapi/linux/in.h; Python 3.11 has no names for them."""
TIME_WAIT = 1 << 6
SOURCES = {4: ["198.18.0.1", "198.18.0.2", "198.18.0.3"], 6: ["2001:db8::1", "2001:db8::2", "2001:db8::3"]}
REMOTES = {4: ["198.18.0.101", "198.18.0.102"], 6: ["2001:db8::101", "2001:db8::102"]}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ON_LO = {4: "198.18.9.1", 6: "2001:db8:9::1"}
WILDCARD = {4: "0.0.0.0", 6: "::"}
CONNECT, BIND, NO_PORT = PortChoice
FIRST_PORT, WINDOW, FIRST_REMOTE_PORT = 2048, 48, 10_000
BUDGET_OF_4 = Budget(5000, 5003)
DEADLINE_S = 20.0
RANGE, RESERVED = "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"
REUSE, DELAY, TIMESTAMPS = "net.ipv4.tcp_tw_reuse", "net.ipv4.tcp_tw_reuse_delay", "net.ipv4.tcp_timestamps"
needs_delay = pytest.mark.skipif(
    not Path("/proc/sys", *DELAY.split(".")).exists(), reason=f"{DELAY} is new in Linux 6.14"
)


class Holder(NamedTuple):
    """A socket that holds a port before the case begins: where, and whether it listens."""

    address: str
    port: int
    listens: bool = True


@dataclass(frozen=True)
class Case:
    """What is set up, and the budget that predicts what comes of it. Ports count from the case's own window."""

    name: str
    budget: Budget
    version: int = 4
    reserved: frozenset[int] = frozenset()
    holder: Holder | None = None
    reuse_address: bool = False

    def moved(self, by: int) -> Case:
        """The same case with its ports in its window."""
        old = self.budget
        first, last = old.range_option or (0, 0)
        option = (first and first + by, last and last + by) if old.range_option else None
        taken = frozenset(port + by for port in old.taken)
        return replace(
            self,
            budget=replace(old, low=old.low + by, high=old.high + by, taken=taken, range_option=option),
            reserved=frozenset(port + by for port in self.reserved),
            holder=self.holder and self.holder._replace(port=self.holder.port + by),
        )


class Seen(NamedTuple):
    """What every attempt came to ("" or the call and errno that failed), and the TIME_WAIT there is afterwards."""

    outcomes: list[str]
    time_wait: int


def build_pair() -> None:
    """Two namespaces, ``left`` and ``right``, one link, several addresses on either side."""
    netns.add("left")
    netns.add("right")
    with Rtnl("left") as left, Rtnl("right") as right:
        there = left.add_veth("eth0", FIRST_INDEX, right, "eth0")
        ends = ((left, FIRST_INDEX, SOURCES), (right, there, REMOTES))
        for one, index, addresses in ends:
            one.set_up(LOOPBACK_INDEX, "lo")
            one.set_up(index, "eth0")
            for v4, v6 in zip(addresses[4], addresses[6], strict=True):
                one.add_address(index, f"{v4}/24", "eth0")
                one.add_address(index, f"{v6}/64", "eth0")
        left.add_address(LOOPBACK_INDEX, f"{ON_LO[4]}/32", "lo")
        left.add_address(LOOPBACK_INDEX, f"{ON_LO[6]}/128", "lo")
        for one, index, addresses in ends:
            one.wait_until_up(index, "eth0")
            one.wait_until_local(addresses[6])
        left.wait_until_local([ON_LO[6]])
    sysctl.write("left", REUSE, "0")


def listen(name: str, version: int, address: str, port: int) -> socket.socket:
    with netns.enter(name):
        return socket.create_server((address, port), family=FAMILIES[version], backlog=64)


def client(case: Case, source: str) -> tuple[socket.socket, str]:
    """A socket in ``left``, bound as the case's choice says; with the call that failed, if one did."""
    with netns.enter("left"):
        made = socket.socket(FAMILIES[case.version])
    made.settimeout(DEADLINE_S)
    if option := case.budget.range_option:
        made.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", option[1] << 16 | option[0]))
    if case.reuse_address:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if case.budget.choice is NO_PORT:
        made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    if case.budget.choice is CONNECT:
        return made, ""
    return made, called("bind", made, (source, 0))


def called(call: str, made: socket.socket, address: tuple[str, int]) -> str:
    """Call bind or connect; "" or the call and the errno by name."""
    try:
        getattr(made, call)(address)
    except OSError as error:
        return f"{call}: {errno.errorcode[error.errno or 0]}"
    return ""


def attempt(case: Case, source: str, listener: socket.socket) -> str:
    """One connection, closed by the client first; "" or what failed."""
    made, failed = client(case, source)
    with made:
        failed = failed or called("connect", made, listener.getsockname()[:2])
        if failed:
            return failed
        peer, _ = listener.accept()
    with peer:
        assert peer.recv(1) == b""
    return ""


def exhaust(case: Case, first_port: int) -> tuple[list[str], list[tuple[str, int]]]:
    """Connect from every source to every destination in turn, two rounds more than the budget gives."""
    budget, version = case.budget, case.version
    sysctl.write("left", RANGE, f"{budget.low} {budget.high}")
    if case.reserved:
        sysctl.write("left", RESERVED, kernel_list(case.reserved))
    with ExitStack() as stack:
        if case.holder:
            stack.enter_context(hold(case.holder))
        # destinations differ by address, by port, or by both
        ends = [(REMOTES[version][number % 2], first_port + number // 2) for number in range(budget.destinations)]
        listeners = [stack.enter_context(listen("right", version, *end)) for end in ends]
        turns = itertools.product(range(budget.ports.most + 2), listeners, SOURCES[version][: budget.sources])
        return [attempt(case, source, listener) for _, listener, source in turns], ends


def kernel_list(ports: frozenset[int]) -> str:
    """Ports as ip_local_reserved_ports shows them: neighbours as one range."""
    starts = sorted(port for port in ports if port - 1 not in ports)
    ends = sorted(port for port in ports if port + 1 not in ports)
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in zip(starts, ends, strict=True))


def hold(holder: Holder) -> socket.socket:
    version = 6 if ":" in holder.address else 4
    with netns.enter("left"):
        held = socket.socket(FAMILIES[version])
    if version == 6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    held.bind((holder.address, holder.port))
    if holder.listens:
        held.listen()
    return held


def widths() -> Iterator[Case]:
    """Every width from 1 to 16, even and odd starts, each choice, both families; bind() with SO_REUSEADDR as well."""
    for version, choice, start, width in itertools.product((4, 6), PortChoice, (10, 11), range(1, 17)):
        budget = Budget(start, start + width - 1, choice=choice)
        name = f"ipv{version} {choice.value} {width} ports from {'odd' if start % 2 else 'even'}"
        yield Case(name, budget, version)
        if choice is BIND:
            yield Case(f"{name} SO_REUSEADDR", budget, version, reuse_address=True)


def pairs() -> Iterator[Case]:
    """Several sources and destinations; an even and an odd width."""
    for version, sources, destinations, width, choice in itertools.product(
        (4, 6), (1, 2, 3), (1, 2, 3, 4), (4, 5), PortChoice
    ):
        if sources == 1 or choice is not CONNECT:
            budget = Budget(10, 9 + width, sources=sources, destinations=destinations, choice=choice)
            yield Case(f"ipv{version} {choice.value} {width} ports {sources} x {destinations}", budget, version)


def options() -> Iterator[Case]:
    """IP_LOCAL_PORT_RANGE of every width inside the sysctl's range, and every way to stick out of it."""
    for version, choice, width in itertools.product((4, 6), PortChoice, range(1, 17)):
        budget = Budget(1, 30, choice=choice, range_option=(7, 6 + width))
        yield Case(f"ipv{version} {choice.value} option of {width} ports", budget, version)
    for choice, width in itertools.product(PortChoice, (3, 10, 11)):
        high = 9 + width
        for name, option in {
            "partly below": (5, 11),
            "partly above": (high - 1, high + 5),
            "wholly below": (2, 5),
            "wholly above": (high + 2, high + 8),
            "all around": (2, high + 8),
            "open below": (0, 11),
            "open above": (high - 1, 0),
            "the same": (10, high),
        }.items():
            yield Case(
                f"{choice.value} {width} ports option {name}", Budget(10, high, choice=choice, range_option=option)
            )


def reserved() -> Iterator[Case]:
    """Reserved ports at the ends, in the middle and everywhere."""
    for version, choice, width in itertools.product((4, 6), PortChoice, (1, 3, 4, 7)):
        low, high = 10, 9 + width
        for name, ports in {
            "first": {low},
            "last": {high},
            "both ends": {low, high},
            "middle": {low + width // 2},
            "one outside": {high + 1},
            "every": set(range(low, high + 1)),
        }.items():
            taken = frozenset(ports)
            budget = Budget(low, high, taken, choice=choice)
            yield Case(f"ipv{version} {choice.value} {width} ports reserved {name}", budget, version, taken)


def holders() -> Iterator[Case]:
    """A listener or a bound socket inside the range: connect() minds any of them, bind() its own address's."""
    own, other = SOURCES[4][:2]
    kinds = {
        "listener on every address": (WILDCARD[4], True),
        "listener on the source": (own, True),
        "listener on another address": (other, True),
        "bound socket on the source": (own, False),
        "bound socket on another address": (other, False),
        "listener on IPv6 alone": (WILDCARD[6], True),
    }
    for (kind, (address, listens)), choice, option, place in itertools.product(
        kinds.items(), PortChoice, (None, (10, 14)), (10, 12, 14)
    ):
        is_minded = choice is not BIND or address in (own, WILDCARD[4])
        budget = Budget(10, 14, frozenset({place} if is_minded else ()), choice=choice, range_option=option)
        name = f"{choice.value}{' option' if option else ''} {kind} {place}"
        yield Case(name, budget, holder=Holder(address, place, listens))


GROUPS = {make.__name__: tuple(make()) for make in (widths, pairs, options, reserved, holders)}


@functools.cache
def observed(group: str) -> dict[str, Seen]:
    """All cases of a group, one after the other in one sandbox."""

    def inside() -> dict[str, Seen]:
        build_pair()
        diag, found = SockDiag("left"), {}
        for number, case in enumerate(GROUPS[group]):
            found[case.name] = exhaust(case.moved(FIRST_PORT + number * WINDOW), FIRST_REMOTE_PORT + 2 * number)

        def time_wait() -> dict[str, int]:
            tally = Tally((one.remote, one.remote_port) for one in diag.dump(TIME_WAIT))
            return {name: sum(tally[end] for end in ends) for name, (_, ends) in found.items()}

        expected = {name: outcomes.count("") for name, (outcomes, _) in found.items()}
        with suppress(DeadlineMissed):  # then the case in question fails, not all of them
            wait_until(lambda: time_wait() == expected, "as many TIME_WAIT as successes", DEADLINE_S)
        counted = time_wait()
        return {name: Seen(outcomes, counted[name]) for name, (outcomes, _) in found.items()}

    return in_sandbox(inside)


@pytest.mark.parametrize(
    ("group", "case"), [pytest.param(group, one, id=one.name) for group, cases in GROUPS.items() for one in cases]
)
def test_the_kernel_keeps_to_the_budget(group: str, case: Case) -> None:
    """Capacity == successes == TIME_WAIT, the first failure comes in time, and always in the call that was named."""
    outcomes, time_wait = observed(group)[case.name]
    budget = case.budget
    ok = outcomes.count("")
    assert budget.capacity.least <= ok <= budget.capacity.most
    assert time_wait == ok
    assert set(outcomes) - {""} == {f"{budget.failure.call}: {budget.failure.errno}"}
    rate = 1e6  # so many a second that the attempts' numbers are microseconds
    earliest, latest = budget.exhaustion(rate)
    assert earliest is not None and latest is not None
    first_failure = next(number for number, outcome in enumerate(outcomes) if outcome)
    assert round(earliest * rate) <= first_failure <= round(latest * rate)


def test_the_grid_has_a_case_for_every_law() -> None:
    """Names are unique, and both exact and inexact budgets, of every choice, are among the cases."""
    cases = [case for group in GROUPS.values() for case in group]
    assert len({case.name for case in cases}) == len(cases)
    assert {(case.budget.choice, case.budget.capacity.is_exact) for case in cases} == set(
        itertools.product(PortChoice, (True, False))
    )


def test_the_families_are_counted_apart() -> None:
    """IPv6 finds every port of a range that IPv4 has used up, and the other way round."""

    def inside() -> list[list[str]]:
        build_pair()
        cases = [Case("", BUDGET_OF_4, version) for version in (4, 6)]
        return [exhaust(case, FIRST_REMOTE_PORT + number)[0] for number, case in enumerate(cases)]

    for outcomes in in_sandbox(inside):
        assert outcomes.count("") == BUDGET_OF_4.capacity.most


@pytest.mark.parametrize("buckets", range(6))
def test_full_buckets_keep_the_ports_free(buckets: int) -> None:
    """tcp_max_tw_buckets below the capacity: nothing ever fails; at the capacity or above: as without."""
    budget = replace(BUDGET_OF_4, max_tw_buckets=buckets)

    def inside() -> list[str]:
        build_pair()
        sysctl.write("left", "net.ipv4.tcp_max_tw_buckets", str(buckets))
        return exhaust(Case("", budget), FIRST_REMOTE_PORT)[0]

    outcomes = in_sandbox(inside)
    lasts = budget.exhaustion(1e6).earliest_s is None
    assert outcomes.count("") == (len(outcomes) if lasts else budget.capacity.most)


class Attempt(NamedTuple):
    """One of a series, in ms: connect() was between *before* and *after*; the TIME_WAIT began between the others."""

    is_ok: bool
    before: float
    after: float
    closed: float
    gone: float


@dataclass(frozen=True)
class Reuse:
    """Where tcp_tw_reuse may act: the budget says whether it does."""

    name: str
    budget: Budget
    node: str = "right"
    address: str = REMOTES[4][0]
    timestamps: tuple[bool, bool] = (True, True)
    device: str = ""

    @property
    def version(self) -> int:
        return 6 if ":" in self.address else 4

    @property
    def source(self) -> str:
        return self.address if self.node == "left" else SOURCES[self.version][0]


def now_ms() -> float:
    return time.monotonic_ns() / 1e6


def wait_ms(duration: float) -> None:
    """Wait until the clock shows so many ms more."""
    end = now_ms() + duration
    wait_until(lambda: now_ms() > end, f"{duration} ms have passed", DEADLINE_S)


class Series:
    """Connections to one destination, one after the other, timed from both sides of what the kernel does."""

    def __init__(self, what: Reuse) -> None:
        build_pair()
        self.case = Case(what.name, what.budget, what.version)
        self.what = what
        budget = what.budget
        for name, value in ((RANGE, f"{budget.low} {budget.high}"), (REUSE, f"{budget.tw_reuse}")):
            sysctl.write("left", name, value)
        if budget.delay_ms != Budget().delay_ms:
            sysctl.write("left", DELAY, f"{budget.delay_ms}")
        for node, is_on in zip(("left", "right"), what.timestamps, strict=True):
            sysctl.write(node, TIMESTAMPS, f"{is_on:d}")
        self.listener = listen(what.node, what.version, what.address, 80)
        self.counters = Counters("left")
        self.entered = 0

    def attempt(self) -> Attempt:
        made, failed = client(self.case, self.what.source)
        with made:
            if self.what.device:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.what.device.encode() + b"\0")
            before = now_ms()
            failed = failed or called("connect", made, (self.what.address, 80))
            after = now_ms()
            if failed:
                budget = self.what.budget
                assert failed == f"{budget.failure.call}: {budget.failure.errno}"
                return Attempt(False, before, after, after, after)
            peer, _ = self.listener.accept()
        assert peer.recv(1) == b""
        closed = now_ms()
        peer.close()
        self.entered += 1
        wait_until(self._has_entered, "the client is in TIME_WAIT", DEADLINE_S)
        return Attempt(True, before, after, closed, now_ms())

    def _has_entered(self) -> bool:
        return self.counters.read()["TcpExtTW"] == self.entered


def bounds_of(series: Sequence[Attempt], budget: Budget) -> Bounds:
    """What predict() says, for starts and ends that may have been: late and early for the most, else for the least."""
    least, _ = predict([one.before for one in series], [one.gone for one in series], budget.capacity, budget.life_ms)
    _, most = predict([one.after for one in series], [one.closed for one in series], budget.capacity, budget.life_ms)
    return Bounds(least, most)


@needs_delay
@pytest.mark.parametrize("delay_ms", [1, 2, 10, 50])
@pytest.mark.parametrize("address", [REMOTES[4][0], REMOTES[6][0]])
def test_a_port_is_free_again_when_its_delay_is_over(delay_ms: int, address: str) -> None:
    """D2: no connection before the delay is over, every one from 2 ms later on; tried as often as we can."""
    budget = Budget(5000, 5000, tw_reuse=1, delay_ms=delay_ms)

    def inside() -> list[Attempt]:
        series = Series(Reuse("", budget, address=address))
        found = [series.attempt()]
        end = now_ms() + 1000 * DEADLINE_S
        while sum(one.is_ok for one in found) < 5 and now_ms() < end:
            found.append(series.attempt())
        return found

    found = in_sandbox(inside)
    assert sum(one.is_ok for one in found) == 5
    held = found[0]
    for one in found[1:]:
        is_too_early = one.after - held.closed <= budget.life_ms[0]
        is_late = one.before - held.gone >= budget.life_ms[1]
        assert not (is_too_early and one.is_ok)
        assert one.is_ok or not is_late
        held = one if one.is_ok else held


@needs_delay
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
def test_reuse_gives_each_port_once_per_delay(width: int) -> None:
    """A8: a series as fast as we can, longer than four delays, stays within the bounds that the budget predicts."""
    budget = Budget(5000, 4999 + width, tw_reuse=1, delay_ms=20)

    def inside() -> list[Attempt]:
        series = Series(Reuse("", budget))
        found = [series.attempt()]
        while found[-1].before < found[0].gone + 4.5 * budget.life_ms[1]:
            found.append(series.attempt())
        return found

    found = in_sandbox(inside)
    bounds = bounds_of(found, budget)
    assert bounds.least <= sum(one.is_ok for one in found) <= bounds.most
    assert bounds.least > budget.capacity.least  # else nothing was put to the test


def reuses() -> Iterator[Reuse]:
    """D1, D5, D6 and what bind() makes of it: tcp_tw_reuse by value, address, timestamps and choice."""
    base = Budget(5000, 5001, tw_reuse=1, delay_ms=5)
    for version, value in itertools.product((4, 6), (0, 1, 2)):
        budget = replace(base, tw_reuse=value)
        yield Reuse(f"ipv{version} link {value}", budget, address=REMOTES[version][0])
        yield Reuse(f"ipv{version} own address {value}", budget, "left", ON_LO[version])
        looped = replace(budget, is_loopback=True)
        yield Reuse(f"ipv{version} loopback {value}", looped, "left", {4: "127.0.0.1", 6: "::1"}[version])
        yield Reuse(f"ipv{version} device lo {value}", looped, "left", ON_LO[version], device="lo")
    for choice in PortChoice:
        yield Reuse(f"{choice.value}", replace(base, choice=choice))
    yield Reuse("IP_LOCAL_PORT_RANGE", replace(base, range_option=(5001, 5001)))
    for here, there in itertools.product((True, False), repeat=2):
        budget = replace(base, has_timestamps=here and there)
        yield Reuse(f"timestamps {here:d} and {there:d}", budget, timestamps=(here, there))
    for delay_ms in (1, 1000, 60_000):
        yield Reuse(f"delay {delay_ms}", replace(base, delay_ms=delay_ms))


REUSES = tuple(reuses())


@needs_delay
@pytest.mark.parametrize("what", REUSES, ids=[one.name for one in REUSES])
def test_what_decides_whether_a_port_is_reused(what: Reuse) -> None:
    """All ports used, then a pause that outlasts a short delay, twice: what comes through is as predicted."""
    budget = what.budget
    pause_ms = 3 + Budget(delay_ms=5, tw_reuse=1).life_ms[1]

    def inside() -> list[Attempt]:
        series = Series(what)
        found = []
        for _ in range(3):
            found += [series.attempt() for _ in range(budget.capacity.most)]
            wait_ms(pause_ms)
        return found

    found = in_sandbox(inside)
    bounds = bounds_of(found, budget)
    assert bounds.least <= sum(one.is_ok for one in found) <= bounds.most
    if budget.life_ms[1] < pause_ms:
        assert bounds.least == len(found)
    elif not budget.reuses:
        assert bounds.most == budget.capacity.most


@needs_delay
@pytest.mark.parametrize("delay_ms", [-1, 0, 1, 60_000, 60_001])
def test_the_kernel_takes_the_delays_that_the_budget_takes(delay_ms: int) -> None:
    """D4: 1 to 60000 ms; there is no delay of 0."""

    def inside() -> bool:
        netns.add("left")
        try:
            return sysctl.write("left", DELAY, f"{delay_ms}") == f"{delay_ms}"
        except UsageError:
            return False

    def is_taken() -> bool:
        try:
            return Budget(delay_ms=delay_ms).delay_ms == delay_ms
        except ValueError:
            return False

    assert in_sandbox(inside) == is_taken()
