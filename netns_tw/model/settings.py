"""A sysctl of a node as a file or the command line sets it: what is allowed, without asking a kernel.

On the command line it is ``NODE.SYSCTL=VALUE``. A node's name holds no dot, so the first dot ends it; a sysctl without
``net.`` in front is one of net.ipv4, where all that TIME_WAIT depends on lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netns_tw.errors import UsageError, near_match
from netns_tw.model.frozen import Frozen
from netns_tw.model.topology import PORT_RANGE, RESERVED_PORTS, Node, Topology
from netns_tw.rules import GLOBAL_SYSCTLS, is_number, is_per_namespace

_KNOWN = (
    "ip_local_port_range",
    "ip_local_reserved_ports",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
    "tcp_timestamps",
    "tcp_max_tw_buckets",
    "tcp_fin_timeout",
)


class Setting(Frozen):
    """One sysctl of one node."""

    node: str
    name: str
    value: str


def problem(name: str, value: str) -> str:
    """What is wrong with a sysctl's name or value; empty where nothing is."""
    if name in GLOBAL_SYSCTLS or not name.startswith("net."):
        return "not per-namespace: a lab cannot set it without changing the whole machine"
    if not is_per_namespace(name):
        return "no sysctl is called so: it is net, two or more words, and dots between them"
    if not value and name != RESERVED_PORTS:
        return "has no value"
    if name == RESERVED_PORTS:
        form, words = "'1024,1030-1034'", [word.strip() for word in value.split(",")] if value else []
        good = all(
            is_port_range(first, last if dash else None)
            for first, dash, last in (word.partition("-") for word in words)
        )
    elif name == PORT_RANGE:
        form, words = "'FIRST LAST' with 0 < FIRST <= LAST < 65536", value.split()
        good = len(words) == 2 and is_port_range(words[0], words[1])
    else:
        return "" if value.isascii() else f"must be plain ASCII, not {value!r}"
    return "" if good else f"must be ports in the form {form}, not {value!r}"


def is_port_range(first: str, last: str | None) -> bool:
    """Whether two words, or the first alone, are TCP ports in order."""
    low, high = first, last if last is not None else first
    return all(is_number(one) and len(one) <= 5 for one in (low, high)) and 0 < int(low) <= int(high) < 65536


def parse(word: str, nodes: Iterable[str]) -> Setting:
    """Parse ``NODE.SYSCTL=VALUE``.

    Raises:
        UsageError: it is none, or names no node of *nodes*, or no sysctl that a node may have.
    """
    where, equals, value = word.partition("=")
    node, dot, name = where.strip().partition(".")
    if not (equals and dot and name):
        raise UsageError(f"{word!a}: must be NODE.SYSCTL=VALUE, such as lb.net.ipv4.tcp_tw_reuse=1")
    nodes = list(nodes)
    if node not in nodes:
        near = near_match(node, nodes) or f"; there are {', '.join(nodes)}"
        raise UsageError(f"{word!a}: no node is called {node!a}{near}")
    name, value = name if name.startswith("net.") else f"net.ipv4.{name}", " ".join(value.split())
    wrong = problem(name, value)
    if wrong:
        is_unknown = not (is_per_namespace(name) or name in GLOBAL_SYSCTLS)  # a value is no typo of a name
        raise UsageError(f"{word!a}: {wrong}{near_match(name.rpartition('.')[2], _KNOWN) if is_unknown else ''}")
    return Setting(node, name, value)


def by_node(settings: Iterable[Setting]) -> dict[str, dict[str, str]]:
    """Sysctls by node; the last of several wins."""
    found: dict[str, dict[str, str]] = {}
    for one in settings:
        found.setdefault(one.node, {})[one.name] = one.value
    return found


def apply(topology: Topology, sysctls: Mapping[str, Mapping[str, str]]) -> Topology:
    """The lab with sysctls added, by node."""
    return topology.with_nodes({name: Node(name, changed) for name, changed in sysctls.items()})
