"""Which local ports a socket can get.

connect() of a socket without a port (__inet_hash_connect, net/ipv4/inet_hashtables.c) walks the range in two passes,
ports of the start's parity first, and rounds the width of each pass down to even (``remaining &= ~1U``) from an offset
hashed over addresses and port. So

    even width N    all N ports are found
    width 1         the one port is found
    width 3         the first two are found, never the third: the offset can only be 0
    odd width N>3   N or N-1, by where the offset happens to stand: from offset 0 the last port is hidden, from any
                    other the first

The offset moves with every successful connect() whose addresses and destination port hash to the same slot, and the
slots (table_perturb) are the machine's, not the namespace's. So in the last case the hidden port stays hidden for a
client by itself, and can come back when another lab with the same addresses connects: never more than N, whenever.

bind() with port 0 (inet_csk_find_open_port, net/ipv4/inet_connection_sock.c) rounds in the same way, but draws a new
offset at each call: after a failure the next bind() may still find the hidden port.

IP_LOCAL_PORT_RANGE on the socket (Linux 6.3) narrows the range for both. For connect() it also does away with the two
passes and the rounding, even where it narrows nothing (``step = local_ports ? 1 : 2``, Linux 6.8, commit 207184853dbd).

Reserved ports (ip_local_reserved_ports) are passed over by both. A port that a listener or another bound socket holds,
on whichever address, is passed over by connect() (``tb->fastreuse >= 0``), with IP_LOCAL_PORT_RANGE too; bind() minds
only a holder of its own address or of the wildcard address.
"""

from __future__ import annotations

from collections.abc import Collection

from netns_tw.model.frozen import Frozen

MAX_PORT = 65535


class Bounds(Frozen):
    """Bounds on a whole number; they are equal where the kernel leaves nothing to chance."""

    least: int
    most: int

    @property
    def is_exact(self) -> bool:
        return self.least == self.most

    @classmethod
    def exactly(cls, number: int) -> Bounds:
        return cls(number, number)

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.least + other.least, self.most + other.most)

    def __sub__(self, other: Bounds) -> Bounds:
        return Bounds(self.least - other.most, self.most - other.least)

    def not_below(self, floor: int) -> Bounds:
        """The same with both bounds raised to *floor* where they are below."""
        return Bounds(max(self.least, floor), max(self.most, floor))

    def times(self, factor: int) -> Bounds:
        """Both bounds, *factor* times."""
        return Bounds(self.least * factor, self.most * factor)

    def __str__(self) -> str:
        if self.is_exact:
            return f"{self.least}"
        return f"{self.least} or {self.most}" if self.most - self.least == 1 else f"{self.least} to {self.most}"


UsablePorts = Bounds
"""Bounds on the number of usable ports."""


def usable_ports(low: int, high: int, taken: Collection[int] = (), *, is_rounded: bool = True) -> UsablePorts:
    """Return how many of the ports *low* to *high* (both included) connect() or bind() finds.

    *taken* are ports that are reserved (ip_local_reserved_ports) or held by a listener or a bound socket.
    *is_rounded* is False for connect() of a socket with IP_LOCAL_PORT_RANGE.

    Raises:
        ValueError: *low* is above *high*.
    """
    if low > high:
        raise ValueError(f"no port from {low} to {high}")
    width = high - low + 1
    if is_rounded and width == 3:
        high -= 1
    lost = len({port for port in taken if low <= port <= high})
    most = high - low + 1 - lost
    # hidden is the first port or the last; where both are taken nothing more is lost
    may_miss_one = is_rounded and width > 3 and width % 2 == 1 and not {low, high} <= set(taken)
    return UsablePorts(most - 1 if may_miss_one else most, most)


def clamp(low: int, high: int, option: tuple[int, int]) -> tuple[int, int]:
    """Return the range that a socket with IP_LOCAL_PORT_RANGE *option* really searches.

    An end of *option* counts only where it lies inside *low* to *high*, so an option wholly outside is ignored, and
    an end of 0 leaves that end open (inet_sk_get_local_port_range).
    """
    first, last = option
    if low <= first <= high:
        low = first
    if low <= last <= high:
        high = last
    return low, high


def parse_ports(text: str) -> frozenset[int]:
    """Parse the kernel's list format of ip_local_reserved_ports: ``1024,1030-1034``.

    Raises:
        ValueError: a part is no port and no range of ports in order.
    """
    found: set[int] = set()
    for part in filter(None, (word.strip() for word in text.split(","))):
        first, _, last = part.partition("-")
        ports = range(int(first), int(last or first) + 1)
        if not ports or not 0 <= ports[0] <= ports[-1] <= MAX_PORT:
            raise ValueError(f"{part!r} is no port and no range of ports, 0 to {MAX_PORT}")
        found.update(ports)
    return frozenset(found)


def never_found(low: int, high: int, taken: frozenset[int]) -> frozenset[int]:
    """The ports of LOW-HIGH that connect() never finds: those *taken*, and the third port of three."""
    return frozenset(port for port in (taken | {high} if high - low == 2 else taken) if low <= port <= high)
