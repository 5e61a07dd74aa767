"""The chain as one writes it with pyroute2 by its documentation: netns.create, NetNS, link_lookup, move.

Every link is made in the first namespace, looked up by its name and moved. Nothing is imported that netns_tw does not
import as well, and both are timed after imports.
"""

from __future__ import annotations

from pathlib import Path

from pyroute2 import IPRoute, NetNS, netns

NODES = ("client", "lb", "backend")
LINKS = (("client", "198.18.1.2", "lb", "198.18.1.1"), ("lb", "198.18.2.2", "backend", "198.18.2.1"))


def build() -> None:
    """Build it in the namespaces of the caller's /run/netns; return when everything has been asked for."""
    for name in NODES:
        netns.create(name)
    inside = {name: NetNS(name, flags=0) for name in NODES}
    for name in NODES:
        inside[name].link("set", index=inside[name].link_lookup(ifname="lo")[0], state="up")
        _sysctl(name, "tcp_tw_reuse", "0")
    _sysctl("lb", "ip_local_port_range", "1024 1026")
    with IPRoute() as outside:
        for number, (left, left_address, right, right_address) in enumerate(LINKS):
            ends = ((left, f"l{number}", left_address), (right, f"r{number}", right_address))
            outside.link("add", ifname=ends[0][1], kind="veth", peer=ends[1][1])
            for name, interface, _ in ends:
                outside.link("set", index=outside.link_lookup(ifname=interface)[0], net_ns_fd=name)
            for name, interface, address in ends:
                index = inside[name].link_lookup(ifname=interface)[0]
                inside[name].addr("add", index=index, address=address, prefixlen=24)
                inside[name].link("set", index=index, state="up")
    for one in inside.values():
        one.close()


def _sysctl(name: str, key: str, value: str) -> None:
    netns.pushns(name)
    Path("/proc/sys/net/ipv4", key).write_text(value)
    netns.popns()
