"""Words and facts that every floor shares and that need no kernel.

They let ``validate`` refuse a file on a machine that could not run it: the names of TCP states and close styles, and
which sysctls belong to a network namespace, and since when.
"""

from __future__ import annotations

RUN = "/run/netns_tw"
"""In a lab: the folder of each node, with its program's files and log."""
NAME_RULE = "1 to 32 of a-z, 0-9 and '-', the first no '-'"
"""What labs and nodes may be called (:func:`is_name`)."""
_OF_NAMES = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

TOPOLOGY = "topology.toml"
"""The file that makes a folder a lab."""

CLIENTS = ("h11", "curl")
SERVERS = ("h11", "nginx")
"""What `--client` and `--server` choose between."""
BARE = "bare"
"""A step's client that makes connections and sends nothing (programs/bare.py); no `--client` replaces it."""
CLOSERS = ("server", "client")
"""Who closes a bare connection first."""
LINKS = ("netlink", "pyroute2")
"""What `--links` chooses between: kernel/link.py and kernel/reference.py."""

CLOSE_STYLES = ("server-first", "client-first", "race", "reset", "keep-alive")
"""How the built-in server closes; programs/server.py says what each means."""

TCP_STATES = {
    1: "established",
    2: "syn-sent",
    3: "syn-recv",
    4: "fin-wait-1",
    5: "fin-wait-2",
    6: "time-wait",
    7: "closed",
    8: "close-wait",
    9: "last-ack",
    10: "listening",
    11: "closing",
}
"""TCP states by number (include/net/tcp_states.h), by the names ss(8) takes."""

_GLOBAL_IPV4 = (
    "tcp_mem",
    "tcp_max_orphans",
    "tcp_low_latency",
    "tcp_available_ulp",
    "udp_mem",
    "fib_sync_mem",
    "ipfrag_secret_interval",
    "inet_peer_threshold",
    "inet_peer_minttl",
    "inet_peer_maxttl",
    "cipso_cache_enable",
    "cipso_cache_bucket_size",
    "cipso_rbm_optfmt",
    "cipso_rbm_strictvalid",
)
_GLOBAL_CORE = ("netdev_max_backlog", "rmem_max", "wmem_max")
GLOBAL_SYSCTLS = frozenset(f"net.ipv4.{name}" for name in _GLOBAL_IPV4) | {f"net.core.{name}" for name in _GLOBAL_CORE}
"""Global in Linux 6.18: absent or read-only in a child namespace (struct netns_ipv4, net_core_table)."""

SYSCTL_KERNELS = {
    "net.ipv4.tcp_tw_recycle": "removed in Linux 4.12 (commit 4396e46187ca)",
    "net.ipv4.tcp_tw_reuse_delay": "new in Linux 6.14 (commit ca6a6f93867a)",
    "net.ipv4.tcp_child_ehash_entries": "new in Linux 6.1",
    "net.ipv4.ip_autobind_reuse": "new in Linux 5.7",
}
"""Sysctls that come or go with a kernel version, for the reason of a skip."""


def is_name(text: str) -> bool:
    """Whether a lab or a node may be called so."""
    return 0 < len(text) <= 32 and text[0] != "-" and _OF_NAMES.issuperset(text)


def is_number(text: str) -> bool:
    """Whether *text* is a whole number in plain digits, 0-9."""
    return text.isascii() and text.isdigit()


def is_graphic(text: str) -> bool:
    """Whether *text* holds nothing but visible ASCII, '!' to '~'; an empty one does."""
    return text.isascii() and text.isprintable() and " " not in text


def is_per_namespace(name: str) -> bool:
    """Whether sysctl *name* may belong to a network namespace at all."""
    parts = name.split(".")
    return parts[0] == "net" and len(parts) > 2 and name not in GLOBAL_SYSCTLS and "/" not in name and "" not in parts
