"""Links as pyroute2 makes them, in namespaces that nsenter enters: the reference for kernel/link.py and netns.py.

The only module that imports ``pyroute2`` and ``nsenter``. The same requests in the same order, sent by a library that
many use; slower by its import, 0.2 s and 24 MB, and by a millisecond a request. ``--links pyroute2`` chooses it.

pyroute2 0.9 passes on no ifindex for the peer of a veth pair, so the kernel numbers peers, from 2 up. The first ends
are numbered from FIRST_INDEX up: the two always differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from nsenter import Namespace
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netns_tw.kernel import netns
from netns_tw.kernel.link import IFA_F_NODAD, Interface, Rtnl
from netns_tw.kernel.netlink import Refused

P = ParamSpec("P")
T = TypeVar("T")


def _refused(call: Callable[P, T]) -> Callable[P, T]:
    """Raise pyroute2's tuples as what they are."""

    @wraps(call)
    def wrapped(*given: P.args, **named: P.kwargs) -> T:
        try:
            return call(*given, **named)
        except NetlinkError as error:
            raise Refused(error.code, str(error.args[-1]) or os.strerror(error.code)) from error

    return wrapped


class _ThreadNamespace(Namespace):  # type: ignore[misc]
    """nsenter 0.2 comes back to /proc/self/ns/net, the *main* thread's namespace; this one to the thread's own."""

    def _nsfd(self, pid: object, ns_type: str) -> Path:
        return Path("/proc", "thread-self" if pid == "self" else str(pid), "ns", ns_type)


class ReferenceRtnl(Rtnl):
    """An rtnetlink socket of pyroute2's."""

    def __init__(self, netns_name: str) -> None:
        netns.check_thread()
        self.netns_name = netns_name
        with _ThreadNamespace(f"{netns.RUN_NETNS}/{netns_name}", "net"):
            self._open()

    def _open(self) -> None:
        self._ip = IPRoute(ext_ack=True, strict_check=True)

    def close(self) -> None:
        self._ip.close()

    @_refused
    def _add_veth(self, name: str, index: int, peer: Rtnl, peer_name: str, peer_netns: int) -> int:
        assert isinstance(peer, ReferenceRtnl)
        there = {"ifname": peer_name, "net_ns_fd": peer_netns}
        self._ip.link("add", ifname=name, index=index, kind="veth", peer=there)
        return int(peer._ip.link("get", ifname=peer_name)[0]["index"])

    @_refused
    def _set_up(self, index: int) -> None:
        self._ip.link("set", index=index, state="up")

    @_refused
    def _add_address(self, index: int, one: Interface) -> None:
        flags = {"flags": IFA_F_NODAD} if one.version == 6 else {}
        self._ip.addr("add", index=index, address=str(one), **flags)

    @_refused
    def _add_route(self, to: str, via: str) -> None:
        self._ip.route("add", dst=to, gateway=via)

    def _is_up(self, index: int) -> bool:
        return bool(self._ip.link("get", index=index)[0].get_attr("IFLA_OPERSTATE") == "UP")
