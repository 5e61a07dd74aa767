"""Making TIME_WAIT in numbers: on one server, from several client nodes, with source ports that are named.

The limit is a loop in C of one process that has both ends (limit.c): it enters the client's namespace before each
socket, binds the port, connects, accepts, closes the server's end, reads the FIN and closes the client's. No data is
sent, so nothing but the kernel's work on connections is counted. Each sample has namespaces of its own, and its count
of TIME_WAIT is checked.
"""

from __future__ import annotations

from benchmarks.figure import Figure, Samples, at_least
from benchmarks.inside import inside
from benchmarks.interleave import interleaved
from benchmarks.limit import compiled, limit

COUNT, CLIENTS = 50_000, 4
OURS_IS_THERE = False
"""PLACE FOR THE PRODUCT'S SIDE: make this True when ``_ours_per_s`` calls netns_tw's function."""


def _ours_per_s() -> float:
    """PLACE FOR THE PRODUCT'S SIDE: make COUNT TIME_WAIT from CLIENTS nodes by netns_tw; return how many a second."""
    raise NotImplementedError


def _in_c_per_s() -> float:
    found = limit("time-wait", str(COUNT), str(CLIENTS))
    if found["time_wait"] != COUNT:
        raise RuntimeError(f"C made {COUNT} TIME_WAIT, the kernel has {found['time_wait']:.0f}")
    return found["per_s"]


def _beside_c(runs: int) -> Samples:
    compiled()
    if OURS_IS_THERE:
        return interleaved(lambda: inside(_ours_per_s), lambda: inside(_in_c_per_s), runs)
    theirs = [inside(_in_c_per_s) for _ in range(runs)]
    return Samples((), theirs, lacks="netns_tw has no function for it yet")


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
