"""The live view where nobody looks at a terminal: plain lines for grep, one per node and second, one per change. Pure.

A line is words and ``key=value`` pairs, states by ss(8)'s names. Requests with the same result in a row are told as
they begin, and with their count when another result comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from netns_tw.evidence.live import LiveLab
from netns_tw.evidence.live_node import LiveNode, Opened
from netns_tw.evidence.live_requests import Same
from netns_tw.evidence.traffic import TIME_WAIT
from netns_tw.report.live_ports import seconds

REMOTES = 3
PORTS = 4
CHANGES = 10
"""Shown of each at most; then how many more there are."""


def node_line(lab: LiveLab, name: str, now_ms: float) -> str:
    """A node as it is: sockets by state, and towards each remote the free ports and the seconds left to others."""
    one = lab.nodes[name]
    states = {**one.states, TIME_WAIT: one.time_wait}
    words = [_time(now_ms), f"node={name}", *(f"{state}={count}" for state, count in sorted(states.items()))]
    words += [_remote(one, each, now_ms) for each in one.opened[:REMOTES]]
    if len(one.opened) > REMOTES:
        words.append(f"more-remotes={len(one.opened) - REMOTES + one.left_out}")
    return " ".join(words)


def _time(now_ms: float) -> str:
    return f"t={now_ms / 1000:.1f}s"


def _remote(node: LiveNode, one: Opened, now_ms: float) -> str:
    words = f"to={one.remote}"
    budget = node.budget()
    if budget is not None:
        free, usable = (
            str(each).replace(" or ", "|").replace(" to ", "-") for each in (budget.free(one), budget.usable)
        )
        words += f" free={free}/{usable}"
    left = [f"{port}:{seconds(end, now_ms)}" for end, port in one.nearest[:PORTS]]
    more = one.states.get(TIME_WAIT, 0) - len(left)
    return words + (f" left={','.join(left)}" + (f",+{more}" if more else "") if left else "")


class Changes:
    """Tells what has changed in a lab's requests since it was asked last."""

    def __init__(self, lab: LiveLab) -> None:
        """Begin before the first result."""
        self._lab = lab
        self._next = 0
        """The first row that was not told in full."""
        self._told = 0
        """How many of that row's results were told."""
        self._stopped = False

    def lines(self, now_ms: float, is_last: bool = False) -> Iterator[str]:
        """A line for each result that is new; *is_last*: the last row's count too."""
        found = [row for row in self._lab.requests.rows if row.number >= self._next]
        missed = found[0].number - self._next if found else 0
        hidden = missed + max(len(found) - CHANGES, 0)
        if hidden:
            yield f"{_time(now_ms)} results: {hidden} changes are not shown"
        for row in found[-CHANGES:]:
            is_open = row is found[-1] and not is_last
            told = self._told if row.number == self._next else 0
            if not told or (row.count > told and not is_open):
                yield f"{_time(now_ms)} {_result(row)}{' ...' if is_open else ''}"
                told = row.count
            self._next, self._told = (row.number, told) if is_open else (row.number + 1, 0)
        if self._lab.trouble and not self._stopped:
            self._stopped = True
            yield f"{_time(now_ms)} stopped: {self._lab.trouble.message}"


def _result(row: Same) -> str:
    last = "" if row.count == 1 else f"-{row.last}"
    words = [f"step={row.step + 1}", f"index={row.first}{last}", f"result={row.outcome}"]
    words += [f"call={row.call}"] if row.call else []
    words += [f"count={row.count}", f"ms={row.least_ms:.1f}" + (f"-{row.most_ms:.1f}" if last else "")]
    words += [f"last-port={row.last_port}"] if row.last_port else []
    return " ".join(words)
