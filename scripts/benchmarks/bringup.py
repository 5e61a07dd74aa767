"""A lab from nothing to its first packet: the chain, the star, and whether that packet is ever late.

All of it is netns_tw's own RunningLab, in a fresh sandbox a sample, with everything that it does beyond the limit:
names, effective sysctls read back, instruments opened. Beside it stand the same lab by raw netlink in C (limit.c), by
ip(8), by Mininet, and by pyroute2 as one writes it first. "First packet" is a connection over each link, once the lab
says that it is ready; for those who do not say, it is tried at once. No sample is taken beside the destruction of the
one before (quiet.py); what that does to a first packet is a figure of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import labs, naive, steps
from benchmarks.dying import others_dying
from benchmarks.figure import Figure, NotMeasured, Samples, at_most
from benchmarks.inside import inside
from benchmarks.interleave import interleaved, output_of, took_ms
from benchmarks.limit import compiled, limit
from benchmarks.quiet import inside_quiet
from benchmarks.whole_chain import CHAIN, connect_both
from netns_tw.lab import RunningLab

HERE = Path(__file__).resolve().parent
CLIENTS = 100
BRINGUPS = 200
LATE_MS = 500.0
"""A first packet that is lost comes again after a second (TCP_TIMEOUT_INIT)."""
WHOLE = (sys.executable, "-P", str(HERE / "whole_chain.py"))
MININET = ("/usr/bin/python3", str(HERE / "mininet_chain.py"))


def _to_first_packet_ms() -> float:
    began = time.monotonic()
    with RunningLab(CHAIN, {}):
        connect_both()
        return (time.monotonic() - began) * 1000


def _in_c_ms() -> float:
    return limit("chain")["first_packet_us"] / 1000


def _chain_beside(theirs: Callable[[], float], runs: int) -> Samples:
    return interleaved(lambda: inside_quiet(_to_first_packet_ms), lambda: inside_quiet(theirs), runs)


def _beside_c(runs: int) -> Samples:
    compiled()
    return _chain_beside(_in_c_ms, runs)


def _beside_naive(runs: int) -> Samples:
    return _chain_beside(lambda: took_ms(naive.build), runs)


def _whole_ms(argv: tuple[str, ...]) -> float:
    """From the start of a process to its own word that the first packet was through."""
    began = time.monotonic()
    return (float(output_of(argv)) - began) * 1000


def _by_steps_ms() -> float:
    began = time.monotonic()
    steps.chain()
    connect_both()
    return (time.monotonic() - began) * 1000


def _whole_beside_mininet(runs: int) -> Samples:
    try:
        output_of((MININET[0], "-c", "import mininet.net"))
    except (RuntimeError, OSError) as error:
        raise NotMeasured("Mininet is not installed: sudo apt-get install mininet") from error
    return interleaved(
        lambda: inside_quiet(lambda: _whole_ms(WHOLE)), lambda: inside_quiet(lambda: _whole_ms(MININET)), runs
    )


def _whole_beside_steps(runs: int) -> Samples:
    return interleaved(lambda: inside_quiet(lambda: _whole_ms(WHOLE)), lambda: inside_quiet(_by_steps_ms), runs)


def _star_ms() -> float:
    lab = labs.star(CLIENTS)
    began = time.monotonic()
    with RunningLab(lab, {}):
        return (time.monotonic() - began) * 1000


def _star_beside_batch(runs: int) -> Samples:
    return interleaved(
        lambda: inside_quiet(_star_ms), lambda: inside_quiet(lambda: took_ms(lambda: steps.star(CLIENTS))), runs
    )


def _first_packet_ms() -> float:
    """From "ready" to the first packet through both links."""
    with RunningLab(CHAIN, {}):
        return took_ms(connect_both)


def _late(_: int) -> Samples:
    return _late_of([inside(_first_packet_ms) for _ in range(BRINGUPS)])


def _late_of(found: list[float]) -> Samples:
    late = sum(one > LATE_MS for one in found)
    return Samples([float(late)], note=f"the slowest took {max(found):.1f} ms")


def _late_among_the_dying(_: int) -> Samples:
    def bring_up() -> float:
        with others_dying():
            return _first_packet_ms()

    return _late_of([inside(bring_up) for _ in range(BRINGUPS)])


FIGURES = (
    Figure(
        "chain-c",
        "chain of 3 nodes in-process, to the first packet through both links",
        at_most(3),
        "ms",
        _beside_c,
        "C, raw netlink",
        15,
    ),
    Figure(
        "chain-pyroute2",
        "chain of 3 nodes in-process, to the first packet through both links",
        at_most(1 / 20),
        "ms",
        _beside_naive,
        "naive pyroute2, until all is configured",
    ),
    Figure(
        "chain-mininet",
        "whole command, from process start to the first packet",
        at_most(1),
        "ms",
        _whole_beside_mininet,
        "Mininet",
    ),
    Figure(
        "chain-ip",
        "whole command, from process start to the first packet",
        at_most(1),
        "ms",
        _whole_beside_steps,
        "one ip process per step",
    ),
    Figure(
        "star-ip-batch",
        f"star of {CLIENTS} clients in-process, until every end is up",
        at_most(0.5),
        "ms",
        _star_beside_batch,
        "ip -batch, until all is configured",
        5,
    ),
    Figure(
        "first-packet",
        f"first packets later than {LATE_MS:.0f} ms after ready, of {BRINGUPS}",
        at_most(0),
        "late",
        _late,
        runs=1,
    ),
    Figure(
        "first-packet-among-dying",
        "the same while other namespaces are being destroyed",
        at_most(0),
        "late",
        _late_among_the_dying,
        runs=1,
    ),
)
