"""Links, addresses and routes by rtnetlink (rtnetlink(7)): the five requests that a lab is built of.

Both ends of a veth pair are created in place: one RTM_NEWLINK sent inside the first namespace, with the second one's
fd in the peer's IFLA_NET_NS_FD. So both ends may be called eth0 and nothing passes through a third namespace. Each
end's ifindex is given, from FIRST_INDEX up, and no two ends of a lab have the same.

An end that is up may still drop its first packet: it keeps the noop qdisc until the kernel's linkwatch work has run,
which can take a second. RTM_GETLINK *by index* makes the kernel run it (linkwatch_sync_dev, Linux 6.8), on older
kernels distinct ifindexes on both ends make it urgent; both are done here, and operstate UP is waited for.
IPv6 addresses are added with IFA_F_NODAD: duplicate address detection would hold them back for a second. Even so it is
a work queue of the kernel's own that makes an address usable (addrconf_dad_work): it joins the solicited-node multicast
group, and a neighbour solicitation that comes before is dropped and repeated after a second; last of all it adds the
address's local route (addrconf_dad_completed), and until then the address is unreachable, from its own node too. So
that route is waited for.

These requests are written here, byte by byte, because pyroute2 takes longer to load than all else together;
kernel/reference.py has pyroute2 send them, and tests hold the labs that both build against each other.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import netlink, netns
from netns_tw.kernel.netlink import Netlink, attribute, nested, text
from netns_tw.wait import wait_until

LOOPBACK_INDEX = 1
FIRST_INDEX = 1000
UP_DEADLINE_S = 10.0

RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 18, 20, 24
IFF_UP = 1
IFLA_IFNAME, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 16, 18, 28
INFO_KIND, INFO_DATA, VETH_INFO_PEER = 1, 2, 1
OPERSTATE_UP = 6
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_NODAD = 0x02
RTA_DST, RTA_GATEWAY = 1, 5
RTF_LOCAL = 0x80000000
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1
"""include/uapi/linux/{if,if_link,if_addr,ipv6_route,rtnetlink,veth}.h."""

_IFINFO = struct.Struct("=BxHiII")  # family, hardware type, index, flags, which flags to change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, tos, table, protocol, scope, type


Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Rtnl:
    """An rtnetlink socket that lives in one namespace, whatever namespace its user is in."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        with netns.enter(netns_name):
            self._open()

    def _open(self) -> None:
        self._netlink = Netlink(socket.NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_veth(self, name: str, index: int, peer: Rtnl, peer_name: str) -> int:
        """Make a veth pair, *name* with ifindex *index* here and *peer_name* there; return the peer's, *index* + 1.

        Raises:
            EnvironmentLacks: this kernel has no veth.
        """
        fd = netns.open_fd(peer.netns_name)
        try:
            with _in_words(f"veth {self.netns_name}:{name} - {peer.netns_name}:{peer_name}"):
                return self._add_veth(name, index, peer, peer_name, fd)
        finally:
            os.close(fd)

    def _add_veth(self, name: str, index: int, peer: Rtnl, peer_name: str, peer_netns: int) -> int:
        there = index + 1
        far = _IFINFO.pack(0, 0, there, 0, 0) + text(IFLA_IFNAME, peer_name)
        far += attribute(IFLA_NET_NS_FD, struct.pack("=I", peer_netns))
        kind = text(INFO_KIND, "veth"), nested(INFO_DATA, attribute(VETH_INFO_PEER, far))
        near = _IFINFO.pack(0, 0, index, 0, 0) + text(IFLA_IFNAME, name) + nested(IFLA_LINKINFO, *kind)
        self._netlink.ask(RTM_NEWLINK, netlink.F_CREATE | netlink.F_EXCL, near)
        return there

    def set_up(self, index: int, name: str) -> None:
        """Set interface *index* administratively up."""
        with _in_words(f"interface {self.netns_name}:{name}"):
            self._set_up(index)

    def _set_up(self, index: int) -> None:
        self._netlink.ask(RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP))

    def add_address(self, index: int, address: Interface | str, name: str) -> None:
        """Give interface *index* an address, as text in CIDR notation; usable at once, IPv6 too."""
        with _in_words(f"address {address} on {self.netns_name}:{name}"):
            self._add_address(index, ipaddress.ip_interface(address) if isinstance(address, str) else address)

    def _add_address(self, index: int, one: Interface) -> None:
        flags = IFA_F_NODAD if one.version == 6 else 0
        head = _IFADDR.pack(_family(one), one.network.prefixlen, flags, RT_SCOPE_UNIVERSE, index)
        both = attribute(IFA_LOCAL, one.packed) + attribute(IFA_ADDRESS, one.packed)
        self._netlink.ask(RTM_NEWADDR, netlink.F_CREATE | netlink.F_EXCL, head + both)

    def add_route(self, to: str, via: str) -> None:
        """Route *to* (CIDR) by the neighbour *via*."""
        with _in_words(f"route to {to} via {via} in {self.netns_name}"):
            self._add_route(to, via)

    def _add_route(self, to: str, via: str) -> None:
        net = ipaddress.ip_network(to)
        places = RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST
        head = _ROUTE.pack(_family(net), net.prefixlen, 0, 0, *places, 0)
        where = attribute(RTA_DST, net.network_address.packed) if net.prefixlen else b""
        where += attribute(RTA_GATEWAY, ipaddress.ip_address(via).packed)
        self._netlink.ask(RTM_NEWROUTE, netlink.F_CREATE | netlink.F_EXCL, head + where)

    def wait_until_up(self, index: int, name: str) -> None:
        """Wait until interface *index* passes packets, the first one included.

        Raises:
            DeadlineMissed: operstate was not UP within 10 s.
        """
        wait_until(lambda: self._is_up(index), f"interface {self.netns_name}:{name} up", UP_DEADLINE_S)

    def _is_up(self, index: int) -> bool:
        (answer,) = self._netlink.ask(RTM_GETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))
        return netlink.find(answer[_IFINFO.size :], IFLA_OPERSTATE) == bytes([OPERSTATE_UP])

    def wait_until_local(self, addresses: Sequence[str]) -> None:
        """Wait until this namespace takes in packets to IPv6 *addresses*, and answers neighbour solicitations for them.

        Raises:
            DeadlineMissed: the local route of one was not there within 10 s.
        """
        awaited = {ipaddress.IPv6Address(one).packed.hex() for one in addresses}

        def are_local() -> bool:
            if not awaited:
                return True
            with netns.enter(self.netns_name), open("/proc/thread-self/net/ipv6_route", encoding="utf-8") as routes:
                rows = [line.split() for line in routes]
            return awaited <= {row[0] for row in rows if int(row[8], 16) & RTF_LOCAL}

        wait_until(are_local, f"{self.netns_name} has {', '.join(addresses)}", UP_DEADLINE_S)


def _family(one: ipaddress._BaseV4 | ipaddress._BaseV6) -> int:
    return socket.AF_INET6 if one.version == 6 else socket.AF_INET


@contextmanager
def _in_words(subject: str) -> Iterator[None]:
    """Turn the kernel's refusal into one message with the errno's name and the kernel's own explanation."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        if code in (errno.EOPNOTSUPP, errno.ENOTSUP) and subject.startswith("veth"):
            raise EnvironmentLacks(f"{subject}: this kernel has no veth; try: sudo modprobe veth") from error
        if code in (errno.EPERM, errno.EACCES):
            raise EnvironmentLacks(f"{subject}: not permitted here; a lab needs CAP_NET_ADMIN") from error
        raise UsageError(f"{subject}: {errno.errorcode.get(code, str(code))} ({error.strerror})") from error
