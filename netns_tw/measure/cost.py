"""What a node's sockets cost: the kernel's memory, and the time it takes to count them.

A TIME_WAIT is a small socket of its own slab (tw_sock_TCP, 256 bytes), and on the side that opened it keeps a bind
bucket or two besides. /proc/slabinfo is for root only and /proc/meminfo's ``Slab`` is the whole machine's, so a figure
by socket is one of growth, and true only where much grows: what else the machine does is in it.
"""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

from netns_tw.measure.observer import Observer

TIMES = 101


def measure(observer: Observer) -> tuple[int, int, float, float]:
    """Return sockstat's ``tw``, the machine's slabs in KiB, a count's microseconds, and a tally's milliseconds."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter_ns()
        time_wait = observer.counters.time_wait()
        took.append(time.perf_counter_ns() - began)
    began = time.perf_counter_ns()
    observer.sockets.tally()
    tally_ms = (time.perf_counter_ns() - began) / 1e6
    return time_wait, slab_kb(), round(statistics.median(took) / 1000, 2), round(tally_ms, 3)


def slab_kb() -> int:
    """Kernel memory in slabs, of the whole machine, in KiB; 0 where the kernel does not say."""
    found = re.search(r"^Slab: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M)
    return int(found[1]) if found else 0
