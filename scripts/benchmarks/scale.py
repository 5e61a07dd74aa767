"""Making TIME_WAIT in numbers: on one server, from several client nodes, with source ports that are named.

The limit is a loop in C of one process that has both ends (limit.c): it enters the client's namespace before each
socket, binds the port, connects, accepts, closes the server's end, reads the FIN and closes the client's. No data is
sent, so nothing but the kernel's work on connections is counted. Each sample has namespaces of its own, and its count
of TIME_WAIT is checked.
"""

from __future__ import annotations

import time

from benchmarks import labs
from benchmarks.figure import Figure, Samples, at_least
from benchmarks.fill import filled
from benchmarks.inside import inside
from benchmarks.interleave import interleaved
from benchmarks.limit import compiled, limit
from netns_tw.lab import RunningLab

COUNT, CLIENTS = 50_000, 4


def _ours_per_s() -> float:
    addresses = {f"client{number}": f"198.18.{number}.1" for number in range(1, CLIENTS + 1)}
    with RunningLab(labs.star(CLIENTS), {}):
        began = time.monotonic()
        with filled("server", addresses, COUNT):
            return COUNT / (time.monotonic() - began)


def _in_c_per_s() -> float:
    found = limit("time-wait", str(COUNT), str(CLIENTS))
    if found["time_wait"] != COUNT:
        raise RuntimeError(f"C made {COUNT} TIME_WAIT, the kernel has {found['time_wait']:.0f}")
    return found["per_s"]


def _beside_c(runs: int) -> Samples:
    compiled()
    return interleaved(lambda: inside(_ours_per_s), lambda: inside(_in_c_per_s), runs)


FIGURES = (
    Figure(
        "time-wait-rate",
        f"making {COUNT} TIME_WAIT on one server from {CLIENTS} client nodes",
        at_least(0.7),
        "conn/s",
        _beside_c,
        "C, both ends in one process",
        5,
    ),
)
