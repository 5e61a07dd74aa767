"""A node with as many TIME_WAIT as a measurement needs: set-up, not measured itself.

Both ends of each connection are in this process. The server closes first, and the client reads its FIN before it
closes, so the server's end is the one that waits. The client's ports are named: what connect() chooses itself it would
choose again, and the entry would be taken over (RFC 6191) and not be counted twice.

netns_tw will have such a function of its own: when it has, this one goes, and scale.py measures that.
"""

from __future__ import annotations

import socket
from pathlib import Path

from netns_tw.kernel import netns
from netns_tw.kernel.counters import Counters

FIRST_PORT, PORTS = 1024, 64000
"""Source ports taken of the client, towards each of the server's ports."""


def fill(client: str, server: str, address: str, count: int) -> None:
    """Make *count* TIME_WAIT on node *server* at *address*, from node *client*.

    Raises:
        RuntimeError: the kernel has another number of them.
    """
    ports = range(80, 80 + -(-count // PORTS))
    with netns.enter(server):
        Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(str(max(count * 2, 1 << 17)))
        listeners = [socket.create_server((address, port), backlog=16) for port in ports]
    with netns.enter(client):
        for number in range(count):
            _connection(listeners[number // PORTS], (address, ports[number // PORTS]), FIRST_PORT + number % PORTS)
    for one in listeners:
        one.close()
    counters = Counters(server)
    found = counters.time_wait()
    counters.close()
    if found != count:
        raise RuntimeError(f"{count} TIME_WAIT were made, the kernel has {found}")


def _connection(listener: socket.socket, to: tuple[str, int], source_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(("0.0.0.0", source_port))
        ours.connect(to)
        theirs, _ = listener.accept()
        theirs.close()
        ours.recv(1)
