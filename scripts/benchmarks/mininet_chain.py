"""The chain as Mininet builds it: three hosts, two direct links, no switch and no controller.

Run by the interpreter that Debian's package is for. Left out, in Mininet's favour: its check of the machine's limits,
which sets sysctls of the whole machine, and clean-up. Prints the time of CLOCK_MONOTONIC at which both links had
carried a connection. The connections are made by this process in the hosts' namespaces, as netns_tw's are.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time

from mininet.net import Mininet

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(pid: int) -> None:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def main() -> None:
    """Build it, connect, print the time, and leave at once: the sandbox takes the hosts down."""
    Mininet.inited = True  # no fixLimits()
    net = Mininet(controller=None)
    client, lb, backend = (net.addHost(name, ip=None) for name in ("client", "lb", "backend"))
    for host in (client, lb, backend):
        host.cmd("sysctl -qw net.ipv4.tcp_tw_reuse=0")
    lb.cmd('sysctl -qw net.ipv4.ip_local_port_range="1024 1026"')
    first, second = net.addLink(client, lb), net.addLink(lb, backend)
    first.intf1.setIP("198.18.1.2/24")
    first.intf2.setIP("198.18.1.1/24")
    second.intf1.setIP("198.18.2.2/24")
    second.intf2.setIP("198.18.2.1/24")
    net.build()
    for left, right, address in ((client, lb, "198.18.1.1"), (lb, backend, "198.18.2.1")):
        _enter(right.pid)
        listener = socket.create_server((address, 80))
        _enter(left.pid)
        socket.create_connection((address, 80), timeout=30).close()
        listener.close()
    print(time.monotonic(), flush=True)
    sys.stdout.flush()
    os._exit(0)


main()
