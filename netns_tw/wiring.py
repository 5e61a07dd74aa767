"""A lab's nodes wired: links, addresses, routes, sysctls. Runs as PID 1 of a sandbox, called by lab.py.

The order is the kernel's: a link before the sysctls that carry its name, sysctls before the first packet, addresses
before routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.link import FIRST_INDEX, LOOPBACK_INDEX, Rtnl
from netns_tw.model.topology import Topology

OF_INTERFACES = ("conf", "neigh")
ALL_INTERFACES = (["all"], ["default"], ["lo"])
ALWAYS_SHOWN = (
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_max_tw_buckets",
)
"""The sysctls that sway every experiment here: shown with their effective values whether a file sets them or not."""


def rtnl_by(links: str) -> type[Rtnl]:
    """What makes links, by a name of rules.LINKS. pyroute2 takes 0.2 s to import.

    Raises:
        EnvironmentLacks: pyroute2 cannot be imported.
    """
    if links != "pyroute2":
        return Rtnl
    try:
        from netns_tw.kernel.reference import ReferenceRtnl
    except ImportError as error:
        raise EnvironmentLacks(f"--links pyroute2: {error}") from error
    return ReferenceRtnl


def add_links(topology: Topology, rtnl: Mapping[str, Rtnl]) -> dict[str, int]:
    """Make every veth pair; return the ifindex of each endpoint."""
    ends: dict[str, int] = {}
    for number, link in enumerate(topology.links):
        left, right = link
        index = FIRST_INDEX + 2 * number
        ends[str(left)] = index
        ends[str(right)] = rtnl[left.node].add_veth(left.interface, index, rtnl[right.node], right.interface)
    return ends


def by_time(sysctls: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """A node's sysctls: those that are there at once, and those of interfaces, which come with their links."""
    late = {key for key in sysctls if key.split(".")[2] in OF_INTERFACES and key.split(".")[3:4] not in ALL_INTERFACES}
    return ({key: value for key, value in sysctls.items() if key not in late}, {key: sysctls[key] for key in late})


def write_sysctls(name: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """Write sysctls of node *name*; return them as the kernel has them, with those that are always shown.

    Raises:
        Skip, UsageError: as kernel/sysctl.py's ``write``.
    """
    with netns.enter(name):
        effective = {key: sysctl.write(name, key, value) for key, value in wanted.items()}
        return effective | read_sysctls(name, [key for key in ALWAYS_SHOWN if key not in effective])


def read_sysctls(name: str, keys: Iterable[str]) -> dict[str, str]:
    """What the kernel has of *keys* on node *name*; what it does not know is left out."""
    with netns.enter(name):
        seen = {key: sysctl.read(name, key) for key in keys}
    return {key: value for key, value in seen.items() if value is not None}


def set_up(topology: Topology, rtnl: Mapping[str, Rtnl], ends: Mapping[str, int]) -> None:
    """Set every interface up with its addresses, wait until each passes packets, and add the routes."""
    for node in rtnl.values():
        node.set_up(LOOPBACK_INDEX, "lo")
    every = [end for link in topology.links for end in link]
    for end in every:
        rtnl[end.node].set_up(ends[str(end)], end.interface)
        for address in end.addresses:
            rtnl[end.node].add_address(ends[str(end)], address, end.interface)
    for end in every:
        rtnl[end.node].wait_until_up(ends[str(end)], end.interface)
    for name, node in rtnl.items():
        six = [str(one.ip) for end in every if end.node == name for one in end.addresses if one.version == 6]
        node.wait_until_local(six)
    for name, described in topology.nodes.items():
        for route in described.routes:
            rtnl[name].add_route(route.to, route.via)
