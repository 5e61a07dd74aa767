"""A lab as it is now, folded from the lines of its record as they come; pure: no clock and no terminal of its own.

Lines are taken in as a lab emits them (replay.py, measure/sampler.py): what is not told stays as it was. Whoever shows
the state says what time it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace

from netns_tw.evidence.live_node import LiveNode
from netns_tw.evidence.live_requests import LiveRequests
from netns_tw.model.budget import DEFAULT_DELAY_MS
from netns_tw.model.experiment import Step
from netns_tw.model.lines import Batch, Built, Dump, End, Line, Response, Sample, Snapshot, StepEnd, Trouble
from netns_tw.model.topology import TIMESTAMPS, TW_REUSE, TW_REUSE_DELAY, Listen, Node, Topology

LOG_LINES = 20
LONGEST_LOG = 500
MARK_MS = 190.0
"""Between two marks of the counters at least."""


class LiveLab:
    """A lab's nodes, requests and log as they are now."""

    def __init__(self, topology: Topology, steps: Sequence[Step] = ()) -> None:
        """Begin with nothing known; *steps* are those of the experiment that is replayed, if one is."""
        self.topology = topology
        self.requests = LiveRequests(steps)
        self.nodes = {name: LiveNode(node) for name, node in topology.nodes.items()}
        for one in self.nodes.values():
            one.runs(one.node, _listens(one.node))
        self.logged: deque[tuple[str, str]] = deque(maxlen=LOG_LINES)
        """The last lines that programs logged, with their node."""
        self.is_built = False
        self.is_over = False
        self.trouble: Trouble | None = None
        self._marked_ms = float("-inf")

    def add(self, line: Line) -> None:
        """Take in one line of the record. A line of a node that the topology does not have is passed over."""
        if isinstance(line, Response):
            self.requests.add(line)
        elif isinstance(line, Batch):
            self.requests.add_batch(line)
        elif isinstance(line, StepEnd):
            self.requests.ended(line.step)
        elif isinstance(line, Built):
            self._built(line)
        elif isinstance(line, Trouble):
            self.trouble, self.is_over = line, True
        elif isinstance(line, End):
            self.is_over = True
        elif isinstance(line, Snapshot | Sample | Dump) and line.node in self.nodes:
            self._seen(self.nodes[line.node], line)

    def _built(self, line: Built) -> None:
        self.is_built = True
        for name, one in self.nodes.items():
            node = replace(one.node, sysctls={**one.node.sysctls, **line.sysctls.get(name, {})})
            one.runs(node, _port(line.programs[name].listen) if name in line.programs else ())

    def _seen(self, one: LiveNode, line: Snapshot | Sample | Dump) -> None:
        self.is_built = True
        if isinstance(line, Sample):
            one.sampled(line)
        elif isinstance(line, Dump):
            one.looked(line.at_ms, line.sockets)
        else:
            one.snapped(line)
            self.logged.extend((line.node, text[:LONGEST_LOG]) for text in line.log[-LOG_LINES:])

    def mark(self, now_ms: float) -> None:
        """Say that the state is shown now: what moves is told against what was shown a second ago."""
        if now_ms - self._marked_ms >= MARK_MS:
            self._marked_ms = now_ms
            for one in self.nodes.values():
                one.mark(now_ms)

    def reuse_delay_ms(self, node: str, remote: str) -> float | None:
        """From which age on connect() may take over a TIME_WAIT towards *remote*, in ms; None where it never may.

        tcp_tw_reuse = 1 and timestamps on both ends (tcp_twsk_unique, net/ipv4/tcp_ipv4.c).
        """
        mine = self.nodes[node].node.sysctls
        owner = self.topology.owner_of(remote)
        there = self.nodes[owner].node.sysctls if owner else {}
        if mine.get(TW_REUSE) != "1" or "0" in (mine.get(TIMESTAMPS), there.get(TIMESTAMPS)):
            return None
        delay = mine.get(TW_REUSE_DELAY, "")
        return float(delay) if delay.isdecimal() else float(DEFAULT_DELAY_MS)


def moment_of(line: Line) -> float | None:
    """The moment that a line tells of, ms since the record's zero; it was written then or a little later."""
    if isinstance(line, Response | Batch):
        return line.at_ms + line.took_ms
    if isinstance(line, StepEnd):
        return line.ended_ms
    return line.at_ms if isinstance(line, Built | Snapshot | Sample | Dump | End) else None


def _listens(node: Node) -> Collection[int]:
    programs = node.programs
    if programs is None:
        return ()
    return {one.listen.port for one in (programs.default, programs.h11, programs.nginx) if one}


def _port(listen: str) -> Collection[int]:
    try:
        return (Listen.parse(listen).port,)
    except ValueError:
        return ()
