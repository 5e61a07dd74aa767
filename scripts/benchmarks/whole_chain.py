"""The whole command: a script that builds the chain with netns_tw in a sandbox, and when its first packet was through.

It is what a user of the package would write. Run by its path in a process of its own; prints the time of
CLOCK_MONOTONIC at which both links had carried a connection, which its starter holds against the time of its start.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import time

from netns_tw.kernel import netns, sandbox
from netns_tw.lab import RunningLab
from netns_tw.model.topology import Endpoint, Link, Node, Topology

REUSE = {"net.ipv4.tcp_tw_reuse": "0"}
NODES = {
    "client": Node("client", REUSE),
    "lb": Node("lb", {**REUSE, "net.ipv4.ip_local_port_range": "1024 1026"}),
    "backend": Node("backend", REUSE),
}


def _end(node: str, interface: str, address: str) -> Endpoint:
    return Endpoint(node, interface, (ipaddress.IPv4Interface(address),))


LINKS = (
    Link(_end("client", "eth0", "198.18.1.2/24"), _end("lb", "eth0", "198.18.1.1/24")),
    Link(_end("lb", "eth1", "198.18.2.2/24"), _end("backend", "eth0", "198.18.2.1/24")),
)
CHAIN = Topology("chain", "client - lb - backend", NODES, LINKS, "/")
"""Two links, four addresses, four sysctls."""


def connect_both(nodes: tuple[str, str, str] = ("client", "lb", "backend")) -> None:
    """A connection over each link, by the names of the namespaces; the listeners are made here too."""
    for left, right, address in ((*nodes[:2], "198.18.1.1"), (*nodes[1:], "198.18.2.1")):
        with netns.enter(right):
            listener = socket.create_server((address, 80))
        with netns.enter(left):
            client = socket.socket()
        client.settimeout(30)
        client.connect((address, 80))  # create_connection() would import the rules of international names first
        client.close()
        listener.close()


def _inside() -> int:
    with RunningLab(CHAIN, {}):
        connect_both()
        print(time.monotonic(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(sandbox.start(_inside).wait())
