"""Links, addresses and routes by rtnetlink. The only module that imports ``pyroute2``, which takes 0.3 s.

Both ends of a veth pair are created in place: one RTM_NEWLINK sent inside the first namespace, with the second one's
fd in the peer's IFLA_NET_NS_FD. So both ends may be called eth0 and nothing passes through a third namespace.
pyroute2 0.9 passes on no ifindex for the peer; the kernel numbers peers from 2 up, the first ends are numbered here
from FIRST_INDEX up, so the two always differ.

An end that is up may still drop its first packet: it keeps the noop qdisc until the kernel's linkwatch work has run,
which can take a second. RTM_GETLINK *by index* makes the kernel run it (linkwatch_sync_dev, Linux 6.8), on older
kernels distinct ifindexes on both ends make it urgent; both are done here, and operstate UP is waited for.
IPv6 addresses are added with IFA_F_NODAD: duplicate address detection would hold them back for a second. Even so the
kernel joins an address's solicited-node multicast group in a work queue of its own (addrconf_dad_work); a neighbour
solicitation that comes before is dropped and repeated after a second, so the join is waited for too.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import netns
from netns_tw.wait import wait_until

IFA_F_NODAD = 0x02
LOOPBACK_INDEX = 1
FIRST_INDEX = 1000
UP_DEADLINE_S = 10.0


class Rtnl:
    """An rtnetlink socket that lives in one namespace, whatever namespace its user is in."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        with netns.enter(netns_name):
            self._ip = IPRoute(ext_ack=True, strict_check=True)

    def close(self) -> None:
        self._ip.close()

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_veth(self, name: str, index: int, peer: Rtnl, peer_name: str) -> int:
        """Make a veth pair, *name* with ifindex *index* here and *peer_name* there; return the peer's ifindex.

        Raises:
            EnvironmentLacks: this kernel has no veth.
        """
        fd = netns.open_fd(peer.netns_name)
        try:
            with _in_words(f"veth {self.netns_name}:{name} - {peer.netns_name}:{peer_name}"):
                there = {"ifname": peer_name, "net_ns_fd": fd}
                self._ip.link("add", ifname=name, index=index, kind="veth", peer=there)
                return int(peer._ip.link("get", ifname=peer_name)[0]["index"])
        finally:
            os.close(fd)

    def set_up(self, index: int, name: str) -> None:
        """Set interface *index* administratively up."""
        with _in_words(f"interface {self.netns_name}:{name}"):
            self._ip.link("set", index=index, state="up")

    def add_address(self, index: int, address: str, name: str) -> None:
        """Give interface *index* an address in CIDR notation; usable at once, IPv6 too."""
        flags = {"flags": IFA_F_NODAD} if ":" in address else {}
        with _in_words(f"address {address} on {self.netns_name}:{name}"):
            self._ip.addr("add", index=index, address=address, **flags)

    def add_route(self, to: str, via: str) -> None:
        """Route *to* (CIDR) by the neighbour *via*."""
        with _in_words(f"route to {to} via {via} in {self.netns_name}"):
            self._ip.route("add", dst=to, gateway=via)

    def wait_until_up(self, index: int, name: str) -> None:
        """Wait until interface *index* passes packets, the first one included.

        Raises:
            DeadlineMissed: operstate was not UP within 10 s.
        """

        def is_up() -> bool:
            return bool(self._ip.link("get", index=index)[0].get_attr("IFLA_OPERSTATE") == "UP")

        wait_until(is_up, f"interface {self.netns_name}:{name} up", UP_DEADLINE_S)

    def wait_until_solicited(self, address: str) -> None:
        """Wait until this namespace answers neighbour solicitations for IPv6 *address*, RFC 4291 section 2.7.1.

        Raises:
            DeadlineMissed: its solicited-node multicast group was not joined within 10 s.
        """
        group = "ff0200000000000000000001ff" + ipaddress.IPv6Address(address).packed[-3:].hex()

        def has_joined() -> bool:
            with netns.enter(self.netns_name), open("/proc/thread-self/net/igmp6", encoding="ascii") as groups:
                return any(line.split()[2] == group for line in groups)

        wait_until(has_joined, f"address {address} of {self.netns_name} answers", UP_DEADLINE_S)


@contextmanager
def _in_words(subject: str) -> Iterator[None]:
    """Turn pyroute2's tuples into one message with the errno's name and the kernel's own explanation."""
    try:
        yield
    except NetlinkError as error:
        if error.code in (errno.EOPNOTSUPP, errno.ENOTSUP) and subject.startswith("veth"):
            raise EnvironmentLacks(f"{subject}: this kernel has no veth; try: sudo modprobe veth") from error
        if error.code in (errno.EPERM, errno.EACCES):
            raise EnvironmentLacks(f"{subject}: not permitted here; a lab needs CAP_NET_ADMIN") from error
        name = errno.errorcode.get(error.code, str(error.code))
        raise UsageError(f"{subject}: {name} ({error.args[-1]})") from error
