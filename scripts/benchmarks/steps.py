"""The same labs by ip(8): a process for each step, or batches; as shell scripts and batch files have it.

Names under /run/netns are the sandbox's own. The steps run one after the other from one sh(1), whose start counts, as
it does for who has such a script.
"""

from __future__ import annotations

import subprocess

from benchmarks.interleave import output_of, program

CHAIN = """set -e
ip netns add client
ip netns add lb
ip netns add backend
ip -n client link set lo up
ip -n lb link set lo up
ip -n backend link set lo up
ip netns exec client sysctl -qw net.ipv4.tcp_tw_reuse=0
ip netns exec lb sysctl -qw net.ipv4.tcp_tw_reuse=0
ip netns exec backend sysctl -qw net.ipv4.tcp_tw_reuse=0
ip netns exec lb sysctl -qw 'net.ipv4.ip_local_port_range=1024 1026'
ip -n client link add eth0 type veth peer name eth0 netns lb
ip -n lb link add eth1 type veth peer name eth0 netns backend
ip -n client addr add 198.18.1.2/24 dev eth0
ip -n lb addr add 198.18.1.1/24 dev eth0
ip -n lb addr add 198.18.2.2/24 dev eth1
ip -n backend addr add 198.18.2.1/24 dev eth0
ip -n client link set eth0 up
ip -n lb link set eth0 up
ip -n lb link set eth1 up
ip -n backend link set eth0 up
"""


def chain() -> None:
    """Build the chain, one process for each step."""
    program("ip", "iproute2")
    output_of(["sh", "-c", CHAIN])


def star(clients: int) -> None:
    """Build the star by `ip -batch`: one for the namespaces and links, then one in each namespace."""
    ip = program("ip", "iproute2")
    numbers = range(1, clients + 1)
    made = ["netns add server", *(f"netns add client{n}" for n in numbers)]
    made += [f"link add eth0 netns client{n} type veth peer name eth{n} netns server" for n in numbers]
    _batch([ip, "-batch", "-"], made)
    there = ["link set lo up"]
    there += [line for n in numbers for line in (f"addr add 198.18.{n}.1/24 dev eth{n}", f"link set eth{n} up")]
    _batch([ip, "-n", "server", "-batch", "-"], there)
    for n in numbers:
        here = ["link set lo up", f"addr add 198.18.{n}.2/24 dev eth0", "link set eth0 up"]
        _batch([ip, "-n", f"client{n}", "-batch", "-"], here)


def _batch(argv: list[str], lines: list[str]) -> None:
    subprocess.run(argv, input="\n".join(lines) + "\n", text=True, check=True, capture_output=True)
