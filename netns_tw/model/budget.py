"""The port budget: how many ephemeral ports connect() can use towards one destination.

Rule (__inet_hash_connect, net/ipv4/inet_hashtables.c): the search walks the range in two passes, ports of the start's
parity first, and rounds the width of each pass down to even (``remaining &= ~1U``) from an offset hashed over
addresses and port. So

    even width N    all N ports are found
    width 1         the one port is found
    width 3         the first two are found, never the third: the offset can only be 0
    odd width N>3   N or N-1, by where the offset happens to stand

The offset moves with every successful connect() whose addresses and destination port hash to the same slot, and the
slots (table_perturb) are the machine's, not the namespace's. So in the last case the hidden port stays hidden for a
client by itself, and can come back when another lab with the same addresses connects: never more than N, whenever.

Reserved ports and ports that a listener holds are passed over, wherever they lie in the range.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class UsablePorts:
    """Bounds on the number of usable ports; they are equal where the kernel leaves nothing to chance."""

    least: int
    most: int

    @property
    def is_exact(self) -> bool:
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.least) if self.is_exact else f"{self.least} or {self.most}"


def usable_ports(low: int, high: int, taken: Collection[int] = ()) -> UsablePorts:
    """Return how many of the ports *low* to *high* (both included) connect() finds for one destination.

    *taken* are ports that are reserved (ip_local_reserved_ports) or held by a listener or a bound socket.

    Raises:
        ValueError: *low* is above *high*.
    """
    if low > high:
        raise ValueError(f"no port from {low} to {high}")
    width = high - low + 1
    if width == 3:
        high -= 1
    lost = len({port for port in taken if low <= port <= high})
    most = high - low + 1 - lost
    may_miss_one = width > 3 and width % 2 == 1
    return UsablePorts(max(most - 1, 0) if may_miss_one else most, most)


def parse_ports(text: str) -> frozenset[int]:
    """Parse the kernel's list format of ip_local_reserved_ports: ``1024,1030-1034``.

    Raises:
        ValueError: a part is no number and no range.
    """
    found: set[int] = set()
    for part in filter(None, (word.strip() for word in text.split(","))):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
