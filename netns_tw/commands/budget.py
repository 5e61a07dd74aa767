"""budget: what the port budget predicts, for given numbers or for a lab's node. No root, no packet.

What the user gives beats what the lab says, which beats the kernel's defaults.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from netns_tw.commands import Add
from netns_tw.errors import EXIT_PASS, UsageError, near_match
from netns_tw.model import labs
from netns_tw.model.budget import DEFAULT_DELAY_MS, LONGEST_DELAY_MS, SHORTEST_DELAY_MS, Budget, PortChoice
from netns_tw.model.ports import MAX_PORT, parse_ports

T = TypeVar("T")

if TYPE_CHECKING:
    from netns_tw.model.topology import Topology

LARGEST = 1_000_000_000
"""Of any number given: beyond it a float has no room for what is made of it."""
DEFAULT_TW_REUSE = 2
"""Since Linux 4.19 (commit 79e9fed46038): loopback only, and no link of a lab is."""


def declare(add: Add) -> None:
    """Add the command."""
    command = add(
        "budget",
        "python -m netns_tw budget --range 1024-1026 --destinations 1 --rate 100",
        _budget,
    )
    lab_node = "a node of a lab: its range, reserved ports, listener and sysctls (default: the kernel's defaults)"
    command.add_argument("node", nargs="?", metavar="LAB/NODE", help=lab_node)
    ports = command.add_argument_group("ports")
    ports.add_argument("--range", type=_range, metavar="LOW-HIGH", help="ip_local_port_range (default: 32768-60999)")
    reserved = "ip_local_reserved_ports, such as 1024,1030-1034 (default: none)"
    ports.add_argument("--reserved", type=_ports, metavar="PORTS", help=reserved)
    held = "ports that listeners or other bound sockets hold, such as 80,443 (default: none)"
    ports.add_argument("--listening", type=_ports, metavar="PORTS", help=held)
    option = "IP_LOCAL_PORT_RANGE, as the program sets it on its sockets (default: not set)"
    ports.add_argument("--port-range-option", type=_range, metavar="LOW-HIGH", help=option)
    words = [one.value for one in PortChoice]
    choice = "when the port is chosen: at connect, at bind, or at connect after a bind with IP_BIND_ADDRESS_NO_PORT"
    ports.add_argument("--bind", choices=words, help=f"{choice} (default: connect; with several sources bind-no-port)")
    ports.add_argument("--sources", type=_count, metavar="N", help="source addresses (default: 1)")
    ports.add_argument(
        "--destinations", type=_count, metavar="N", help="distinct pairs of address and port (default: 1)"
    )
    load = command.add_argument_group("load")
    load.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help="new connections per second (default: none given, no prediction of when)",
    )
    kept = "keep-alive: requests until the connection is closed (default: 1)"
    load.add_argument("--requests-per-connection", type=_count, metavar="N", help=kept)
    sysctls = command.add_argument_group("sysctls")
    yes_or_no = argparse.BooleanOptionalAction
    sysctls.add_argument("--tw-reuse", action=yes_or_no, help="tcp_tw_reuse = 1, or 0 (default: 2, loopback only)")
    delay = f"tcp_tw_reuse_delay, {SHORTEST_DELAY_MS} to {LONGEST_DELAY_MS} ms (default: {DEFAULT_DELAY_MS})"
    sysctls.add_argument("--delay-ms", type=_count, metavar="N", help=delay)
    sysctls.add_argument("--timestamps", action=yes_or_no, help="tcp_timestamps, on both ends (default: on)")
    buckets = "tcp_max_tw_buckets (default: larger than needed)"
    sysctls.add_argument("--max-tw-buckets", type=_whole, metavar="N", help=buckets)


def _checked(text: str, form: str, parse: Callable[[str], T], is_good: Callable[[T], bool], allowed: str) -> T:
    """What *parse* makes of a word of that form, or argparse's error with what is allowed."""
    try:
        if re.fullmatch(form, text) and is_good(found := parse(text)):
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no {allowed}")


def _range(text: str) -> tuple[int, int]:
    def parse(word: str) -> tuple[int, int]:
        low, _, high = word.partition("-")
        return int(low), int(high)

    def is_good(found: tuple[int, int]) -> bool:
        return 1 <= found[0] <= found[1] <= MAX_PORT

    return _checked(text, "[0-9]+-[0-9]+", parse, is_good, f"range LOW-HIGH within 1-{MAX_PORT}, such as 1024-1026")


def _ports(text: str) -> frozenset[int]:
    allowed = f"list of ports up to {MAX_PORT}, such as 1024,1030-1034"
    return _checked(text, "[0-9, -]*", parse_ports, lambda _: True, allowed)


def _count(text: str) -> int:
    return _checked(text, "[0-9]+", int, lambda found: 1 <= found <= LARGEST, f"whole number from 1 to {LARGEST}")


def _whole(text: str) -> int:
    return _checked(text, "[0-9]+", int, lambda found: found <= LARGEST, f"whole number from 0 to {LARGEST}")


def _rate(text: str) -> float:
    allowed = f"number above 0 and up to {LARGEST}, in connections per second"
    return _checked(text, "[0-9.eE-]+", float, lambda found: 0 < found <= LARGEST, allowed)


def budget_of(given: argparse.Namespace) -> Budget:
    """The port budget that the words of the command line mean.

    Raises:
        UsageError: lab or node do not exist, or values contradict each other.
        FileProblems: the lab's files are wrong.
    """
    found = _of_node(given.node) if given.node else {"reserved": frozenset(), "listening": frozenset()}
    words = {
        "sources": given.sources,
        "destinations": given.destinations,
        "range_option": given.port_range_option,
        "delay_ms": given.delay_ms,
        "has_timestamps": given.timestamps,
        "max_tw_buckets": given.max_tw_buckets,
        "requests_per_connection": given.requests_per_connection,
        "tw_reuse": None if given.tw_reuse is None else int(given.tw_reuse),
        "choice": PortChoice(given.bind) if given.bind else _choice(given.sources),
        "low": given.range[0] if given.range else None,
        "high": given.range[1] if given.range else None,
        "reserved": given.reserved,
        "listening": given.listening,
    }
    found.update({name: value for name, value in words.items() if value is not None})
    found["taken"] = found.pop("reserved") | found.pop("listening")
    try:
        return Budget(**found)
    except ValueError as error:
        where = f"{given.node}: " if given.node else ""
        hint = "; give --bind bind or --bind bind-no-port" if "bind()" in str(error) else ""
        raise UsageError(f"{where}{error}{hint}") from error


def _choice(sources: int | None) -> PortChoice:
    """Several sources need a bind(); unless told otherwise, the one that leaves the port to connect()."""
    return PortChoice.BIND_NO_PORT if sources is not None and sources > 1 else PortChoice.CONNECT


def _of_node(word: str) -> dict[str, Any]:
    """What a lab's node decides: the budget's fields, with its reserved and its listening ports apart."""
    from netns_tw.model.topology import MAX_TW_BUCKETS, TIMESTAMPS, TW_REUSE, TW_REUSE_DELAY

    lab_name, slash, name = word.rstrip("/").rpartition("/")
    topology = labs.read_lab(labs.folder_of(lab_name if slash else word)).topology
    nodes = topology.nodes
    if not slash or name not in nodes:
        near = near_match(name, nodes) if slash else ""
        problem = f"lab {topology.name} has no node {name!r}{near}" if slash else f"{word} is a lab; name its node"
        raise UsageError(f"{problem}; there are {', '.join(f'{lab_name if slash else word}/{one}' for one in nodes)}")
    sysctls = nodes[name].sysctls

    def number(key: str, default: int) -> int:
        try:
            return int(sysctls.get(key, default))
        except ValueError:
            raise UsageError(f"node {name}: {key} = {sysctls[key]!r} is no whole number") from None

    low, high = nodes[name].port_range
    found: dict[str, Any] = {
        "low": low,
        "high": high,
        "reserved": nodes[name].reserved_ports,
        "listening": _listening(topology, name),
        "tw_reuse": number(TW_REUSE, DEFAULT_TW_REUSE),
        "delay_ms": number(TW_REUSE_DELAY, DEFAULT_DELAY_MS),
        "has_timestamps": number(TIMESTAMPS, 1) != 0 and _peers_have_timestamps(topology, name),
    }
    if MAX_TW_BUCKETS in sysctls:
        found["max_tw_buckets"] = number(MAX_TW_BUCKETS, 0)
    return found


def _listening(topology: Topology, name: str) -> frozenset[int]:
    programs = topology.nodes[name].programs
    return frozenset({programs.default.listen.port} if programs else ())


def _peers_have_timestamps(topology: Topology, name: str) -> bool:
    """Whether every neighbour that runs a program, and so can be a destination, has tcp_timestamps on."""
    from netns_tw.model.topology import TIMESTAMPS

    ends = [(left.node, right.node) for left, right in topology.links]
    neighbours = {b if a == name else a for a, b in ends if name in (a, b)}
    destinations = [topology.nodes[one] for one in neighbours if topology.nodes[one].programs]
    return all(node.sysctls.get(TIMESTAMPS, "1") != "0" for node in destinations)


def _budget(given: argparse.Namespace) -> int:
    found = budget_of(given)
    from netns_tw.report import budget as report

    if given.json:
        print(report.as_json(found, given.rate, given.node))
    else:
        from netns_tw.report.console import console

        console(sys.stdout).print(report.as_text(found, given.rate, given.node))
    return EXIT_PASS
