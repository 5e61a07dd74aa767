"""TIME_WAITs in number on one node, by netns_tw's own bare connections (netns_tw/programs/bare.py).

The server closes first, and the client's ports are named: what connect() chooses itself it would choose again, and the
entry would be taken over (RFC 6191) and not be counted twice.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.counters import Counters
from netns_tw.programs import bare

FIRST_PORT, PORTS = 1024, 64000
"""Source ports of a client, towards each of the server's ports."""


@contextmanager
def filled(server: str, address_by_client: Mapping[str, str], count: int) -> Iterator[None]:
    """Make *count* TIME_WAIT on node *server*, of each client as many, each at its own *address* of the server.

    What listens on the server goes on to listen in the block: so the connections are known to be accepted ones.

    Raises:
        RuntimeError: the kernel has another number of them.
    """
    processors = os.sched_getaffinity(0)
    sysctl.write(server, "net.ipv4.tcp_max_tw_buckets", str(max(count * 2, 1 << 17)))
    each = count // len(address_by_client)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, processors)
        for client, address in address_by_client.items():
            for first in range(0, each, PORTS):
                with netns.enter(server):
                    listener = stack.enter_context(socket.create_server((address, 80 + first // PORTS)))
                _connections(client, listener, min(PORTS, each - first))
        os.sched_setaffinity(0, processors)
        counters = Counters(server)
        stack.callback(counters.close)
        if counters.time_wait() != count:
            raise RuntimeError(f"{count} TIME_WAIT were made, the kernel has {counters.time_wait()}")
        yield


def _connections(client: str, listener: socket.socket, count: int) -> None:
    with netns.enter(client):
        plan = bare.Plan(os.dup(listener.fileno()), count, source_ports=range(FIRST_PORT, FIRST_PORT + count))
        batches: list[bare.Batch] = []
        bare.run(plan, batches.append)
    if sum(one.ok for one in batches) != count:
        raise RuntimeError(f"connections failed: {[one.failed for one in batches if one.failed]}")
