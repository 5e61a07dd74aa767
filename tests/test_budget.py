"""The port budget's laws, and the same numbers from a small simulation of the kernel's search."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest

from netns_tw.model.budget import UsablePorts, parse_ports, usable_ports


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


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("low", [1024, 1025])
def test_every_width_as_the_kernel_searches(low: int, width: int) -> None:
    """least: what one offset finds that never moves; most: what all offsets together find."""
    high = low + width - 1
    found = [visible(low, high, offset, ()) for offset in range(2 * width)]
    budget = usable_ports(low, high)
    assert budget == UsablePorts(min(map(len, found)), len(set.union(*found)))


@pytest.mark.parametrize("width", range(1, 8))
def test_reserved_ports_as_the_kernel_searches(width: int) -> None:
    """Whichever ports are taken, most is exact, and least is a bound at most one too low."""
    ports = range(1024, 1024 + width)
    for count in range(width + 1):
        for taken in itertools.combinations(ports, count):
            found = [visible(1024, ports[-1], offset, taken) for offset in range(2 * width)]
            budget = usable_ports(1024, ports[-1], taken)
            assert budget.most == len(set.union(*found)), taken
            assert 0 <= min(map(len, found)) - budget.least <= 1, taken


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
