"""Our own rtnetlink requests held against pyroute2, which sends the same ones and reads what came of either."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import in_sandbox, netns_tw

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import netlink, netns
from netns_tw.kernel.link import FIRST_INDEX, LOOPBACK_INDEX, Rtnl
from netns_tw.kernel.reference import ReferenceRtnl
from netns_tw.lab import RunningLab
from netns_tw.model import labs

pytestmark = pytest.mark.netns

NOT_SAID = {
    "IFLA_ADDRESS",
    "IFLA_PERM_ADDRESS",
    "IFLA_STATS",
    "IFLA_STATS64",
    "IFLA_AF_SPEC",
    "IFLA_LINK",
    "IFLA_LINK_NETNSID",
    "IFLA_CARRIER_CHANGES",
    "IFLA_CARRIER_UP_COUNT",
    "IFLA_CARRIER_DOWN_COUNT",
    "IFA_CACHEINFO",
    "RTA_CACHEINFO",
    "IFLA_NEW_IFINDEX",
}
"""What the kernel chooses or counts by itself; link-local addresses follow from the random IFLA_ADDRESS."""
ROUTED = """
[[nodes.client.routes]]
to = "198.18.2.0/24"
via = "198.18.1.1"
[[nodes.client.routes]]
to = "2001:db8:2::/64"
via = "2001:db8:1::1"
[[nodes.backend.routes]]
to = "0.0.0.0/0"
via = "198.18.2.1"
"""


def plain(message: Any) -> list[tuple[str, str]]:
    """What a message of pyroute2's says that whoever built the lab decides."""
    fields = [
        (name, repr(message[name]))
        for name in ("flags", "prefixlen", "family", "scope", "dst_len", "proto", "type", "table")
        if name in message
    ]
    return sorted(fields + [(name, repr(value)) for name, value in message["attrs"] if name not in NOT_SAID])


def numbered(said: list[tuple[str, str]], names: dict[str, str]) -> list[tuple[str, str]]:
    """With interfaces by name instead of by index."""
    return [(key, names.get(value, value) if key == "RTA_OIF" else value) for key, value in said]


def seen_by_pyroute2(folder: Path, links: str) -> dict[str, list[list[tuple[str, str]]]]:
    """Links, addresses and routes of every node of a lab, as pyroute2 reads them."""

    def inside() -> dict[str, list[list[tuple[str, str]]]]:
        found = {}
        with RunningLab(labs.read_lab(folder).topology, {}, links=links) as running:
            for node in running.nodes:
                with closing(ReferenceRtnl(node)) as reader:
                    ip = reader._ip
                    names = {repr(one["index"]): one.get_attr("IFLA_IFNAME") for one in ip.get_links()}
                    every = [*ip.get_links(), *ip.get_addr(), *ip.get_routes()]
                    said = [numbered(plain(one), names) for one in every]
                    found[node] = sorted(one for one in said if "'fe80:" not in repr(one))
        return found

    return in_sandbox(inside)


@pytest.mark.parametrize("lab", ["lb3ports", "crowd", "routed"])
def test_a_lab_is_what_pyroute2_would_have_built(lab: str, tmp_path: Path) -> None:
    """Flags, names, MTU, operstate, addresses with flags and scope, routes of every node: no difference."""
    folder = Path(labs.shipped_folder()) / lab
    if lab == "routed":
        folder = tmp_path
        text = (Path(labs.shipped_folder()) / "lb3ports" / "topology.toml").read_text()
        (folder / "topology.toml").write_text(text + ROUTED)
        (folder / "nginx.conf").write_text((Path(labs.shipped_folder()) / "lb3ports" / "nginx.conf").read_text())
    ours = seen_by_pyroute2(folder, "netlink")
    assert ours == seen_by_pyroute2(folder, "pyroute2")
    text = repr(ours)
    assert "'UP'" in text and "198.18.1.1" in text and "2001:db8:1::1" in text
    if lab == "routed":
        assert "2001:db8:2::" in repr(ours["client"]) and "RTA_GATEWAY" in repr(ours["backend"])


def refusals(rtnl: type[Rtnl]) -> list[tuple[str, str]]:
    """What is said of requests that the kernel refuses."""
    with rtnl("left") as left, rtnl("right") as right:
        there = left.add_veth("eth0", FIRST_INDEX, right, "eth0")
        right.set_up(there, "eth0")
        right.add_address(there, "198.18.0.2/24", "eth0")
        acts: list[Callable[[], object]] = [
            lambda: left.add_veth("eth0", FIRST_INDEX + 10, right, "eth9"),
            lambda: left.add_veth("eth8", FIRST_INDEX + 20, right, "eth0"),
            lambda: left.add_veth("a-name-that-is-too-long", FIRST_INDEX + 30, right, "eth7"),
            lambda: right.add_address(there, "198.18.0.2/24", "eth0"),
            lambda: left.add_address(4711, "198.18.0.1/24", "eth0"),
            lambda: left.set_up(4711, "eth5"),
            lambda: right.add_route("198.19.0.0/16", "203.0.113.1"),
        ]
        found = []
        for act in acts:
            with pytest.raises((UsageError, EnvironmentLacks)) as caught:
                act()
            found.append((type(caught.value).__name__, str(caught.value)))
    return found


def test_what_the_kernel_refuses_is_said_in_its_words() -> None:
    """Subject, errno by name and the kernel's own explanation; the same by either way."""

    def inside(rtnl: type[Rtnl]) -> list[tuple[str, str]]:
        netns.add("left")
        netns.add("right")
        return refusals(rtnl)

    ours = in_sandbox(lambda: inside(Rtnl))
    theirs = in_sandbox(lambda: inside(ReferenceRtnl))
    assert [(kind, text.partition(" (")[0]) for kind, text in ours] == [
        (kind, text.partition(" (")[0]) for kind, text in theirs
    ]
    assert ours[0] == ("UsageError", "veth left:eth0 - right:eth9: EEXIST (File exists)")
    assert ours[6] == (
        "UsageError",
        "route to 198.19.0.0/16 via 203.0.113.1 in right: ENETUNREACH (Nexthop has invalid gateway)",
    )


def test_an_answer_that_is_no_answer_of_ours_is_passed_over() -> None:
    """Attributes: padded, nested, of unknown type, cut short; a refusal without words has the errno's own."""
    two = netlink.text(3, "eth0") + netlink.nested(18, netlink.attribute(1, b"veth"))
    assert len(two) % 4 == 0
    assert [netlink.find(two, kind) for kind in (3, 18, 16)] == [b"eth0\0", netlink.attribute(1, b"veth"), b""]
    assert [netlink.find(one, 18) for one in (two + b"\1", two[:14], b"\0\0\0\0" + two)] == [
        netlink.attribute(1, b"veth"),
        b"",
        b"",
    ]

    def inside() -> tuple[int | None, str | None]:
        netns.add("left")
        with Rtnl("left") as left, pytest.raises(netlink.Refused) as caught:
            left._netlink.ask(9999, 0, b"")
        left = Rtnl("left")
        left.set_up(LOOPBACK_INDEX, "lo")
        left.close()
        return caught.value.errno, caught.value.strerror

    assert in_sandbox(inside) == (errno.EOPNOTSUPP, "Operation not supported")


@pytest.mark.parametrize("links", ["netlink", "pyroute2"])
def test_a_claim_is_replayed_over_links_of_either_making(links: str) -> None:
    """--links, in topology and up; pyroute2 is loaded only where it is asked for."""
    done = netns_tw("topology", "direct", "--only", "connect-is-what-fails", "-q", "--links", links)
    assert (done.returncode, done.stdout.count("pass")) == (0, 2), done.stderr
    up = netns_tw("up", "direct", "--name", f"by-{links}", "--links", links)
    assert up.returncode == 0, up.stderr
    assert netns_tw("down", f"by-{links}").returncode == 0
