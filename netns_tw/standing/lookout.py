"""A lookout in a lab that is up: what the sampler sees, and what a replay in there comes to, as lines of a record.

It only looks: its instruments are opened in each node as a replay opens its own, and it pays for itself as the sampler
does. A Built line tells what the kernel has of the sysctls, and again when somebody has set one. What a replay is about
arrives through the file that stage.py writes, a new one for each replay.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from netns_tw.kernel.sockdiag import TcpSocket
from netns_tw.measure.observer import Observer
from netns_tw.measure.sampler import Sampler
from netns_tw.model.lines import BEFORE, Built, Dump, Line, Ran, Sample, Snapshot, to_json
from netns_tw.model.topology import Program, Topology
from netns_tw.replay import kinds, now_ms, rows
from netns_tw.standing.stage import SHOWN
from netns_tw.wiring import ALWAYS_SHOWN, read_sysctls

LOOK_S = 0.1
"""How often the replay's file is looked at."""
SYSCTLS_MS = 1000.0
"""How often the sysctls are."""


class Lookout:
    """Looks at *topology*'s nodes, on which *programs* run, and emits lines, each with its newline.

    Inside the lab only. Times are ms since it was made.
    """

    def __init__(self, topology: Topology, programs: Mapping[str, Program], emit: Callable[[bytes], None]) -> None:
        self._nodes = topology.nodes
        self._programs = {name: Ran("", "", str(one.listen)) for name, one in programs.items()}
        self._emit = emit
        self._zero_ms = now_ms()
        self._sysctls: dict[str, dict[str, str]] = {}
        self._sysctls_due_ms = 0.0
        self._observers = {name: Observer(name) for name in topology.nodes}

    def look(self) -> None:
        """Look until *emit* raises."""
        sampler = Sampler(self._observers, self._on_gauges, self._on_sockets)
        shown = _replayed()
        self._tell_sysctls()
        for name, observer in self._observers.items():
            seen = observer.read()
            counters = {key: number for key, number in observer.counters.read().items() if number}
            self._tell(
                Snapshot(BEFORE, self._at(), name, rows(seen.sockets), counters, seen.time_wait, [], kinds(seen))
            )
        while True:
            sampler.sample()
            for line in next(shown):
                self._emit(self._on_our_clock(line))
            self._tell_sysctls()
            select.select([], [], [], min(sampler.wait_s(), LOOK_S))

    def _at(self, monotonic_ms: float | None = None) -> float:
        return round((now_ms() if monotonic_ms is None else monotonic_ms) - self._zero_ms, 3)

    def _tell(self, line: Line) -> None:
        self._emit(to_json(line) + b"\n")

    def _tell_sysctls(self) -> None:
        if self._at() < self._sysctls_due_ms:
            return
        self._sysctls_due_ms = self._at() + SYSCTLS_MS
        found = {name: read_sysctls(name, (*node.sysctls, *ALWAYS_SHOWN)) for name, node in self._nodes.items()}
        if found != self._sysctls:
            self._sysctls = found
            self._tell(Built(self._at(), found, self._programs))

    def _on_gauges(
        self, node: str, at_ms: float, time_wait: int, established: int, counters: Mapping[str, int]
    ) -> None:
        moved = {name: number for name, number in counters.items() if number}
        self._tell(Sample(self._at(at_ms), node, time_wait, established, moved))

    def _on_sockets(self, node: str, at_ms: float, sockets: list[TcpSocket]) -> None:
        self._tell(Dump(self._at(at_ms), node, rows(sockets)))

    def _on_our_clock(self, line: bytes) -> bytes:
        """A replay's own times count from its own start."""
        found = json.loads(line)
        if found["kind"] in ("response", "batch"):
            found["at_ms"] = max(0.0, self._at() - found["took_ms"])
        return json.dumps(found).encode() + b"\n"


def _replayed() -> Iterator[list[bytes]]:
    """Each time: the whole lines that the replay's file has got since; of the first time, nothing that is old."""
    old = os.stat(SHOWN) if os.path.exists(SHOWN) else None
    at, inode = (old.st_size, old.st_ino) if old else (0, 0)
    while True:
        lines: list[bytes] = []
        with suppress(FileNotFoundError), open(SHOWN, "rb") as file:
            if (found := os.fstat(file.fileno()).st_ino) != inode:  # another replay's
                at, inode = 0, found
            file.seek(at)
            lines = [line for line in file.read(1 << 20).splitlines(keepends=True) if line.endswith(b"\n")]
            at += sum(map(len, lines))
        yield lines
