"""A lab as its file describes it: nodes, links, programs. Frozen, and checked for sense before anything is built."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress

from netns_tw.model import ports
from netns_tw.model.frozen import Frozen

MAX_IFNAME_BYTES = 15
"""IFNAMSIZ - 1 (include/uapi/linux/if.h)."""
PORT_RANGE = "net.ipv4.ip_local_port_range"
RESERVED_PORTS = "net.ipv4.ip_local_reserved_ports"
DEFAULT_PORT_RANGE = "32768 60999"
TW_REUSE = "net.ipv4.tcp_tw_reuse"
TW_REUSE_DELAY = "net.ipv4.tcp_tw_reuse_delay"
TIMESTAMPS = "net.ipv4.tcp_timestamps"
MAX_TW_BUCKETS = "net.ipv4.tcp_max_tw_buckets"

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Listen(Frozen):
    """An address and a TCP port, as ``198.18.1.1:80`` or ``[2001:db8::1]:80``."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Parse ``ADDRESS:PORT``.

        Raises:
            ValueError: it is none.
        """
        address, _, port = text.rpartition(":")
        if address.startswith("[") and address.endswith("]"):
            return cls(str(ipaddress.IPv6Address(address[1:-1])), cls._port(port))
        return cls(str(ipaddress.IPv4Address(address)), cls._port(port))

    @staticmethod
    def _port(text: str) -> int:
        number = int(text)
        if not 0 < number < 65536:
            raise ValueError(f"port {number}")
        return number


def destination(url: str) -> Listen:
    """Where a step's URL leads: its address as the kernel spells it, and its port."""
    from urllib.parse import urlsplit  # not for those who only list labs

    parts = urlsplit(url)
    host = parts.hostname or ""
    with suppress(ValueError):  # of IPv6 there are many spellings
        host = str(ipaddress.ip_address(host))
    return Listen(host, parts.port or 80)


class HttpServer(Frozen):
    """The built-in server, or the nginx that stands in for it."""

    listen: Listen
    close: str = "keep-alive"
    status: int = 200
    body: str = "hello from netns_tw\n"
    max_requests: int = 0
    idle_timeout_ms: int = 60_000


class HttpProxy(Frozen):
    """The embedded load balancer."""

    listen: Listen
    upstream: Listen
    keepalive: int = 0
    keepalive_requests: int = 1000


class Nginx(Frozen):
    """A real nginx with the lab's own configuration file; ``%%TOKENS%%`` in it are filled in."""

    listen: Listen
    config: str
    config_text: str = ""
    tokens: Mapping[str, str] = {}


Program = HttpServer | HttpProxy | Nginx


class Programs(Frozen):
    """What runs on a node: as written, and what the file names for the built-in (h11) and the nginx set."""

    default: Program
    h11: Program | None = None
    nginx: Program | None = None


class Route(Frozen):
    """A route of a node: network *to*, by neighbour *via*."""

    to: str
    via: str


class Node(Frozen):
    """One namespace: its sysctls, its program, its routes."""

    name: str
    sysctls: Mapping[str, str] = {}
    programs: Programs | None = None
    routes: tuple[Route, ...] = ()

    @property
    def port_range(self) -> tuple[int, int]:
        """The first and last port of its ip_local_port_range, the kernel's default where its file sets none.

        Raises:
            ValueError: its sysctls hold no port range.
        """
        low, high = (int(word) for word in self.sysctls.get(PORT_RANGE, DEFAULT_PORT_RANGE).split())
        return low, high

    @property
    def reserved_ports(self) -> frozenset[int]:
        """The ports of its ip_local_reserved_ports.

        Raises:
            ValueError: its sysctls hold no list of ports there.
        """
        return ports.parse_ports(self.sysctls.get(RESERVED_PORTS, ""))


class Endpoint(Frozen):
    """One end of a link: a node's interface and its addresses."""

    node: str
    interface: str
    addresses: tuple[Interface, ...] = ()

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


class Link(Frozen):
    """A veth pair."""

    left: Endpoint
    right: Endpoint

    def __iter__(self) -> Iterator[Endpoint]:
        return iter((self.left, self.right))

    @property
    def name(self) -> str:
        return f"{self.left} -- {self.right}"


class Topology(Frozen):
    """A lab: its nodes by name, its links, the folder it came from."""

    name: str
    description: str
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]
    folder: str
    text: str = ""
    """Its file, as it was read."""
    ehash_entries: int = 0
    """Buckets of the established hash that each node has of its own; 0: all share the machine's."""

    def with_nodes(self, overlay: Mapping[str, Node]) -> Topology:
        """Return the lab as an experiment changes it: sysctls added, a program or routes replaced."""
        nodes = dict(self.nodes)
        for name, changed in overlay.items():
            base = nodes[name]
            nodes[name] = base.but(
                sysctls={**base.sysctls, **changed.sysctls},
                programs=changed.programs or base.programs,
                routes=changed.routes or base.routes,
            )
        return self.but(nodes=nodes)

    def owner_of(self, address: str) -> str | None:
        """The node that has *address*, or None."""
        version, start = 6 if ":" in address else 4, f"{address}/"
        for link in self.links:
            for end in link:
                if any(one.version == version and str(one).startswith(start) for one in end.addresses):
                    return end.node
        return None

    def usable_ports(self, node: str) -> ports.UsablePorts:
        """What the port budget says of *node* towards one destination.

        Raises:
            ValueError: its sysctls hold no port range.
        """
        found = self.nodes[node]
        return ports.usable_ports(*found.port_range, found.reserved_ports)
