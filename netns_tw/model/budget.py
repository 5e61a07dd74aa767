"""The port budget: how many connections a range of local ports carries, and for how long, before any packet.

The side that closes first keeps the connection's 4-tuple in TIME_WAIT for TCP_TIMEWAIT_LEN, 60 s (include/net/tcp.h;
RFC 9293 section 3.6.1 has 2 MSL). Until then its port cannot make the same 4-tuple again. So P usable ports (ports.py)
carry, in one such life,

    P x sources x destinations    where connect() chooses the port: it looks for a free 4-tuple
    P x sources                   where bind() takes the port: it knows no destination yet (inet_csk_bind_conflict)

connections, and no rate above that capacity per life can last. The timer that ends the life lies on the kernel's
timer wheel, so the life is longer by up to one granule of its level: 2.05 s at HZ=250, 5.12 s at HZ=100
(kernel/time/timer.c).

tcp_tw_reuse lets connect() take over a TIME_WAIT that is older than tcp_tw_reuse_delay (Linux 6.14; before, a second
that was counted in whole seconds), which makes the delay the life (tcp_twsk_unique, net/ipv4/tcp_ipv4.c). It needs
timestamps on both ends (tw_ts_recent_stamp) and, at 2, the default, a loopback address. It never helps a bind() that
takes the port: that one finds the port held, however old the TIME_WAIT is.

With tcp_max_tw_buckets below the capacity, a connection closed beyond it skips TIME_WAIT (inet_twsk_alloc): the ports
never run out, at the price of resets for a peer that is late. The buckets count every TIME_WAIT of the namespace.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netns_tw.model.ports import MAX_PORT, Bounds, UsablePorts, clamp, parse_ports, usable_ports

__all__ = [
    "Bounds",
    "Budget",
    "Exhaustion",
    "Failure",
    "PortChoice",
    "UsablePorts",
    "clamp",
    "parse_ports",
    "predict",
    "usable_ports",
]

TIME_WAIT_MS = 60_000
"""TCP_TIMEWAIT_LEN, include/net/tcp.h: no sysctl changes it."""
TIME_WAIT_LONGEST_MS = 65_200
"""TCP_TIMEWAIT_LEN and one granule of the timer wheel at HZ=100, the coarsest in use (5.12 s); 62.1 s at HZ=250."""
REUSE_GRAIN_MS = 2
"""A clock of whole ms at both ends of tcp_tw_reuse_delay: reuse begins when it is over, and less than 2 ms later."""
DEFAULT_DELAY_MS = 1000
SHORTEST_DELAY_MS, LONGEST_DELAY_MS = 1, 60_000
"""tcp_tw_reuse_delay, extra1 and extra2 in net/ipv4/sysctl_net_ipv4.c."""
DEFAULT_LOW, DEFAULT_HIGH = 32768, 60999


class PortChoice(enum.Enum):
    """When a socket gets its local port; the values are the words of the command line."""

    CONNECT = "connect"
    """connect() of an unbound socket chooses address and port."""
    BIND = "bind"
    """bind((address, 0)) takes a port before the destination is known."""
    BIND_NO_PORT = "bind-no-port"
    """bind() with IP_BIND_ADDRESS_NO_PORT (Linux 4.2) sets the address, connect() chooses the port."""


class Failure(NamedTuple):
    """The system call that fails when no port is left, and its errno by name."""

    call: str
    errno: str


class Exhaustion(NamedTuple):
    """Seconds from the first connection to the first that finds no port: bounds, None where it need never come."""

    earliest_s: float | None
    latest_s: float | None


@dataclass(frozen=True)
class Budget:
    """One node's way to get local ports towards its destinations, closing first each time.

    Raises:
        ValueError: a number is outside of what the kernel allows, or the combination cannot be.
    """

    low: int = DEFAULT_LOW
    high: int = DEFAULT_HIGH
    taken: frozenset[int] = frozenset()
    """Reserved, or held by a listener or a bound socket; see ports.py for whose."""
    sources: int = 1
    destinations: int = 1
    """Distinct pairs of address and port."""
    choice: PortChoice = PortChoice.CONNECT
    range_option: tuple[int, int] | None = None
    """IP_LOCAL_PORT_RANGE of the socket."""
    tw_reuse: int = 0
    delay_ms: int = DEFAULT_DELAY_MS
    is_loopback: bool = False
    """Whether an address is in 127.0.0.0/8 or ::1, or the socket is bound to ``lo``."""
    has_timestamps: bool = True
    """On both ends."""
    max_tw_buckets: int | None = None
    """None: larger than the capacity."""
    requests_per_connection: int = 1
    """Keep-alive requests that one connection carries before this side closes it."""

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high <= MAX_PORT:
            raise ValueError(f"no range of ports: {self.low}-{self.high}, allowed is LOW-HIGH within 1-{MAX_PORT}")
        for name in ("sources", "destinations", "requests_per_connection"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed is 1 or more")
        if self.tw_reuse not in (0, 1, 2):
            raise ValueError(f"tcp_tw_reuse is {self.tw_reuse}, allowed is 0, 1 or 2")
        if not SHORTEST_DELAY_MS <= self.delay_ms <= LONGEST_DELAY_MS:
            allowed = f"{SHORTEST_DELAY_MS} to {LONGEST_DELAY_MS}"
            raise ValueError(f"tcp_tw_reuse_delay is {self.delay_ms} ms, allowed is {allowed}")
        if self.choice is PortChoice.CONNECT and self.sources > 1:
            raise ValueError(
                f"{self.sources} source addresses need a bind() that names them: an unbound socket has the one "
                "of its route"
            )

    @property
    def searched(self) -> tuple[int, int]:
        """The first and last port of the range that is searched."""
        return clamp(self.low, self.high, self.range_option) if self.range_option else (self.low, self.high)

    @property
    def ports(self) -> UsablePorts:
        """Usable ports for one source and one destination."""
        is_rounded = self.range_option is None or self.choice is PortChoice.BIND
        return usable_ports(*self.searched, self.taken, is_rounded=is_rounded)

    @property
    def pairs(self) -> int:
        """How many times each port can be used: once for a source and, unless bind() took it, a destination."""
        return self.sources * (1 if self.choice is PortChoice.BIND else self.destinations)

    @property
    def capacity(self) -> Bounds:
        """Connections that fit into one life."""
        return self.ports.times(self.pairs)

    @property
    def capacity_requests(self) -> Bounds:
        """Requests that these connections carry."""
        return self.capacity.times(self.requests_per_connection)

    @property
    def reuses(self) -> bool:
        """Whether tcp_tw_reuse has any effect here."""
        is_on = self.tw_reuse == 1 or (self.tw_reuse == 2 and self.is_loopback)
        return is_on and self.has_timestamps and self.choice is not PortChoice.BIND

    @property
    def life_ms(self) -> tuple[float, float]:
        """How long a closed connection keeps its port, at least and at most."""
        if self.reuses:
            return self.delay_ms, self.delay_ms + REUSE_GRAIN_MS
        return TIME_WAIT_MS, TIME_WAIT_LONGEST_MS

    def is_capped_at(self, capacity: int) -> bool:
        """Whether tcp_max_tw_buckets is full before *capacity* connections are in TIME_WAIT."""
        return self.max_tw_buckets is not None and self.max_tw_buckets < capacity

    @property
    def safe_rate(self) -> float:
        """Connections per second that never run out, as short as each may be; infinite where capped."""
        least = self.capacity.least
        return math.inf if self.is_capped_at(least) else least * 1000 / self.life_ms[1]

    @property
    def exhausting_rate(self) -> float:
        """Connections per second from which on the ports surely run out; infinite where capped."""
        most = self.capacity.most
        return math.inf if self.is_capped_at(most) else most * 1000 / self.life_ms[0]

    @property
    def failure(self) -> Failure:
        """What fails when no port is left."""
        if self.choice is PortChoice.BIND:
            return Failure("bind", "EADDRINUSE")
        return Failure("connect", "EADDRNOTAVAIL")

    def exhaustion(self, rate: float) -> Exhaustion:
        """When *rate* connections per second, spread evenly and short, first find no port.

        Raises:
            ValueError: *rate* is not above 0.
        """
        if not 0 < rate < math.inf:
            raise ValueError(f"a rate of {rate:g} connections per second, allowed is more than 0")
        shortest, longest = self.life_ms
        least, most = self.capacity.least, self.capacity.most
        # number N+1 comes after N/rate seconds, and finds a port if the first life is over by then
        may = least / rate * 1000 < longest and not self.is_capped_at(least)
        must = most / rate * 1000 <= shortest and not self.is_capped_at(most)
        return Exhaustion(least / rate if may else None, most / rate if must else None)

    def ports_for(self, rate: float) -> int:
        """The least even number of usable ports whose safe rate is *rate* connections per second.

        Raises:
            ValueError: *rate* is not above 0.
        """
        if not 0 < rate < math.inf:
            raise ValueError(f"a rate of {rate:g} connections per second, allowed is more than 0")
        return 2 * math.ceil(rate * self.life_ms[1] / 1000 / self.pairs / 2)


def predict(
    starts_ms: Sequence[float],
    ends_ms: Sequence[float],
    ports: UsablePorts,
    life_ms: tuple[float, float],
    requests_per_connection: int = 1,
) -> tuple[int, int]:
    """Return how many of a series of requests find a port, at least and at most.

    Request i tries to take a port at ``starts_ms[i]``, unless the connection of the request before has some of its
    *requests_per_connection* left. If it gets one, the port enters TIME_WAIT at the end (``ends_ms``) of the last
    request of its connection and is free again when a time between the two *life_ms* has passed (Budget.life_ms); if
    not, it takes nothing. The bounds hold whichever port the kernel frees first, because both series rise. What these
    clocks and the kernel's own differ by is the caller's to add: a shorter first life, a longer second.

    Raises:
        ValueError: the series differ in length, or one of them does not rise.
    """
    if len(starts_ms) != len(ends_ms):
        raise ValueError(f"{len(starts_ms)} starts and {len(ends_ms)} ends")
    for name, series in (("starts", starts_ms), ("ends", ends_ms)):
        if any(later < earlier for earlier, later in itertools.pairwise(series)):
            raise ValueError(f"the {name} of the requests are not in order")
    shortest, longest = life_ms
    each = requests_per_connection
    return (
        _succeed(starts_ms, ends_ms, ports.least, longest, each),
        _succeed(starts_ms, ends_ms, ports.most, shortest, each),
    )


def _succeed(starts_ms: Sequence[float], ends_ms: Sequence[float], ports: int, life_ms: float, each: int) -> int:
    free_at: deque[float] = deque()  # of ports in use, in order because the ends are
    count = left = 0
    for start, end in zip(starts_ms, ends_ms, strict=True):
        while free_at and free_at[0] <= start:
            free_at.popleft()
        if not left and len(free_at) < ports:
            left = each
            free_at.append(math.inf)
        if left:
            left -= 1
            count += 1
            if not left:
                free_at[-1] = end + life_ms
    return count
