"""NODE.SYSCTL=VALUE: what is taken and what is refused, without a kernel."""

from __future__ import annotations

import pytest

from netns_tw.errors import UsageError
from netns_tw.model import labs, settings
from netns_tw.model.settings import Setting

NODES = ("client", "lb", "backend-2")
GLOBAL = "not per-namespace: a lab cannot set it without changing the whole machine"
NO_NAME = "no sysctl is called so: it is net, two or more words, and dots between them"
RANGE = "must be ports in the form 'FIRST LAST' with 0 < FIRST <= LAST < 65536, not "


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lb.net.ipv4.tcp_tw_reuse=1", Setting("lb", "net.ipv4.tcp_tw_reuse", "1")),
        ("lb.tcp_tw_reuse=1", Setting("lb", "net.ipv4.tcp_tw_reuse", "1")),
        ("lb.tcp_tw_reuse = 1", Setting("lb", "net.ipv4.tcp_tw_reuse", "1")),
        (" lb.tcp_tw_reuse=1\n", Setting("lb", "net.ipv4.tcp_tw_reuse", "1")),
        ("backend-2.conf.eth0.rp_filter=0", Setting("backend-2", "net.ipv4.conf.eth0.rp_filter", "0")),
        ("lb.net.core.somaxconn=9", Setting("lb", "net.core.somaxconn", "9")),
        ("lb.net.ipv6.conf.all.forwarding=1", Setting("lb", "net.ipv6.conf.all.forwarding", "1")),
        ("lb.ip_local_port_range=1024\t 1034", Setting("lb", "net.ipv4.ip_local_port_range", "1024 1034")),
        ("lb.ip_local_port_range=1 65535", Setting("lb", "net.ipv4.ip_local_port_range", "1 65535")),
        ("lb.ip_local_reserved_ports=", Setting("lb", "net.ipv4.ip_local_reserved_ports", "")),
        ("lb.ip_local_reserved_ports=8,10-12", Setting("lb", "net.ipv4.ip_local_reserved_ports", "8,10-12")),
        ("lb.tcp_rmem=4096 8192 16384", Setting("lb", "net.ipv4.tcp_rmem", "4096 8192 16384")),
        ("lb.tcp_congestion_control=a=b", Setting("lb", "net.ipv4.tcp_congestion_control", "a=b")),
    ],
)
def test_a_word_is_a_node_a_sysctl_and_a_value(word: str, expected: Setting) -> None:
    """The first dot ends the node, the first = the name; blanks around mean nothing, and net.ipv4. may be left out."""
    assert settings.parse(word, NODES) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("", "must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1"),
        ("=", "must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1"),
        ("lb=1", "must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1"),
        ("lb.=1", "must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1"),
        ("lb.tcp_tw_reuse", "must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1"),
        ("net.ipv4.tcp_tw_reuse=1", "no node is called 'net'; there are client, lb, backend-2"),
        (".tcp_tw_reuse=1", "no node is called ''; there are client, lb, backend-2"),
        ("cleint.tcp_tw_reuse=1", "no node is called 'cleint'; did you mean 'client'?"),
        ("LB.tcp_tw_reuse=1", "no node is called 'LB'; there are client, lb, backend-2"),
        ("lb.tcp_mem=1", GLOBAL),
        ("lb.net.core.rmem_max=1", GLOBAL),
        ("lb.net.tcp_tw_resue=1", f"{NO_NAME}; did you mean 'tcp_tw_reuse'?"),
        ("lb.net.=1", NO_NAME),
        ("lb..=1", NO_NAME),
        ("lb.conf/eth0/rp_filter=1", NO_NAME),
        ("lb.../../../tcp_tw_reuse=1", f"{NO_NAME}; did you mean 'tcp_tw_reuse'?"),
        ("lb.net.ipv4...tcp_tw_reuse=1", f"{NO_NAME}; did you mean 'tcp_tw_reuse'?"),
        ("lb.tcp_tw_reuse=", "has no value"),
        ("lb.tcp_tw_reuse= \n", "has no value"),
        ("lb.ip_local_port_range=", "has no value"),
        ("lb.ip_local_port_range=1024", f"{RANGE}'1024'"),
        ("lb.ip_local_port_range=1024-1034", f"{RANGE}'1024-1034'"),
        ("lb.ip_local_port_range=1034 1024", f"{RANGE}'1034 1024'"),
        ("lb.ip_local_port_range=0 9", f"{RANGE}'0 9'"),
        ("lb.ip_local_port_range=1 65536", f"{RANGE}'1 65536'"),
        ("lb.ip_local_port_range=-1 9", f"{RANGE}'-1 9'"),
        ("lb.ip_local_port_range=\u0661 9", f"{RANGE}'\u0661 9'"),
        ("lb.ip_local_port_range=1 2 3", f"{RANGE}'1 2 3'"),
        ("lb.ip_local_reserved_ports=9-8", "must be ports in the form '1024,1030-1034', not '9-8'"),
        ("lb.ip_local_reserved_ports=8 9", "must be ports in the form '1024,1030-1034', not '8 9'"),
        ("lb.ip_local_reserved_ports=8,,9", "must be ports in the form '1024,1030-1034', not '8,,9'"),
    ],
)
def test_what_is_none_is_refused_in_one_line(word: str, message: str) -> None:
    """The word as it was typed, what is wrong with it, and the near match where a name is misspelt."""
    with pytest.raises(UsageError) as refused:
        settings.parse(word, NODES)
    assert str(refused.value) == f"{word!a}: {message}"


def test_the_last_of_several_wins() -> None:
    words = ("lb.tcp_tw_reuse=1", "client.tcp_tw_reuse=2", "lb.net.ipv4.tcp_tw_reuse=0")
    found = settings.by_node(settings.parse(word, NODES) for word in words)
    assert found == {"lb": {"net.ipv4.tcp_tw_reuse": "0"}, "client": {"net.ipv4.tcp_tw_reuse": "2"}}


def test_applied_to_a_lab_they_are_added_to_the_file_s_own() -> None:
    """What the file says of the node otherwise, and of other nodes, stays; the lab itself is not changed."""
    topology = labs.read_lab(labs.folder_of("direct")).topology
    found = settings.apply(topology, {"client": {"net.ipv4.tcp_tw_reuse": "1"}})
    assert found.nodes["client"].sysctls == {**topology.nodes["client"].sysctls, "net.ipv4.tcp_tw_reuse": "1"}
    assert topology.nodes["client"].sysctls["net.ipv4.tcp_tw_reuse"] == "0"
    assert found.nodes["server"] == topology.nodes["server"]
