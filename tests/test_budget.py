"""The port budget's laws, and the same numbers from a small simulation of the kernel's search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from netns_tw.model.budget import (
    Bounds,
    Budget,
    Exhaustion,
    Failure,
    PortChoice,
    UsablePorts,
    clamp,
    parse_ports,
    predict,
    usable_ports,
)

BIND, NO_PORT = PortChoice.BIND, PortChoice.BIND_NO_PORT


def visible(low: int, high: int, offset: int, taken: Collection[int]) -> set[int]:
    """The ports that __inet_hash_connect tries from one offset: ports of its parity first, then the others."""
    remaining = high - low + 1
    if remaining > 1:
        remaining &= ~1
    offset = (offset % remaining) & ~1
    found = set()
    for start in (offset, offset + 1):
        port = low + start
        for _ in range(0, remaining, 2):
            if port > high:
                port -= remaining
            found.add(port)
            port += 2
        if remaining == 1:
            break
    return found - set(taken)


def visible_to_bind(low: int, high: int, offset: int, taken: Collection[int]) -> set[int]:
    """The ports that inet_csk_find_open_port tries from one random offset: the other parity first."""
    remaining = high - low + 1
    if remaining > 1:
        remaining &= ~1
    offset = (offset % remaining) | 1
    found = set()
    for start in (offset, offset - 1):
        port = low + start
        for _ in range(0, remaining, 2):
            if port > high:
                port -= remaining
            found.add(port)
            port += 2
    return found - set(taken)


Search = Callable[[int, int, int, Collection[int]], set[int]]


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("low", [1024, 1025])
def test_every_width_as_the_kernel_searches(low: int, width: int) -> None:
    """least: what one offset finds that never moves; most: what all offsets together find."""
    high = low + width - 1
    found = [visible(low, high, offset, ()) for offset in range(2 * width)]
    budget = usable_ports(low, high)
    assert budget == UsablePorts(min(map(len, found)), len(set.union(*found)))


@pytest.mark.parametrize("search", [visible, visible_to_bind])
@pytest.mark.parametrize("width", range(1, 10))
def test_taken_ports_as_the_kernel_searches(search: Search, width: int) -> None:
    """Whichever ports are taken, both bounds are exact, for connect() and for bind()."""
    ports = range(1024, 1024 + width)
    for count in range(width + 1):
        for taken in itertools.combinations(ports, count):
            found = [search(1024, ports[-1], offset, taken) for offset in range(2 * width)]
            expected = UsablePorts(min(map(len, found)), len(set.union(*found)))
            assert usable_ports(1024, ports[-1], taken) == expected, taken


def test_an_option_of_the_socket_is_not_rounded() -> None:
    """connect() with IP_LOCAL_PORT_RANGE finds every port of an odd width (measured)."""
    for width in range(1, 17):
        assert usable_ports(1024, 1023 + width, {1024}, is_rounded=False) == Bounds(width - 1, width - 1)


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [
        (1024, 1024, 1, 1),
        (1024, 1026, 2, 2),
        (1024, 1027, 4, 4),
        (1024, 1028, 4, 5),
        (1024, 1030, 6, 7),
        (1024, 1033, 10, 10),
        (1024, 1034, 10, 11),
        (1024, 1035, 12, 12),
        (32768, 60999, 28232, 28232),
    ],
)
def test_parity_law(low: int, high: int, least: int, most: int) -> None:
    """An even width is found whole, 3 ports are always 2, a larger odd width may miss one (measured)."""
    assert usable_ports(low, high) == UsablePorts(least, most)


def test_reserved_ports_are_passed_over() -> None:
    """Twelve ports less six reserved are six; what is reserved outside the range does not count."""
    assert usable_ports(1024, 1035, parse_ports("1024-1029")) == UsablePorts(6, 6)
    assert usable_ports(1024, 1035, {80, 1036, 8080}) == UsablePorts(12, 12)


def test_a_listener_inside_the_range_takes_its_port() -> None:
    """Two usable ports of 1024-1026 are one with a listener on 1024, and still two with one on the third."""
    assert usable_ports(1024, 1026, {1024}) == UsablePorts(1, 1)
    assert usable_ports(1024, 1026, {1026}) == UsablePorts(2, 2)


def test_no_range_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no port from 1034 to 1024"):
        usable_ports(1034, 1024)


def test_words() -> None:
    """Bounds read as one number where they are equal."""
    assert str(UsablePorts(2, 2)) == "2"
    assert str(UsablePorts(10, 11)) == "10 or 11"
    assert str(UsablePorts(10, 11).times(2)) == "20 to 22"
    assert UsablePorts(2, 2).is_exact
    assert not UsablePorts(10, 11).is_exact


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", set()), ("1024", {1024}), ("1024, 1030-1032", {1024, 1030, 1031, 1032}), ("1024,,1025", {1024, 1025})],
)
def test_the_kernels_list_format(text: str, ports: set[int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["a", "1-b", "1 2", "-"])
def test_no_list_of_ports(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_ports(text)


@pytest.mark.parametrize("text", ["65536", "1030-1024", "1-99999999999999"])
def test_ports_that_do_not_exist(text: str) -> None:
    """A list names ports up to 65535 in order; one that does not is refused before it fills the memory."""
    with pytest.raises(ValueError, match="is no port and no range of ports"):
        parse_ports(text)


@pytest.mark.parametrize(
    ("option", "searched"),
    [
        ((1026, 1028), (1026, 1028)),
        ((1000, 1028), (1024, 1028)),
        ((1030, 2000), (1030, 1034)),
        ((1000, 2000), (1024, 1034)),
        ((2000, 2010), (1024, 1034)),
        ((500, 600), (1024, 1034)),
        ((0, 1028), (1024, 1028)),
        ((1030, 0), (1030, 1034)),
    ],
)
def test_an_option_counts_where_it_lies_inside(option: tuple[int, int], searched: tuple[int, int]) -> None:
    """inet_sk_get_local_port_range: an end outside the sysctl's range is ignored, and so may be both."""
    assert clamp(1024, 1034, option) == searched


def test_capacity_by_choice() -> None:
    """connect() finds free 4-tuples; bind() takes the port for every destination (B3 to B6)."""
    four = Budget(1024, 1027, sources=2, destinations=3, choice=NO_PORT)
    assert four.capacity == Bounds(24, 24)
    assert replace(four, choice=BIND).capacity == Bounds(8, 8)
    assert replace(four, choice=PortChoice.CONNECT, sources=1).capacity == Bounds(12, 12)
    assert Budget(1024, 1034, destinations=2).capacity == Bounds(20, 22)
    assert four.failure == Failure("connect", "EADDRNOTAVAIL")
    assert replace(four, choice=BIND).failure == Failure("bind", "EADDRINUSE")


def test_requests_are_connections_times_what_each_carries() -> None:
    """E4: P x keepalive_requests."""
    assert Budget(1024, 1026, requests_per_connection=1000).capacity_requests == Bounds(2000, 2000)


def test_an_option_lifts_the_rounding_for_connect_alone() -> None:
    """11 ports are 11 to connect(), even where the option lies outside, and 10 or 11 to bind()."""
    for option in ((1024, 1034), (3000, 3010)):
        found = Budget(1024, 1034, range_option=option)
        assert found.ports == Bounds(11, 11)
        assert replace(found, choice=BIND).ports == Bounds(10, 11)


@pytest.mark.parametrize(
    ("changes", "reuses"),
    [
        ({"tw_reuse": 0}, False),
        ({"tw_reuse": 1}, True),
        ({"tw_reuse": 2}, False),
        ({"tw_reuse": 2, "is_loopback": True}, True),
        ({"tw_reuse": 1, "has_timestamps": False}, False),
        ({"tw_reuse": 1, "choice": BIND}, False),
        ({"tw_reuse": 1, "choice": NO_PORT}, True),
    ],
)
def test_where_reuse_acts(changes: dict[str, Any], reuses: bool) -> None:
    """D1, D5: by value and address, with timestamps on both ends, and in connect() only."""
    found = Budget(1024, 1027, delay_ms=500, **changes)
    assert found.reuses == reuses
    assert found.life_ms == ((500, 502) if reuses else (60_000, 65_200))


def test_rates_of_the_source_documents_range() -> None:
    """Two ports: safe below 2 / 65.2 s, exhausted from 2 / 60 s on, and with tw_reuse once a second each."""
    found = Budget(1024, 1026)
    assert (found.safe_rate, found.exhausting_rate) == pytest.approx((2 / 65.2, 2 / 60))
    reusing = replace(found, tw_reuse=1)
    assert (reusing.safe_rate, reusing.exhausting_rate) == pytest.approx((2 / 1.002, 2))


@pytest.mark.parametrize(
    ("budget", "rate", "expected"),
    [
        (Budget(1024, 1026), 100, (0.02, 0.02)),
        (Budget(1024, 1026), 2 / 60, (60.0, 60.0)),
        (Budget(1024, 1026), 2 / 62, (62.0, None)),
        (Budget(1024, 1026), 2 / 65.2, (None, None)),
        (Budget(1024, 1034), 1, (10, 11)),
        (Budget(1024, 1034), 10.5 / 65.2, (10 * 65.2 / 10.5, None)),
        (Budget(), 5000, (5.6464, 5.6464)),
        (Budget(1024, 1026, tw_reuse=1, delay_ms=10), 100, (None, None)),
        (Budget(1024, 1026, tw_reuse=1, delay_ms=10), 1000, (0.002, 0.002)),
        (Budget(1024, 1025, frozenset({1024, 1025})), 1, (0, 0)),
        (Budget(1024, 1027, max_tw_buckets=3), 1e6, (None, None)),
        (Budget(1024, 1027, max_tw_buckets=4), 1e6, (4e-6, 4e-6)),
        (Budget(1024, 1028, max_tw_buckets=4), 1e6, (4e-6, None)),
    ],
)
def test_time_to_exhaustion(budget: Budget, rate: float, expected: tuple[float | None, float | None]) -> None:
    """Capacity / rate, if that many connections come within one life; None where it need not happen."""
    found = budget.exhaustion(rate)
    assert [one is None for one in found] == [one is None for one in expected]
    assert [one for one in found if one is not None] == pytest.approx([one for one in expected if one is not None])
    assert isinstance(found, Exhaustion)


@pytest.mark.parametrize("rate", [0.01, 1 / 3, 1, 100, 433, 12345.6])
@pytest.mark.parametrize(
    "budget", [Budget(), Budget(tw_reuse=1), Budget(sources=3, destinations=2, choice=NO_PORT), Budget(choice=BIND)]
)
def test_ports_for_a_rate_carry_it(budget: Budget, rate: float) -> None:
    """So many ports never run out at that rate, and two fewer may."""
    needed = budget.ports_for(rate)
    assert needed % 2 == 0

    def lasts(ports: int) -> bool:
        return ports * budget.pairs / rate * 1000 >= budget.life_ms[1]

    assert lasts(needed)
    assert not lasts(needed - 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": 1034, "high": 1024}, "1034-1024"),
        ({"low": 0}, "1-65535"),
        ({"high": 65536}, "1-65535"),
        ({"sources": 0}, "sources is 0, allowed is 1 or more"),
        ({"destinations": 0}, "destinations is 0"),
        ({"requests_per_connection": 0}, "requests_per_connection is 0"),
        ({"tw_reuse": 3}, "tcp_tw_reuse is 3, allowed is 0, 1 or 2"),
        ({"delay_ms": 0}, "0 ms, allowed is 1 to 60000"),
        ({"delay_ms": 60_001}, "60001 ms, allowed is 1 to 60000"),
        ({"sources": 2}, "2 source addresses need a bind"),
    ],
)
def test_what_the_kernel_does_not_allow(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Budget(**changes)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_no_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="connections per second, allowed is more than 0"):
        Budget().exhaustion(rate)
    with pytest.raises(ValueError, match="connections per second, allowed is more than 0"):
        Budget().ports_for(rate)


TWO, TEN_OR_ELEVEN = Bounds(2, 2), Bounds(10, 11)


@pytest.mark.parametrize("ports", [1, 2, 4, 8])
@pytest.mark.parametrize("delay", [100, 1000, 2000])
@pytest.mark.parametrize("lasts", [50, 999, 3200, 8000])
def test_law_a8(ports: int, delay: int, lasts: int) -> None:
    """ok = P x (1 + floor(T / delay)) for a burst of T ms that is fast against the delay (measured)."""
    burst = range(lasts)
    assert predict(burst, burst, Bounds(ports, ports), (delay, delay)) == (ports * (1 + (lasts - 1) // delay),) * 2


@pytest.mark.parametrize(
    ("starts", "ports", "life", "expected"),
    [
        (range(20), TEN_OR_ELEVEN, (60_000, 65_200), (10, 11)),
        (range(0, 20_000, 1000), TEN_OR_ELEVEN, (60_000, 65_200), (10, 11)),
        (range(0, 20_000, 1000), TEN_OR_ELEVEN, (1000, 1002), (20, 20)),
        ((0, 1, 2, 60_000, 65_200), TWO, (60_000, 65_200), (3, 4)),
        ((0, 1, 2, 60_002, 65_202), TWO, (60_000, 65_200), (3, 4)),
        ((0, 1, 65_201), TWO, (60_000, 65_200), (3, 3)),
        ((), TWO, (60_000, 65_200), (0, 0)),
        ((0, 0, 0), Bounds(0, 1), (60_000, 65_200), (0, 1)),
    ],
)
def test_a_series_of_short_requests(
    starts: Sequence[float], ports: Bounds, life: tuple[float, float], expected: tuple[int, int]
) -> None:
    """Most: most ports and the short life; least: least ports and the long one."""
    assert predict(starts, starts, ports, life) == expected


def test_a_port_is_held_from_start_to_end_and_then_for_a_life() -> None:
    """The life begins where the request ends; a request that failed holds nothing."""
    assert predict([0, 10, 20, 109, 110], [10, 20, 30, 119, 120], Bounds(1, 1), (100, 100)) == (2, 2)
    assert predict([0, 10, 20, 109], [10, 20, 30, 119], Bounds(1, 1), (100, 100)) == (1, 1)


def test_the_bounds_hold_whichever_port_is_freed_first() -> None:
    """Lives drawn at random between the bounds, ports hidden at random: the successes stay between the two."""
    dice = random.Random(1)
    for _ in range(300):
        ports = Bounds(*sorted(dice.choices(range(6), k=2)))
        gaps = [dice.random() * 4 for _ in range(60)]
        starts = list(itertools.accumulate(gaps))
        ends = [min(start + dice.random() * 2, later) for start, later in zip(starts, [*starts[1:], 1e9], strict=True)]
        free_at: list[float] = []
        ok = 0
        for start, end in zip(starts, ends, strict=True):
            free_at = [one for one in free_at if one > start]
            if len(free_at) < dice.randint(ports.least, ports.most):
                free_at.append(end + dice.uniform(5, 15))
                ok += 1
        least, most = predict(starts, ends, ports, (5, 15))
        assert least <= ok <= most


@pytest.mark.parametrize(
    ("starts", "ends", "words"),
    [([1], [], "1 starts and 0 ends"), ([2, 1], [3, 4], "starts of"), ([1, 2], [4, 3], "ends of")],
)
def test_a_series_that_is_none(starts: list[float], ends: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predict(starts, ends, TWO, (60_000, 65_200))


@pytest.mark.parametrize(
    ("requests", "ports", "each", "expected"),
    [(500, 2, 100, 200), (150, 2, 100, 150), (500, 2, 1, 2), (5000, 2, 10**6, 5000), (7, 1, 3, 3), (0, 2, 100, 0)],
)
def test_kept_connections_carry_their_requests(requests: int, ports: int, each: int, expected: int) -> None:
    """E4: ports times requests per connection, when no port comes back meanwhile."""
    times = [float(number) for number in range(requests)]
    assert predict(times, times, Bounds(ports, ports), (60_000, 65_200), each) == (expected, expected)


def test_a_port_comes_back_a_life_after_its_connections_last_request() -> None:
    """Two requests on one connection; the port is free 10 ms after the second ends, not after the first."""
    times = [0.0, 5.0, 14.0, 15.0, 16.0]
    assert predict(times, times, Bounds(1, 1), (10, 10), 2) == (4, 4)
    assert predict(times, times, Bounds(1, 1), (11, 11), 2) == (3, 3)
